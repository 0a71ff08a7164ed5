"""The relay: publishes what stands in the outbox, again and again until it is done.

::

    relay = OutboxRelay(lambda: sqlite3.connect("shop.db"), HttpPublisher(urls))
    await relay.run()                    # in a task, or in a process of its own

Any number of relays may empty one outbox. A message is published at least once, and in no promised
order.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec

from tidelock.barrier.barrier import begun
from tidelock.crash_points import reached
from tidelock.driving import drive
from tidelock.messages.message import Message, Published, Publisher, PublishRefusedError
from tidelock.messages.outbox import GREATEST_BATCH, Due, Outbox, Status
from tidelock.sql.drivers import session_of
from tidelock.sql.session import Session

T = TypeVar("T")

_log: Final = logging.getLogger("tidelock.messages")

PUBLISHED_WITHIN_S: Final = 30.0
"""How long publishing one message may take."""
LEASE_MS: Final = 120_000
"""How long messages that a relay took are its own; one that died leaves them for that long."""
FIRST_PAUSE_MS: Final = 1_000
LONGEST_PAUSE_MS: Final = 60_000
AT_ONCE: Final = 16
"""How many messages are being published at any time."""

Connect = Callable[[], Any]
"""Returns a connection of a driver, or what gives one when it is awaited."""


class OutboxRelay:
    """Empties an outbox into a publisher."""

    def __init__(
        self,
        connect: Connect,
        publisher: Publisher,
        *,
        outbox: Outbox | None = None,
        reply_to: str = "",
        interval_ms: int = 1_000,
        acknowledged_within_ms: int = 60_000,
        greatest_attempts: int | None = None,
        batch: int = 100,
    ) -> None:
        """Look every `interval_ms`, and publish up to `batch` messages at a time.

        Without `reply_to`, a message that a broker has taken is DONE. With it, receivers
        acknowledge under that topic (`acknowledged` is to be subscribed to it), and a message that
        nobody acknowledged within `acknowledged_within_ms` is published again. Without
        `greatest_attempts` messages are published for ever, at last every minute.

        Raises:
            ValueError: a number is too small or too large.
        """
        attempts = 1 if greatest_attempts is None else greatest_attempts
        smallest = min(interval_ms, acknowledged_within_ms, batch, attempts)
        if smallest < 1 or batch > GREATEST_BATCH:
            raise ValueError(f"numbers are at least 1, and a batch is at most {GREATEST_BATCH}")
        self._connect = connect
        self._publisher = publisher
        self._outbox = Outbox() if outbox is None else outbox
        self._reply_to = reply_to
        self._interval_s = interval_ms / 1_000
        self._acknowledged_within_ms = acknowledged_within_ms
        self._greatest_attempts = greatest_attempts
        self._batch = batch

    async def run(self) -> None:
        """Publish until cancelled. A database that does not answer is asked again."""
        while True:
            try:
                published = await self.once()
            except Exception as error:
                _log.warning("the outbox was not read, which is tried again: %s", error)
                published = 0
            if published < self._batch:
                await asyncio.sleep(self._interval_s)

    async def once(self) -> int:
        """Publish what is due now, at most a batch. Returns how many messages were tried."""
        reached("outbox.before-claim")
        due = await self._in_transaction(
            lambda session: self._outbox.claim(session, limit=self._batch, lease_ms=LEASE_MS)
        )
        reached("outbox.after-claim")
        at_once = asyncio.Semaphore(AT_ONCE)

        async def publish(one: Due) -> None:
            async with at_once:
                await self._publish(one)

        await asyncio.gather(*[publish(one) for one in due])
        return len(due)

    async def acknowledged(self, message: Message) -> None:
        """Take an acknowledgement: to be subscribed to `reply_to`."""
        try:
            id = msgspec.json.decode(message.payload, type=_Acknowledgement).acknowledged
        except msgspec.MsgspecError as error:  # it would come again for ever
            _log.warning(
                "message %s of %s acknowledges nothing: %s", message.id, message.topic, error
            )
            return
        reached("outbox.before-acknowledge")
        await self._in_transaction(lambda session: self._outbox.acknowledge(session, id))
        reached("outbox.after-acknowledge")

    async def _publish(self, due: Due) -> None:
        message = Message(id=due.id, topic=due.topic, payload=due.payload, reply_to=self._reply_to)
        status: Status = "DONE"
        again_in_ms, said = 0, ""
        greatest = self._greatest_attempts
        try:
            if greatest is not None and due.attempts > greatest:
                raise PublishRefusedError("nobody acknowledged it")
            reached("outbox.before-publish")
            async with asyncio.timeout(PUBLISHED_WITHIN_S):
                published = await self._publisher.publish(message)
            reached("outbox.after-publish")
            if published is Published.ACCEPTED and self._reply_to:
                status, again_in_ms = "SENT", self._acknowledged_within_ms
        except PublishRefusedError as error:
            status, said = "FAILED", str(error)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            status, again_in_ms = "PENDING", pause_ms(due.attempts)
            if due.attempts == greatest:
                status = "FAILED"
        if said:
            _log.warning("message %s of %s: %s: %s", due.id, due.topic, status, said)
        await self._in_transaction(
            lambda session: self._outbox.settle(
                session, due.id, status, again_in_ms=again_in_ms, error=said
            )
        )
        reached("outbox.after-settle")

    async def _in_transaction(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """Do work on a connection of its own: a blocking one in a thread, start to end."""

        def blocking() -> tuple[Any, list[T]]:
            connection = self._connect()
            if inspect.isawaitable(connection):
                return connection, []
            return None, [drive(_finished(session_of(connection), work))]

        pending, results = await asyncio.to_thread(blocking)
        for result in results:
            return result
        return await _finished(session_of(await pending), work)


class _Acknowledgement(msgspec.Struct):
    acknowledged: str


def pause_ms(attempts: int) -> int:
    """Return how long to wait after so many failures: 1 s, doubling up to a minute."""
    return min(FIRST_PAUSE_MS << min(attempts - 1, 10), LONGEST_PAUSE_MS)


async def _finished(session: Session, work: Callable[[Session], Awaitable[T]]) -> T:
    try:
        await begun(session)
        try:
            result = await work(session)
            await session.commit()
        except BaseException:
            await session.rollback()
            raise
        return result
    finally:
        await session.close()
