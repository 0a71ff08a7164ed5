"""Links over TCP: length-prefixed frames, one dialled connection to each peer."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Callable, Mapping
from typing import Final, cast

from node.consensus.links import LinkEvents
from node.consensus.messages import (
    Frame,
    Kind,
    ProtocolError,
    RefusalReason,
    decode,
    encode,
)
from node.consensus.settings import MAX_FRAME_BYTES

logger = logging.getLogger(__name__)

_PREFIX_BYTES: Final = 4
_PORT: Final = re.compile("[0-9]{1,5}")
_FIRST_REDIAL_S: Final = 0.01
_GREATEST_REDIAL_S: Final = 0.2
_REDIAL_AFTER_REFUSAL_S: Final = 1.0
_DIAL_TIMEOUT_S: Final = 1.0
_UNREACHABLE: Final = (OSError, TimeoutError, UnicodeError)
"""How a dial fails; the last is for names that cannot be asked for."""
_HELLO_TIMEOUT_S: Final = 5.0
_UNACKNOWLEDGED_TIMEOUT_MS: Final = 3_000
"""A peer that the network hides for longer is redialled: a fresh connection recovers at once,
while an old one would wait for its next retransmission."""


def _framed(frame: Frame) -> bytes:
    data = encode(frame)
    return len(data).to_bytes(_PREFIX_BYTES, "little") + data


class _Connection(asyncio.Protocol):
    """Bytes in, frames out. Subclasses know which side dialled."""

    def __init__(self, links: TcpLinks) -> None:
        self.links = links
        self.transport: asyncio.Transport | None = None
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self.transport = cast(asyncio.Transport, transport)
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_TIMEOUT_MS
        )

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        offset, end = 0, len(received)
        try:
            while end - offset >= _PREFIX_BYTES:
                length = int.from_bytes(received[offset : offset + _PREFIX_BYTES], "little")
                if length > MAX_FRAME_BYTES:
                    raise ProtocolError(f"a frame of {length} bytes is announced")
                if end - offset - _PREFIX_BYTES < length:
                    break
                begin = offset + _PREFIX_BYTES
                offset = begin + length
                self.frame_received(decode(bytes(received[begin:offset])))
                if self.transport is None or self.transport.is_closing():
                    return
        except ProtocolError as error:
            logger.warning("closing the connection of a peer: %s", error)
            self.abort()
            return
        if offset:
            del received[:offset]
            self.frames_ended()

    def frame_received(self, frame: Frame) -> None:
        raise NotImplementedError

    def frames_ended(self) -> None:
        raise NotImplementedError

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class _Outgoing(_Connection):
    """A connection that this node dialled and sends on."""

    def __init__(self, links: TcpLinks, peer: str) -> None:
        super().__init__(links)
        self.peer = peer
        self.refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.links.outgoing_up(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.links.outgoing_down(self)

    def frame_received(self, frame: Frame) -> None:
        if frame[0] != Kind.REFUSED:
            raise ProtocolError("only a refusal comes on a connection that this node dialled")
        self.refused = True
        try:
            reason = RefusalReason(frame[1])
        except ValueError:
            raise ProtocolError(f"unknown refusal {frame[1]!r}") from None
        self.links.events.on_refused(self.peer, reason)

    def frames_ended(self) -> None:
        return


class _Incoming(_Connection):
    """A connection that a peer dialled and that this node reads."""

    def __init__(self, links: TcpLinks) -> None:
        super().__init__(links)
        self.peer: str | None = None
        self._hello_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.links.incoming.add(self)
        self._hello_timer = self.links.loop.call_later(_HELLO_TIMEOUT_S, self._expect_hello)

    def _expect_hello(self) -> None:
        if self.peer is None:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self._hello_timer is not None:
            self._hello_timer.cancel()
        self.links.incoming_down(self)

    def frame_received(self, frame: Frame) -> None:
        if self.peer is None:
            self.links.on_hello(self, frame)
        elif self.links.by_peer.get(self.peer) is self:
            self.links.events.on_frame(self.peer, frame)

    def frames_ended(self) -> None:
        self.links.events.on_frames_end()


class TcpLinks:
    """`Links` on asyncio."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dial_overrides: Mapping[str, str] | None = None,
    ) -> None:
        """`dial_overrides` says under which `host:port` a peer is reached from here instead."""
        self.loop = loop
        self.events: LinkEvents
        self._overrides = dict(dial_overrides or {})
        self._addresses: dict[str, str] = {}
        self._outgoing: dict[str, _Outgoing] = {}
        self._dialling: dict[str, asyncio.Task[None]] = {}
        self._probes: set[asyncio.Task[None]] = set()
        self.incoming: set[_Incoming] = set()
        self.by_peer: dict[str, _Incoming] = {}
        self._server: asyncio.Server | None = None
        self._closed = False

    async def listen(self, host: str, port: int) -> None:
        """Accept peers. Raises: OSError: the address cannot be bound."""
        self._server = await self.loop.create_server(
            lambda: _Incoming(self), host, port, backlog=64
        )

    # --- the interface of Links

    def report_to(self, events: LinkEvents) -> None:
        self.events = events

    def set_peers(self, addresses: Mapping[str, str]) -> None:
        self._addresses = {peer: self._overrides.get(peer, at) for peer, at in addresses.items()}
        for peer in [peer for peer in self._outgoing if peer not in self._addresses]:
            self._outgoing[peer].abort()
        for peer in self._addresses:
            self._dial_soon(peer)

    def send(self, peer: str, *frames: Frame) -> bool:
        connection = self._outgoing.get(peer)
        if connection is None or connection.transport is None:
            return False
        if len(frames) == 1:
            connection.transport.write(_framed(frames[0]))
        else:
            connection.transport.write(b"".join(map(_framed, frames)))
        return True

    def is_connected(self, peer: str) -> bool:
        return peer in self._outgoing

    def buffered_bytes(self, peer: str) -> int:
        connection = self._outgoing.get(peer)
        if connection is None or connection.transport is None:
            return 0
        return connection.transport.get_write_buffer_size()

    def probe(self, peer: str, on_result: Callable[[bool], None]) -> None:
        task = self.loop.create_task(self._probe(peer, on_result))
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    def close(self) -> None:
        self._closed = True
        if self._server is not None:
            self._server.close()
        for task in (*self._dialling.values(), *self._probes):
            task.cancel()
        for connection in (*self._outgoing.values(), *self.incoming):
            connection.abort()

    # --- dialling

    def _address(self, peer: str) -> tuple[str, int]:
        """Raises: OSError: what the peer gave as its address is none."""
        address = self._addresses[peer]
        host, _, port = address.rpartition(":")
        if not host or not _PORT.fullmatch(port) or int(port) > 65_535:
            raise OSError(f"{address!r} is not host:port")
        return host.strip("[]"), int(port)

    def _dial_soon(self, peer: str, delay_s: float = 0.0) -> None:
        if not self._closed and peer not in self._outgoing and peer not in self._dialling:
            self._dialling[peer] = self.loop.create_task(self._dial(peer, delay_s))

    async def _dial(self, peer: str, delay_s: float) -> None:
        redial_s = _FIRST_REDIAL_S
        try:
            await asyncio.sleep(delay_s)
            while not self._closed and peer in self._addresses and peer not in self._outgoing:
                await self._connect(peer)
                # A connection may be lost before this task hears that it was made. Nobody else
                # dials while this task lives, so it looks again instead of taking it for done.
                if peer in self._outgoing:
                    return
                await asyncio.sleep(redial_s)
                redial_s = min(redial_s * 1.5, _GREATEST_REDIAL_S)
        finally:
            self._dialling.pop(peer, None)

    async def _connect(self, peer: str) -> None:
        connection = _Outgoing(self, peer)
        try:
            async with asyncio.timeout(_DIAL_TIMEOUT_S):
                await self.loop.create_connection(lambda: connection, *self._address(peer))
        except _UNREACHABLE:
            # The time may be up just when the connection is made and reported. uvloop then closes
            # it and reports nothing.
            self.outgoing_down(connection)

    async def _probe(self, peer: str, on_result: Callable[[bool], None]) -> None:
        refused = False
        if peer in self._addresses:
            try:
                async with asyncio.timeout(_DIAL_TIMEOUT_S):
                    _, writer = await asyncio.open_connection(*self._address(peer))
                writer.close()
            except ConnectionRefusedError:
                refused = True
            except _UNREACHABLE:
                refused = False
        on_result(refused)

    # --- what connections report

    def outgoing_up(self, connection: _Outgoing) -> None:
        peer = connection.peer
        if self._closed or peer not in self._addresses or peer in self._outgoing:
            connection.abort()
            return
        self._outgoing[peer] = connection
        self.send(peer, self.events.hello(peer))
        self.events.on_connected(peer)

    def outgoing_down(self, connection: _Outgoing) -> None:
        peer = connection.peer
        if self._outgoing.get(peer) is not connection:
            return
        del self._outgoing[peer]
        if self._closed:
            return
        if peer in self._addresses:
            self._dial_soon(peer, _REDIAL_AFTER_REFUSAL_S if connection.refused else 0.0)
        self.events.on_disconnected(peer)

    def on_hello(self, connection: _Incoming, frame: Frame) -> None:
        if frame[0] != Kind.HELLO:
            raise ProtocolError("a connection begins with a hello")
        reason = self.events.admit(frame)
        if reason is not None:
            if connection.transport is not None:
                connection.transport.write(_framed((int(Kind.REFUSED), str(reason))))
                connection.transport.close()
            return
        peer = connection.peer = str(frame[3])
        before = self.by_peer.get(peer)
        self.by_peer[peer] = connection
        if before is not None:
            before.abort()

    def incoming_down(self, connection: _Incoming) -> None:
        self.incoming.discard(connection)
        if connection.peer is not None and self.by_peer.get(connection.peer) is connection:
            del self.by_peer[connection.peer]
