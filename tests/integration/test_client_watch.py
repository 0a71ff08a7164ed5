"""The SDK's watch: in order, nothing twice, and on at another node."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from statemachine.commands import TrimChanges
from tests.integration.fake_node import (
    Answering,
    Hangup,
    Heard,
    answer_of,
    listening,
    problem_of,
    written,
)
from tests.integration.serving import Api, serving
from tidelock.client import Applied, Client, watching
from tidelock.client.watching import EventReader
from tidelock.errors import CompactedError, InvalidRequestError


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


async def take(told: AsyncIterator[Applied], count: int) -> list[Applied]:
    async with asyncio.timeout(20):
        return [await anext(told) for _ in range(count)]


async def test_what_is_applied_is_told_in_order(api: Api) -> None:
    async with Client([f"127.0.0.1:{api.port}"], discover=False) as client:
        for number in range(3):
            await client.events.record("e", number)
        await client.sequences.next("s")
        told = client.watch(kinds=["timestamp.*"], after="0")
        seen = await take(told, 3)
        assert [each.changes[0]["eventData"] for each in seen] == [0, 1, 2]
        await client.events.record("e", 3)
        (later,) = await take(told, 1)
        assert later.changes[0]["eventData"] == 3
        again = client.watch(after=seen[2].id, kinds=["timestamp.event"])
        assert await take(again, 1) == [later]


async def test_a_watch_goes_on_where_a_node_broke_off() -> None:
    async with serving() as second:
        async with serving(second.cluster) as first:
            addresses = [f"127.0.0.1:{each.port}" for each in (first, second)]
            client = Client(addresses, discover=False)
            for number in range(3):
                await client.events.record("e", number)
            told = client.watch(kinds=["timestamp.*"], after="0")
            seen = await take(told, 2)
        for number in range(3, 6):
            await client.events.record("e", number)
        seen += await take(told, 4)
        await client.close()
    assert [each.changes[0]["eventData"] for each in seen] == [*range(6)]


async def test_a_kind_that_is_none_is_refused(api: Api) -> None:
    async with Client([f"127.0.0.1:{api.port}"], discover=False) as client:
        with pytest.raises(InvalidRequestError):
            await take(client.watch(kinds=["none"]), 1)


# What is no longer kept


async def trim(api: Api, keep: int) -> None:
    command = TrimChanges(before_wall_ms=0, keep=keep, limit=10_000)
    await api.cluster.propose([command], timeout_ms=1_000)


async def test_a_watch_that_begins_too_early_is_told_where_it_may_begin(api: Api) -> None:
    async with Client([f"127.0.0.1:{api.port}"], discover=False) as client:
        for number in range(5):
            await client.participants.join(f"p{number}")
        await trim(api, 2)
        with pytest.raises(CompactedError) as compacted:
            await take(client.watch(after="1.0"), 1)
        told = await take(client.watch(after=compacted.value.oldest), 2)
        assert [each.changes[0]["nodeId"] for each in told] == ["p3", "p4"]
        # "0" asks for whatever is kept.
        assert await take(client.watch(after="0"), 2) == told


async def test_a_watch_that_resumes_too_late_is_told_so() -> None:
    """Its node broke off, and meanwhile what follows was trimmed."""
    async with serving() as second:
        addresses = []
        async with serving(second.cluster) as first:
            addresses = [f"127.0.0.1:{each.port}" for each in (first, second)]
            client = Client(addresses, discover=False)
            await client.participants.join("p")
            told = client.watch(after="0")
            assert [each.id for each in await take(told, 1)] == ["1.0"]
        for number in range(4):
            await client.participants.join(f"p{number}")
        await trim(second, 1)
        with pytest.raises(CompactedError) as compacted:
            await take(told, 1)
        assert compacted.value.oldest == "4.0"
        await client.close()


# Streams that are broken


def event(number: int, *, data: object = None, name: str = "") -> bytes:
    content = json.dumps({"id": f"{number}.0", "at": 1, "changes": [{"kind": "k", "n": number}]})
    text = content if data is None else str(data)
    named = f"event: {name}\n" if name else ""
    return f"id: {number}.0\n{named}data: {text}\n\n".encode()


def streaming(content: bytes, media_type: str = "text/event-stream") -> Answering:
    async def answer(_: Heard, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\n\r\n"
        writer.write(head.encode() + content)
        await writer.drain()
        raise Hangup

    return answer


BROKEN = {
    "no event stream": streaming(event(2), "text/html"),
    "no JSON": streaming(event(2, data="{")),
    "another shape": streaming(event(2, data="{}")),
    "another id": streaming(b"id: 3.0\n" + event(2).partition(b"\n")[2]),
    "no id": streaming(event(2).partition(b"\n")[2]),
    "an id that is none": streaming(event(2).replace(b"2.0", b"-2")),
    "an event that was told": streaming(event(1)),
    "deep": streaming(event(2, data="[" * 100_000)),
    "no text": streaming(b"data: \xff\n\n"),
    "a line without end": streaming(b"data: " + b"x" * 300_000),
    "lines without end": streaming(b"data:\n" * 300_000),
    "an end that is none": streaming(event(9, data="{}", name="compacted")),
    "compressed": streaming(event(2), "text/event-stream\r\nContent-Encoding: gzip"),
    "a failure": written(answer_of(500, b"oh", media_type="text/plain")),
    "too much to do": written(problem_of(429, "TOO_MANY_WATCHERS")),
    "a web page": written(answer_of(404, b"oh", media_type="text/html")),
    "nothing": written(b""),
}


@pytest.mark.parametrize("answering", BROKEN.values(), ids=BROKEN)
async def test_a_watch_goes_on_elsewhere_and_leaves_nothing_out(
    answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The well node tells the first event and breaks off; then the other one is broken."""
    monkeypatch.setattr(watching, "GREATEST_EVENT_CHARACTERS", 100_000)
    begins = streaming(event(1))
    goes_on = streaming(event(2) + event(3))
    well_answers = iter([begins, goes_on])

    async def answer(heard: Heard, writer: asyncio.StreamWriter) -> None:
        await next(well_answers)(heard, writer)

    async with (
        listening(answer) as well,
        listening(answering) as ill,
        Client([well.address, ill.address], discover=False) as client,
    ):
        told = await take(client.watch(after="0"), 3)
        assert [each.id for each in told] == ["1.0", "2.0", "3.0"]
        assert len(ill.heard) >= 1
        assert well.heard[-1].headers["last-event-id"] == "1.0"


