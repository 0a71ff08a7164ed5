"""The resource manager of an application at real nodes: in threads, tasks, children, at exits."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import ssl
import sys
import threading
import warnings
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest

from api.rm_messages import Called, CallKind, Result, encode
from api.settings import ApiSettings
from statemachine.commands import EndChannel
from statemachine.transactions.channel_rows import ChannelSession, get_session
from tests.integration.recording_resource import Recording, SessionRecording, until
from tests.integration.serving import Api, serving
from tests.integration.test_client_access import AUTHORITY, over_tls
from tidelock import Application
from tidelock.client import Client
from tidelock.client.answers import BranchState
from tidelock.driving import drive
from tidelock.errors import ClientClosedError
from tidelock.rm.session import NoSessionError

SESSIONS = "/api/v1/rm/sessions"


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


@asynccontextmanager
async def applying(api: Api, **differently: Any) -> AsyncIterator[Application]:
    options: dict[str, Any] = {"application_id": "orders", "host": "h1", **differently}
    application = Application([f"127.0.0.1:{api.port}"], discover=False, **options)
    try:
        yield application
    finally:
        await application.aclose(drain_ms=1_000)


def session_of(api: Api, session_id: int) -> ChannelSession | None:
    return get_session(api.cluster.store, session_id)


async def listed(api: Api) -> list[dict[str, Any]]:
    return list((await api.get(SESSIONS)).body["items"])


async def call(
    api: Api, session_id: int, kind: CallKind = CallKind.COMMIT, xid: str = "x", **more: Any
) -> Result:
    """Ask over the session's channel, as the leader does."""
    session = session_of(api, session_id)
    assert session is not None
    fields: dict[str, Any] = {"mode": "AT", "resource_id": "db", "epoch": 1, **more}
    called = encode(Called(xid=xid, branch_id=1, **fields))
    return await api.channels.call(session_id, session.connection, kind, called, 10)


def forked(work: Any) -> int:
    """Return the exit status of a child that runs `work`: 0 when that returns something true."""
    with warnings.catch_warnings():
        # Newer interpreters warn of any fork in a process with threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if work() else 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


async def test_the_first_resource_connects_and_closing_leaves(api: Api) -> None:
    async with applying(api, instance="a") as application:
        assert application.health().connected is False
        application.attach(Recording())
        session_id = await application.session_id(application.awaiting)
        (shown,) = await listed(api)
        assert shown["sessionId"] == session_id
        assert (shown["applicationId"], shown["host"], shown["instance"]) == ("orders", "h1", "a")
        assert (shown["resources"], shown["modes"]) == (["db"], ["AT"])
        application.attach(Recording("db2", "XA"))
        assert await application.session_id(application.awaiting) == session_id
        (shown,) = await listed(api)
        assert (shown["resources"], shown["modes"]) == (["db", "db2"], ["AT", "XA"])
        application.attach(Recording("db", "XA"))
        await application.session_id(application.awaiting)
        found = session_of(api, session_id)
        assert found is not None
        assert (found.resources, found.modes_of) == (("db", "db2"), (("AT", "XA"), ("XA",)))
        application.detach("XA", "db")
        application.detach("AT", "db")
        await application.session_id(application.awaiting)
        assert (await listed(api))[0]["resources"] == ["db2"]
        application.detach("XA", "db2")
        with pytest.raises(NoSessionError, match="attach one first"):
            await application.session_id(application.awaiting)
    assert await listed(api) == []
    with pytest.raises(ClientClosedError):
        application.attach(Recording())


async def test_everything_that_is_asked_is_answered_and_counted(api: Api) -> None:
    async with applying(api) as application:
        application.attach(database := Recording())
        session_id = await application.session_id(application.awaiting)
        said = [(await call(api, session_id, kind)).status for kind in CallKind]
        assert said == ["COMMITTED", "ROLLED_BACK", "UNKNOWN", "CLEANED", "CLEAN_FAILED"]
        assert database.asked == ["commit", "rollback", "status", "clean"]
        # A sweep is for resources that can: that this one cannot is no error.
        assert application.health().errors == 0
        elsewhere = await call(api, session_id, mode="XA")
        assert elsewhere.detail == "this process has no XA db"
        health = application.health()
        assert (health.connected, health.session_id, health.node) == (True, session_id, "n1")
        assert (health.resources, health.waiting, health.running) == (1, 0, 0)
        assert health.results["branch-commit", "COMMITTED"] == 1
        assert health.numbers()["tidelock_rm_refused_calls_total"] == 1
        assert 'tidelock_rm_results_total{call="clean",status="CLEANED"} 1\n' in health.prometheus()


