"""Clients of the simulated cluster, and what they were told.

Events carry unique data. Writers use one participant each for a while, so that "strictly
increasing in real time" says something; some requests carry an idempotency key and are retried
through other nodes until their outcome is known. Timestamps of the oracle are drawn through any
node, one or many at once.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field

from statemachine import timestamps
from statemachine.commands import RecordEvent
from statemachine.outcomes import Applied, EventRecorded, Rejected
from tests.simulation.calls import TIMEOUT_S, Call, Callers
from tests.simulation.cluster import SimulatedCluster

PARTICIPANTS = 5


@dataclass(slots=True)
class Write:
    """One event that a client wanted recorded."""

    participant: str
    data: bytes
    call: Call

    @property
    def begun_at(self) -> float:
        return self.call.begun_at

    @property
    def ended_at(self) -> float | None:
        return self.call.ended_at

    @property
    def lamport(self) -> int | None:
        """Its timestamp, when it was acknowledged."""
        result = self.call.result
        return result.lamport_timestamp if isinstance(result, EventRecorded) else None

    @property
    def rejected(self) -> bool:
        return isinstance(self.call.outcome, Rejected)


@dataclass(slots=True)
class ReadResult:
    participant: str
    begun_at: float
    ended_at: float
    lamport: int


@dataclass(slots=True)
class Draw:
    """Timestamps that a client wanted."""

    count: int
    begun_at: float
    asked: tuple[str, int] | None
    """Node and incarnation that still owe this caller an answer."""
    ended_at: float | None = None
    first: int | None = None
    """Set when they were given."""

    @property
    def last(self) -> int:
        assert self.first is not None
        return self.first + self.count - 1


@dataclass(slots=True)
class History:
    writes: list[Write] = field(default_factory=list)
    reads: list[ReadResult] = field(default_factory=list)
    draws: list[Draw] = field(default_factory=list)
    counters: Counter[str] = field(default_factory=Counter)


class Workload:
    """Events, reads of clocks and timestamps of the oracle."""

    def __init__(
        self, cluster: SimulatedCluster, callers: Callers, rate_per_s: float, large_events: bool
    ) -> None:
        self._cluster = cluster
        self._callers = callers
        self._world = cluster.world
        self._rate_per_s = rate_per_s
        self._large_events = large_events
        self._numbers = itertools.count()
        self.history = History()
        self.running = False

    def start(self) -> None:
        self.running = True
        self._next()

    def _next(self) -> None:
        if not self.running:
            return
        kind = self._world.rng.random()
        if kind < 0.55:
            self._write()
        elif kind < 0.75:
            self._read()
        else:
            self._draw()
        self._world.at(self._world.rng.expovariate(self._rate_per_s), self._next)

    # --- writes

    def _write(self) -> None:
        rng = self._world.rng
        number = next(self._numbers)
        size = 0
        if self._large_events and rng.random() < 0.1:
            size = rng.choice((500, 5_000, 40_000))
        participant, data = f"p{rng.randrange(PARTICIPANTS)}", b'"%d%s"' % (number, b"x" * size)
        command = RecordEvent(node_id=participant, event_type="test", event_data=data)
        call = self._callers.call(command, self._written, keyed=rng.random() < 0.4)
        self.history.writes.append(Write(participant, data, call))

    def _written(self, call: Call) -> None:
        if isinstance(call.outcome, Applied):
            self.history.counters["acknowledged"] += 1

    # --- reads

    def _read(self) -> None:
        name = self._world.rng.choice(self._cluster.names)
        engine = self._cluster.engine(name)
        if engine is None:
            return
        participant = f"p{self._world.rng.randrange(PARTICIPANTS)}"
        begun_at = self._world.now

        def ready(error: Exception | None) -> None:
            if error is not None:
                self.history.counters["failed_reads"] += 1
                return
            reader = self._cluster.nodes[name].engine
            assert reader is not None
            lamport = timestamps.clock(reader.machine_store, participant)
            self.history.reads.append(ReadResult(participant, begun_at, self._world.now, lamport))

        self._cluster.run_as(name, lambda: engine.read(engine.now() + TIMEOUT_S, ready))

    # --- timestamps

    def _draw(self) -> None:
        rng = self._world.rng
        name = rng.choice(self._cluster.names)
        count = rng.choice((1, 1, 1, 1_000, 1_000_000))
        engine = self._cluster.engine(name)
        if engine is None:
            return
        incarnation = self._cluster.nodes[name].process.incarnation
        draw = Draw(count, self._world.now, (name, incarnation))
        self.history.draws.append(draw)

        def drawn(first: int | Exception) -> None:
            draw.asked = None
            if isinstance(first, Exception):
                self.history.counters["failed_draws"] += 1
                return
            draw.ended_at = self._world.now
            draw.first = first
            self.history.counters["draws"] += 1

        self._cluster.run_as(name, lambda: engine.draw(count, engine.now() + TIMEOUT_S, drawn))
