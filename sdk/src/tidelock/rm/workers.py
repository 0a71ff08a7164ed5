"""Threads for what blocks, so that the loop of the application does not.

::

    async def rollback(self, call: BranchCall) -> PhaseTwoResult:
        return await in_worker(lambda: drive(self._roll_back(call)))

There are at most `GREATEST_THREADS` of them in a process; they are made when they are needed and
end when they are not. They are daemons: a database that never answers does not keep a process from
ending. A child process has its own.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar

from tidelock.client.transport import INHERITED
from tidelock.errors import TidelockError

T = TypeVar("T")

GREATEST_THREADS: Final = 64
GREATEST_WAITING: Final = 10_000
_IDLE_S: Final = 10.0


class WorkersBusyError(TidelockError):
    """So many jobs wait for a thread that none is taken any more."""


class _Job:
    """Work for a thread, and who waits for it on which loop."""

    __slots__ = ("_answer", "_context", "_loop", "_work")

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._context = contextvars.copy_context()
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[Any] = self._loop.create_future()

    @property
    def answer(self) -> asyncio.Future[Any]:
        return self._answer

    def run(self) -> None:
        if self._answer.cancelled():
            return
        try:
            value = self._context.run(self._work)
        except BaseException as error:
            self._tell(None, error)
        else:
            self._tell(value, None)

    def _tell(self, value: object, error: BaseException | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._settle, value, error)
        except RuntimeError:
            # The loop is closed: nobody waits any more.
            return

    def _settle(self, value: object, error: BaseException | None) -> None:
        if self._answer.done():
            return
        if isinstance(error, StopIteration):
            # A future takes none of these.
            error = RuntimeError("the work raised StopIteration")
        if error is None:
            self._answer.set_result(value)
        else:
            self._answer.set_exception(error)


class Workers:
    """A bounded pool."""

    def __init__(self, threads: int = GREATEST_THREADS, waiting: int = GREATEST_WAITING) -> None:
        self._greatest_threads = threads
        self._greatest_waiting = waiting
        self._changed = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._threads = 0
        self._idle = 0
        """Threads that wait for a job, those included that one was just put in for."""

    @property
    def threads(self) -> int:
        """How many there are."""
        return self._threads

    @property
    def waiting(self) -> int:
        """How many jobs wait for one."""
        return len(self._jobs)

    async def run(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, done in a thread; context variables are as they are here.

        When the caller is cancelled the work goes on to its end, unless it has not begun.

        Raises:
            WorkersBusyError, and whatever the work raises
        """
        job = _Job(work)
        with self._changed:
            if len(self._jobs) >= self._greatest_waiting:
                raise WorkersBusyError(
                    f"{self._greatest_waiting} jobs wait for {self._threads} threads already"
                )
            self._jobs.append(job)
            if len(self._jobs) <= self._idle:
                self._changed.notify()
            elif self._threads < self._greatest_threads:
                self._grow(job)
        value: T = await job.answer
        return value

    def _grow(self, job: _Job) -> None:
        """Start a thread. Raises: WorkersBusyError: there is none, and there will be none."""
        try:
            threading.Thread(target=self._work, name="tidelock worker", daemon=True).start()
        except RuntimeError as error:
            # The machine gives no more, or the interpreter ends.
            if self._threads == 0:
                self._jobs.remove(job)
                raise WorkersBusyError(f"no thread could be started: {error}") from None
        else:
            self._threads += 1

    def _work(self) -> None:
        while (job := self._next()) is not None:
            job.run()
            # An idle thread keeps nothing of it alive.
            del job

    def _next(self) -> _Job | None:
        """Return what is to be done next, None when this thread has had nothing to do for long."""
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._jobs, _IDLE_S)
            self._idle -= 1
            if self._jobs:
                return self._jobs.popleft()
            self._threads -= 1
            return None


_workers = Workers()


async def in_worker(work: Callable[[], T]) -> T:
    """Return what `work` returns, done in one of the process's threads. See `Workers.run`."""
    return await _workers.run(work)


def workers() -> Workers:
    """Return the threads of this process."""
    return _workers


def _forked() -> None:
    global _workers  # noqa: PLW0603 (a process has its own)
    INHERITED.append(_workers)
    _workers = Workers()


os.register_at_fork(after_in_child=_forked)
