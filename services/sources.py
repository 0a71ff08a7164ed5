"""The two databases: how they are connected to, and a branch's connection as business sees it."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, Final

from services.messages import SourceSettings

CONNECT_TIMEOUT_S: Final = 5
_LATER_S: Final = 5
_EXTRAS: Final = {"mariadb": ("pymysql", "pymysql"), "postgresql": ("psycopg", "psycopg")}


class DriverMissingError(Exception):
    """What a data source needs is not installed."""


def driver_of(kind: str) -> ModuleType:
    """Return the driver for a kind of database.

    Raises:
        DriverMissingError: and how to install it.
    """
    module, extra = _EXTRAS[kind]
    try:
        __import__("wrapt")
        return __import__(module)
    except ImportError as error:
        raise DriverMissingError(
            f"the driver for {kind} cannot be imported ({error}). Install it where the node runs: "
            f'pip install "tidelock[{extra}]"'
        ) from None


def connect(settings: SourceSettings) -> Any:
    """Return a new connection. Raises: what the driver raises, and `DriverMissingError`."""
    driver = driver_of(settings.kind)
    timeout_s = max(1, settings.timeout_ms // 1000)
    if settings.kind == "mariadb":
        return driver.connect(
            host=settings.host,
            port=settings.port,
            user=settings.user,
            password=settings.password,
            database=settings.database,
            charset="utf8mb4",
            connect_timeout=CONNECT_TIMEOUT_S,
            # One that waits for a row gives up first, and lets go of what it has.
            init_command=f"SET SESSION innodb_lock_wait_timeout = {timeout_s}",
            read_timeout=timeout_s + _LATER_S,
            write_timeout=timeout_s + _LATER_S,
            ssl={"ca": settings.ca_file} if settings.ca_file else None,
        )
    options = {"sslmode": "verify-full", "sslrootcert": settings.ca_file}
    return driver.connect(
        host=settings.host,
        port=settings.port,
        user=settings.user,
        password=settings.password or None,
        dbname=settings.database,
        connect_timeout=CONNECT_TIMEOUT_S,
        # A server that is cut off is noticed; one that waits for a row gives up.
        tcp_user_timeout=settings.timeout_ms,
        options=f"-c statement_timeout={settings.timeout_ms}",
        **(options if settings.ca_file else {}),
    )


def dialect_of(settings: SourceSettings) -> str:
    return "mysql" if settings.kind == "mariadb" else "postgresql"


class Source:
    """`tidelock.services.DataSource` on a connection."""

    def __init__(self, name: str, dialect: str, connection: Any) -> None:
        self.name = name
        self.dialect = dialect
        self._connection = connection

    def query(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return all rows."""
        with self._connection.cursor() as cursor:
            cursor.execute(statement, list(parameters))
            return [tuple(row) for row in cursor.fetchall()]

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> int:
        """Return how many rows were changed."""
        with self._connection.cursor() as cursor:
            cursor.execute(statement, list(parameters))
            return int(cursor.rowcount)

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Execute it for each row of parameters."""
        if rows:
            with self._connection.cursor() as cursor:
                cursor.executemany(statement, [list(row) for row in rows])

    def quote(self, name: str) -> str:
        """Return an identifier in quotes. A percent sign in it would be taken for a placeholder."""
        mark = "`" if self.dialect == "mysql" else '"'
        return mark + name.replace(mark, 2 * mark).replace("%", "%%") + mark
