"""The barrier in a database: two rows, inserted unless they are there, before the business.

1. The row of what is undone (a cancel inserts the row of its try). If it was not there, there is
   nothing to undo, and a try that comes later finds its row taken.
2. The row of the operation itself. If it was there, the call is a repetition, or came too late.

Both stand in the local transaction of the business, so they are there exactly if its work is. Two
calls at once wait for each other at the unique index. This is DTM's algorithm with its table, so
that a service may change from one SDK to the other.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Self, TypeVar

from tidelock.barrier.branch import MESSAGE, MESSAGE_BRANCH, Branch, message_branch
from tidelock.barrier.outcomes import BarrierError, Fate, Outcome
from tidelock.barrier.tables import BARRIER, deletion, insertion, reason_of
from tidelock.crash_points import reached
from tidelock.driving import drive
from tidelock.sql.drivers import session_of
from tidelock.sql.own_tables import BARRIER as BARRIER_TABLE
from tidelock.sql.session import Session

C = TypeVar("C")
T = TypeVar("T")

Business = Callable[[C], object]
AsyncBusiness = Callable[[C], Awaitable[object]]

_ROLLED_BACK: Final = "rollback"
"""The reason of a row that keeps a message's work from being done."""
_FIRST_BARRIER: Final = "01"
_GREATEST_BATCH: Final = 500

AGAIN_WITHIN_S: Final = 5.0
"""How long calls that deadlock at the barrier begin again."""