async def test_a_stream_of_which_nothing_comes_is_left() -> None:
    async def stall(_: Heard, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        await asyncio.Event().wait()

    async with listening(stall) as ill, serving() as api:
        addresses = [ill.address, f"127.0.0.1:{api.port}"]
        async with Client(addresses, discover=False) as client:
            await client.events.record("e")
            (told,) = await take(client.watch(after="0", silence_ms=300), 1)
            assert told.changes[0]["kind"] == "timestamp.event"


async def test_an_end_of_what_is_kept_in_the_middle_is_told() -> None:
    end = b'{"status":410,"code":"COMPACTED","detail":"Gone.","oldest":"7.0"}'
    stream = event(1) + b"event: compacted\ndata: " + end + b"\n\n"
    async with (
        listening(streaming(stream)) as node,
        Client([node.address], discover=False) as client,
    ):
        told = client.watch(after="0")
        assert (await take(told, 1))[0].id == "1.0"
        with pytest.raises(CompactedError) as compacted:
            await take(told, 1)
        assert compacted.value.oldest == "7.0"


def test_events_that_are_too_large_are_refused_however_they_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watching, "GREATEST_EVENT_CHARACTERS", 1_000)
    for flood in (b"x" * 100, b"data:\n" * 20, b"data: xx\n" * 20):
        reader = EventReader("")
        for _ in range(5):
            reader.feed(flood)
        with pytest.raises(ValueError, match="larger"):
            reader.feed(flood * 100)


def test_events_are_read_whatever_the_parts_they_come_in() -> None:
    stream = (
        "id: 1.0\r\ndata: ä\ndata: b\r\r: beat\n\nevent: position\nid: 2.0\ndata: {}\n\n".encode()
    )
    whole = EventReader("").feed(stream)
    reader = EventReader("")
    single = [event for at in range(len(stream)) for event in reader.feed(stream[at : at + 1])]
    assert single == whole
    assert [(event.name, event.data, event.id) for event in whole] == [
        ("message", "ä\nb", "1.0"),
        ("position", "{}", "2.0"),
    ]
