"""What the SDK's modes stand on: one implementation for two kinds of callers, and the context."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

import tidelock
from tidelock.application import Application, NotConfiguredError, configured
from tidelock.driving import drive
from tidelock.transaction.context import binding, bound, checked, current, current_xid


async def _double(number: int) -> int:
    return 2 * number


def test_a_coroutine_that_never_waits_is_driven_to_its_end() -> None:
    async def work() -> int:
        return await _double(await _double(1))

    assert drive(work()) == 4


def test_what_a_driven_coroutine_raises_comes_out() -> None:
    async def work() -> None:
        raise KeyError("k")

    with pytest.raises(KeyError):
        drive(work())


def test_a_coroutine_that_waits_is_refused_and_ended() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            ended.append(True)

    with pytest.raises(RuntimeError, match="asynchronous step"):
        drive(work())
    assert ended


def test_nothing_is_bound_unless_something_is() -> None:
    assert current() is None
    assert current_xid() is None


@pytest.mark.parametrize("nothing", ["", None])
def test_no_xid_binds_nothing_even_within_another_transaction(nothing: str | None) -> None:
    with bound("h:1:1"), bound(nothing):
        assert current() is None


def test_a_binding_ends_with_its_block_also_after_a_failure() -> None:
    def fail() -> None:
        with bound("h:1:2"):
            assert current_xid() == "h:1:2"
            raise LookupError("broken")

    with bound("h:1:1"):
        with pytest.raises(LookupError, match="broken"):
            fail()
        assert current_xid() == "h:1:1"
        with binding(None):
            assert current_xid() is None
        assert current_xid() == "h:1:1"
    assert current_xid() is None


async def test_tasks_inherit_a_binding_and_threads_by_hand_do_not() -> None:
    found: list[str | None] = []
    with bound("h:1:1"):
        assert await asyncio.create_task(_xid_of_a_task()) == "h:1:1"
        assert await asyncio.to_thread(current_xid) == "h:1:1"
        thread = threading.Thread(target=lambda: found.append(current_xid()))
        thread.start()
        thread.join()
    assert found == [None]


async def _xid_of_a_task() -> str | None:
    return current_xid()


@pytest.mark.parametrize("xid", ["", "a b", "x" * 65, "ä", "a\n", "a/b", "a;b"])
def test_what_is_no_xid_is_refused(xid: str) -> None:
    with pytest.raises(ValueError, match="no xid"):
        checked(xid)


def test_nobody_finds_an_application_that_was_not_configured() -> None:
    with pytest.raises(NotConfiguredError, match=r"tidelock\.configure"):
        configured()


def test_the_clocks_come_without_the_rest() -> None:
    code = "import sys, tidelock.clocks; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_name_of_the_package_is_there_and_others_are_not() -> None:
    for name in tidelock.__all__:
        assert getattr(tidelock, name) is not None
    with pytest.raises(AttributeError, match="nothing_such"):
        getattr(tidelock, "nothing_such")  # noqa: B009 (type checkers know that it is not there)


async def test_calls_block_a_thread_or_wait_in_a_task_and_do_the_same() -> None:
    with Application(["http://127.0.0.1:9"], application_id="a") as application:
        assert await application.awaiting(lambda client: _double(2)) == 4
        assert drive(application.blocking(lambda client: _double(2))) == 4


async def test_a_cancelled_caller_cancels_its_call() -> None:
    begun, ended = threading.Event(), threading.Event()

    async def call() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    with Application(["http://127.0.0.1:9"], application_id="a") as application:
        task = asyncio.create_task(_await_call(application, call))
        assert await asyncio.to_thread(begun.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(ended.wait, 10)


async def _await_call(application: Application, call: object) -> None:
    assert callable(call)
    await application.awaiting(lambda client: call())


@pytest.mark.parametrize(
    "imports",
    [
        "import tidelock",
        "import tidelock, tidelock.transaction.context",
        "import tidelock.transaction, tidelock",
        "import tidelock; from tidelock import transaction; assert callable(transaction)",
    ],
)
def test_a_package_and_the_block_of_the_same_name_are_one(imports: str) -> None:
    code = (
        f"{imports}\n"
        "block = tidelock.transaction('purchase')\n"
        "from tidelock.transaction.blocks import TransactionBlock\n"
        "assert isinstance(block, TransactionBlock)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
