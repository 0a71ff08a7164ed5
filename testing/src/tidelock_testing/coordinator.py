"""The coordinator that tests start, look into and break."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from tidelock.application import Application
from tidelock.client import BlockingClient
from tidelock.client.answers import LockedRow, Transaction, TransactionSummary
from tidelock_testing.faults import Fault, Faults, Operation
from tidelock_testing.leftovers import leftovers
from tidelock_testing.serving import Serving

T = TypeVar("T")

_STOP_S: Final = 10.0
_LOOK_EVERY_S: Final = 0.01


class Coordinator:
    """A cluster of one inside this process, reached over HTTP like any other.

    It has the real state machine, the real interface and the real driver: branches are registered,
    rows locked, and phase two comes to resource managers and participants. Its state is in memory
    and ends with it. It runs in a thread of its own and may be used from any thread and loop. Time
    passes by itself; `advance` lets more of it pass. Use it as `with`, or `close` it.
    """

    def __init__(self) -> None:
        """Start it: when this returns, it answers."""
        self._faults = Faults()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="tidelock-testing", daemon=True
        )
        self._thread.start()
        self._serving = self._run(Serving.start(self._faults))
        self.url: Final = self._serving.url
        """Where it is reached, as `http://127.0.0.1:40123`."""
        self.client: Final = BlockingClient([self.url])
        """A client of it, for whatever a test wants to ask or do."""
        self._closed = False

    def __repr__(self) -> str:
        return f"<Coordinator at {self.url}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it, with all that it knows. Applications should be closed before."""
        if self._closed:
            return
        self._closed = True
        self.client.close()
        self._run(self._serving.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_S)
        self._loop.close()

    def application(self, application_id: str = "testing", **options: Any) -> Application:
        """Return an application of it, to be closed by who asked. Options are `Application`'s."""
        return Application([self.url], application_id=application_id, **options)

    # --- looking

    def transactions(self) -> list[TransactionSummary]:
        """Return all transactions, the last one begun first."""
        return list(self.client.iterate(lambda client: client.transactions.list()))

    def transaction(self, xid: str) -> Transaction:
        """Return everything about a transaction: branches, locks, timeline.

        Raises:
            TransactionNotFoundError
        """
        return self.client.run(lambda client: client.transactions.get(xid))

    def row_locks(self) -> list[LockedRow]:
        """Return the rows that are locked."""
        return list(self.client.iterate(lambda client: client.row_locks.list()))

    def requests(self, operation: Operation) -> int:
        """Return how many requests of a kind have come, repetitions and failed ones included."""
        return self._faults.counts.get(operation, 0)

    def wait_until(self, holds: Callable[[], T], within_s: float = 10.0, what: str = "") -> T:
        """Return what `holds()` returns once that is true.

        Raises:
            AssertionError: it did not come to be.
        """
        ends_at = time.monotonic() + within_s
        while not (found := holds()):
            if time.monotonic() >= ends_at:
                raise AssertionError(f"not within {within_s:g} s: {what or holds!r}")
            time.sleep(_LOOK_EVERY_S)
        return found

    def leftovers(self, *, sessions: bool = False, guards: bool = True) -> list[str]:
        """Return what transactions have left behind, a line for each thing; empty when all is over.

        That are transactions that have not ended, rows that are locked, requests that wait, and
        branches of which no resource manager has been told that their guards (undo rows, fences)
        can go. With `sessions`, also those of resource managers, which end when their application
        is closed. Without `guards` such branches do not count: when the only process that could be
        told of them has ended.
        """
        return self._run(self._leftovers(sessions=sessions, guards=guards))

    def assert_clean(
        self, within_s: float = 10.0, *, sessions: bool = False, guards: bool = True
    ) -> None:
        """Wait until nothing is left behind.

        Raises:
            AssertionError: something is; it is listed. See `leftovers`.
        """
        ends_at = time.monotonic() + within_s
        while left := self.leftovers(sessions=sessions, guards=guards):
            if time.monotonic() >= ends_at:
                raise AssertionError("left behind:\n" + "\n".join(f"  {line}" for line in left))
            time.sleep(_LOOK_EVERY_S)

    # --- breaking

    def advance(self, ms: int) -> None:
        """Let time pass at once: what is due by then has happened when this returns.

        Transactions time out and waits end; calls that were to be repeated later are under way.

        Raises:
            ValueError: time does not run backwards.
        """
        if ms < 0:
            raise ValueError(f"{ms} ms: time does not run backwards")
        self._run(self._serving.advance(ms))

    def fail_next(
        self, operation: Operation, fault: Fault = "unavailable", *, times: int = 1
    ) -> None:
        """Have the next requests of a kind fail, `times` of them.

        Clients repeat what fails until their deadline, so a single fault is often not seen; with
        `failing` all fail.

        Raises:
            ValueError: there is no such operation or fault.
        """
        self._faults.plan(operation, fault, times)

    @contextmanager
    def failing(self, operation: Operation, fault: Fault = "unavailable") -> Iterator[None]:
        """Have every request of a kind fail during the block.

        Raises:
            ValueError: there is no such operation or fault.
        """
        self._faults.plan(operation, fault, None)
        try:
            yield
        finally:
            self._faults.forget(operation)

    # --- its thread

    async def _leftovers(self, *, sessions: bool, guards: bool) -> list[str]:
        node = self._serving.node
        return leftovers(node.machine, node.machine_store, sessions=sessions, guards=guards)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
