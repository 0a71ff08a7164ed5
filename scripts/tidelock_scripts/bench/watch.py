"""A hundred watchers of one node, while events come at a steady rate."""

from __future__ import annotations

import asyncio
import re
import time
from array import array
from collections.abc import Sequence
from typing import Final, cast

import msgspec

from scripts.tidelock_scripts.bench.figures import Figure, at_least, at_most
from scripts.tidelock_scripts.bench.load import WARM_UP_S
from scripts.tidelock_scripts.bench.setting import BATCH_PATH, Bench, BenchCluster
from scripts.tidelock_scripts.event_source import WATCH_PATH
from scripts.tidelock_scripts.local_cluster import ClusterError

WATCHERS: Final = 100
EVENTS_PER_S: Final = 2_000

_EVENTS_A_BATCH: Final = 20
_ARRIVES_WITHIN_S: Final = 10.0
_DELIVERED: Final = at_least(WATCHERS * EVENTS_PER_S * 0.98)
_LOST: Final = at_most(0)
_LAG_P99_MS: Final = at_most(100.0)

_EVENT: Final = re.compile(rb'"eventData":\[(\d+),(\d+)\]')
_EVENT_BEGINS: Final = b'"eventData":['
_MESSAGE_ENDS: Final = b"\n\n"


async def watch(bench: Bench) -> None:
    """2,000 events a second through one follower, watched by a hundred at the other one.

    Each event carries its number and when it was sent, so that a reader sees what is missing or
    comes twice, and how late it is.
    """
    async with bench.cluster() as running:
        leader = await running.leader()
        through, watched = running.followers(leader)
        place = running.cluster.places[watched]
        readers = [_Reader() for _ in range(WATCHERS)]
        loop = asyncio.get_running_loop()
        for reader in readers:
            await loop.create_connection(reader.itself, "127.0.0.1", place.api_port)
        bench.say(f"{WATCHERS} watchers of a follower")
        writer = _Writer(running, through)
        writing = asyncio.create_task(writer.write(bench.seconds + WARM_UP_S))
        await asyncio.sleep(WARM_UP_S)
        for reader in readers:
            reader.begin_to_measure()
        processor, begun = time.process_time(), time.perf_counter()
        await asyncio.sleep(bench.seconds)
        elapsed_s = time.perf_counter() - begun
        loader_share = (time.process_time() - processor) / elapsed_s
        delivered = sum(len(reader.lags_ms) for reader in readers)
        lags_ms = sorted(lag for reader in readers for lag in reader.lags_ms)
        await writing
        lost = await _lost(readers, writer.sent)
        if await running.leader() != leader:
            raise ClusterError("the leader changed while watchers were measured; measure again")
        for reader in readers:
            reader.close()
        details = {
            "watchers": WATCHERS,
            "eventsSent": writer.sent,
            "eventsPerSecond": round(writer.sent / writer.took_s),
            "lagP50Ms": round(lags_ms[len(lags_ms) // 2], 3),
            "lagWorstMs": round(lags_ms[-1], 3),
            "loaderShareOfACore": round(loader_share, 2),
        }
        name = f"{WATCHERS} watchers at {EVENTS_PER_S:,} events/s"
        bench.add(
            Figure(f"{name}, delivered", delivered / elapsed_s, "events/s", _DELIVERED, details)
        )
        bench.add(Figure(f"{name}, missing or repeated", lost, "", _LOST))
        bench.add(Figure(f"{name}, lag p99", lags_ms[len(lags_ms) * 99 // 100], "ms", _LAG_P99_MS))


async def _lost(readers: Sequence[_Reader], sent: int) -> int:
    """Wait for the last event and return how many did not come, or not in their place."""
    ends_at = time.perf_counter() + _ARRIVES_WITHIN_S
    while time.perf_counter() < ends_at:
        if all(reader.seen >= sent for reader in readers):
            break
        await asyncio.sleep(0.01)
    return sum(abs(sent - reader.seen) + reader.out_of_place for reader in readers)


class _Writer:
    """Sends events at the rate, in batches; one after the other, so that their order is known."""

    def __init__(self, running: BenchCluster, through: str) -> None:
        self._running = running
        self._through = through
        self.sent = 0
        self.took_s = 0.0

    async def write(self, seconds: float) -> None:
        begun = time.perf_counter()
        while self.took_s < seconds:
            ahead_s = self.sent / EVENTS_PER_S - self.took_s
            if ahead_s > 0:
                await asyncio.sleep(ahead_s)
            operations = [
                {
                    "op": "timestamp.event",
                    "nodeId": "bench",
                    "eventType": "ORDER_PAID",
                    "eventData": [self.sent + place, time.perf_counter_ns()],
                }
                for place in range(_EVENTS_A_BATCH)
            ]
            answer = await self._running.client.post(
                BATCH_PATH, {"operations": operations}, via=self._through
            )
            if not answer.ok:
                raise ClusterError(f"a batch was answered {msgspec.json.encode(answer.body)!r}")
            self.sent += _EVENTS_A_BATCH
            self.took_s = time.perf_counter() - begun


class _Reader(asyncio.Protocol):
    """A watcher. It looks at no more than it must: its time comes out of the nodes'."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._partial = b""
        self.seen = 0
        self.out_of_place = 0
        self.lags_ms: array[float] = array("d")

    def itself(self) -> _Reader:
        return self

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def begin_to_measure(self) -> None:
        self.lags_ms = array("d")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses, so this cannot be asserted.
        self._transport = cast(asyncio.Transport, transport)
        path = f"{WATCH_PATH}?from=0&kinds=timestamp.event"
        self._transport.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        content = self._partial + data
        end = content.rfind(_MESSAGE_ENDS) + len(_MESSAGE_ENDS)
        if end < len(_MESSAGE_ENDS):
            self._partial = content
            return
        self._partial = content[end:]
        count = content.count(_EVENT_BEGINS, 0, end)
        if not count:
            return
        first = _EVENT.search(content)
        last = _EVENT.match(content, content.rfind(_EVENT_BEGINS, 0, end))
        if first is None or last is None:
            raise ClusterError("an event does not carry what it was sent with")
        # Its first and last number, and how many there are, tell whether all are there in order.
        if int(first[1]) != self.seen or int(last[1]) != self.seen + count - 1:
            self.out_of_place += 1
        self.seen += count
        # All of them as late as the first one, which waited longest.
        lag_ms = (time.perf_counter_ns() - int(first[2])) / 1_000_000
        self.lags_ms.extend([lag_ms] * count)
