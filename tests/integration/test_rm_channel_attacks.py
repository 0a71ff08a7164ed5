"""Managers in crowds, managers that do not read, and clients that are no managers at all."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import ClientSession, TCPConnector

from api import channels as channels_module
from api.channels import ChannelBusyError, ChannelGoneError
from api.rm_messages import Called, CallKind, encode
from node.config import ChannelsConfig
from statemachine.transactions.channel_rows import get_session, list_sessions
from tests.integration.engines import LoopNode, eventually, loop_cluster
from tests.integration.resource_manager import (
    CHANNEL,
    ResourceManager,
    agree,
    connected,
    register,
)

pytestmark = pytest.mark.timeout(180)

CHANNELS = ChannelsConfig(grace_ms=1_000, leaderless_ms=60_000)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[LoopNode]:
    async with loop_cluster(tmp_path, channels=CHANNELS) as cluster:
        yield await cluster.leader()


async def call(node: LoopNode, manager: ResourceManager, *, size: int = 0) -> str:
    session = get_session(node.engine.machine_store, manager.session_id)
    assert session is not None
    data = "x" * size if size else None
    called = Called(
        xid="x", branch_id=1, mode="AT", resource_id="db", application_data=data, epoch=1
    )
    result = await node.managers.channels.call(
        manager.session_id, session.connection, CallKind.COMMIT, encode(called), 20.0
    )
    return result.status.value


# --- crowds


async def test_a_thousand_managers_come_at_once_and_vanish_at_once(node: LoopNode) -> None:
    count = 1_000
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(ClientSession(connector=TCPConnector(limit=0)))

        async def come() -> ResourceManager:
            return await stack.enter_async_context(
                connected(node.url, session=client, resources=["crowd"])
            )

        managers = await asyncio.gather(*[come() for _ in range(count)])
        assert len({manager.session_id for manager in managers}) == count
        assert len(node.managers.channels) == count
        for manager in managers[::100]:
            manager.answer = agree
            assert await call(node, manager) == "COMMITTED"
        for manager in managers:
            await manager.hang_up()
        store = node.engine.machine_store
        await eventually(lambda: not list_sessions(store, 0, 1), "all sessions have ended")
        assert node.engine.machine.channel_count == 0
        assert len(node.managers.channels) == 0


async def test_one_that_registers_without_end_disturbs_nobody(node: LoopNode) -> None:
    async with connected(node.url) as noisy, connected(node.url) as manager:
        manager.answer = agree
        before = node.engine.machine.applied_index
        for number in range(500):
            await noisy.say(register(resources=[f"r{number}"]))
        for _ in range(20):
            assert await call(node, manager) == "COMMITTED"
        assert node.engine.machine.applied_index - before < 200
        assert len(list_sessions(node.engine.machine_store, 0, 10)) == 2


async def test_connections_that_come_and_go_leave_nothing(node: LoopNode) -> None:
    for _ in range(50):
        async with connected(node.url) as manager:
            await manager.hang_up()
    for _ in range(50):
        async with connected(node.url, registers=False) as manager:
            await manager.hang_up()
    store = node.engine.machine_store
    await eventually(lambda: not list_sessions(store, 0, 1), "all sessions have ended")
    await eventually(lambda: not len(node.managers.channels), "all connections are forgotten")


# --- managers that misbehave


async def test_one_that_does_not_read_gets_no_more_and_disturbs_nobody(node: LoopNode) -> None:
    async with connected(node.url) as deaf, connected(node.url) as manager:
        manager.answer = agree
        transport = deaf.socket._response.connection
        assert transport is not None
        assert transport.transport is not None
        transport.transport.pause_reading()
        waiting = [asyncio.create_task(call(node, deaf, size=60_000)) for _ in range(300)]
        done, _ = await asyncio.wait(waiting, timeout=2.0)
        assert done
        for task in done:
            assert isinstance(task.exception(), ChannelBusyError)
        assert await call(node, manager) == "COMMITTED"
        await deaf.hang_up()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(each) for each in results} == {ChannelBusyError, ChannelGoneError}


async def test_a_flood_of_results_is_ignored_then_ended(
    node: LoopNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels_module, "GREATEST_STRAYS", 2_000)
    async with connected(node.url) as noisy, connected(node.url) as manager:
        manager.answer = agree
        result = {"type": "result", "requestId": 2**53, "status": "COMMITTED"}
        for _ in range(2_000):
            await noisy.say(result)
        assert await call(node, manager) == "COMMITTED"
        assert not noisy.socket.closed
        await noisy.say(result)
        assert await noisy.ended() == 4400


async def test_answers_that_count_let_late_ones_be_forgotten(
    node: LoopNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels_module, "GREATEST_STRAYS", 3)
    async with connected(node.url) as manager:
        manager.answer = agree
        for _ in range(4):
            for _ in range(3):
                await manager.result({"requestId": 2**53}, "COMMITTED")
            assert await call(node, manager) == "COMMITTED"


# --- clients that are none


@asynccontextmanager
async def raw(node: LoopNode) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A WebSocket of which the test writes every byte."""
    host, _, port = node.url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    key = base64.b64encode(os.urandom(16)).decode()
    writer.write(
        f"GET {CHANNEL} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    try:
        yield reader, writer
    finally:
        writer.close()


def frame(payload: bytes, *, opcode: int = 1, final: bool = True, reserved: int = 0) -> bytes:
    """A frame as clients send them, masked with zeros."""
    first = (0x80 if final else 0) | reserved | opcode
    if len(payload) < 126:
        head = struct.pack("!BB", first, 0x80 | len(payload))
    elif len(payload) < 2**16:
        head = struct.pack("!BBH", first, 0x80 | 126, len(payload))
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, len(payload))
    return head + b"\0\0\0\0" + payload


