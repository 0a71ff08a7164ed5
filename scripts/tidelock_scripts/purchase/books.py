"""The databases of the purchase: where they are, what is in them, what must not be left in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from examples.purchase.database import Database
from examples.purchase.tables import TABLES, make

SERVICES: Final = tuple(TABLES)
"""Those with a database: storage, order, account."""

GUARDS: Final = {"undo rows": "undo_log", "fence rows": "tidelock_fence"}


class BooksError(Exception):
    """The databases cannot be had; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Stand:
    """What the three databases say: the numbers that a purchase moves."""

    stock: int
    set_aside: int
    orders: int
    pending: int
    money: int
    held: int

    def moved_since(self, before: Stand) -> tuple[int, int, int]:
        """Return how many goods, orders and money have moved since then."""
        return before.stock - self.stock, self.orders - before.orders, before.money - self.money

    @property
    def is_settled(self) -> bool:
        """Whether nothing is reserved any more."""
        return (self.set_aside, self.pending, self.held) == (0, 0, 0)


class Books:
    """The databases db_storage, db_order and db_account."""

    def __init__(self, databases: Mapping[str, Database]) -> None:
        self.databases = dict(databases)

    @property
    def can_prepare(self) -> bool:
        """Whether all of them can take part in XA."""
        return all(database.kind != "sqlite" for database in self.databases.values())

    def make(self) -> None:
        for name, database in self.databases.items():
            make(name, database)

    def rows(self, name: str, statement: str) -> list[tuple[Any, ...]]:
        """Return what a statement finds in the database of a service."""
        connection = self.databases[name].connect()
        with closing(connection), closing(connection.cursor()) as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def stand(self) -> Stand:
        ((stock, set_aside),) = self.rows("storage", "SELECT count, frozen FROM storage_tbl")
        ((money, held),) = self.rows("account", "SELECT money, frozen FROM account_tbl")
        statuses = [status for (status,) in self.rows("order", "SELECT status FROM order_tbl")]
        orders, pending = statuses.count("PLACED"), len(statuses) - statuses.count("PLACED")
        return Stand(stock, set_aside, orders, pending, money, held)

    def restock(self) -> None:
        """Begin anew with the goods and the money that there were at first."""
        self._change("storage", "UPDATE storage_tbl SET count = 50, frozen = 0")
        self._change("order", "DELETE FROM order_tbl")
        self._change("account", "UPDATE account_tbl SET money = 1000, frozen = 0")

    def _change(self, name: str, statement: str) -> None:
        with closing(self.databases[name].connect()) as connection:
            with closing(connection.cursor()) as cursor:
                cursor.execute(statement)
            connection.commit()

    def left_behind(self) -> dict[str, int]:
        """Count what the SDK keeps in the databases for as long as a transaction needs it."""
        found = {
            what: sum(len(self.rows(name, f"SELECT xid FROM {table}")) for name in self.databases)  # noqa: S608
            for what, table in GUARDS.items()
        }
        return {**found, "prepared transactions": self._prepared()}

    def _prepared(self) -> int:
        mine = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
        questions = {"mysql": "XA RECOVER", "postgresql": mine}
        return len(
            {
                row  # two databases of one server see the same
                for name, database in self.databases.items()
                if database.kind in questions
                for row in self.rows(name, questions[database.kind])
            }
        )


@contextmanager
def files(folder: Path) -> Iterator[Books]:
    """Keep the books in files of SQLite."""
    yield Books({name: Database(f"sqlite:///{folder}/db_{name}.db") for name in SERVICES})


@contextmanager
def servers(urls: Sequence[str]) -> Iterator[Books]:
    """Keep the books at servers, in turn: databases that are made now and dropped at the end.

    A URL has no database: `mysql://root@127.0.0.1:3306`, `postgresql://postgres@127.0.0.1:5432`.

    Raises:
        BooksError: one of the databases is there already.
    """
    placed = {name: urls[number % len(urls)].rstrip("/") for number, name in enumerate(SERVICES)}
    with ExitStack() as stack:
        for name, url in placed.items():
            stack.enter_context(_database(url, f"db_{name}"))
        yield Books({name: Database(f"{url}/db_{name}") for name, url in placed.items()})


@contextmanager
def _database(url: str, name: str) -> Iterator[None]:
    try:
        _administer(url, f"CREATE DATABASE {name}")
    except Exception as error:  # of either driver
        raise BooksError(
            f"database {name} cannot be made at {urlsplit(url).hostname}: {error}\n"
            "The script makes it and drops it again, so it must not be there before."
        ) from error
    try:
        yield
    finally:
        forced = " WITH (FORCE)" if url.startswith("postgresql") else ""
        _administer(url, f"DROP DATABASE {name}{forced}")


def _administer(url: str, statement: str) -> None:
    within = "postgres" if url.startswith("postgresql") else "mysql"
    with closing(Database(f"{url}/{within}").connect()) as connection:
        connection.autocommit(True) if url.startswith("mysql") else setattr(
            connection, "autocommit", True
        )
        with closing(connection.cursor()) as cursor:
            cursor.execute(statement)