async def test_threads_and_tasks_of_any_loop_share_one_session(api: Api) -> None:
    async with applying(api) as application:
        application.attach(Recording())

        def in_a_thread(number: int) -> int:
            if number % 2:
                return drive(application.session_id(application.blocking))
            return asyncio.run(application.session_id(application.awaiting))

        def all_of_them() -> set[int]:
            with ThreadPoolExecutor(8) as threads:
                return {*threads.map(in_a_thread, range(16))}

        assert await asyncio.to_thread(all_of_them) == {1}
        assert len(await listed(api)) == 1


async def test_two_thousand_calls_are_done(api: Api) -> None:
    async with applying(api) as application:
        application.attach(database := Recording())
        session_id = await application.session_id(application.awaiting)
        for part in range(4):
            results = await asyncio.gather(
                *[call(api, session_id, xid=f"x{part}.{number}") for number in range(500)]
            )
            assert {each.status for each in results} == {"COMMITTED"}
        assert len(database.calls) == 2_000


async def test_a_session_that_the_cluster_ended_is_followed_by_another(api: Api) -> None:
    async with applying(api) as application:
        application.attach(bound := SessionRecording())
        first = await application.session_id(application.awaiting)
        session = session_of(api, first)
        assert session is not None
        end = EndChannel(session_id=first, connection=session.connection)
        await api.cluster.propose((end,), timeout_ms=1_000)
        await until(lambda: bound.lost == [first])
        assert await application.session_id(application.awaiting) == first + 1


async def test_what_a_session_that_has_just_ended_is_used_for_is_done_in_the_next(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="tidelock.rm.session")
    async with applying(api) as application:
        application.attach(Recording("db", "XA"))
        first = await application.session_id(application.awaiting)
        session = session_of(api, first)
        assert session is not None
        tried: list[int] = []
        loop = asyncio.get_running_loop()

        async def register(client: Client, session_id: int) -> BranchState:
            tried.append(session_id)
            if len(tried) == 1:
                # It ends before this process hears of it.
                end = EndChannel(session_id=first, connection=session.connection)
                ending = api.cluster.propose((end,), timeout_ms=1_000)
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(ending, loop))
            return await client.branches.register("x:1", "XA", "db", session_id=session_id)

        await application.awaiting(lambda client: client.transactions.begin(xid="x:1"))
        branch = await application.in_session(application.awaiting, register)
        assert tried == [first, first + 1]
        assert branch.branch_id
        (back,) = [text for text in caplog.messages if "is back" in text]
        assert back.startswith("the channel is back at n1 after ")
        assert back.endswith(f"session {first + 1} is a new one")


async def test_who_gets_no_other_session_in_time_is_told(api: Api) -> None:
    async with applying(api) as application:
        application.attach(Recording())
        first = await application.session_id(application.awaiting)
        with pytest.raises(NoSessionError, match="50 ms"):
            await application.session_id(application.awaiting, timeout_ms=50, ended=first)


async def test_processes_of_one_instance_do_not_end_each_other_in_turn(api: Api) -> None:
    async with applying(api, instance="a") as older, applying(api, instance="a") as newer:
        older.attach(bound := SessionRecording())
        first = await older.session_id(older.awaiting)
        newer.attach(Recording())
        second = await newer.session_id(newer.awaiting)
        await until(lambda: bound.lost == [first])
        third = await older.session_id(older.awaiting)
        assert session_of(api, second) is not None
        assert {each["sessionId"]: each["instance"] for each in await listed(api)} == {
            second: "a",
            third: "",
        }


async def test_a_node_that_stops_is_left_with_the_session() -> None:
    async with serving() as other, serving(other.cluster) as stopping:
        addresses = [f"127.0.0.1:{stopping.port}", f"127.0.0.1:{other.port}"]
        application = Application(addresses, application_id="orders", discover=False)
        application.attach(Recording())
        session_id = await application.session_id(application.awaiting)
        left = stopping if len(stopping.channels) else other
        await left.stop()
        await until(lambda: application.health().connections == 2)
        assert await application.session_id(application.awaiting) == session_id
        kept = other if left is stopping else stopping
        assert (await call(kept, session_id)).status == "COMMITTED"
        await application.aclose()