HELLO = json.dumps(register()).encode()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(range(64)),
        frame(b"\xff\xfe"),
        frame(HELLO, reserved=0x40),
        frame(HELLO, opcode=3),
        frame(HELLO, opcode=0),
        frame(HELLO[:10], final=False) + frame(HELLO),
        frame(b"x" * 126, opcode=9),
        struct.pack("!BBQ", 0x81, 0xFF, 2**62),
        struct.pack("!BBQ", 0x81, 0xFF, 2**63),
        frame(b"", opcode=8) + frame(HELLO),
        frame(struct.pack("!H", 1005), opcode=8),
        frame(b"x", opcode=8),
        frame(HELLO[:10], final=False) + frame(b"y" * 300_000, opcode=0, final=False),
    ],
    ids=range(14),
)
async def test_what_is_no_websocket_ends_the_connection_and_nothing_else(
    node: LoopNode, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with raw(node) as (reader, writer), connected(node.url) as manager:
            manager.answer = agree
            writer.write(sent)
            async with asyncio.timeout(15):
                with suppress(ConnectionResetError):  # it need not hear all that was said
                    await reader.read()
            assert await call(node, manager) == "COMMITTED"
    assert [each.message for each in caplog.records if each.levelno >= logging.ERROR] == []


async def test_a_manager_that_speaks_in_fragments_and_drips_is_heard(node: LoopNode) -> None:
    async with raw(node) as (reader, writer):
        for at in range(0, len(HELLO), 10):
            first, last = at == 0, at + 10 >= len(HELLO)
            part = frame(HELLO[at : at + 10], opcode=1 if first else 0, final=last)
            for byte in part:
                writer.write(bytes([byte]))
            await writer.drain()
        async with asyncio.timeout(10):
            answer = await reader.readuntil(b"}")
        assert b'"welcome"' in answer


async def test_one_that_vanishes_behind_the_network_is_given_up(tmp_path: Path) -> None:
    quick = ChannelsConfig(grace_ms=1_000, leaderless_ms=60_000, heartbeat_ms=300)
    async with loop_cluster(tmp_path, channels=quick) as cluster:
        node = await cluster.leader()
        async with raw(node) as (reader, writer):
            writer.write(frame(HELLO))
            async with asyncio.timeout(10):
                await reader.readuntil(b"}")
            # It answers no ping from now on, and its connection never breaks.
            await eventually(lambda: not len(node.managers.channels), "it is given up")
            store = node.engine.machine_store
            await eventually(lambda: not list_sessions(store, 0, 1), "its session has ended")
