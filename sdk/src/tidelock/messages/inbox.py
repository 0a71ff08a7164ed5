"""The inbox of a receiver: messages that it has done, by their id, so that none is done twice."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from tidelock.barrier.barrier import AsyncBusiness, Business, begun
from tidelock.crash_points import reached
from tidelock.driving import drive
from tidelock.messages.message import Message
from tidelock.messages.tables import created, qualified
from tidelock.sql.drivers import session_of
from tidelock.sql.own_tables import INBOX as INBOX_TABLE
from tidelock.sql.session import MARK, Session

C = TypeVar("C")

INBOX: Final = "inbox"

_COLUMNS: Final = """\
    id <word 64>,
    topic <word 200>,
    received_at BIGINT NOT NULL,
    PRIMARY KEY (topic, id)"""


def inbox_ddl(dialect: str, table: str = INBOX) -> str:
    """Return the statement that creates the table.

    Raises:
        ValueError: `dialect` is not mysql, postgresql or sqlite, or `table` is no name.
    """
    return created(dialect, table, _COLUMNS)


class Inbox:
    """Does what a message asks once, however often it comes."""

    def __init__(self, table: str = INBOX) -> None:
        """`table` may have its schema before it."""
        self._table = table

    def receive(self, connection: C, message: Message, business: Business[C]) -> bool:
        """Run `business(connection)` unless the message was done, with the note that it is.

        Both are one local transaction. Returns whether it ran; when it raises, neither is there.

        Raises:
            BarrierError: a local transaction is under way on the connection.
            Whatever the business and the driver raise.
        """

        async def work() -> None:
            business(connection)

        return drive(self._receive(session_of(connection), message, work))

    async def receive_async(
        self, connection: C, message: Message, business: AsyncBusiness[C]
    ) -> bool:
        """The same for asynchronous connections. Raises: as `receive`."""

        async def work() -> None:
            await business(connection)

        return await self._receive(session_of(connection), message, work)

    async def enter(self, session: Session, message: Message) -> bool:
        """Note a message in the local transaction that is under way; whether it is new.

        Do what it asks only if it is, in the same transaction.
        """
        ignore = session.dialect.name == "mysql"
        found = await INBOX_TABLE.execute(
            session,
            self._table,
            f"INSERT {'IGNORE ' if ignore else ''}INTO {qualified(session.dialect, self._table)} "
            f"(id, topic, received_at) VALUES ({MARK}, {MARK}, {MARK})"
            f"{'' if ignore else ' ON CONFLICT DO NOTHING'}",
            (message.id, message.topic, time.time_ns() // 1_000_000),
        )
        return found.row_count > 0

    async def purge(self, session: Session, *, older_than_ms: int) -> int:
        """Delete notes of that age: longer ago than any repetition may come. Returns how many."""
        found = await INBOX_TABLE.execute(
            session,
            self._table,
            f"DELETE FROM {qualified(session.dialect, self._table)} WHERE received_at < {MARK}",
            (time.time_ns() // 1_000_000 - older_than_ms,),
        )
        return found.row_count

    async def _receive(
        self, session: Session, message: Message, work: Callable[[], Awaitable[None]]
    ) -> bool:
        await begun(session)
        try:
            reached("inbox.before-row")
            is_new = await self.enter(session, message)
            reached("inbox.after-row")
            if is_new:
                await work()
            reached("inbox.before-local-commit")
            await session.commit()
            reached("inbox.after-local-commit")
        except BaseException:
            await session.rollback()
            raise
        return is_new
