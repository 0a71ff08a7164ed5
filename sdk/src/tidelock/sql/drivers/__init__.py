"""One module a driver: each makes `Session`s of its connections, and imports it only then.

`session_of` finds the module by the connection; what nobody knows is refused by name.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any, Final

from tidelock.sql.errors import DatabaseUnsuitableError
from tidelock.sql.session import Session

_MODULES: Final = {
    "pymysql": "pymysql_sessions",
    "psycopg": "psycopg_sessions",
    "sqlite3": "sqlite3_sessions",
    "asyncmy": "asyncmy_sessions",
    "asyncpg": "asyncpg_sessions",
    "aiosqlite": "aiosqlite_sessions",
}
"""By the package in which the class of a connection is."""


def session_of(connection: Any) -> Session:
    """Return the session of a driver's connection.

    Raises:
        DatabaseUnsuitableError: the driver is none of those that are known.
    """
    for kind in type(connection).__mro__:
        module = _MODULES.get(kind.__module__.partition(".")[0])
        if module is not None:
            made: Session = importlib.import_module(f"{__name__}.{module}").session(connection)
            return made
    raise DatabaseUnsuitableError(
        f"{type(connection).__module__}.{type(connection).__name__} is no connection of a known "
        f"driver: {', '.join(_MODULES)}"
    )


async def closed(connection: Any) -> None:
    """Close a driver's connection, whatever state it is in."""
    close = getattr(connection, "ensure_closed", None) or connection.close
    done = close()
    if inspect.isawaitable(done):
        await done
