"""Real connections on loopback: dialled again however they end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from node.consensus.messages import PROTOCOL_VERSION, Frame, Kind, RefusalReason
from node.consensus.tcp_links import TcpLinks


class Events:
    """Records what a link layer reports."""

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.connected: list[str] = []
        self.disconnected: list[str] = []
        self.frames: list[tuple[str, Frame]] = []
        self.refused: list[tuple[str, RefusalReason]] = []
        self.refusal: RefusalReason | None = None
        self.when_connected: Callable[[str], None] = lambda _peer: None

    def hello(self, peer: str) -> Frame:
        disk = self.node_id.encode() * 16
        identity = (None, self.node_id, disk[:16], disk[:16], peer, "", "")
        return (int(Kind.HELLO), PROTOCOL_VERSION, *identity, 1, True)

    def admit(self, hello: Frame) -> RefusalReason | None:
        del hello
        return self.refusal

    def on_connected(self, peer: str) -> None:
        self.connected.append(peer)
        self.when_connected(peer)

    def on_disconnected(self, peer: str) -> None:
        self.disconnected.append(peer)

    def on_refused(self, peer: str, reason: RefusalReason) -> None:
        self.refused.append((peer, reason))

    def on_frame(self, peer: str, frame: Frame) -> None:
        self.frames.append((peer, frame))

    def on_frames_end(self) -> None:
        return


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def two_nodes() -> tuple[TcpLinks, Events, TcpLinks, Events]:
    """a dials b; b listens."""
    loop = asyncio.get_running_loop()
    a_events, b_events = Events("a"), Events("b")
    a, b = TcpLinks(loop), TcpLinks(loop)
    a.report_to(a_events)
    b.report_to(b_events)
    await b.listen("127.0.0.1", 0)
    assert b._server is not None
    port = b._server.sockets[0].getsockname()[1]
    a.set_peers({"b": f"127.0.0.1:{port}"})
    return a, a_events, b, b_events


async def test_frames_arrive_in_order() -> None:
    a, a_events, b, b_events = await two_nodes()
    await until(lambda: bool(a_events.connected))
    for term in range(100):
        assert a.send("b", (int(Kind.VOTE), term))
    await until(lambda: len(b_events.frames) == 100)
    assert [frame[1] for _, frame in b_events.frames] == list(range(100))
    assert {peer for peer, _ in b_events.frames} == {"a"}
    a.close()
    b.close()


async def test_a_connection_that_is_lost_in_the_moment_it_is_made_is_dialled_again() -> None:
    """A node that was killed just then once stayed without its leader until a restart."""
    a, a_events, b, _ = await two_nodes()

    def lose_the_first(peer: str) -> None:
        if len(a_events.connected) == 1:
            a._outgoing[peer].abort()

    a_events.when_connected = lose_the_first
    await until(lambda: len(a_events.connected) == 2)
    await until(lambda: a.is_connected("b"))
    assert a_events.disconnected == ["b"]
    a.close()
    b.close()


async def test_a_refusal_is_reported_with_its_reason() -> None:
    a, a_events, b, b_events = await two_nodes()
    b_events.refusal = RefusalReason.REMOVED
    await until(lambda: bool(a_events.refused))
    assert a_events.refused[0] == ("b", RefusalReason.REMOVED)
    assert b_events.frames == []
    a.close()
    b.close()


async def test_bytes_that_are_no_frame_close_the_connection() -> None:
    a, a_events, b, b_events = await two_nodes()
    await until(lambda: bool(a_events.connected))
    connection = a._outgoing["b"].transport
    assert connection is not None
    connection.write(b"\xff\xff\xff\xff garbage")
    await until(lambda: bool(a_events.disconnected))
    await until(lambda: len(a_events.connected) == 2)
    assert b_events.frames == []
    a.close()
    b.close()


async def test_a_probe_says_whether_anybody_listens() -> None:
    a, a_events, b, _ = await two_nodes()
    await until(lambda: bool(a_events.connected))
    answers: list[bool] = []
    a.probe("b", answers.append)
    await until(lambda: len(answers) == 1)
    b.close()
    await until(lambda: bool(a_events.disconnected))
    a.probe("b", answers.append)
    await until(lambda: len(answers) == 2)
    assert answers == [False, True]
    a.close()


@pytest.mark.parametrize(
    "address",
    ["", "b", ":1", "127.0.0.1:", "127.0.0.1:b", "127.0.0.1:99999", "a..b:1", f"{'x' * 64}:1"],
)
async def test_a_peer_that_gave_no_address_is_reached_once_it_gives_one(address: str) -> None:
    a, a_events, b, _ = await two_nodes()
    await until(lambda: bool(a_events.connected))
    reachable = a._addresses["b"]
    a.set_peers({"c": address})
    answers: list[bool] = []
    a.probe("c", answers.append)
    await until(lambda: len(answers) == 1)
    assert answers == [False]
    a.set_peers({"c": reachable})
    await until(lambda: a.is_connected("c"))
    a.close()
    b.close()


async def test_a_dial_that_times_out_in_the_moment_it_succeeds_leaves_no_dead_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """uvloop then closes the transport and tells nobody; each write to it raised, until a restart.

    It takes a loop that stood still for as long as a dial may take.
    """
    loop = asyncio.get_running_loop()
    create_connection = loop.create_connection
    late = [True]

    async def too_late(factory: Callable[[], asyncio.Protocol], host: str, port: int) -> object:
        made = await create_connection(factory, host, port)
        if not late:
            return made
        late.pop()
        made[0].set_protocol(asyncio.Protocol())
        made[0].abort()
        raise TimeoutError

    monkeypatch.setattr(loop, "create_connection", too_late)
    a, a_events, b, b_events = await two_nodes()
    await until(lambda: len(a_events.connected) == 2)
    assert a_events.disconnected == ["b"]
    assert a.send("b", (int(Kind.VOTE), 1))
    await until(lambda: bool(b_events.frames))
    a.close()
    b.close()
