"""The verbs of XA, as each kind of server spells them, on a session.

What was measured and holds here:

- MariaDB and MySQL before 8.0.29 leave a prepared branch with the connection that prepared it.
  Until that is closed, everybody else hears XAER_NOTA, though XA RECOVER lists the branch. So NOTA
  of a listed branch never means that it is done.
- XA RECOVER and the end of another one's branch need a connection that is in no transaction.
- Preparing what changed nothing is a waste; PostgreSQL and MariaDB tell.
"""

from __future__ import annotations

from typing import Final, Protocol

from tidelock.sql.errors import DatabaseUnsuitableError
from tidelock.sql.session import Session
from tidelock.xa.errors import XaMisuseError
from tidelock.xa.naming import BranchName, of_gid, of_recovered

_XAER_NOTA: Final = 1397
_UNDEFINED_OBJECT: Final = "42704"
_LEAST_MARIADB: Final = (10, 5)
_LEAST_MYSQL: Final = (8, 0)

_MARK: Final = "tidelock.branch"
"""A setting of the transaction, by which PostgreSQL tells that it is still the one we began."""

_WRITES: Final = "'HANDLER_WRITE', 'HANDLER_UPDATE', 'HANDLER_DELETE'"


class XaServer(Protocol):
    """A kind of server. Sessions are given with each call; what a driver raises comes through."""

    async def start(self, session: Session, name: BranchName) -> int:
        """Begin a branch on a session that is in no transaction; return what `changed` wants."""
        ...

    async def changed(self, session: Session, before: int) -> bool:
        """Tell whether the branch changed anything, or may have."""
        ...

    async def prepare(self, session: Session, name: BranchName) -> None:
        """End the work of the branch and prepare it."""
        ...

    async def abandon(self, session: Session, name: BranchName) -> None:
        """Undo a branch that is not prepared, whatever state it is in."""
        ...

    async def commit(self, session: Session, name: BranchName) -> bool:
        """Commit a prepared branch. False: the server does not know it on this session."""
        ...

    async def rollback(self, session: Session, name: BranchName) -> bool:
        """Undo a prepared branch. False: as above."""
        ...

    async def prepared(self, session: Session) -> list[BranchName]:
        """List our prepared branches in the session's database, or on its server."""
        ...

    async def wait_a_little(self, session: Session) -> None:
        """Have the server wait, so that code that blocks and code that awaits can."""
        ...


async def server_of(session: Session) -> XaServer:
    """Return how the server of a session does XA.

    Raises:
        DatabaseUnsuitableError: it cannot, and the message says what to do.
    """
    match session.dialect.name:
        case "mysql":
            return await _mysql(session)
        case "postgresql":
            return await _postgresql(session)
        case _:
            raise DatabaseUnsuitableError(
                "SQLite prepares no transactions; use AT for it (docs/sdk/AT.md)"
            )


async def _mysql(session: Session) -> XaServer:
    version = str((await session.execute("SELECT VERSION()")).rows[0][0])
    await session.rollback()
    is_mariadb = "MariaDB" in version
    numbers = tuple(int(part) for part in version.split("-", maxsplit=1)[0].split(".")[:3])
    least = _LEAST_MARIADB if is_mariadb else _LEAST_MYSQL
    if numbers[:2] < least:
        raise DatabaseUnsuitableError(
            f"the server is {version}, which forgets prepared branches when their connection ends; "
            f"XA needs {'MariaDB' if is_mariadb else 'MySQL'} {least[0]}.{least[1]} or later"
        )
    return MySQLServer(is_mariadb=is_mariadb)


async def _postgresql(session: Session) -> XaServer:
    greatest = (await session.execute("SHOW max_prepared_transactions")).rows[0][0]
    await session.rollback()
    if int(greatest) == 0:
        raise DatabaseUnsuitableError(
            "max_prepared_transactions of the PostgreSQL server is 0, so nothing can be prepared; "
            "set it to the number of connections and restart the server"
        )
    return PostgreSQLServer()


