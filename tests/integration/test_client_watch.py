"""The SDK's watch: in order, nothing twice, and on at another node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.integration.serving import Api, serving
from tidelock.client import Applied, Client
from tidelock.client.watching import EventReader
from tidelock.errors import InvalidRequestError


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