class BranchBarrier:
    """The barrier of one call of a branch. Make one for each request.

    A branch that has several pieces of work, each in a local transaction of its own, passes the
    barrier once for each, always in the same order.
    """

    def __init__(self, branch: Branch, *, table: str = BARRIER) -> None:
        """`table` may have its schema before it; DTM's is `dtm_barrier.barrier`."""
        self.branch: Final = branch
        self._table = table
        self._passed = 0

    @classmethod
    def of_request(
        cls, query: Mapping[str, str], headers: Mapping[str, str], *, table: str = BARRIER
    ) -> Self:
        """Return the barrier of a request by this cluster, or by DTM.

        Raises:
            BranchRequestError: the request names no branch.
        """
        return cls(Branch.of_request(query, headers), table=table)

    @classmethod
    def of_message(cls, xid: str, *, table: str = BARRIER) -> Self:
        """Return the barrier of the work that a message tells of, between prepare and submit.

        Raises:
            BranchRequestError: it is no xid.
        """
        return cls(message_branch(xid), table=table)

    def run(self, connection: C, business: Business[C]) -> Outcome:
        """Run `business(connection)` if it is to be run, and commit; roll back when it fails.

        The connection is one of PyMySQL, psycopg or sqlite3, with no transaction under way.

        Raises:
            BarrierError: the connection does not do, or a message's work was given up.
            Whatever the business and the driver raise.
        """

        async def work() -> None:
            business(connection)

        return drive(self.run_on(session_of(connection), work))

    async def run_async(self, connection: C, business: AsyncBusiness[C]) -> Outcome:
        """The same for connections of asyncmy, asyncpg and aiosqlite.

        Raises: as `run`.
        """

        async def work() -> None:
            await business(connection)

        return await self.run_on(session_of(connection), work)

    async def run_on(self, session: Session, work: Callable[[], Awaitable[None]]) -> Outcome:
        """The same on a session, whose driver `work` uses as it likes. Raises: as `run`."""
        outcome = await self._begin(session, self.enter)
        await _finish(session, work if outcome is Outcome.FIRST else None)
        return outcome

    async def enter(self, session: Session) -> Outcome:
        """Pass the barrier in the local transaction that is under way on a session.

        When it is `FIRST`, do the business in the same transaction; otherwise do nothing. Commit it
        in either case.

        Raises:
            BarrierError: a message's work was given up, or done before. Roll back.
        """
        self._passed += 1
        barrier_id = f"{self._passed:02}"
        branch = self.branch
        undoes_nothing = bool(branch.origin) and await self._insert(
            session, branch.branch_id, branch.origin, barrier_id, branch.op
        )
        if await self._insert(session, branch.branch_id, branch.op, barrier_id, branch.op):
            return Outcome.EMPTY if undoes_nothing else Outcome.FIRST
        reason = await self._reason(session, branch.branch_id, branch.op, barrier_id)
        if branch.op == MESSAGE:
            raise BarrierError(
                f"the work of message {branch.gid} was given up: who asked about it was told so"
                if reason == _ROLLED_BACK
                else f"the work of message {branch.gid} is done already; each has an xid of its own"
            )
        return Outcome.REPEATED if reason == branch.op else Outcome.LATE

    def query_prepared(self, connection: Any) -> Fate:
        """Say what became of the work of a message. If it was not committed, it never will be.

        Raises: BarrierError, and whatever the driver raises: nobody knows, so answer 425 or 500.
        """
        return drive(self._query_prepared(session_of(connection)))

    async def query_prepared_async(self, connection: Any) -> Fate:
        """The same for asynchronous connections. Raises: as `query_prepared`."""
        return await self._query_prepared(session_of(connection))

    async def _query_prepared(self, session: Session) -> Fate:
        async def ask(session: Session) -> str:
            place = (MESSAGE_BRANCH, MESSAGE, _FIRST_BARRIER)
            await self._insert(session, *place, _ROLLED_BACK)
            return await self._reason(session, *place)

        reason = await self._begin(session, ask)
        await _finish(session, None)
        return Fate.GIVEN_UP if reason == _ROLLED_BACK else Fate.DONE

    async def _begin(self, session: Session, enter: Callable[[Session], Awaitable[T]]) -> T:
        """Begin a local transaction with the rows of the barrier.

        Of several calls that wait for the same row MySQL may end all but one as a deadlock. Nothing
        of the business was done yet, so they begin again.
        """
        ends_at, passed = time.monotonic() + AGAIN_WITHIN_S, self._passed
        while True:
            await begun(session)
            reached("barrier.before-rows")
            try:
                entered = await enter(session)
                reached("barrier.after-rows")
                return entered
            except BaseException as error:
                await session.rollback()
                if not session.dialect.is_transient(error) or time.monotonic() > ends_at:
                    raise
                self._passed = passed

    async def _insert(
        self, session: Session, branch_id: str, op: str, barrier_id: str, reason: str
    ) -> bool:
        """Insert a row unless it is there; say whether it was not."""
        branch = self.branch
        values = (branch.trans_type, branch.gid, branch_id, op, barrier_id, reason)
        inserted = await BARRIER_TABLE.execute(
            session, self._table, insertion(session.dialect, self._table), values
        )
        return inserted.row_count > 0

    async def _reason(self, session: Session, branch_id: str, op: str, barrier_id: str) -> str:
        values = (self.branch.gid, branch_id, op, barrier_id)
        found = await BARRIER_TABLE.execute(
            session, self._table, reason_of(session.dialect, self._table), values
        )
        for (reason,) in found.rows:
            return str(reason)
        raise BarrierError(
            f"the row of {op} of branch {branch_id} of {self.branch.gid} was there and is not: "
            "something else deletes rows of transactions that have not ended"
        )


async def begun(session: Session) -> None:
    """Begin a local transaction that holds together. Raises: BarrierError: there is one already."""
    if session.in_transaction:
        raise BarrierError(
            "a local transaction is under way on the connection already: commit it first, or pass "
            "the barrier within it by `enter`"
        )
    await session.begin()
    if session.autocommits:
        await session.rollback()
        raise BarrierError(
            "the connection commits each statement by itself, so the barrier and the business "
            "would not be one: turn autocommit off"
        )


async def _finish(session: Session, work: Callable[[], Awaitable[None]] | None) -> None:
    try:
        if work is not None:
            await work()
        reached("barrier.before-local-commit")
        await session.commit()
        reached("barrier.after-local-commit")
    except BaseException:
        await session.rollback()
        raise


async def forget(session: Session, gids: Sequence[str], *, table: str = BARRIER) -> int:
    """Delete the rows of transactions, in the local transaction of a session. Returns how many.

    Only of those that have ended, and whose last call cannot be under way any more: what is late
    afterwards is done again.
    """
    deleted = 0
    for start in range(0, len(gids), _GREATEST_BATCH):
        batch = tuple(gids[start : start + _GREATEST_BATCH])
        found = await BARRIER_TABLE.execute(
            session, table, deletion(session.dialect, table, len(batch)), batch
        )
        deleted += found.row_count
    return deleted
