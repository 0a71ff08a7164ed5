"""Watching over HTTP: begin anywhere, go on anywhere, miss and repeat nothing."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

from api.cluster import Consistency, NoQuorumError, View
from api.event_stream import EventStream
from api.settings import ApiSettings
from api.watchers import GREATEST_UNSENT_BYTES
from node import change_feed
from node.change_feed import PAGE_BYTES
from scripts.tidelock_scripts.event_source import Event, EventParser
from statemachine import keys
from statemachine.commands import TrimChanges
from statemachine.positions import Position
from statemachine.store import DamagedStateError
from tests.integration.local_cluster import START_MS, LocalCluster
from tests.integration.serving import BATCH, EVENT, PARTICIPANTS, SYNC, Api, serving
from tests.integration.watching import WITHIN_S, watching

WATCH = "/api/v1/watch"
LAST_ID = "Last-Event-ID"
QUICK = ApiSettings(watch_heartbeat_s=0.05)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0.005)


async def gauge(api: Api, name: str) -> float:
    lines = (await api.get("/metrics")).content.decode().splitlines()
    (value,) = (line.split()[1] for line in lines if line.startswith(f"{name} "))
    return float(value)


async def write(api: Api, count: int) -> list[str]:
    """Write events and return their positions."""
    found = []
    for _ in range(count):
        answered = await api.post(EVENT, {"nodeId": "orders", "eventType": "e"})
        found.append(answered.headers["Tidelock-Index"])
    return found


def position_of(event: Event) -> Position:
    entry, place = event.last_id.split(".")
    return Position(int(entry), int(place))


def ids(messages: list[Any]) -> list[str]:
    return [message["id"] for message in messages]


# Beginning


async def test_what_is_applied_from_now_on_is_told_in_order(api: Api) -> None:
    await write(api, 3)
    async with watching(api.port) as stream:
        assert stream.response.status == 200
        assert stream.response.headers["Content-Type"] == "text/event-stream"
        assert stream.response.headers["Cache-Control"] == "no-store"
        assert stream.response.headers["Tidelock-Node"] == "n1"
        assert stream.response.headers["Tidelock-Index"] == "3.0"
        written = await write(api, 5)
        messages = await stream.messages(5)
        assert ids(messages) == written == ["4.0", "5.0", "6.0", "7.0", "8.0"]
        assert messages[0]["at"] == START_MS
        (event,) = messages[0]["changes"]
        assert event["kind"] == "timestamp.event"
        assert (event["nodeId"], event["lamportTimestamp"]) == ("orders", 4)
        assert stream.parser.retry_ms == 1_000


async def test_a_watch_names_its_position_before_anything_happens(api: Api) -> None:
    await write(api, 2)
    async with watching(api.port) as stream:
        event = await stream.event()
        assert (event.name, event.last_id) == ("position", "2.0")
    written = await write(api, 2)
    # Cut before its first message, it goes on from where it stood and not from a later now.
    async with watching(api.port, last_id=event.last_id) as stream:
        assert ids(await stream.messages(2)) == written


async def test_from_0_tells_everything_that_is_kept(api: Api) -> None:
    written = await write(api, 4)
    for query in ("?from=0", "?from=0.0"):
        async with watching(api.port, query) as stream:
            assert ids(await stream.messages(4)) == written


async def test_from_a_position_tells_what_came_after_it(api: Api) -> None:
    await write(api, 4)
    async with watching(api.port, "?from=2.0") as stream:
        assert ids(await stream.messages(2)) == ["3.0", "4.0"]
    # Between positions is a place as well.
    async with watching(api.port, "?from=2.17") as stream:
        assert ids(await stream.messages(2)) == ["3.0", "4.0"]


async def test_the_last_event_id_counts_before_from(api: Api) -> None:
    await write(api, 4)
    async with watching(api.port, "?from=0", "3.0") as stream:
        assert ids(await stream.messages(1)) == ["4.0"]


async def test_everything_that_a_client_can_do_is_told(api: Api) -> None:
    async with watching(api.port) as stream:
        await api.post(EVENT, {"nodeId": "a", "eventType": "e", "eventData": {"deep": [1]}})
        await api.post(SYNC, {"nodeId": "b", "sourceNodeId": "a", "timestamp": 9})
        await api.post(PARTICIPANTS, {"nodeId": "c"})
        await api.call("DELETE", f"{PARTICIPANTS}/c")
        kinds = [
            [change["kind"] for change in message["changes"]]
            for message in await stream.messages(4)
        ]
    assert kinds == [
        ["timestamp.event", "participant.joined"],
        ["timestamp.sync", "participant.joined"],
        ["participant.joined"],
        ["participant.left"],
    ]


async def test_each_operation_of_a_batch_is_a_message(api: Api) -> None:
    operation = {"op": "timestamp.event", "nodeId": "a", "eventType": "e"}
    async with watching(api.port) as stream:
        assert (await api.post(BATCH, {"operations": [operation] * 1000})).status == 200
        assert ids(await stream.messages(1000)) == [f"1.{place}" for place in range(1000)]


# Going on


async def test_a_stream_cut_anywhere_goes_on_with_nothing_missed_or_repeated(api: Api) -> None:
    operation = {"op": "timestamp.event", "nodeId": "a", "eventType": "e"}
    for _ in range(4):
        await api.post(BATCH, {"operations": [operation] * 3})
    async with watching(api.port, "?from=0") as stream:
        whole = ids(await stream.messages(12))
    for taken in range(12):
        async with watching(api.port, last_id=whole[taken]) as stream:
            assert ids(await stream.messages(11 - taken)) == whole[taken + 1 :]


async def test_a_client_from_a_node_that_was_ahead_waits_for_this_one() -> None:
    behind = _Behind()
    async with serving(behind) as api:
        await write(api, 2)
        behind.ahead = asyncio.Event()
        opening = asyncio.create_task(_first_message(api.port, "3.0"))
        await until(lambda: Consistency.LINEARIZABLE in behind.consistencies)
        assert not opening.done()
        written = await write(api, 2)
        behind.ahead.set()
        assert (await asyncio.wait_for(opening, WITHIN_S))["id"] == written[1] == "4.0"


class _Behind(LocalCluster):
    """A node that applies slowly: a read waits for what the cluster has committed."""

    ahead: asyncio.Event | None = None

    async def read(self, consistency: Consistency, *, timeout_ms: int) -> View:
        self.consistencies.append(consistency)
        if self.ahead is not None:
            await self.ahead.wait()
        return await super().read(consistency, timeout_ms=timeout_ms)


async def _first_message(port: int, last_id: str) -> Any:
    async with watching(port, last_id=last_id) as stream:
        return await stream.message()


@pytest.mark.parametrize("query", ["", "?from=0"])
async def test_a_position_that_the_cluster_has_not_reached_is_refused(api: Api, query: str) -> None:
    await write(api, 2)
    answered = await api.get(f"{WATCH}{query}", **{LAST_ID: "2.1"})
    assert (answered.status, answered.code) == (422, "POSITION_UNKNOWN")
    assert "2.0" in answered.body["detail"]


@pytest.mark.parametrize("last_id", ["", "7.0"])
async def test_who_needs_a_quorum_to_begin_is_sent_on_by_a_node_without(
    api: Api, last_id: str
) -> None:
    """As a stream that ends: for browsers every other status would be the end of all."""
    api.cluster.fault = NoQuorumError()
    async with watching(api.port, last_id=last_id) as stream:
        rest = await stream.rest()
    assert b"retry: " in rest
    assert b"another node" in rest


async def test_now_is_what_the_cluster_has_committed_however_far_behind_the_node_is() -> None:
    behind = _Behind()
    async with serving(behind) as api:
        behind.ahead = asyncio.Event()
        opening = asyncio.create_task(_first_message(api.port, ""))
        await until(lambda: Consistency.LINEARIZABLE in behind.consistencies)
        await write(api, 3)
        behind.ahead.set()
        async with asyncio.timeout(WITHIN_S):
            while not await gauge(api, "tidelock_watchers"):
                await asyncio.sleep(0.01)
        written = await write(api, 1)
        assert (await opening)["id"] == written[0] == "4.0"


async def test_nothing_is_missed_while_events_come_as_fast_as_they_can(api: Api) -> None:
    """Streams end after a few messages each; what they saw together is the log."""
    total = 300
    writing = asyncio.create_task(write(api, total))
    seen: list[str] = []
    last_id = "0.0"
    while len(seen) < total:
        async with watching(api.port, last_id=last_id) as stream:
            seen += ids(await stream.messages(min(7, total - len(seen))))
            last_id = stream.parser.last_id
            # The parser may have read further than the test did.
            last_id = seen[-1]
    assert seen == await writing


# What is no longer kept


async def join(api: Api, count: int) -> None:
    for number in range(count):
        await api.post(PARTICIPANTS, {"nodeId": f"p{api.cluster.machine.applied_index}-{number}"})


async def trimmed(api: Api, keep: int) -> None:
    command = TrimChanges(before_wall_ms=0, keep=keep, limit=10_000)
    await api.cluster.propose([command], timeout_ms=1_000)


async def test_what_was_trimmed_is_gone_and_the_oldest_that_is_kept_is_named(api: Api) -> None:
    await join(api, 5)
    await trimmed(api, 2)
    for path, headers in ((f"{WATCH}?from=1.0", {}), (WATCH, {LAST_ID: "0.0"})):
        answered = await api.get(path, **headers)
        assert (answered.status, answered.code) == (410, "COMPACTED")
        assert answered.body["oldest"] == "3.0"
        assert not answered.body["retryable"]
    for query in ("?from=0", "?from=0.0", "?from=3.0"):
        async with watching(api.port, query) as stream:
            assert ids(await stream.messages(2)) == ["4.0", "5.0"]


async def test_a_stream_that_is_overtaken_says_so_and_ends(api: Api) -> None:
    await join(api, 1)
    async with watching(api.port) as stream:
        await stream.event()
        # As when a copy of the state is installed: the log went on and part of it is gone.
        await _silently(api.cluster, 5)
        event = await stream.event()
        assert event.name == "compacted"
        problem = msgspec.json.decode(event.data)
        assert (problem["code"], problem["oldest"]) == ("COMPACTED", "5.0")
        assert event.last_id == "1.0"
        assert await stream.rest() == b""
    assert (await api.get(WATCH, **{LAST_ID: event.last_id})).status == 410


async def _silently(cluster: LocalCluster, count: int) -> None:
    """Apply changes and trim them before anybody hears of it."""
    heard, cluster.changes.on_applied = cluster.changes.on_applied, lambda: None  # type: ignore[method-assign]
    other = LocalCluster(store=cluster.store)
    other.machine = cluster.machine
    async with serving(other) as api:
        await join(api, count)
        await trimmed(api, 1)
    cluster.changes.on_applied = heard  # type: ignore[method-assign]
    cluster.changes.on_applied()


# Filters


async def test_a_filter_chooses_and_the_position_moves_on_all_the_same() -> None:
    async with serving(settings=QUICK) as api, watching(
        api.port, "?kinds=participant.left,routing.*"
    ) as stream:  # fmt: skip
        await write(api, 5)
        async with asyncio.timeout(WITHIN_S):
            while (event := await stream.event()).last_id != "5.0":
                pass
        assert event.name == "position"
        await api.call("DELETE", f"{PARTICIPANTS}/orders")
        message = await stream.message()
        assert message["id"] == "6.0"
        assert message["changes"] == [{"kind": "participant.left", "nodeId": "orders"}]


async def test_a_filtered_watch_is_moved_on_while_others_never_rest() -> None:
    async with serving(settings=QUICK) as api, watching(
        api.port, "?kinds=participant.left"
    ) as stream:  # fmt: skip
        first = await stream.event()
        writing = asyncio.create_task(write(api, 100_000))
        for _ in range(3):
            event = await stream.event()
            assert event.name == "position"
            assert position_of(event) > position_of(first)
            first = event
        assert not writing.done()
        writing.cancel()


async def test_a_filtered_watch_reads_on_through_a_long_log_without_a_match(api: Api) -> None:
    operation = {"op": "timestamp.event", "nodeId": "a", "eventType": "e"}
    for _ in range(6):
        await api.post(BATCH, {"operations": [operation] * 1000})
    await api.post(PARTICIPANTS, {"nodeId": "b"})
    async with watching(api.port, "?from=1.0&kinds=participant.*") as stream:
        assert (await stream.message())["changes"] == [
            {"kind": "participant.joined", "nodeId": "b"}
        ]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?kinds=", "kinds"),
        ("?kinds=nothing.*", "kinds"),
        ("?kinds=timestamp.event,timestamp.evnt", "kinds"),
        ("?kinds=" + "timestamp.event," * 70, "kinds"),
        ("?from=", "from"),
        ("?from=12", "from"),
        ("?from=-1.0", "from"),
        ("?from=1.0.0", "from"),
        ("?from=1.4294967296", "from"),
        ("?from=9223372036854775808.0", "from"),
        ("?from=1.0%0A", "from"),
        ("?from=%D9%A1.0", "from"),
        ("?from=1.0&from=2.0", "from"),
        ("?form=1.0", "form"),
    ],
)
async def test_a_query_that_means_nothing_is_refused(api: Api, query: str, field: str) -> None:
    answered = await api.get(f"{WATCH}{query}")
    assert answered.refused == (422, "INVALID_FIELD", [field])


@pytest.mark.parametrize("last_id", ["x", "1", "0", "1.0 2.0", "1.-1"])
async def test_an_id_that_is_none_of_ours_is_refused(api: Api, last_id: str) -> None:
    answered = await api.get(WATCH, **{LAST_ID: last_id})
    assert answered.refused == (422, "INVALID_FIELD", [LAST_ID])


# Staying


async def test_a_quiet_stream_is_kept_alive_by_comments() -> None:
    async with serving(settings=QUICK) as api, watching(api.port) as stream:
        await stream.event()
        async with asyncio.timeout(WITHIN_S):
            while stream.parser.comments < 3:
                stream.parser.feed(await stream.response.content.readany())


async def test_there_is_room_for_so_many_watchers_and_a_place_is_free_once_one_leaves() -> None:
    async with serving(settings=ApiSettings(greatest_watchers=2)) as api:
        async with watching(api.port) as first, watching(api.port) as second:
            await asyncio.gather(first.event(), second.event())
            assert await gauge(api, "tidelock_watchers") == 2
            answered = await api.get(WATCH)
            assert (answered.status, answered.code) == (429, "TOO_MANY_WATCHERS")
            assert answered.headers["Retry-After"] == "1"
        # Nothing is written meanwhile: that they have left is noticed by itself.
        async with asyncio.timeout(WITHIN_S):
            while await gauge(api, "tidelock_watchers"):
                await asyncio.sleep(0.01)
        async with watching(api.port) as third:
            await third.event()


async def test_messages_are_counted(api: Api) -> None:
    async with watching(api.port) as stream:
        await write(api, 3)
        await stream.messages(3)
    assert await gauge(api, "tidelock_watch_messages_total") == 3


async def test_the_time_of_a_watch_is_not_that_of_a_request(api: Api) -> None:
    async with watching(api.port) as stream:
        await stream.event()
        metrics = (await api.get("/metrics")).content.decode()
    labels = f'{{method="GET",route="{WATCH}",status="200"}}'
    assert f"tidelock_http_request_duration_seconds_count{labels} 1.0" in metrics


async def test_the_head_alone_is_answered_at_once(api: Api) -> None:
    answered = await asyncio.wait_for(api.call("HEAD", WATCH), WITHIN_S)
    assert answered.status == 200
    assert answered.headers["Content-Type"] == "text/event-stream"
    assert answered.content == b""
    assert await gauge(api, "tidelock_watchers") == 0


async def test_a_node_without_a_leader_for_long_sends_its_watchers_elsewhere() -> None:
    async with serving(settings=ApiSettings(watch_leaderless_s=0.2)) as api:
        async with watching(api.port) as stream:
            await stream.event()
            api.cluster.quorum_confirmed_ms = 201
            assert b"no leader was confirmed" in await stream.rest()
        # One that comes meanwhile has its time as well: a leader may be about to be elected.
        began = time.monotonic()
        async with watching(api.port) as stream:
            assert b"no leader was confirmed" in await stream.rest()
            assert time.monotonic() - began >= 0.2


async def test_a_node_that_stops_ends_its_streams_at_once() -> None:
    async with AsyncExitStack() as opened:
        async with asyncio.timeout(WITHIN_S), serving() as api:
            streams = [await opened.enter_async_context(watching(api.port)) for _ in range(5)]
            for stream in streams:
                await stream.event()
        for stream in streams:
            assert b"n1 stops" in await stream.rest()


# Reading slowly


class Unread:
    """A client that asks for a watch and reads nothing until it is told to."""

    def __init__(self, port: int, query: str) -> None:
        self._socket = socket.socket()
        # Small, so that what is not read waits at the node and not on the way.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.connect(("127.0.0.1", port))
        self._socket.sendall(f"GET {WATCH}{query} HTTP/1.1\r\nHost: n1\r\n\r\n".encode())
        self._socket.setblocking(False)
        self._parser = EventParser()
        self._has_begun = False

    async def read(self, count: int) -> list[Any]:
        """Return the data of the next so many messages."""
        loop = asyncio.get_running_loop()
        head = b""
        messages: list[Any] = []
        async with asyncio.timeout(2 * WITHIN_S):
            while not (self._has_begun or head.endswith(b"\r\n\r\n")):
                head += await loop.sock_recv(self._socket, 1)
            self._has_begun = True
            while len(messages) < count:
                content = await loop.sock_recv(self._socket, 1 << 16)
                assert content, "the stream ended"
                for event in self._parser.feed(content):
                    if event.name == "message":
                        messages.append(msgspec.json.decode(event.data))
        return messages

    def close(self) -> None:
        self._socket.close()


async def write_much(api: Api, batches: int) -> list[str]:
    """Write batches of 500 kB, eight events each, and return their positions."""
    operation = {
        "op": "timestamp.event",
        "nodeId": "a",
        "eventType": "e",
        "eventData": "x" * 60_000,
    }
    found = []
    for _ in range(batches):
        answered = await api.post(BATCH, {"operations": [operation] * 8})
        entry = answered.headers["Tidelock-Index"].partition(".")[0]
        found += [f"{entry}.{place}" for place in range(8)]
    return found


async def test_who_does_not_read_costs_little_and_gets_everything_later(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsent: list[int] = []
    send = EventStream.send

    def watched_send(stream: EventStream, content: bytes) -> None:
        send(stream, content)
        unsent.append(stream.unsent_bytes)

    monkeypatch.setattr(EventStream, "send", watched_send)
    # So little is in memory that who is behind reads the state.
    monkeypatch.setattr(change_feed, "_RING_BYTES", 1 << 20)
    client = Unread(api.port, "?from=0")
    async with watching(api.port) as other:
        await other.event()
        written = await write_much(api, 30)
        # Who reads is served meanwhile.
        assert ids(await other.messages(len(written))) == written
        assert await gauge(api, "tidelock_watchers_fell_behind_total") >= 1
        assert ids(await client.read(len(written))) == written
        # At the end of the log it is one of many again.
        (last,) = await write(api, 1)
        assert ids(await client.read(1)) == [last]
    client.close()
    # One page, and the threshold that it may have been below, whatever 15 MB are written.
    assert max(unsent) <= GREATEST_UNSENT_BYTES + PAGE_BYTES + 2 * 60_000


async def test_a_node_stops_though_somebody_does_not_read() -> None:
    async with asyncio.timeout(3 * WITHIN_S), serving() as api:
        client = Unread(api.port, "?from=0")
        await write_much(api, 30)
        async with asyncio.timeout(WITHIN_S):
            while not await gauge(api, "tidelock_watchers_fell_behind_total"):
                await asyncio.sleep(0.01)
    client.close()


async def test_a_damaged_row_ends_the_stream_and_is_reported(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(api, 1)
    async with watching(api.port) as stream:
        await stream.event()

        intact = api.cluster.store.scan

        def scan(start: bytes, stop: bytes, **bounds: Any) -> Any:
            if start.startswith(keys.EVENT):
                raise DamagedStateError("row")
            return intact(start, stop, **bounds)

        monkeypatch.setattr(api.cluster.store, "scan", scan)
        await write(api, 1)
        await stream.rest()
    assert api.cluster.damage
    assert (await api.get(f"{WATCH}?from=1.0")).code == "STATE_DAMAGED"


async def test_a_bug_ends_the_stream_and_not_the_others_to_come(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        async with watching(api.port) as stream:
            await stream.event()
            broken.setattr("api.watchers.Rendered", None)
            await write(api, 1)
            await stream.rest()
    async with watching(api.port, "?from=0") as stream:
        assert ids(await stream.messages(1)) == ["1.0"]
