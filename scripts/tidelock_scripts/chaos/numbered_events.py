"""Numbered events at a steady rate, and watchers that see at once what is missing or repeated.

Each event carries its number. A watcher looks at no more of what it is told than the first and the
last number of each piece: with a hundred of them at 2,000 events/s, its time comes out of the
nodes'.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Coroutine, Sequence
from typing import Final, cast

from scripts.tidelock_scripts.client import ClusterClient
from scripts.tidelock_scripts.event_source import WATCH_PATH

BATCH_PATH: Final = "/api/v1/batch"

_LEAST_BATCH: Final = 10
_BATCHES_PER_S: Final = 20
"""A busy machine answers so many one after the other."""
_DEADLINE_S: Final = 60.0
_SILENT_S: Final = 2.5
"""A stream that says nothing for so long is given up: its node is paused or cut off."""
_PAUSE_S: Final = 0.05
_SMALL_BUFFER: Final = 4_096

_NUMBER: Final = re.compile(rb'"eventData":\[(\d+)\]')
_EVENT_BEGINS: Final = b'"eventData":['
_ID_BEGINS: Final = b"id: "
_BLOCK_ENDS: Final = b"\n\n"
_HEAD_ENDS: Final = b"\r\n\r\n"
_STARTS_WELL: Final = b"HTTP/1.1 200 "
_COMES_BACK: Final = (b"HTTP/1.1 429 ", b"HTTP/1.1 503 ")


class NumberedWriter:
    """Records events in batches, one after the other, so that their order is known."""

    def __init__(self, client: ClusterClient, nodes: Sequence[str], per_second: int) -> None:
        self._client = client
        self._nodes = nodes
        self._per_second = per_second
        self._batch = max(_LEAST_BATCH, per_second // _BATCHES_PER_S)
        self.sent = 0
        """How many were recorded; their numbers begin at 0."""
        self._ended = False

    def end(self) -> None:
        self._ended = True

    async def run(self) -> None:
        """Keep to the rate, and make up for what was held up, until `end`.

        Raises:
            NotDoneError, OutcomeUnknownError: nobody took a batch for long.
        """
        begun = time.monotonic()
        batches = 0
        while not self._ended:
            ahead_s = self.sent / self._per_second - (time.monotonic() - begun)
            if ahead_s > 0:
                await asyncio.sleep(ahead_s)
            operations = [
                {
                    "op": "timestamp.event",
                    "nodeId": "numbered",
                    "eventType": "NUMBERED",
                    "eventData": [self.sent + place],
                }
                for place in range(self._batch)
            ]
            via = self._nodes[batches % len(self._nodes)]
            answer = await self._client.post(
                BATCH_PATH, {"operations": operations}, via=via, deadline_s=_DEADLINE_S
            )
            assert answer.ok, answer
            self.sent += self._batch
            batches += 1


class NumberedWatcher(asyncio.Protocol):
    """One watcher; it stays with a node while that serves it, and goes on where it was cut off."""

    def __init__(self, ports: Sequence[int], *, reads: bool = True) -> None:
        """`reads`: False for one that takes nothing of what it is sent, until `begin_to_read`."""
        self._ports = ports
        self._at = 0
        """Which of the ports it is connected to, or tries next."""
        self._reads = reads
        self._transport: asyncio.Transport | None = None
        self._partial = b""
        self._has_head = False
        self._last_id = b""
        self._heard_at = 0.0
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.seen = 0
        """How many events it was told, all in their places up to here when `wrong` is empty."""
        self.connections = 0
        self.wrong: list[str] = []

    async def start(self) -> None:
        await self._connect()
        self._spawn(self._look_after())

    @property
    def port(self) -> int:
        """Where it watches."""
        return self._ports[self._at]

    def begin_to_read(self) -> None:
        self._reads = True
        self._heard_at = time.monotonic()
        if self._transport is not None:
            self._transport.resume_reading()

    def close(self) -> None:
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._transport is not None:
            self._transport.abort()

    # --- the connection

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> None:
        """Connect to the node that it is at, or to the next one that answers."""
        loop = asyncio.get_running_loop()
        while not self._closed:
            plug = socket.socket()
            if not self._reads:
                # Small, so that what is not read waits at the node and not on the way.
                plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
            plug.setblocking(False)
            try:
                await loop.sock_connect(plug, ("127.0.0.1", self._ports[self._at]))
                await loop.create_connection(lambda: self, sock=plug)
            except OSError:
                plug.close()
                self._at = (self._at + 1) % len(self._ports)
                await asyncio.sleep(_PAUSE_S)
            else:
                return

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(_SILENT_S / 5)
            silent = time.monotonic() - self._heard_at > _SILENT_S
            if self._reads and silent and self._transport is not None:
                self._at = (self._at + 1) % len(self._ports)
                self._transport.abort()
                self._heard_at = time.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Transports of other loops are no subclasses, so this cannot be asserted.
        self._transport = cast(asyncio.Transport, transport)
        self._partial, self._has_head = b"", False
        self._heard_at = time.monotonic()
        self.connections += 1
        last = b"Last-Event-ID: %s\r\n" % self._last_id if self._last_id else b""
        path = f"{WATCH_PATH}?from=0&kinds=timestamp.event".encode()
        self._transport.write(b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n%s\r\n" % (path, last))
        if not self._reads:
            self._transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if not self._closed:
            self._spawn(self._go_on())

    async def _go_on(self) -> None:
        await asyncio.sleep(_PAUSE_S)
        await self._connect()

    # --- what it is told

    def data_received(self, data: bytes) -> None:
        self._heard_at = time.monotonic()
        content = self._partial + data
        if not self._has_head:
            head, ends, content = content.partition(_HEAD_ENDS)
            if not ends:
                self._partial = head
                return
            if not self._begins_well(head):
                return
            self._has_head = True
        end = content.rfind(_BLOCK_ENDS) + len(_BLOCK_ENDS)
        if end < len(_BLOCK_ENDS):
            self._partial = content
            return
        self._partial = content[end:]
        self._take(content, end)

    def _begins_well(self, head: bytes) -> bool:
        if head.startswith(_STARTS_WELL):
            return True
        if not head.startswith(_COMES_BACK):
            self.wrong.append(f"was refused behind {self._last_id!r}: {head[:60]!r}")
        self._at = (self._at + 1) % len(self._ports)
        if self._transport is not None:
            self._transport.abort()
        return False

    def _take(self, content: bytes, end: int) -> None:
        """Take whole blocks in: their numbers, and where to go on from."""
        id_at = content.rfind(_ID_BEGINS, 0, end)
        if id_at >= 0:
            self._last_id = content[id_at + len(_ID_BEGINS) : content.index(b"\n", id_at)]
        count = content.count(_EVENT_BEGINS, 0, end)
        if not count:
            return
        first = _NUMBER.search(content)
        last = _NUMBER.match(content, content.rfind(_EVENT_BEGINS, 0, end))
        if first is None or last is None:
            self.wrong.append("was told an event without a number")
            return
        # Its first and last number, and how many there are, tell whether all are there in order.
        if int(first[1]) != self.seen or int(last[1]) != self.seen + count - 1:
            self.wrong.append(
                f"was told {int(first[1])} to {int(last[1])}, {count} events, after {self.seen}"
            )
        self.seen = int(last[1]) + 1
