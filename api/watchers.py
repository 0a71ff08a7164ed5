"""Delivery of changes to everybody who watches this node.

A watcher is a position: it goes on behind what it was sent, and everything comes out of the change
log by position, so that nothing is lost or repeated however slow it is. Most watchers are at the
end of the log. They are served together, in pulses: what was applied since the last pulse is
rendered once for each filter, and the same bytes are given to all. Who does not take them in time
is left to itself: it gets nothing until its connection has drained, then reads the log at its own
pace, a page at a time, until it is at the end again. So a watcher takes no more memory than a page
beside what its connection holds.

Both ways leave the loop to others: pulses pause for longer than they took, and of those that read
at their own pace one reads at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from time import monotonic
from typing import Final

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from api import event_stream
from api.cluster import Cluster
from api.errors import of_compaction
from api.event_stream import COMMENT, EventStream
from api.settings import ApiSettings
from api.watch_messages import COMPACTED, Rendered, position_event
from statemachine.change_log import CompactedError, Recorded
from statemachine.positions import Position
from statemachine.store import DamagedStateError

RETRY_MS: Final = 1_000
"""How long browsers wait before they connect again."""

GREATEST_UNSENT_BYTES: Final = 64 << 10
"""Who has more of it waiting is behind, and is left to itself."""

_LEAST_PAUSE_S: Final = 0.005
_GREATEST_PAUSE_S: Final = 0.1
_PAUSE_RATIO: Final = 4
"""A pulse is followed by a pause of so many times what it took."""
_CONFIRMED_EVERY_S: Final = 0.5

_RENDERED_BYTES: Final = 8 << 20
_CHUNKS_KEPT: Final = 16

_log: Final = logging.getLogger(__name__)
_encode: Final = msgspec.json.Encoder().encode


class Watcher:
    """One stream, and how far it was told."""

    __slots__ = ("after", "beat_at", "kinds", "left", "since", "stream", "told")

    def __init__(self, kinds: frozenset[str], after: Position) -> None:
        self.kinds = kinds
        self.after = after
        """What it is sent next stands behind this."""
        self.told = after
        """The last id that it was sent."""
        self.stream: EventStream
        self.since = monotonic()
        self.beat_at = 0.0
        """When it is due to hear something, whatever it is."""
        self.left: asyncio.Future[None] | None = None
        """While it is served together with the others: done when that has ended."""

    def leave(self) -> None:
        """Be served no longer together with the others."""
        if self.left is not None and not self.left.done():
            self.left.set_result(None)


class Chunk(msgspec.Struct, frozen=True):
    """What is sent to those who watch the same kinds from the same position on."""

    content: bytes
    messages: int
    told: Position
    """The position of the last message."""
    upto: Position


class Watchers:
    """All watchers of one node."""

    def __init__(self, cluster: Cluster, settings: ApiSettings) -> None:
        self._cluster = cluster
        self._settings = settings
        self._all: set[Watcher] = set()
        self._together: dict[Watcher, None] = {}
        """Those at the end of the log, in the order in which they came."""
        self._pulses: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._rendered: dict[Position, Rendered] = {}
        self._rendered_bytes = 0
        self._chunks: dict[tuple[frozenset[str], Position], Chunk] = {}
        """The newest ones: many watchers stand at one position."""
        self._bye: bytes | None = None
        self.messages = 0
        """Sent so far to all together."""
        self.fell_behind = 0
        """How often a watcher did not take what it was sent in time."""

    def __len__(self) -> int:
        return len(self._all)

    @property
    def is_full(self) -> bool:
        return len(self._all) >= self._settings.greatest_watchers

    def close(self) -> None:
        """End all streams, and every later one at once."""
        self._bye = event_stream.comment(f"{self._cluster.node_id} stops; connect to another node")
        for watcher in self._all:
            watcher.leave()
            if watcher.stream.is_draining:
                watcher.stream.abort()

    async def serve(self, watcher: Watcher, stream: EventStream) -> None:
        """Write to the stream until one of its ends is reached."""
        watcher.stream = stream
        self._all.add(watcher)
        # One who drains or reads on notices by itself.
        stream.on_gone = watcher.leave
        try:
            stream.send(b"retry: %d\n\n%b" % (RETRY_MS, position_event(watcher.after)))
            self._wrote(watcher, watcher.after)
            await self._follow(watcher)
        except CompactedError as error:
            problem = _encode(of_compaction(error).body())
            stream.send(event_stream.event(problem, name=COMPACTED))
        except DamagedStateError as error:
            self._cluster.report_damage(error)
        except Exception:
            _log.exception("a watch broke off")
        finally:
            self._all.discard(watcher)
            if not self._all:
                self._chunks.clear()
                self._rendered.clear()
                self._rendered_bytes = 0

    async def _follow(self, watcher: Watcher) -> None:
        stream = watcher.stream
        while True:
            await self._catch_up(watcher)
            # From here on until it is among the others nothing can be applied.
            if stream.is_gone or self._ends(watcher):
                return
            await self._stay(watcher)
            if stream.unsent_bytes > GREATEST_UNSENT_BYTES:
                self.fell_behind += 1
                await self._drain(stream)

    def _ends(self, watcher: Watcher) -> bool:
        """Return whether the stream is over by this node's decision, and tell the client so."""
        bye = self._bye
        leaderless_s = self._settings.watch_leaderless_s
        if bye is None and monotonic() - watcher.since > leaderless_s and self._is_leaderless():
            bye = event_stream.comment(
                f"no leader was confirmed to {self._cluster.node_id} for {leaderless_s:g} s; "
                "connect to another node"
            )
        if bye is None:
            return False
        watcher.stream.send(bye)
        return True

    def _is_leaderless(self) -> bool:
        confirmed_ms = self._cluster.status().quorum_confirmed_ms
        return confirmed_ms is None or confirmed_ms > self._settings.watch_leaderless_s * 1000

    # --- at its own pace

    async def _catch_up(self, watcher: Watcher) -> None:
        """Send what is applied already, and return in the moment in which it is all.

        Raises:
            CompactedError, DamagedStateError
        """
        stream = watcher.stream
        while watcher.after < self._cluster.applied_position():
            async with self._turn:
                if stream.is_gone or self._bye is not None:
                    return
                began = monotonic()
                self._send(watcher, self._next_chunk(watcher.kinds, watcher.after), began)
                await asyncio.sleep(monotonic() - began)
            if stream.unsent_bytes > GREATEST_UNSENT_BYTES:
                await self._drain(stream)

    async def _drain(self, stream: EventStream) -> None:
        """Return when the client has taken most of what was written, or nobody waits for that."""
        if self._bye is None:
            await stream.drain()

    # --- together

    async def _stay(self, watcher: Watcher) -> None:
        """Be served with the others, until there is a reason not to be."""
        watcher.left = asyncio.get_running_loop().create_future()
        self._together[watcher] = None
        if self._pulses is None or self._pulses.done():
            self._pulses = asyncio.create_task(self._pulse(), name="watchers")
        try:
            await watcher.left
        finally:
            watcher.left = None
            del self._together[watcher]
            if not self._together:
                self._pulses.cancel()
                self._pulses = None

    async def _pulse(self) -> None:
        try:
            await self._pulse_while_watched()
        except Exception as error:
            # Nobody else would notice: end the streams, and their clients connect again.
            for watcher in self._together:
                if watcher.left is not None and not watcher.left.done():
                    watcher.left.set_exception(error)

    async def _pulse_while_watched(self) -> None:
        checked_at = monotonic()
        while self._together:
            await self._wait()
            began = monotonic()
            if began - checked_at >= _CONFIRMED_EVERY_S:
                checked_at = began
                if self._is_leaderless():
                    self._send_elsewhere(began)
            self._serve_all(began)
            took = monotonic() - began
            await asyncio.sleep(min(max(_PAUSE_RATIO * took, _LEAST_PAUSE_S), _GREATEST_PAUSE_S))

    def _send_elsewhere(self, now: float) -> None:
        for watcher in self._together:
            if now - watcher.since > self._settings.watch_leaderless_s:
                watcher.leave()

    async def _wait(self) -> None:
        """Return when there is something to send, or at the latest when somebody may be due."""
        applied = self._cluster.applied_position()
        if any(watcher.after < applied for watcher in self._together):
            return
        due_at = min(watcher.beat_at for watcher in self._together)
        patience_s = min(due_at - monotonic(), _CONFIRMED_EVERY_S)
        try:
            async with asyncio.timeout(max(patience_s, 0.0)):
                await self._cluster.changes.wait(applied)
        except TimeoutError:
            return

    def _serve_all(self, now: float) -> None:
        applied = self._cluster.applied_position()
        for watcher in self._together:
            if watcher.after < applied:
                try:
                    chunk = self._next_chunk(watcher.kinds, watcher.after)
                except (CompactedError, DamagedStateError):
                    # It meets the reason again when it reads alone.
                    watcher.leave()
                    continue
                self._send(watcher, chunk, now)
            elif now >= watcher.beat_at:
                self._beat(watcher)
            if watcher.stream.unsent_bytes > GREATEST_UNSENT_BYTES:
                watcher.leave()

    # --- sending

    def _send(self, watcher: Watcher, chunk: Chunk, now: float) -> None:
        watcher.after = chunk.upto
        if chunk.content:
            watcher.stream.send(chunk.content)
            self.messages += chunk.messages
            self._wrote(watcher, chunk.told)
        elif now >= watcher.beat_at:
            self._beat(watcher)

    def _beat(self, watcher: Watcher) -> None:
        """Say that the stream lives, and how far the log was read if that was not said yet."""
        if watcher.told == watcher.after:
            watcher.stream.send(COMMENT)
        else:
            watcher.stream.send(position_event(watcher.after))
        self._wrote(watcher, watcher.after)

    def _wrote(self, watcher: Watcher, told: Position) -> None:
        watcher.told = told
        watcher.beat_at = monotonic() + self._settings.watch_heartbeat_s

    # --- reading

    def _next_chunk(self, kinds: frozenset[str], after: Position) -> Chunk:
        """Return what stands behind a position; what others were just sent from there is reused.

        Raises:
            CompactedError, DamagedStateError
        """
        known = self._chunks.get((kinds, after))
        if known is not None:
            return known
        page = self._cluster.changes.read(after)
        events: list[bytes] = []
        told = after
        for recorded in page.changes:
            content = self._render(recorded).event(kinds)
            if content:
                events.append(content)
                told = recorded.position
        chunk = Chunk(b"".join(events), len(events), told, page.upto)
        self._chunks[(kinds, after)] = chunk
        if len(self._chunks) > _CHUNKS_KEPT:
            del self._chunks[next(iter(self._chunks))]
        return chunk

    def _render(self, recorded: Recorded) -> Rendered:
        known = self._rendered.get(recorded.position)
        if known is not None:
            return known
        rendered = self._rendered[recorded.position] = Rendered(recorded)
        self._rendered_bytes += rendered.size_bytes
        while self._rendered_bytes > _RENDERED_BYTES:
            first = next(iter(self._rendered))
            self._rendered_bytes -= self._rendered.pop(first).size_bytes
        return rendered


class WatchersCollector(Collector):
    """Shows who watches the node."""

    def __init__(self, watchers: Watchers) -> None:
        self._watchers = watchers

    def collect(self) -> Iterator[Metric]:
        watchers = self._watchers
        yield GaugeMetricFamily("tidelock_watchers", "Open watches.", value=len(watchers))
        yield CounterMetricFamily(
            "tidelock_watch_messages", "Messages sent to watchers.", value=watchers.messages
        )
        yield CounterMetricFamily(
            "tidelock_watchers_fell_behind",
            "How often a watcher did not take in time what it was sent.",
            value=watchers.fell_behind,
        )
