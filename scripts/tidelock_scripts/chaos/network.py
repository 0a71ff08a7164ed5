"""TCP proxies between the nodes, one for each direction that a node dials, that can be disturbed.

A node sends to a peer over the connection that it dialled itself, so a fault on one link disturbs
one direction only. What can be done to a link:

- *stall*: nothing passes and nothing is lost; afterwards everything arrives late. This is what a
  network partition is to TCP.
- *swallow*: connections stay open and take bytes that never arrive (half-open). Afterwards they
  are reset, because a stream with a hole must not go on.
- *refuse*: connections are reset and new ones refused, as by a firewall or a dead process.
- *delay*: everything passes later, in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from scripts.tidelock_scripts.local_cluster import NodePlace

_CHUNK_BYTES = 1 << 16
_BACKLOG = 128


class Disturbance(enum.Enum):
    NONE = "none"
    STALL = "stall"
    SWALLOW = "swallow"
    REFUSE = "refuse"


class Link:
    """A proxy from one node to one address of another."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        # A second socket keeps the port ours while nobody listens on it.
        self._guard = _bound_socket(0)
        self.port: int = self._guard.getsockname()[1]
        self._listening: socket.socket | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._disturbance = Disturbance.NONE
        self._target_is_down = False
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._whole = asyncio.Event()
        self._whole.set()
        self._delay_s = 0.0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def open(self) -> None:
        self._listen_or_not()

    async def close(self) -> None:
        self._target_is_down = True
        self._listen_or_not()
        await self._reset_connections()
        self._guard.close()

    async def disturb(self, disturbance: Disturbance) -> None:
        holes = self._disturbance is Disturbance.SWALLOW
        self._disturbance = disturbance
        _set(self._flowing, disturbance is not Disturbance.STALL)
        _set(self._whole, disturbance is not Disturbance.SWALLOW)
        self._listen_or_not()
        if holes or disturbance is Disturbance.REFUSE:
            await self._reset_connections()

    async def reset(self) -> None:
        """Reset all connections; new ones are welcome at once."""
        await self._reset_connections()

    def delay(self, seconds: float) -> None:
        self._delay_s = seconds

    async def target_is_down(self, down: bool) -> None:
        """Refuse new connections, as the machine of a dead process does, or take them again."""
        self._target_is_down = down
        self._listen_or_not()

    def _listen_or_not(self) -> None:
        # Not an asyncio.Server: what that has accepted when it is closed is handed over later, when
        # connections have been reset already, or is lost and stays open.
        wanted = not self._target_is_down and self._disturbance is not Disturbance.REFUSE
        loop = asyncio.get_running_loop()
        if wanted and self._listening is None:
            self._listening = _bound_socket(self.port)
            self._listening.listen(_BACKLOG)
            loop.add_reader(self._listening, self._accept, self._listening)
        elif not wanted and self._listening is not None:
            loop.remove_reader(self._listening)
            self._listening.close()
            self._listening = None

    async def _reset_connections(self) -> None:
        ending = list(self._connections)
        for connection in ending:
            connection.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    def _accept(self, listening: socket.socket) -> None:
        try:
            accepted, _ = listening.accept()
        except OSError:  # it is gone again
            return
        accepted.setblocking(False)
        connection = asyncio.create_task(self._serve(accepted))
        self._connections.add(connection)
        # Whatever ends it, even before it began.
        connection.add_done_callback(self._connections.discard)
        connection.add_done_callback(lambda _: accepted.close())

    async def _serve(self, accepted: socket.socket) -> None:
        # Cancelled, this ends quietly: asyncio would log the end of a connection's task as a fault.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            near_reader, near_writer = await asyncio.open_connection(
                sock=accepted, limit=_CHUNK_BYTES
            )
            try:
                await self._connect(near_reader, near_writer)
            finally:
                near_writer.transport.abort()

    async def _connect(
        self, near_reader: asyncio.StreamReader, near_writer: asyncio.StreamWriter
    ) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._target, limit=_CHUNK_BYTES)
        passing = (
            asyncio.create_task(self._pass_on(near_reader, far_writer)),
            asyncio.create_task(self._pass_on(far_reader, near_writer)),
        )
        try:
            # A node ends a connection as a whole, so one end is both.
            await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Before anything is awaited: a second reset may end that.
            far_writer.transport.abort()
            for task in passing:
                task.cancel()
            await asyncio.gather(*passing, return_exceptions=True)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(_CHUNK_BYTES):
            await self._flowing.wait()
            if not self._whole.is_set():
                continue
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            writer.write(chunk)
            await writer.drain()
        # The end of a stream is as late, or as lost, as what stood before it.
        await self._flowing.wait()
        await self._whole.wait()


class Network:
    """All links of a cluster: for each ordered pair of nodes one to the peer and one to the API."""

    def __init__(self, places: Iterable[NodePlace]) -> None:
        self._places = {place.node_id: place for place in places}
        self.nodes = list(self._places)
        self._peer_links: dict[tuple[str, str], Link] = {}
        self._api_links: dict[tuple[str, str], Link] = {}

    async def __aenter__(self) -> Self:
        for source in self.nodes:
            for target in self.nodes:
                if source != target:
                    place = self._places[target]
                    pair = (source, target)
                    self._peer_links[pair] = Link(("127.0.0.1", place.peer_port))
                    self._api_links[pair] = Link(("127.0.0.1", place.api_port))
        await asyncio.gather(*(link.open() for link in self._links()))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.gather(*(link.close() for link in self._links()))

    def environment(self, node_id: str) -> dict[str, str]:
        """Return the variables that make a node dial its peers through the links."""
        peers = self._overrides(self._peer_links, node_id)
        apis = self._overrides(self._api_links, node_id)
        return {
            "TIDELOCK_CLUSTER_DIAL_OVERRIDES": peers,
            "TIDELOCK_CLUSTER_API_DIAL_OVERRIDES": apis,
        }

    def _overrides(self, links: dict[tuple[str, str], Link], source: str) -> str:
        return ",".join(f"{b}={link.address}" for (a, b), link in links.items() if a == source)

    def _links(self, *, source: str | None = None, target: str | None = None) -> list[Link]:
        return [
            link
            for links in (self._peer_links, self._api_links)
            for (a, b), link in links.items()
            if source in (None, a) and target in (None, b)
        ]

    async def disturb(self, pairs: Iterable[tuple[str, str]], disturbance: Disturbance) -> None:
        """Disturb the given directions, each a (from, to)."""
        for source, target in pairs:
            for link in self._links(source=source, target=target):
                await link.disturb(disturbance)

    async def reset(self) -> None:
        await asyncio.gather(*(link.reset() for link in self._links()))

    def delay(self, seconds: float) -> None:
        for link in self._links():
            link.delay(seconds)

    async def node_is_down(self, node_id: str, down: bool) -> None:
        await asyncio.gather(*(link.target_is_down(down) for link in self._links(target=node_id)))

    async def heal(self) -> None:
        """End every disturbance; which nodes are down is another matter and stays."""
        self.delay(0.0)
        await asyncio.gather(*(link.disturb(Disturbance.NONE) for link in self._links()))

    def both_ways(self, group: Iterable[str], others: Iterable[str]) -> list[tuple[str, str]]:
        """Return every direction between the nodes of two groups."""
        there = [(a, b) for a in group for b in others if a != b]
        return there + [(b, a) for a, b in there]


def _bound_socket(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", port))
    bound.setblocking(False)
    return bound


def _set(event: asyncio.Event, state: bool) -> None:
    if state:
        event.set()
    else:
        event.clear()
