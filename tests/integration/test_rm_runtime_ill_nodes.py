"""The channel of an application to nodes that stop, hang, lie, or are none at all."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web

from tests.integration.fake_channel import FakeChannels, Line, called, friendly, listening, welcome
from tests.integration.recording_resource import Recording, SessionRecording, until
from tidelock import Application
from tidelock.rm import session
from tidelock.rm.session import NoSessionError


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the longest pauses short; that there are any is seen in its own test."""
    monkeypatch.setattr(session, "_GREATEST_PAUSE_REFUSED_S", 0.05)


@asynccontextmanager
async def applying(*fakes: FakeChannels, **differently: Any) -> AsyncIterator[Application]:
    options: Mapping[str, Any] = {"application_id": "orders", "host": "h1", **differently}
    application = Application([each.address for each in fakes], discover=False, **options)
    try:
        yield application
    finally:
        await application.aclose(drain_ms=100)


async def test_it_registers_and_answers() -> None:
    options: dict[str, Any] = {"token": "secret", "grace_ms": 60_000}
    async with listening() as fake, applying(fake, **options) as application:
        application.attach(database := Recording())
        line = await fake.line()
        assert line.request.headers["Authorization"] == "Bearer secret"
        assert await line.next("register") == {
            "type": "register",
            "applicationId": "orders",
            "host": "h1",
            "resources": ["db"],
            "modes": ["AT"],
            "modesOf": [["AT"]],
            "cleanBatch": 200,
            "graceMs": 60_000,
        }
        assert await application.session_id(application.awaiting) == 7
        await line.call(applicationData={"order": 7}, phaseOneDone=True)
        assert await line.next("result") == {
            "type": "result",
            "requestId": 1,
            "status": "COMMITTED",
        }
        (_, call) = database.calls[0]
        assert (call.xid, call.branch_id, call.application_data) == ("x", 1, {"order": 7})
        assert call.phase_one_done
        branches = [{"xid": each, "branchId": 1, "mode": "AT"} for each in ("x", "y")]
        await line.call("clean", 2, branches=branches)
        assert (await line.next("result", 2))["status"] == "CLEANED"
        assert [call.xid for _, call in database.calls[1:]] == ["x", "y"]
    assert (await line.next("leave")) == {"type": "leave"}


async def test_resources_that_come_and_go_are_told_at_most_ten_times_a_second() -> None:
    at: list[float] = []

    async def serve(line: Line) -> None:
        for number in range(1, 100):
            await line.next("register", number)
            at.append(asyncio.get_running_loop().time())
            await line.say(welcome())

    async with listening(serve) as fake, applying(fake) as application:
        application.attach(Recording("db0"))
        await application.session_id(application.awaiting)
        for number in range(1, 30):
            application.attach(Recording(f"db{number}"))
            await asyncio.sleep(0.01)
        application.detach("AT", "db0")
        await application.session_id(application.awaiting)
        line = await fake.line()
        last = line.heard[-1]
        assert last["resources"] == sorted(f"db{number}" for number in range(1, 30))
        assert all(later - earlier > 0.1 for earlier, later in pairwise(at))
        assert len(at) < 10
        # The same object again, or another one in its place, is no news to the cluster.
        application.attach(Recording("db1"))
        assert await application.session_id(application.awaiting) == 7
        assert len(at) == len([each for each in line.heard if each["type"] == "register"])


# --- connections that end


@pytest.mark.parametrize("code", [1000, 1001, 1006, 1011, 4400, 4408, 4429, 4503, 4999])
async def test_the_session_is_taken_along_whatever_ended_the_connection(code: int) -> None:
    async with listening() as one, listening() as other, applying(one, other) as application:
        application.attach(bound := SessionRecording())
        await application.session_id(application.awaiting)
        first, next_one = (one, other) if one.lines else (other, one)
        line = first.lines[0]
        if code in (1001, 4503):
            await line.say({"type": "go-elsewhere", "reason": "n1 stops"})
        if code == 1006:
            line.break_off()
        else:
            await line.close(code)
        again = await next_one.line()
        assert (await again.next("register"))["sessionId"] == 7
        await until(lambda: application.health().connections == 2)
        assert await application.session_id(application.awaiting) == 7
        assert bound.lost == []


async def test_after_4410_there_is_a_new_session_and_resources_are_told_first() -> None:
    async with listening() as fake, applying(fake, instance="a") as application:
        application.attach(bound := SessionRecording())
        await application.session_id(application.awaiting)
        bound.rolls_back_slowly = True
        fake.serve = lambda line: line.welcome(8)
        await (await fake.line()).close(4410)
        again = await fake.line(2)
        registered = await again.next("register")
        assert "sessionId" not in registered
        # A newer process may have taken the instance; taking it back would end that one.
        assert "instance" not in registered
        await until(lambda: application.health().connections == 2)
        await again.call(mode="LCN")
        with pytest.raises(NoSessionError):
            await application.session_id(application.awaiting, timeout_ms=50)
        assert bound.calls == []
        bound.rolls_back_slowly = False
        assert await application.session_id(application.awaiting) == 8
        assert bound.lost == [7]
        assert (await again.next("result"))["status"] == "COMMITTED"