class MySQLServer:
    """MySQL and MariaDB."""

    def __init__(self, *, is_mariadb: bool) -> None:
        self._tells_changes = is_mariadb

    async def start(self, session: Session, name: BranchName) -> int:
        """XA START. Return how often the connection has written so far."""
        await session.rollback()
        before = await self._written(session)
        await session.rollback()
        await session.execute(f"XA START {name.mysql}")
        return before

    async def changed(self, session: Session, before: int) -> bool:
        """Tell whether the connection wrote. MySQL counts its own temporary tables among it."""
        return not self._tells_changes or await self._written(session) > before

    async def _written(self, session: Session) -> int:
        if not self._tells_changes:
            return 0
        found = await session.execute(
            "SELECT SUM(VARIABLE_VALUE) FROM information_schema.SESSION_STATUS"
            f" WHERE VARIABLE_NAME IN ({_WRITES})"
        )
        return int(found.rows[0][0])

    async def prepare(self, session: Session, name: BranchName) -> None:
        """XA END, XA PREPARE."""
        await session.execute(f"XA END {name.mysql}")
        await session.execute(f"XA PREPARE {name.mysql}")

    async def abandon(self, session: Session, name: BranchName) -> None:
        """XA END where that is still to do, XA ROLLBACK."""
        try:
            await session.execute(f"XA END {name.mysql}")
        except Exception as error:
            # 1399: it was ended before, or a deadlock has rolled it back already.
            if _number(error) not in {1399, 1402, 1613, 1614}:
                raise
        try:
            await session.execute(f"XA ROLLBACK {name.mysql}")
        except Exception as error:
            if _number(error) != _XAER_NOTA:
                raise

    async def commit(self, session: Session, name: BranchName) -> bool:
        """XA COMMIT."""
        return await _unless_unknown(session, f"XA COMMIT {name.mysql}")

    async def rollback(self, session: Session, name: BranchName) -> bool:
        """XA ROLLBACK."""
        return await _unless_unknown(session, f"XA ROLLBACK {name.mysql}")

    async def prepared(self, session: Session) -> list[BranchName]:
        """XA RECOVER: formatID, gtrid_length, bqual_length, data."""
        found = await session.execute("XA RECOVER")
        names = [
            of_recovered(int(row[0]), int(row[1]), _text(row[3]))
            for row in found.rows
        ]  # fmt: skip
        return [name for name in names if name is not None]

    async def wait_a_little(self, session: Session) -> None:
        """20 ms."""
        await session.execute("DO SLEEP(0.02)")


class PostgreSQLServer:
    """PostgreSQL: a branch is a transaction that is prepared in the end."""

    async def start(self, session: Session, name: BranchName) -> int:
        """BEGIN; the name is told when it is prepared."""
        await session.rollback()
        await session.begin()
        # It is gone when somebody ends the transaction behind our back.
        await session.execute(f"SET LOCAL {_MARK} = {name.postgresql}")
        return 0

    async def changed(self, session: Session, before: int) -> bool:
        """A transaction that changed or locked anything has a number."""
        found = await session.execute(
            f"SELECT current_setting('{_MARK}', true), pg_current_xact_id_if_assigned() IS NOT NULL"
        )
        mark, is_assigned = found.rows[0]
        if not mark:
            raise XaMisuseError(
                "the application ended the branch's transaction with SQL or a block of its driver; "
                "what it committed so is not undone: leave COMMIT and ROLLBACK to tidelock"
            )
        return bool(is_assigned)

    async def prepare(self, session: Session, name: BranchName) -> None:
        """PREPARE TRANSACTION. One that failed would silently be undone; `changed` refuses it."""
        await session.execute(f"PREPARE TRANSACTION {name.postgresql}")

    async def abandon(self, session: Session, name: BranchName) -> None:
        """ROLLBACK."""
        await session.rollback()

    async def commit(self, session: Session, name: BranchName) -> bool:
        """COMMIT PREPARED."""
        return await _unless_unknown(session, f"COMMIT PREPARED {name.postgresql}")

    async def rollback(self, session: Session, name: BranchName) -> bool:
        """ROLLBACK PREPARED."""
        return await _unless_unknown(session, f"ROLLBACK PREPARED {name.postgresql}")

    async def prepared(self, session: Session) -> list[BranchName]:
        """Those of the session's database: only there they can be ended."""
        found = await session.execute(
            "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
        )
        names = [of_gid(_text(row[0])) for row in found.rows]
        return [name for name in names if name is not None]

    async def wait_a_little(self, session: Session) -> None:
        """20 ms."""
        await session.execute("SELECT pg_sleep(0.02)")


async def _unless_unknown(session: Session, statement: str) -> bool:
    try:
        await session.execute(statement)
    except Exception as error:
        if _number(error) == _XAER_NOTA or _state(error) == _UNDEFINED_OBJECT:
            return False
        raise
    return True


def _number(error: BaseException) -> int:
    number = error.args[0] if error.args else 0
    return number if isinstance(number, int) else 0


def _state(error: BaseException) -> str:
    return str(getattr(error, "sqlstate", None) or "")


def _text(raw: object) -> str:
    return raw.decode("latin-1") if isinstance(raw, bytes | bytearray) else str(raw)
