"""A lean closed-loop load generator: raw protocols, requests built beforehand, no HTTP library.

Its processor time comes out of the same cores as the servers', so it does as little as it can:
from an answer it reads the status and the length.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

WARM_UP_S = 0.5

_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"content-length:"
_PAUSE_AFTER_FAILURE_S = 0.005
_RECONNECT_AFTER_S = 0.02


Request = bytes | Callable[[bytes], bytes]
"""What to send: bytes that were built beforehand, or what to make of the answer before."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server, how many connections to keep to it, and what to send on them, in turn."""

    host: str
    port: int
    connections: int
    requests: Sequence[Request]


@dataclass(slots=True)
class Tally:
    """Every answer: when its request was sent and when it arrived, in `perf_counter` seconds."""

    begun: array[float] = field(default_factory=lambda: array("d"))
    ended: array[float] = field(default_factory=lambda: array("d"))
    failures: Counter[str] = field(default_factory=Counter)
    """Answers that are no success, by status, and lost connections."""

    def clear(self) -> None:
        self.begun = array("d")
        self.ended = array("d")
        self.failures.clear()

    def first_answer_to_a_request_after(self, instant: float) -> float | None:
        """Return when the first successful request that was sent after `instant` was answered."""
        after = (e for b, e in zip(self.begun, self.ended, strict=True) if b > instant)
        return min(after, default=None)


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of a load over a stretch of time."""

    seconds: float
    requests: int
    failures: dict[str, int]
    p50_ms: float
    p99_ms: float
    worst_ms: float
    loader_share: float
    """Of one core, that the generator itself used."""

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


def build_request(method: str, path: str, body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


class Load:
    """Callers that each send, wait for the answer and send again, until stopped.

    A failure is counted and the caller goes on: after an answer that is no success a little later,
    after a lost connection over a new one.
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = targets
        self._callers: list[_Caller] = []
        self.tally = Tally()

    async def start(self) -> None:
        """Connect everything.

        Raises:
            OSError: a server does not take the connections.
        """
        loop = asyncio.get_running_loop()
        for target in self._targets:
            for number in range(target.connections):
                requests = target.requests
                turn = number * len(requests) // target.connections
                caller = _Caller(target, [*requests[turn:], *requests[:turn]], self.tally)
                self._callers.append(caller)
                await loop.create_connection(caller.itself, target.host, target.port)

    def stop(self) -> None:
        for caller in self._callers:
            caller.stop()
        self._callers.clear()

    async def measure(self, seconds: float) -> Measured:
        """Count what is answered from now on for so long."""
        self.tally.clear()
        processor = time.process_time()
        begun = time.perf_counter()
        await asyncio.sleep(seconds)
        elapsed = time.perf_counter() - begun
        return summary_of(self.tally, elapsed, (time.process_time() - processor) / elapsed)


async def measure(targets: Sequence[Target], *, seconds: float) -> Measured:
    """Load the targets and return what they did after a warm-up."""
    load = Load(targets)
    try:
        await load.start()
        await asyncio.sleep(WARM_UP_S)
        return await load.measure(seconds)
    finally:
        load.stop()


def summary_of(tally: Tally, seconds: float, loader_share: float = 0.0) -> Measured:
    latencies = sorted(e - b for b, e in zip(tally.begun, tally.ended, strict=True))

    def at(share: float) -> float:
        if not latencies:
            return float("inf")
        return latencies[min(int(len(latencies) * share), len(latencies) - 1)] * 1000

    return Measured(
        seconds=seconds,
        requests=len(latencies),
        failures=dict(tally.failures),
        p50_ms=at(0.5),
        p99_ms=at(0.99),
        worst_ms=at(1.0),
        loader_share=loader_share,
    )


class _Caller(asyncio.Protocol):
    """One connection after another to one target."""

    def __init__(self, target: Target, requests: Sequence[Request], tally: Tally) -> None:
        self._target = target
        self._requests = requests
        self._tally = tally
        self._transport: asyncio.Transport | None = None
        self._turn = 0
        self._begun = 0.0
        self._partial = b""
        self._answer = b""
        self._waiting = False
        self._stopped = False
        self._reconnecting: asyncio.Task[None] | None = None

    def itself(self) -> _Caller:
        """The protocol factory: one caller goes from connection to connection."""
        return self

    def stop(self) -> None:
        self._stopped = True
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses, so this cannot be asserted.
        self._transport = cast(asyncio.Transport, transport)
        self._partial = b""
        if self._stopped:
            self._transport.abort()
        self._send()

    def _send(self) -> None:
        transport = self._transport
        if transport is None or self._stopped:
            return
        asked = self._requests[self._turn]
        request = asked if isinstance(asked, bytes) else asked(self._answer)
        self._turn += 1
        if self._turn == len(self._requests):
            self._turn = 0
        self._waiting = True
        self._begun = time.perf_counter()
        transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._partial:
            data = self._partial + data
        end_of_head = data.find(_END_OF_HEAD)
        if end_of_head < 0 or len(data) < end_of_head + 4 + _content_length(data, end_of_head):
            self._partial = data
            return
        self._partial = b""
        self._answer = data
        self._waiting = False
        if data[9:11] == b"20":
            tally = self._tally
            tally.begun.append(self._begun)
            tally.ended.append(time.perf_counter())
            self._send()
        else:
            self._tally.failures[data[9:12].decode()] += 1
            asyncio.get_running_loop().call_later(_PAUSE_AFTER_FAILURE_S, self._send)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if not self._stopped:
            if self._waiting:
                self._tally.failures["connection lost"] += 1
            self._waiting = False
            self._reconnect_later()

    def _reconnect_later(self) -> None:
        asyncio.get_running_loop().call_later(_RECONNECT_AFTER_S, self._begin_to_reconnect)

    def _begin_to_reconnect(self) -> None:
        if not self._stopped:
            self._reconnecting = asyncio.create_task(self._reconnect())

    async def _reconnect(self) -> None:
        try:
            loop = asyncio.get_running_loop()
            await loop.create_connection(self.itself, self._target.host, self._target.port)
        except OSError:
            self._reconnect_later()


def _content_length(data: bytes, end_of_head: int) -> int:
    """Return the length that the head names; every answer here has one."""
    mark = data.find(b"Content-Length: ", 0, end_of_head)
    if mark < 0:
        mark = data[:end_of_head].lower().find(_LENGTH)
        if mark < 0:
            raise ValueError(f"an answer without Content-Length: {data[:end_of_head]!r}")
    start = data.index(b":", mark) + 1
    return int(data[start : data.index(b"\r", start)])