async def test_a_session_that_is_not_resumed_is_told_to_resources_and_keeps_its_instance() -> None:
    async with listening() as fake, applying(fake, instance="a") as application:
        application.attach(bound := SessionRecording())
        await application.session_id(application.awaiting)
        fake.serve = lambda line: line.welcome(8)
        (await fake.line()).break_off()
        again = await fake.line(2)
        registered = await again.next("register")
        assert (registered["sessionId"], registered["instance"]) == (7, "a")
        await until(lambda: bound.lost == [7])
        assert await application.session_id(application.awaiting) == 8
        fake.serve = friendly
        again.break_off()
        third = await (await fake.line(3)).next("register")
        assert (third["sessionId"], third["instance"]) == (8, "a")
        assert application.health().sessions_lost == 1


async def test_after_4409_it_takes_its_session_back_once() -> None:
    async with listening() as fake, applying(fake) as application:
        application.attach(bound := SessionRecording())
        await application.session_id(application.awaiting)
        await (await fake.line()).close(4409)
        again = await fake.line(2)
        assert (await again.next("register"))["sessionId"] == 7
        await until(lambda: application.health().connections == 2)
        assert bound.lost == []
        await again.close(4409)
        third = await fake.line(3)
        assert "sessionId" not in await third.next("register")
        await until(lambda: bound.lost == [7])


async def test_what_a_resource_raises_then_keeps_nobody_from_going_on() -> None:
    class Broken(SessionRecording):
        async def session_lost(self, session_id: int) -> None:
            raise ConnectionError("password=hunter2")

    async with listening() as fake, applying(fake) as application:
        application.attach(Broken("a"))
        application.attach(bound := SessionRecording("b"))
        await application.session_id(application.awaiting)
        await (await fake.line()).close(4410)
        await until(lambda: bound.lost == [7])
        assert await application.session_id(application.awaiting) == 7


async def test_a_resource_that_never_comes_back_from_it_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session, "LOST_WITHIN_S", 0.05)
    async with listening() as fake, applying(fake) as application:
        application.attach(bound := SessionRecording())
        await application.session_id(application.awaiting)
        bound.rolls_back_slowly = True
        await (await fake.line()).close(4410)
        await until(lambda: application.health().connections == 2)
        assert await application.session_id(application.awaiting) == 7


async def test_silence_ends_a_connection() -> None:
    def never_pings(line: Line) -> Awaitable[None]:
        return line.welcome(heartbeatMs=100)

    async with listening(never_pings) as fake, applying(fake) as application:
        application.attach(Recording())
        second = await fake.line(2)
        assert (await second.next("register"))["sessionId"] == 7
        assert "nothing was heard" in application.health().last_failure


async def test_pings_keep_a_connection() -> None:
    async def serve(line: Line) -> None:
        await line.welcome(heartbeatMs=500)
        while True:
            await line.socket.ping()
            await asyncio.sleep(0.1)

    async with listening(serve) as fake, applying(fake) as application:
        application.attach(Recording())
        await application.session_id(application.awaiting)
        await asyncio.sleep(1.5)
        assert len(fake.lines) == 1


# --- nodes that say what no node says


async def say_nothing(line: Line) -> None:
    await asyncio.sleep(3600)


def saying(*messages: dict[str, Any] | str | bytes) -> Callable[[Line], Awaitable[None]]:
    async def serve(line: Line) -> None:
        await line.welcome()
        for message in messages:
            await line.say(message)

    return serve


async def asks_too_early(line: Line) -> None:
    await line.say(called())


async def welcomes_twice(line: Line) -> None:
    await line.welcome()
    await line.say(welcome())


