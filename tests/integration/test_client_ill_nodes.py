"""The SDK's client among nodes that are broken, slow, gone, or no nodes at all."""

from __future__ import annotations

import asyncio
import gzip
import time
import uuid
from collections.abc import AsyncIterator

import pytest

from tests.integration.fake_node import (
    Answering,
    FakeNode,
    Hangup,
    Heard,
    answer_of,
    listening,
    problem_of,
    written,
)
from tests.integration.serving import Api, serving
from tidelock.client import Client, attempts, transport
from tidelock.errors import (
    ClientClosedError,
    NodeFailureError,
    NoQuorumError,
    NotFoundError,
    OutcomeUnknownError,
    TidelockError,
    UnreachableError,
)

TAKEN = {"first": 1, "last": 1}
BOUND = 64 << 10


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


def client_of(
    *nodes: FakeNode | Api, timeout_ms: int = 5_000, attempt_timeout_ms: int = 2_000
) -> Client:
    addresses = [f"http://127.0.0.1:{node.port}" for node in nodes]
    return Client(
        addresses,
        discover=False,
        timeout_ms=timeout_ms,
        attempt_timeout_ms=attempt_timeout_ms,
    )


async def silent(_: Heard, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def half_closed(_: Heard, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{")
    writer.write_eof()
    await asyncio.Event().wait()


async def trickling(_: Heard, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.01)


async def endless_headers(_: Heard, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X: y\r\n" * 1_000)
        await writer.drain()


async def going_on(_: Heard, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


async def endless(_: Heard, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b" " * 65_536 + b"\r\n")
        await writer.drain()


BROKEN: dict[str, Answering] = {
    "it hangs up": written(b""),
    "it says nothing": silent,
    "it stops in the middle": half_closed,
    "it takes its time": trickling,
    "its head never ends": endless_headers,
    "it always goes on": going_on,
    "it never ends": endless,
    "it does not speak HTTP": written(b"220 mail.example ESMTP\r\n"),
    "its length is none": written(b"HTTP/1.1 200 OK\r\nContent-Length: some\r\n\r\n{}"),
    "its chunks are none": written(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n"
    ),
    "its header is long": written(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"),
    "it is a web page": written(answer_of(200, b"<html>hello</html>", media_type="text/html")),
    "it is empty": written(answer_of(200, b"")),
    "it is of another shape": written(answer_of(200, {"last": "1"})),
    "it is not what was asked for": written(answer_of(200, {"first": 1, "last": 9})),
    "it is deep": written(answer_of(200, b"[" * 100_000)),
    "it is no text": written(answer_of(200, b"\xff\xfe")),
    "its numbers are large": written(answer_of(200, b'{"first":' + b"9" * 5_000 + b"}")),
    "it is compressed": written(
        answer_of(200, gzip.compress(b" " * (1 << 20) + b'{"first":1,"last":1}')).replace(
            b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n", 1
        )
    ),
    "it is made": written(answer_of(201, {})),
    "nothing is there": written(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "a proxy failed": written(answer_of(502, b"<html>Bad Gateway</html>", media_type="text/html")),
    "it fails": written(answer_of(500, b"Traceback", media_type="text/plain")),
    "it has a problem of its own": written(problem_of(500, "INTERNAL_ERROR")),
}
"""After these nobody knows what became of a request."""

NOT_DONE: dict[str, Answering] = {
    "it is elsewhere": written(answer_of(302, b"", "Location: http://127.0.0.1:1/")),
    "it is not found by a web server": written(answer_of(404, b"nginx", media_type="text/html")),
    "a proxy has nobody": written(answer_of(503, b"<html></html>", media_type="text/html")),
    "its problem has no code": written(answer_of(409, {"status": 409})),
    "its problem is another status's": written(
        answer_of(409, {"status": 404, "code": "LOCK_HELD"})
    ),
    "its problem is a number": written(answer_of(422, b"7")),
    "its problem is large": written(answer_of(422, b'{"code":"' + b"x" * (2 << 20) + b'"}')),
}
"""Nobody but a node can do a request, and these say that it was not done."""


@pytest.fixture(autouse=True)
def small_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "GREATEST_ANSWER_BYTES", BOUND)


@pytest.mark.parametrize(
    "answering", [*BROKEN.values(), *NOT_DONE.values()], ids=[*BROKEN, *NOT_DONE]
)
async def test_another_node_is_asked_when_one_answers_so(api: Api, answering: Answering) -> None:
    async with (
        listening(answering) as ill,
        client_of(ill, api, attempt_timeout_ms=300) as client,
    ):
        assert (await client.sequences.next("s")).first == 1
        assert (await client.sequences.get("s")).last == 1
        assert len(ill.heard) >= 1


@pytest.mark.parametrize("answering", BROKEN.values(), ids=BROKEN)
async def test_a_write_that_nobody_answers_well_is_unknown(answering: Answering) -> None:
    async with (
        listening(answering) as ill,
        client_of(ill, timeout_ms=700, attempt_timeout_ms=300) as client,
    ):
        began = time.monotonic()
        with pytest.raises(OutcomeUnknownError) as unknown:
            await client.sequences.next("s")
        assert unknown.value.idempotency_key is not None
        with pytest.raises((UnreachableError, NodeFailureError)):
            await client.sequences.get("s")
        assert time.monotonic() - began < 20


@pytest.mark.parametrize("answering", NOT_DONE.values(), ids=NOT_DONE)
async def test_a_write_that_reached_no_node_was_not_done(
    answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every attempt has the time that a busy machine takes.
    monkeypatch.setattr(attempts, "_LEAST_ATTEMPT_S", 5.0)
    async with listening(answering) as ill, Client([ill.address], discover=False) as client:
        with pytest.raises(NodeFailureError):
            await client.sequences.next("s", timeout_ms=5_300)


async def test_no_attempt_begins_too_late_to_be_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "_LEAST_ATTEMPT_S", 5.0)
    unready = written(problem_of(503, "NO_QUORUM"))
    async with listening(unready) as node, Client([node.address], discover=False) as client:
        with pytest.raises(NoQuorumError):
            await client.sequences.next("s", timeout_ms=5_000)
        assert len(node.heard) == 1


async def test_of_an_answer_that_never_ends_little_is_taken_in() -> None:
    sent = 0

    async def flood(_: Heard, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")
        while True:
            writer.write(b" " * 65_536)
            await writer.drain()
            sent += 65_536

    async with listening(flood) as ill, client_of(ill, timeout_ms=2_000) as client:
        with pytest.raises(NodeFailureError, match="more than 65536 bytes"):
            await client.sequences.get("s")
        # What was taken in, and what lies in buffers on the way.
        assert sent < 50 * (len(ill.heard) * BOUND + (4 << 20))


async def test_every_attempt_of_a_write_is_the_same_request(api: Api) -> None:
    heard: list[Heard] = []

    async def lose(request: Heard, writer: asyncio.StreamWriter) -> None:
        heard.append(request)
        raise Hangup

    async with (
        listening(lose) as first,
        listening(lose) as second,
        client_of(first, second, timeout_ms=600) as client,
    ):
        with pytest.raises(OutcomeUnknownError) as unknown:
            await client.events.record("e", {"n": 1}, node_id="a")
    keys = {request.headers["idempotency-key"] for request in heard}
    assert keys == {unknown.value.idempotency_key}
    assert uuid.UUID(keys.pop()).version == 7
    assert len(heard) > 2
    assert len({(request.method, request.path, request.body) for request in heard}) == 1
    assert all(1 <= int(each.headers["tidelock-timeout-ms"]) <= 600 for each in heard)


async def test_a_refusal_by_a_gatekeeper_does_not_decide_what_an_earlier_attempt_did() -> None:
    answers = iter([b"", problem_of(403, "FORBIDDEN")])

    async def answer(_: Heard, writer: asyncio.StreamWriter) -> None:
        writer.write(next(answers))
        await writer.drain()
        raise Hangup

    async with listening(answer) as ill, client_of(ill) as client:
        with pytest.raises(OutcomeUnknownError, match="FORBIDDEN"):
            await client.sequences.next("s")


async def test_what_no_key_protects_stays_unknown_though_a_retry_is_refused() -> None:
    """The first attempt may be why the second one finds the node a member already."""
    answers = iter([b"", problem_of(409, "ALREADY_MEMBER")])

    async def answer(_: Heard, writer: asyncio.StreamWriter) -> None:
        writer.write(next(answers))
        await writer.drain()
        raise Hangup

    async with listening(answer) as ill, client_of(ill) as client:
        with pytest.raises(OutcomeUnknownError, match="ALREADY_MEMBER") as unknown:
            await client.cluster.add_member("n4", "h:1", "h:2")
        assert unknown.value.idempotency_key is None


async def test_timestamps_that_were_not_asked_for_are_given_to_nobody(api: Api) -> None:
    few = written(answer_of(200, {"first": 1, "last": 1, "count": 1}))
    async with listening(few) as ill, client_of(ill, api) as client:
        given = await asyncio.gather(*(client.timestamp() for _ in range(5)))
        assert len({*given}) == 5
        assert min(given) > 1


async def test_callers_of_timestamps_are_all_told_what_is_wrong() -> None:
    async with (
        listening(BROKEN["it is a web page"]) as ill,
        client_of(ill, timeout_ms=1_000) as client,
    ):
        waiting = [asyncio.create_task(client.timestamp()) for _ in range(5)]
        told = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(each) for each in told] == [NodeFailureError] * 5


async def test_a_lease_of_somebody_else_is_none(api: Api) -> None:
    """As a proxy hands it out that mixes up its connections."""
    lease = {"name": "l", "owner": "b", "mode": "SHARED", "fencingToken": 1, "expiresAt": 1}
    async with listening(written(answer_of(200, lease))) as ill, client_of(ill, api) as client:
        assert (await client.locks.acquire("l", "a", ttl_ms=60_000)).owner == "a"


async def test_a_list_that_is_followed_by_itself_comes_to_an_end() -> None:
    page = written(answer_of(200, {"items": [], "nextCursor": "00"}))
    async with listening(page) as ill, client_of(ill) as client:
        with pytest.raises(NodeFailureError, match="followed by itself"):
            assert [each async for each in client.participants.list()] == []


async def test_health_is_asked_once_of_each_node() -> None:
    unready = written(problem_of(503, "NOT_READY"))
    async with listening(unready) as first, listening(unready) as second:
        async with client_of(first, second) as client:
            with pytest.raises(TidelockError, match="So it is"):
                await client.health.ready()
        assert [len(first.heard), len(second.heard)] == [1, 1]


async def test_a_node_is_not_asked_for_compressed_answers() -> None:
    async with listening(written(answer_of(200, TAKEN))) as node, client_of(node) as client:
        await client.sequences.next("s")
        assert node.heard[0].headers["accept-encoding"] == "identity"


# Following nodes


def topology(*addresses: str, cluster_id: str = "c", state: str = "HEALTHY") -> bytes:
    nodes = [
        {
            **{"nodeId": f"n{at}", "role": "FOLLOWER", "state": state},
            **{"apiAddress": address, "peerAddress": address},
        }
        for at, address in enumerate(addresses)
    ]
    return answer_of(
        200, {"clusterId": cluster_id, "leader": None, "term": 1, "commitIndex": 1, "nodes": nodes}
    )


async def known(client: Client, addresses: set[str]) -> None:
    async with asyncio.timeout(10):
        while {*client.nodes} != addresses:
            await asyncio.sleep(0.01)


async def test_nodes_that_the_cluster_names_are_followed_and_rubbish_is_not(api: Api) -> None:
    named = (
        f"127.0.0.1:{api.port}",
        "",
        "no address",
        "a:b",
        "user:secret@h:1",
        "h:99999",
        "h/x:1",
    )
    answered = topology(*named)

    async def answer(heard: Heard, writer: asyncio.StreamWriter) -> None:
        if heard.path != "/api/v1/cluster":
            raise Hangup
        writer.write(answered)

    async with listening(answer) as ill, Client([ill.address], attempt_timeout_ms=300) as client:
        assert (await client.sequences.next("s")).first == 1
        await known(client, {f"http://127.0.0.1:{api.port}", ill.address})


async def test_another_cluster_at_a_known_address_is_not_followed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter(
        [topology("127.0.0.1:2", cluster_id="c"), topology("127.0.0.1:3", cluster_id="d")]
    )

    async def answer(heard: Heard, writer: asyncio.StreamWriter) -> None:
        is_look = heard.path == "/api/v1/cluster"
        writer.write(next(answers) if is_look else answer_of(200, TAKEN))

    monkeypatch.setattr("tidelock.client.cluster_client._LOOK_EVERY_S", 0.0)
    async with listening(answer) as node, Client([node.address]) as client:
        for looks in (1, 2):
            async with asyncio.timeout(10):
                while len([each for each in node.heard if "cluster" in each.path]) < looks:
                    await client.sequences.next("s")
        await client.sequences.next("s")
        assert client.nodes == [node.address, "http://127.0.0.1:2"]


# Pools, loops, wrong input


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(_: Heard, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.02)
        writer.write(answer_of(200, TAKEN))

    monkeypatch.setattr(transport, "GREATEST_CONNECTIONS", 5)
    async with listening(slow) as node, client_of(node) as client:
        taken = await asyncio.gather(*(client.sequences.next("s") for _ in range(50)))
        assert len(taken) == 50
        assert node.most_open == 5


async def test_those_who_wait_leave_connections_to_the_others(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "GREATEST_CONNECTIONS", 2)
    async with client_of(api) as client, client.lock("l", ttl_ms=60_000) as held:
        waiting = [
            asyncio.create_task(client.locks.acquire("l", f"w{n}", ttl_ms=900, wait_ms=60_000))
            for n in range(6)
        ]
        async with asyncio.timeout(10):
            while (await client.locks.get("l")).queue_length < 2:
                await asyncio.sleep(0.01)
        assert await client.locks.verify("l", held.fencing_token)
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)


async def test_who_gets_no_connection_in_time_has_sent_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport, "GREATEST_CONNECTIONS", 1)
    async with listening(silent) as node, client_of(node, timeout_ms=5_000) as client:
        first = asyncio.create_task(client.sequences.next("s", timeout_ms=9_000))
        while not node.heard:
            await asyncio.sleep(0.01)
        with pytest.raises(UnreachableError):
            await client.sequences.next("s", timeout_ms=1_000)
        first.cancel()
        await asyncio.wait([first])


async def test_a_client_of_another_loop_says_so(api: Api) -> None:
    async with client_of(api) as client:
        await client.timestamp()
        elsewhere = asyncio.to_thread(asyncio.run, client.sequences.get("s"))
        with pytest.raises(RuntimeError, match="another event loop"):
            await elsewhere


async def test_what_cannot_be_sent_is_refused_before_it_is(api: Api) -> None:
    async with client_of(api) as client:
        for call in (
            client.sequences.next("s", idempotency_key="two words"),
            client.sequences.next("s", idempotency_key="k\r\nX-Injected: 1"),
            client.sequences.next("s", idempotency_key=""),
            client.sequences.next("s", at="ftp://h"),
            client.sequences.next(""),
            client.versions.get("events"),
            client.sequences.next("\ud800"),
            client.locks.acquire("l", "a", ttl_ms=9, idempotency_key="k\n"),
            client.events.record("e", {"deep": [1, (2.0, float("nan"))]}),
            client.versions.write_object("o", "a", float("inf")),
            anext(client.diagrams.edges(kinds="vector")),
        ):
            with pytest.raises(ValueError):  # noqa: PT011 - each says it in its own words
                await call
        with pytest.raises(ValueError, match="must be a list"):
            client.watch(kinds="lock.*")
        with pytest.raises(TypeError):
            await client.events.record("e", object())
        assert api.cluster.applied_position().entry == 0
        with pytest.raises(UnreachableError):
            await client.sequences.next("s", timeout_ms=0)
        assert (await client.events.record("e", [None, 1.5])).event_data == [None, 1.5]


async def test_odd_names_reach_the_node_as_they_are(api: Api) -> None:
    async with client_of(api) as client:
        for name in ("a/b", "..", ".", "?x=1", "#", "%2F", "名", "a b", "+", "tick;x"):
            await client.events.record("e", node_id=name)
            assert (await client.events.clock(name)).lamport_timestamp == 1, name
            listed = [event.node_id async for event in client.events.list(node_id=name)]
            assert listed == [name]
        with pytest.raises(NotFoundError):
            await client.events.get("../clock/a")


@pytest.mark.parametrize("options", [{"timeout_ms": 0}, {"attempt_timeout_ms": -1}])
def test_a_deadline_that_is_over_before_it_begins_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        Client(
            ["h:1"],
            timeout_ms=options.get("timeout_ms", 1),
            attempt_timeout_ms=options.get("attempt_timeout_ms", 1),
        )


async def test_closing_twice_and_closing_unused_are_both_fine(api: Api) -> None:
    client = client_of(api)
    await client.close()
    used = client_of(api)
    await used.timestamp()
    await asyncio.gather(used.close(), used.close())
    await used.close()
    with pytest.raises(ClientClosedError):
        await used.sequences.next("s")
