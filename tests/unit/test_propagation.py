"""What arrives and what leaves, whatever the framework; and the middlewares without a server."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any

import pytest

from tidelock.application import Application
from tidelock.clocks import LamportClock, VectorClock
from tidelock.participant_clocks import GREATEST_PARTICIPANTS, ClockReading, ParticipantClocks
from tidelock.propagation.asgi import TransactionMiddleware as AsgiMiddleware
from tidelock.propagation.carrier import Carrier
from tidelock.propagation.grpc_metadata import place_of, with_headers
from tidelock.propagation.headers import (
    LAMPORT,
    VECTOR,
    XID,
    Find,
    RefusedRequestError,
    clock_text,
    read_clocks,
    read_xid,
)
from tidelock.propagation.wsgi import TransactionMiddleware as WsgiMiddleware
from tidelock.transaction.context import Role, bound, current, current_xid


def finding(*pairs: tuple[str, str]) -> Find:
    return lambda name: [value for key, value in pairs if key.lower() == name.lower()]


# Xids


@pytest.mark.parametrize(
    "pairs",
    [
        [("X-Tx-Xid", "h:1:1")],
        [("tx_xid", "h:1:1")],
        [("x-tx-xid", " h:1:1 "), ("TX_XID", "h:1:1")],
        [("X-Tx-Xid", "h:1:1,h:1:1")],
    ],
)
def test_an_xid_is_read_from_either_header(pairs: list[tuple[str, str]]) -> None:
    assert read_xid(finding(*pairs)) == "h:1:1"


@pytest.mark.parametrize("pairs", [[], [("X-Tx-Xid", "")], [("Tx-Xid", "h:1:1")]])
def test_a_request_may_belong_to_no_transaction(pairs: list[tuple[str, str]]) -> None:
    assert read_xid(finding(*pairs)) is None


@pytest.mark.parametrize(
    ("pairs", "code"),
    [
        ([("X-Tx-Xid", "a b")], "XID_MALFORMED"),
        ([("X-Tx-Xid", "x" * 65)], "XID_MALFORMED"),
        ([("X-Tx-Xid", "ä")], "XID_MALFORMED"),
        ([("X-Tx-Xid", "a"), ("TX_XID", "b")], "XID_AMBIGUOUS"),
        ([("X-Tx-Xid", "a"), ("X-Tx-Xid", "b")], "XID_AMBIGUOUS"),
        ([("X-Tx-Xid", "a,b")], "XID_AMBIGUOUS"),
    ],
)
def test_an_xid_that_cannot_be_meant_is_refused(pairs: list[tuple[str, str]], code: str) -> None:
    with pytest.raises(RefusedRequestError) as refused:
        read_xid(finding(*pairs))
    problem = json.loads(refused.value.body)
    assert (problem["status"], problem["code"]) == (400, code)
    assert "X-Tx-Xid" in problem["detail"]


# What leaves


def test_an_xid_leaves_for_listed_hosts_only() -> None:
    carrier = Carrier(hosts=["orders:80"])
    assert carrier.leave("orders", 80) == []
    with bound("h:1:1"):
        assert carrier.leave("orders", 80) == [(XID, "h:1:1")]
        assert carrier.leave("orders", 81) == []
        assert carrier.leave("elsewhere", 80) == []


def test_the_hosts_of_the_application_are_told_unless_the_client_has_its_own() -> None:
    application = Application(["http://a"], application_id="a", propagate_to=["orders"])
    with application, bound("h:1:1"):
        assert Carrier(application).leave("orders", 80) == [(XID, "h:1:1")]
        assert Carrier(application, hosts=[]).leave("orders", 80) == []
        assert Carrier().leave("orders", 80) == []


def test_a_host_that_is_not_told_is_named_in_the_log_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    carrier = Carrier(hosts=["orders"])
    with caplog.at_level(logging.WARNING, "tidelock.propagation"):
        carrier.leave("elsewhere", 80)
        with bound("h:1:1"):
            for _ in range(3):
                carrier.leave("elsewhere", 80)
    (record,) = caplog.records
    assert "elsewhere:80" in record.message
    assert "h:1:1" not in record.message


def test_what_metadata_had_is_replaced() -> None:
    had = [("X-TX-XID", "old"), ("tx_xid", "old"), ("a", "1")]
    assert with_headers(had, [(XID, "new")]) == [("a", "1"), ("x-tx-xid", "new")]
    assert with_headers(None, []) == []


@pytest.mark.parametrize(
    ("target", "place"),
    [
        ("orders:50051", ("orders", 50051)),
        ("dns:///orders:50051", ("orders", 50051)),
        ("dns:orders", ("orders", 443)),
        ("dns://8.8.8.8/orders:1", ("orders", 1)),
        ("ipv4:10.0.0.7:1", ("10.0.0.7", 1)),
        ("[::1]:1", ("[::1]", 1)),
        ("ipv6:[::1]:1", ("[::1]", 1)),
    ],
)
def test_a_channel_leads_to_one_host(target: str, place: tuple[str, int]) -> None:
    assert place_of(target) == place


@pytest.mark.parametrize("target", ["unix:/a", "ipv4:1.1.1.1:1,2.2.2.2:2", "xds:///a", "", "a:b"])
def test_a_target_of_none_or_several_hosts_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match="names not one host"):
        place_of(target)


# Clocks


def test_clocks_are_attached_and_merged_on_both_ways() -> None:
    orders, stock = ParticipantClocks("orders"), ParticipantClocks("stock")
    client, server = Carrier(hosts=["stock"], clocks=orders), Carrier(clocks=stock)
    arrival = server.arrive(finding(*client.leave("stock", 80)))
    assert stock.read() == ClockReading(LamportClock(2), VectorClock({"orders": 1, "stock": 1}))
    client.hear(finding(*arrival.answer()))
    assert orders.read() == ClockReading(LamportClock(4), VectorClock({"orders": 2, "stock": 2}))


def test_only_who_sent_clocks_is_sent_any() -> None:
    assert Carrier(clocks=ParticipantClocks("a")).arrive(finding()).answer() == []


def test_clocks_leave_for_listed_hosts_only() -> None:
    assert Carrier(hosts=["a"], clocks=ParticipantClocks("a")).leave("b", 80) == []


@pytest.mark.parametrize(
    "pairs",
    [
        [(LAMPORT, "?")],
        [(LAMPORT, "AA")],
        [(LAMPORT, clock_text(VectorClock({"a": 1})) or "")],
        [(VECTOR, "A" * 6_001)],
        [
            (LAMPORT, clock_text(LamportClock(1)) or ""),
            (LAMPORT, clock_text(LamportClock(2)) or ""),
        ],
        [(LAMPORT, clock_text(LamportClock(2**62)) or "")],
    ],
)
def test_a_clock_that_cannot_be_taken_is_refused_and_in_an_answer_left_out(
    pairs: list[tuple[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    clocks = ParticipantClocks("a")
    with pytest.raises(RefusedRequestError, match=r"Tidelock|ahead"):
        Carrier(clocks=clocks).arrive(finding(*pairs))
    Carrier(clocks=clocks).hear(finding(*pairs))
    assert "left out" in caplog.text
    assert clocks.read().lamport == LamportClock(0)


def test_a_vector_that_is_too_long_for_a_header_is_left_out_loudly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    entries = {f"participant-{n}": 1 for n in range(GREATEST_PARTICIPANTS - 1)}
    clocks = ParticipantClocks("a", start=ClockReading(None, VectorClock(entries)))
    headers = Carrier(hosts=["b"], clocks=clocks).leave("b", 80)
    assert [name for name, _ in headers] == [LAMPORT]
    assert "pruned" in caplog.text


def test_who_keeps_no_clocks_ignores_them() -> None:
    assert Carrier().arrive(finding((LAMPORT, "?"))).xid is None


def test_what_is_written_is_read() -> None:
    clocks = ClockReading(LamportClock(2**40), VectorClock({"ä": 2, "b": 3}))
    assert clocks.lamport is not None
    assert clocks.vector is not None
    pairs = [(LAMPORT, clock_text(clocks.lamport)), (VECTOR, clock_text(clocks.vector))]
    assert read_clocks(finding(*[(name, text) for name, text in pairs if text])) == clocks


# WSGI

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def call_wsgi(app: WsgiApp, **headers: str) -> tuple[str, dict[str, str], Iterable[bytes]]:
    begun: list[Any] = []
    environ = {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    answer = WsgiMiddleware(app)(environ, lambda *arguments: begun.extend(arguments))
    status, sent = begun[:2] if begun else ("", [])
    return status, dict(sent), answer


def test_a_wsgi_request_is_served_within_its_transaction_as_a_participant() -> None:
    seen: list[Any] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        seen.append(current())
        return [b"done"]

    call_wsgi(app, X_TX_XID="h:1:1")
    call_wsgi(app, TX_XID="h:1:2")
    call_wsgi(app)
    first, second, third = seen
    assert (first.xid, first.role) == ("h:1:1", Role.PARTICIPANT)
    assert second.xid == "h:1:2"
    assert third is None
    assert current() is None


def test_a_wsgi_answer_that_is_streamed_is_made_within_the_transaction() -> None:
    seen: list[str | None] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        try:
            for _ in range(2):
                seen.append(current_xid())
                yield b"part"
        finally:
            seen.append(current_xid())

    _, _, answer = call_wsgi(app, X_TX_XID="h:1:1")
    parts = iter(answer)
    next(parts)
    assert current() is None
    close: Any = getattr(answer, "close")  # noqa: B009 (a protocol of its own for one name)
    close()
    assert seen == ["h:1:1", "h:1:1"]


def test_nothing_stays_bound_when_a_wsgi_application_fails_or_forgets() -> None:
    def fail(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        bound("h:1:9").__enter__()
        raise LookupError("broken")

    with pytest.raises(LookupError, match="broken"):
        call_wsgi(fail, X_TX_XID="h:1:1")
    assert current() is None


def test_a_wsgi_request_with_a_malformed_xid_is_not_served() -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        raise AssertionError("served")

    status, headers, answer = call_wsgi(app, X_TX_XID="no xid")
    body = b"".join(answer)
    assert status == "400 Bad Request"
    assert headers["Content-Type"] == "application/problem+json"
    assert headers["Content-Length"] == str(len(body))
    assert json.loads(body)["code"] == "XID_MALFORMED"


# ASGI

Message = MutableMapping[str, Any]


async def call_asgi(app: Any, kind: str = "http", **scope: Any) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": f"{kind}.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    await AsgiMiddleware(app)({"type": kind, "headers": [], **scope}, receive, send)
    return sent


WITH_XID = [(b"x-tx-xid", b"h:1:1")]
MALFORMED = [(b"x-tx-xid", b"no xid")]


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_an_asgi_request_is_served_within_its_transaction(kind: str) -> None:
    seen: list[str | None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0)
        seen.append(current_xid())

    await call_asgi(app, kind, headers=WITH_XID)
    with bound("h:1:2"):  # of whoever calls in the same process
        await call_asgi(app, kind)
        assert current_xid() == "h:1:2"
    assert seen == ["h:1:1", None]


async def test_nothing_stays_bound_when_an_asgi_application_fails_or_is_cancelled() -> None:
    begun = asyncio.Event()

    async def fail(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("broken")

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def cancelled() -> str | None:
        try:
            await call_asgi(wait, headers=WITH_XID)
        except asyncio.CancelledError:
            return current_xid()
        raise AssertionError("not cancelled")

    with pytest.raises(LookupError, match="broken"):
        await call_asgi(fail, headers=WITH_XID)
    assert current() is None
    task = asyncio.create_task(cancelled())
    await begun.wait()
    task.cancel()
    assert await task is None


async def test_an_asgi_request_with_a_malformed_xid_is_not_served() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("served")

    start, body = await call_asgi(app, headers=MALFORMED)
    assert (start["type"], start["status"]) == ("http.response.start", 400)
    assert json.loads(body["body"])["code"] == "XID_MALFORMED"
    (closed,) = await call_asgi(app, "websocket", headers=MALFORMED)
    assert closed == {"type": "websocket.close", "code": 1008}
    start, body = await call_asgi(
        app, "websocket", headers=MALFORMED, extensions={"websocket.http.response": {}}
    )
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 400)
    assert body["type"] == "websocket.http.response.body"


async def test_the_lifespan_of_an_asgi_application_passes_through() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    await call_asgi(app, "lifespan")
    assert seen == ["lifespan"]


async def test_an_asgi_answer_carries_clocks_to_who_sent_some() -> None:
    clocks = ParticipantClocks("a")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"1")]})

    async def send(message: Message) -> None:
        sent.append(message)

    sent: list[Message] = []
    middleware = AsgiMiddleware(app, clocks=clocks)
    came = [(b"tidelock-lamport", (clock_text(LamportClock(6)) or "").encode())]
    await middleware({"type": "http", "headers": came}, _nothing, send)
    names = [name for name, _ in sent[0]["headers"]]
    assert names == [b"a", b"tidelock-lamport", b"tidelock-vector-clock"]
    assert clocks.read().lamport == LamportClock(8)


async def _nothing() -> Message:
    return {}
