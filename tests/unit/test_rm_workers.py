"""Threads for what blocks: bounded, shared, and gone when there is nothing to do."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time
import warnings
from collections.abc import Callable

import pytest

from tidelock.rm import workers as module
from tidelock.rm.workers import Workers, WorkersBusyError, in_worker, workers

WITHIN_S = 20.0


async def until(holds: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < ends_at
        await asyncio.sleep(0.005)


async def test_work_is_done_in_a_thread_with_the_callers_context() -> None:
    variable = contextvars.ContextVar("variable", default="none")
    variable.set("the caller's")
    assert await in_worker(lambda: (variable.get(), threading.current_thread().name)) == (
        "the caller's",
        "tidelock worker",
    )


async def test_what_the_work_raises_is_raised() -> None:
    def fail() -> None:
        raise LookupError("nothing")

    with pytest.raises(LookupError, match="nothing"):
        await in_worker(fail)

    def stop() -> None:
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        await in_worker(stop)


async def test_as_many_jobs_run_at_once_as_there_may_be_threads_and_no_more() -> None:
    pool = Workers(threads=3)
    together = threading.Barrier(4)
    running = 0
    most = 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(WITHIN_S)
        with lock:
            running -= 1

    first = [asyncio.create_task(pool.run(work)) for _ in range(6)]
    await until(lambda: together.n_waiting == 3)
    assert (pool.threads, pool.waiting) == (3, 3)
    await asyncio.to_thread(together.wait, WITHIN_S)
    await until(lambda: together.n_waiting == 3)
    await asyncio.to_thread(together.wait, WITHIN_S)
    await asyncio.gather(*first)
    assert most == 3


async def test_a_job_does_not_wait_for_a_busy_thread_while_another_may_be_started() -> None:
    pool = Workers(threads=2)
    blocked = threading.Event()
    for _ in range(200):
        # The thread of the last round may be idle, or about to be.
        long = asyncio.create_task(pool.run(lambda: blocked.wait(WITHIN_S)))
        short = asyncio.create_task(pool.run(lambda: None))
        async with asyncio.timeout(WITHIN_S):
            await short
        blocked.set()
        await long
        blocked.clear()


async def test_too_many_jobs_are_refused() -> None:
    pool = Workers(threads=1, waiting=2)
    blocked = threading.Event()
    jobs = [asyncio.create_task(pool.run(lambda: blocked.wait(WITHIN_S)))]
    await until(lambda: pool.threads == 1 and pool.waiting == 0)
    jobs += [asyncio.create_task(pool.run(blocked.wait)) for _ in range(2)]
    await until(lambda: pool.waiting == 2)
    with pytest.raises(WorkersBusyError, match="2 jobs"):
        await pool.run(blocked.wait)
    blocked.set()
    await asyncio.gather(*jobs)


async def test_a_job_whose_caller_is_gone_before_it_began_is_not_done() -> None:
    pool = Workers(threads=1)
    blocked = threading.Event()
    done = []
    first = asyncio.create_task(pool.run(lambda: blocked.wait(WITHIN_S)))
    await until(lambda: pool.threads == 1 and pool.waiting == 0)
    second = asyncio.create_task(pool.run(lambda: done.append(1)))
    await until(lambda: pool.waiting == 1)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    blocked.set()
    await first
    await pool.run(lambda: None)
    assert done == []


async def test_threads_end_when_there_is_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IDLE_S", 0.01)
    pool = Workers(threads=4)
    await asyncio.gather(*[pool.run(lambda: None) for _ in range(20)])
    await until(lambda: pool.threads == 0)
    assert await pool.run(lambda: "again") == "again"


async def test_without_any_thread_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)
    pool = Workers()
    with pytest.raises(WorkersBusyError, match="can't start"):
        await pool.run(lambda: None)
    assert pool.waiting == 0


def test_a_child_has_threads_of_its_own() -> None:
    asyncio.run(in_worker(lambda: None))
    assert workers().threads
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            fresh = workers().threads == 0
            status = 0 if fresh and asyncio.run(in_worker(os.getpid)) == os.getpid() else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