@pytest.mark.parametrize(
    "serve",
    [
        saying("{"),
        saying("[]"),
        saying('{"type": 1}'),
        saying(b"bytes"),
        saying("x" * (5 << 20)),
        saying({"type": "welcome", "sessionId": -1, "resumed": True, "heartbeatMs": 1}),
        saying({"type": "branch-commit", "requestId": "many"}),
        asks_too_early,
        welcomes_twice,
    ],
)
async def test_a_node_that_says_what_no_node_says_is_left(
    serve: Callable[[Line], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.shuffle", lambda _: None)
    async with listening(serve) as ill, listening() as well, applying(ill, well) as application:
        application.attach(database := Recording())
        line = await well.line()
        assert len(ill.lines) == 1
        await line.call()
        assert (await line.next("result"))["status"] == "COMMITTED"
        assert database.asked == ["commit"]


async def test_an_unreadable_question_is_answered_and_later_words_are_passed_over() -> None:
    serve = saying(
        {"type": "ticket", "requestId": 9},
        {**called(request_id=3), "branchId": 0},
        called(request_id=4),
    )
    async with listening(serve) as fake, applying(fake) as application:
        application.attach(Recording())
        line = await fake.line()
        first = await line.next("result")
        assert (first["requestId"], first["status"]) == (3, "COMMIT_FAILED_RETRYABLE")
        assert (await line.next("result", 2))["requestId"] == 4


@pytest.mark.parametrize(
    "refusal",
    [
        web.HTTPUnauthorized,
        web.HTTPForbidden,
        web.HTTPNotFound,
        web.HTTPServiceUnavailable,
        web.HTTPOk,
        lambda: web.HTTPFound("http://127.0.0.1:1/elsewhere"),
    ],
)
async def test_who_opens_no_channel_is_asked_again_later(
    refusal: Callable[[], web.HTTPException],
) -> None:
    async with listening() as fake, applying(fake, token="secret") as application:
        fake.refuse_with = refusal
        application.attach(Recording())
        with pytest.raises(NoSessionError) as raised:
            await application.session_id(application.awaiting, timeout_ms=300)
        assert "secret" not in str(raised.value)
        fake.refuse_with = None
        assert await application.session_id(application.awaiting) == 7


async def test_the_last_complaint_is_shown() -> None:
    async def complain(line: Line) -> None:
        await line.next("register")
        await line.say({"type": "error", "code": "VALIDATION_FAILED", "detail": "No such mode."})
        await line.close(4400)

    async with listening(complain) as fake, applying(fake) as application:
        application.attach(Recording())
        with pytest.raises(NoSessionError, match="VALIDATION_FAILED No such mode"):
            await application.session_id(application.awaiting, timeout_ms=500)


async def test_without_any_node_it_says_so() -> None:
    application = Application(["http://127.0.0.1:1"], application_id="orders", discover=False)
    application.attach(Recording())
    with pytest.raises(NoSessionError, match=r"127\.0\.0\.1:1"):
        await application.session_id(application.awaiting, timeout_ms=300)
    assert not application.health().connected
    await application.aclose()


async def test_a_node_that_accepts_and_is_silent_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidelock.rm.connection._CONNECT_S", 0.1)
    monkeypatch.setattr("tidelock.rm.connection._WELCOME_S", 0.1)
    monkeypatch.setattr("random.shuffle", lambda _: None)
    # The kernel accepts for it.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with listening(say_nothing) as mute, listening() as well:
            named = f"http://127.0.0.1:{silent.getsockname()[1]}"
            application = Application(
                [named, mute.address, well.address], application_id="orders", discover=False
            )
            application.attach(Recording())
            assert await application.session_id(application.awaiting) == 7
            assert len(mute.lines) == 1
            await application.aclose()


async def test_a_fault_of_its_own_costs_it_a_connection_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session, "_GREATEST_PAUSE_S", 0.01)
    well = session._question

    def broken_once(asked: Any, cluster_id: str) -> Any:
        monkeypatch.setattr(session, "_question", well)
        raise LookupError("no such word")

    monkeypatch.setattr(session, "_question", broken_once)
    async with listening() as fake, applying(fake) as application:
        application.attach(Recording())
        await (await fake.line()).call()
        again = await fake.line(2)
        assert (await again.next("register"))["sessionId"] == 7
        await again.call()
        assert (await again.next("result"))["status"] == "COMMITTED"
        health = application.health()
        assert health.connections == 2
        assert "no such word" in health.last_failure


# --- answers


async def test_an_answer_goes_to_the_connection_that_asked_or_to_none() -> None:
    """Numbers of requests begin anew on each connection: 1 of the next one is another's."""
    async with listening() as fake, applying(fake) as application:
        application.attach(database := Recording())
        await application.session_id(application.awaiting)
        database.waits = True
        line = await fake.line()
        await line.call(request_id=1)
        await until(lambda: database.asked == ["commit"])
        line.break_off()
        again = await fake.line(2)
        await until(lambda: application.health().connections == 2)
        # The same branch is asked for again: what is under way answers it.
        await again.call(request_id=1, xid="y")
        await again.call(request_id=2)
        await until(lambda: application.health().repeated == 1)
        database.waits = False
        numbers = {(await again.next("result", at))["requestId"] for at in (1, 2)}
        assert numbers == {1, 2}
        assert sorted(call.xid for _, call in database.calls) == ["x", "y"]


async def test_closing_answers_what_is_under_way_and_refuses_the_rest() -> None:
    async with listening() as fake, applying(fake) as application:
        application.attach(database := Recording())
        await application.session_id(application.awaiting)
        database.waits = True
        line = await fake.line()
        for number in range(1, 10):
            await line.call(request_id=number, xid=f"x{number}")
        await until(lambda: len(database.calls) == 8)
        closing = asyncio.create_task(application.aclose())
        refused = await line.next("result")
        assert refused["status"] == "COMMIT_FAILED_RETRYABLE"
        assert refused["detail"] == "the process ends"
        database.waits = False
        await closing
        results = [each for each in line.heard if each["type"] == "result"]
        assert len(results) == 9
        assert line.heard[-1] == {"type": "leave"}


async def test_closing_waits_for_no_call_for_ever() -> None:
    async with listening() as fake, applying(fake) as application:
        application.attach(database := Recording())
        await application.session_id(application.awaiting)
        database.waits = True
        line = await fake.line()
        await line.call()
        await until(lambda: database.asked == ["commit"])
        await application.aclose(drain_ms=50)
        assert line.heard[-1] == {"type": "leave"}
