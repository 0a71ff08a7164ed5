"""The proxies between the nodes do to a connection what they are told to, and heal."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import time
from collections.abc import AsyncIterator

import pytest

from scripts.tidelock_scripts.chaos.network import Disturbance, Link

WITHIN_S = 10.0
QUIET_S = 0.15
"""How long nothing must come before we believe that it does not."""


class Listener:
    """Takes connections and keeps what it reads; answers each chunk with itself."""

    def __init__(self) -> None:
        self.received = b""
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        with contextlib.suppress(OSError):
            while chunk := await reader.read(1000):
                self.received += chunk
                writer.write(chunk)
        writer.close()

    async def expect(self, received: bytes) -> None:
        async with asyncio.timeout(WITHIN_S):
            while self.received != received:
                await asyncio.sleep(0.005)


class Pair:
    """A listener and the link that leads to it."""

    def __init__(self, listener: Listener, link: Link) -> None:
        self.listener = listener
        self.link = link
        self._writers: list[asyncio.StreamWriter] = []

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.link.port)
        self._writers.append(writer)
        return reader, writer

    def close(self) -> None:
        for writer in [*self._writers, *self.listener.writers]:
            writer.transport.abort()


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    listener = Listener()
    server = await asyncio.start_server(listener.serve, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    link = Link(("127.0.0.1", port))
    await link.open()
    made = Pair(listener, link)
    try:
        yield made
    finally:
        made.close()
        await link.close()
        server.close()
        await asyncio.sleep(0)


async def read(reader: asyncio.StreamReader, count: int) -> bytes:
    async with asyncio.timeout(WITHIN_S):
        return await reader.readexactly(count)


async def ends(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(WITHIN_S):
        try:
            return await reader.read() == b""
        except ConnectionError:
            return True


async def test_a_link_at_peace_passes_everything_both_ways(pair: Pair) -> None:
    reader, writer = await pair.dial()
    writer.write(b"there")
    assert await read(reader, 5) == b"there"


async def test_what_was_stalled_arrives_later_and_whole(pair: Pair) -> None:
    reader, writer = await pair.dial()
    writer.write(b"one")
    assert await read(reader, 3) == b"one"
    await pair.link.disturb(Disturbance.STALL)
    writer.write(b"two")
    await asyncio.sleep(QUIET_S)
    assert pair.listener.received == b"one"
    await pair.link.disturb(Disturbance.NONE)
    assert await read(reader, 3) == b"two"


async def test_swallowed_bytes_never_arrive_and_their_connection_does_not_go_on(
    pair: Pair,
) -> None:
    reader, writer = await pair.dial()
    writer.write(b"one")
    assert await read(reader, 3) == b"one"
    await pair.link.disturb(Disturbance.SWALLOW)
    writer.write(b"two")
    await asyncio.sleep(QUIET_S)
    assert not reader.at_eof(), "the dialler must not notice"
    await pair.link.disturb(Disturbance.NONE)
    assert await ends(reader)
    assert pair.listener.received == b"one"
    reader, writer = await pair.dial()
    writer.write(b"three")
    assert await read(reader, 5) == b"three"


async def test_refusing_resets_what_is_open_and_refuses_what_is_new(pair: Pair) -> None:
    reader, writer = await pair.dial()
    writer.write(b"one")
    assert await read(reader, 3) == b"one"
    await pair.link.disturb(Disturbance.REFUSE)
    assert await ends(reader)
    with pytest.raises(ConnectionRefusedError):
        await pair.dial()
    await pair.link.disturb(Disturbance.NONE)
    reader, writer = await pair.dial()
    writer.write(b"two")
    assert await read(reader, 3) == b"two"


async def test_a_link_to_a_dead_node_refuses_but_keeps_what_is_open(pair: Pair) -> None:
    reader, writer = await pair.dial()
    writer.write(b"one")
    assert await read(reader, 3) == b"one"
    await pair.link.target_is_down(True)
    with pytest.raises(ConnectionRefusedError):
        await pair.dial()
    writer.write(b"two")
    assert await read(reader, 3) == b"two"


async def test_delayed_bytes_arrive_in_order_and_not_before_their_time(pair: Pair) -> None:
    reader, writer = await pair.dial()
    pair.link.delay(0.05)
    begun = time.monotonic()
    writer.write(b"one")
    await asyncio.sleep(0.01)
    writer.write(b"two")
    assert await read(reader, 6) == b"onetwo"
    assert time.monotonic() - begun >= 0.1, "there and back"


async def test_a_reset_ends_connections_and_welcomes_new_ones(pair: Pair) -> None:
    reader, _ = await pair.dial()
    await asyncio.sleep(0)
    await pair.link.reset()
    writer: asyncio.StreamWriter
    reader, writer = await pair.dial()
    writer.write(b"again")
    assert await read(reader, 5) == b"again"
    await pair.listener.expect(b"again")


async def test_the_end_of_a_node_is_seen_by_those_who_dialled_it(pair: Pair) -> None:
    reader, writer = await pair.dial()
    writer.write(b"one")
    assert await read(reader, 3) == b"one"
    pair.listener.writers[0].transport.abort()
    assert await ends(reader)


async def test_two_resets_at_once_leave_no_connection_open(pair: Pair) -> None:
    reader, writer = await pair.dial()
    writer.write(b"one")
    assert await read(reader, 3) == b"one"
    first = asyncio.create_task(pair.link.reset())
    # The first one has begun to end the connection when the second one comes.
    await asyncio.sleep(0)
    await asyncio.gather(first, pair.link.reset())
    assert await ends(reader)
    async with asyncio.timeout(WITHIN_S):
        while not pair.listener.writers[0].transport.is_closing():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("turns", range(4))
async def test_a_link_that_refuses_just_when_a_connection_comes_leaves_nothing_open(
    pair: Pair, turns: int
) -> None:
    with socket.create_connection(("127.0.0.1", pair.link.port)) as dialled:
        for _ in range(turns):
            await asyncio.sleep(0)
        await pair.link.disturb(Disturbance.REFUSE)
        dialled.settimeout(WITHIN_S)
        # It is reset, or was never taken; nothing holds it open. What is not closed is reported
        # when it is collected.
        with contextlib.suppress(ConnectionError):
            assert await asyncio.to_thread(dialled.recv, 1) == b""
    gc.collect()
