"""Blocks of psycopg's connections, `with connection.transaction()`, behind which a mode works."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from psycopg import Transaction

from tidelock.driving import drive
from tidelock.sql.drivers.proxies import ProxiedConnection


class Block:
    """A local transaction of psycopg, or a savepoint within one: `psycopg.Connection.transaction`.

    The driver's own block is never entered, since it would commit by itself. It stands for itself
    where the application names the block that it leaves: `raise psycopg.Rollback(block)`.
    """

    def __init__(
        self, connection: ProxiedConnection, savepoint_name: str | None, force_rollback: bool
    ) -> None:
        self._connection = connection
        self._force_rollback = force_rollback
        self._named = savepoint_name
        self._block = Transaction(connection.__wrapped__, savepoint_name, force_rollback)
        self._savepoint = ""

    def __enter__(self) -> Any:
        session = self._connection._self_session
        if session.in_transaction:
            self._connection._self_blocks += 1
            name = self._named or f"tidelock_{self._connection._self_blocks}"
            self._savepoint = session.dialect.quote(name)
            self._connection.cursor().execute(f"SAVEPOINT {self._savepoint}")
        else:
            drive(session.begin())
        return self._block

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        connection, session = self._connection, self._connection._self_session
        keeps = error is None and not self._force_rollback
        if self._savepoint:
            if not keeps:
                connection.cursor().execute(f"ROLLBACK TO SAVEPOINT {self._savepoint}")
            connection.cursor().execute(f"RELEASE SAVEPOINT {self._savepoint}")
        elif keeps:
            drive(connection._self_work.commit(session.commit))
        else:
            drive(connection._self_work.rollback(session.rollback))
        # psycopg's own way to leave a block, or an outer one, without an error.
        if type(error).__name__ != "Rollback" or not type(error).__module__.startswith("psycopg"):
            return False
        return getattr(error, "transaction", None) in {None, self._block}
