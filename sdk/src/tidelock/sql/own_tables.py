"""Tables that Tidelock keeps in an application's database, and what is said when one is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from tidelock.sql.errors import TableMissingError
from tidelock.sql.session import Result, Session


class OwnTable(msgspec.Struct, frozen=True):
    """A kind of table, as `tidelock <command> ddl` makes it."""

    command: str
    function: str
    """What returns the same statements."""
    purpose: str
    """What is kept in it, behind "in which"."""

    async def execute(
        self, session: Session, name: str, text: str, values: Sequence[Any] = ()
    ) -> Result:
        """Execute a canonical statement about a table of this kind that is called `name`.

        Raises:
            TableMissingError: it is not there.
            What the driver raises.
        """
        try:
            return await session.execute(text, values)
        except Exception as error:
            if session.dialect.is_missing_table(error):
                raise await self._missing(session, name) from error
            raise

    async def _missing(self, session: Session, name: str) -> TableMissingError:
        dialect = session.dialect.name
        return TableMissingError(
            f"{await _database_of(session)} has no table {name}, in which {self.purpose}. Make it "
            f"with what `tidelock {self.command} ddl --dialect {dialect}` prints (pip install "
            f'"tidelock[cli]"), or {self.function}("{dialect}") returns'
        )


UNDO_LOG: Final = OwnTable(
    "undo-log", "tidelock.undo_log_ddl", "AT keeps what rows were before they were changed"
)
FENCE: Final = OwnTable("fence", "tidelock.fence_ddl", "TCC and SAGA keep what they have done")
BARRIER: Final = OwnTable(
    "barrier", "tidelock.barrier.tables.barrier_ddl", "barriers keep which calls were done"
)
SAGA_RESULT: Final = OwnTable(
    "saga-result",
    "tidelock.saga.results.saga_result_ddl",
    "services keep what steps of sagas have answered",
)
OUTBOX: Final = OwnTable(
    "outbox", "tidelock.messages.outbox.outbox_ddl", "messages wait until they are sent"
)
INBOX: Final = OwnTable(
    "inbox", "tidelock.messages.inbox.inbox_ddl", "receivers keep which messages they had"
)


async def _database_of(session: Session) -> str:
    """Return which database a connection leads to, for people."""
    try:
        match session.dialect.name:
            case "mysql":
                ((name,),) = (await session.execute("SELECT DATABASE()")).rows
            case "sqlite":
                rows = (await session.execute("PRAGMA database_list")).rows
                name = next(row[2] for row in rows if row[1] == "main") or "in memory"
            case "postgresql":
                # After an error, it answers nothing more before the rollback; its drivers know.
                known = getattr(session.connection, "info", None)
                name = getattr(known, "dbname", "") or session.connection._params.database
    except Exception:
        return "the database"
    return f"the database {name.decode() if isinstance(name, bytes) else name}"