async def test_the_channel_is_over_tls_when_the_client_is(api: Api) -> None:
    async with over_tls(api) as port:
        context = ssl.create_default_context(cafile=AUTHORITY)
        application = Application(
            [f"127.0.0.1:{port}"], application_id="orders", discover=False, ssl_context=context
        )
        application.attach(Recording())
        assert await application.session_id(application.awaiting) == 1
        await application.aclose()
        stranger = Application(
            [f"https://127.0.0.1:{port}"], application_id="orders", discover=False
        )
        stranger.attach(Recording())
        with pytest.raises(NoSessionError, match="CERTIFICATE_VERIFY_FAILED"):
            await stranger.session_id(stranger.awaiting, timeout_ms=300)
        await stranger.aclose()


# --- children


async def test_a_child_has_a_session_of_its_own_and_the_parents_stays_the_parents(
    api: Api,
) -> None:
    async with applying(api) as application:
        application.attach(Recording())
        session_id = await application.session_id(application.awaiting)

        def in_the_child() -> bool:
            # Its first use need have nothing to do with branches.
            application.client.timestamp()
            own = drive(application.session_id(application.blocking))
            healthy = application.health().session_id == own
            application.close()
            return healthy and own != session_id

        assert await asyncio.to_thread(forked, in_the_child) == 0
        assert (await call(api, session_id)).status == "COMMITTED"
        assert [each["sessionId"] for each in await listed(api)] == [session_id]
        assert application.health().connections == 1


async def test_a_child_that_closes_at_once_ends_nothing_of_the_parents(api: Api) -> None:
    async with applying(api) as application:
        application.attach(Recording())
        session_id = await application.session_id(application.awaiting)

        def in_the_child() -> bool:
            with application:
                return True

        assert await asyncio.to_thread(forked, in_the_child) == 0
        assert (await call(api, session_id)).status == "COMMITTED"


PROGRAM = """
import os, sys, time
from tidelock import Application
from tidelock.client import Client
from tidelock.client.answers import BranchState
from tidelock.driving import drive
from tidelock.rm.resource import PhaseTwoResult

class Database:
    resource_id, mode = "db", "AT"

application = Application([sys.argv[1]], application_id="orders", discover=False)
application.attach(Database())
print(drive(application.session_id(application.blocking)), flush=True)
if sys.argv[2] == "forks":
    if os.fork() == 0:
        time.sleep(60)
    print("forked", flush=True)
    sys.stdin.readline()
if sys.argv[2] == "raises":
    raise LookupError("nothing")
"""


async def program(api: Api, how: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", "-c", PROGRAM, f"127.0.0.1:{api.port}", how),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )


@pytest.mark.parametrize(("how", "status"), [("ends", 0), ("raises", 1)])
async def test_a_process_that_ends_without_closing_leaves(api: Api, how: str, status: int) -> None:
    process = await program(api, how)
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert (process.returncode, out) == (status, b"1\n"), err
    assert (b"LookupError" in err) == (how == "raises")
    assert await listed(api) == []


async def test_a_parents_death_is_noticed_though_its_child_lives() -> None:
    # The node would ping after an hour.
    async with serving(settings=ApiSettings(channel_heartbeat_s=3_600)) as api:
        process = await program(api, "forks")
        assert process.stdout is not None
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"1\n"
            assert await process.stdout.readline() == b"forked\n"
        try:
            os.kill(process.pid, signal.SIGKILL)
            await until(lambda: len(api.channels) == 0, "the node notices")
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            await process.communicate()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_nothing_of_it_is_left_when_it_is_closed(api: Api, tls: bool) -> None:
    before = {thread.name for thread in threading.enumerate()}
    context = ssl.create_default_context(cafile=AUTHORITY)
    files = len(os.listdir("/proc/self/fd"))
    async with over_tls(api) as port:
        for _ in range(5):
            application = Application(
                [f"127.0.0.1:{port if tls else api.port}"],
                application_id="orders",
                discover=False,
                ssl_context=context if tls else None,
            )
            application.attach(Recording())
            await application.session_id(application.awaiting)
            await application.aclose()
            # What was not closed warns now, and that is an error here.
            gc.collect()
    await until(lambda: len(os.listdir("/proc/self/fd")) <= files + 1)
    assert "tidelock" not in {thread.name for thread in threading.enumerate()} - before
    assert await listed(api) == []
