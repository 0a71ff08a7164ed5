"""Watchers: they follow the change feed of one node, go on at another, and sleep at times.

The feed is the product's; what carries it to a client, server-sent events, is not there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

from node.change_feed import ChangeFeed
from scripts.tidelock_scripts.chaos.watch_checks import check_told
from statemachine import timestamps
from statemachine.change_log import CompactedError, Recorded
from statemachine.event_ids import format_event_id
from statemachine.positions import Position
from statemachine.stored_events import EventRow
from tests.simulation.calls import Callers
from tests.simulation.clients import require_none
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.housekeeping import SimulatedHousekeeping
from tests.simulation.recorder import Recorder

WATCHERS = 4
_KEPT = (None, 60, 200)
"""How many positions the log keeps; None: all."""
_LIMIT = 1_000


@dataclass(slots=True)
class _Watcher:
    number: int
    via: str
    position: Position
    begun_after: Position
    told: list[Recorded] = field(default_factory=list)
    gaps: list[tuple[Position, Position]] = field(default_factory=list)
    """After, and up to which position it was told that nothing is kept any more."""
    moves: int = 0


class WatchClients:
    """`tests.simulation.clients.Clients` of the watch."""

    def __init__(
        self,
        cluster: SimulatedCluster,
        callers: Callers,
        recorder: Recorder,
        housekeeping: SimulatedHousekeeping,
    ) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._callers = callers
        self._recorder = recorder
        self._watchers: list[_Watcher] = []
        self.counters: Counter[str] = Counter()
        housekeeping.changes_kept = self._world.rng.choice(_KEPT)

    def start(self) -> None:
        for number in range(WATCHERS):
            # Some begin late, at what is applied then or at the beginning of all.
            late_s = self._world.rng.choice((0.0, 0.0, 10.0))
            self._world.at(late_s, partial(self._begin, number))

    def _begin(self, number: int) -> None:
        via = self._world.rng.choice(self._cluster.names)
        engine = self._cluster.engine(via)
        if engine is None:
            self._world.at(0.5, lambda: self._begin(number))
            return
        applied = engine.machine.applied_position
        after = self._world.rng.choice((applied, Position(0, 0)))
        watcher = _Watcher(number, via, after, after)
        self._watchers.append(watcher)
        self._follow(watcher)

    def stop(self) -> None:
        """They go on: there is an end that they must reach."""

    def _follow(self, watcher: _Watcher) -> None:
        rng = self._world.rng
        gone = self._cluster.engine(watcher.via) is None
        # One that was removed is at the end of its log, for good.
        if gone or not self._cluster.is_member(watcher.via) or rng.random() < 0.05:
            watcher.via = rng.choice(self._cluster.names)
            watcher.moves += 1
        if self._cluster.engine(watcher.via) is not None:
            self._read(watcher, self._callers.feed(watcher.via))
        # One in a hundred times it is busy for so long that it may miss what is trimmed.
        pause_s = rng.uniform(2.0, 5.0) if rng.random() < 0.01 else rng.uniform(0.02, 0.3)
        self._world.at(pause_s, lambda: self._follow(watcher))

    def _read(self, watcher: _Watcher, feed: ChangeFeed) -> None:
        try:
            page = feed.read(watcher.position)
        except CompactedError as error:
            # A node answers 410; the client knows what it misses and goes on behind it.
            watcher.gaps.append((watcher.position, error.oldest))
            watcher.position = error.oldest
            self.counters["watch_compacted"] += 1
            return
        watcher.told += page.changes
        watcher.position = page.upto
        self.counters["watch_changes"] += len(page.changes)

    def at_rest(self) -> bool:
        return len(self._watchers) == WATCHERS and all(
            watcher.position >= engine.machine.applied_position
            for watcher in self._watchers
            for engine in self._cluster.members()
        )

    def check(self) -> None:
        log = self._recorder.log
        for watcher in self._watchers:
            expected = [
                recorded
                for recorded in log
                if watcher.begun_after < recorded.position <= watcher.position
                and not any(after < recorded.position <= upto for after, upto in watcher.gaps)
            ]
            name = f"watcher {watcher.number}, which asked {watcher.moves + 1} times"
            require_none(check_told(name, watcher.told, expected))
        told = [
            format_event_id(recorded.position.entry, recorded.position.place)
            for recorded in log
            if isinstance(recorded.event, EventRow)
        ]
        require_none(check_told("stored events", told, self._stored_events()))

    def _stored_events(self) -> list[str]:
        """Return the ids of all events, found over another path."""
        reader = self._cluster.members()[0].machine_store
        found: list[str] = []
        cursor: str | None = None
        while True:
            page, cursor = timestamps.list_events(
                reader, node_id=None, event_type=None, after_lamport=0, cursor=cursor, limit=_LIMIT
            )
            found += [event.event_id for event in page]
            if cursor is None:
                return sorted(found)

    def seen(self) -> Iterable[object]:
        return [
            (recorded.position.entry, recorded.position.place)
            for watcher in self._watchers
            for recorded in watcher.told
        ]
