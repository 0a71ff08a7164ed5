"""A two-phase message in one call: prepared, the work done behind the barrier, submitted.

Whatever fails in between, the message is delivered if the work was committed, and otherwise is not:
the cluster asks at the `query` URL, where `BranchBarrier.query_prepared` answers.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from tidelock.application import Application, configured
from tidelock.barrier.barrier import AsyncBusiness, BranchBarrier, Business
from tidelock.barrier.tables import BARRIER
from tidelock.calls import Calls
from tidelock.client import Client
from tidelock.client.messages import MessageStep
from tidelock.crash_points import reached
from tidelock.driving import drive
from tidelock.errors import OutcomeUnknownError, TidelockError, UnreachableError

C = TypeVar("C")

_log: Final = logging.getLogger("tidelock.messages")


def send(
    connection: C,
    business: Business[C],
    steps: Sequence[MessageStep],
    *,
    query: str,
    application: Application | None = None,
    name: str | None = None,
    delay_ms: int | None = None,
    query_after_ms: int | None = None,
    table: str = BARRIER,
) -> str:
    """Do work in a local transaction, and have a message delivered if it is committed.

    Returns the xid of the message. `steps` say to whom it goes, `query` is the URL where the
    cluster asks what became of the work; the rest is as for `client.messages.prepare` and
    `BranchBarrier`.
    When the business raises, the message is given up.

    Raises:
        BarrierError: the cluster asked before the work was done, and was told that it is not.
        NotConfiguredError; what `prepare`, the business and the driver raise.
    """
    application = configured() if application is None else application
    phases = _Phases(application.blocking, steps, query, name, delay_ms, query_after_ms)

    async def work(xid: str, done: Callable[[], None]) -> None:
        def tracked(connection: C) -> None:
            business(connection)
            done()

        BranchBarrier.of_message(xid, table=table).run(connection, tracked)

    return drive(phases.send(work))


async def send_async(
    connection: C,
    business: AsyncBusiness[C],
    steps: Sequence[MessageStep],
    *,
    query: str,
    application: Application | None = None,
    name: str | None = None,
    delay_ms: int | None = None,
    query_after_ms: int | None = None,
    table: str = BARRIER,
) -> str:
    """The same for asynchronous connections, with a business that is awaited. Raises: as `send`."""
    application = configured() if application is None else application
    phases = _Phases(application.awaiting, steps, query, name, delay_ms, query_after_ms)

    async def work(xid: str, done: Callable[[], None]) -> None:
        async def tracked(connection: C) -> None:
            await business(connection)
            done()

        await BranchBarrier.of_message(xid, table=table).run_async(connection, tracked)

    return await phases.send(work)


class _Phases:
    def __init__(
        self,
        calls: Calls,
        steps: Sequence[MessageStep],
        query: str,
        name: str | None,
        delay_ms: int | None,
        query_after_ms: int | None,
    ) -> None:
        self._calls = calls

        async def prepare(client: Client) -> str:
            prepared = await client.messages.prepare(
                query, steps, name=name, delay_ms=delay_ms, query_after_ms=query_after_ms
            )
            return prepared.xid

        self._prepare = prepare

    async def send(self, work: Callable[[str, Callable[[], None]], Awaitable[None]]) -> str:
        reached("message.before-prepare")
        xid = await self._calls(self._prepare)
        reached("message.after-prepare")
        commits = False

        def done() -> None:
            nonlocal commits
            commits = True

        try:
            await work(xid, done)
        except BaseException as error:
            # A commit that failed may have happened: the database knows, and is asked.
            if not commits:
                await self._abort(xid, error)
            raise
        await self._submit(xid)
        return xid

    async def _submit(self, xid: str) -> None:
        reached("message.before-submit")
        try:
            await self._calls(lambda client: client.messages.submit(xid))
            reached("message.after-submit")
        except (UnreachableError, OutcomeUnknownError) as error:
            _log.warning("message %s is submitted when the cluster asks about it: %s", xid, error)

    async def _abort(self, xid: str, error: BaseException) -> None:
        reason = f"{type(error).__name__}: {error}"[:200]
        reached("message.before-abort")
        try:
            await self._calls(lambda client: client.messages.abort(xid, reason=reason))
            reached("message.after-abort")
        except TidelockError as failure:
            _log.warning("message %s is given up when the cluster asks about it: %s", xid, failure)
