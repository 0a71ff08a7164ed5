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

from node.consensus.proposals import Answer
from statemachine import timestamps
from statemachine.codec import encode_request
from statemachine.commands import IdempotencyKey, RecordEvent, Request
from statemachine.outcomes import Applied, EventRecorded, RequestOutcome
from tests.simulation.cluster import SimulatedCluster

PARTICIPANTS = 5
_TIMEOUT_S = 3.0


@dataclass(slots=True)
class Write:
    """One event that a client wanted recorded."""

    participant: str
    data: bytes
    begun_at: float
    key: str | None
    size: int
    ended_at: float | None = None
    lamport: int | None = None
    """Set when it was acknowledged."""
    rejected: bool = False
    attempts: int = 1
    asked: tuple[str, int] | None = None
    """Node and incarnation that still owe this caller an answer."""


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
    def __init__(self, cluster: SimulatedCluster, rate_per_s: float, large_events: bool) -> None:
        self._cluster = cluster
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
            self.write()
        elif kind < 0.75:
            self.read()
        else:
            self.draw()
        self._world.at(self._world.rng.expovariate(self._rate_per_s), self._next)

    # --- writes

    def write(self) -> Write:
        rng = self._world.rng
        number = next(self._numbers)
        size = 0
        if self._large_events and rng.random() < 0.1:
            size = rng.choice((500, 5_000, 40_000))
        write = Write(
            f"p{rng.randrange(PARTICIPANTS)}",
            b'"%d%s"' % (number, b"x" * size),
            self._world.now,
            f"k{number}" if rng.random() < 0.4 else None,
            size,
        )
        self.history.writes.append(write)
        self._send(write)
        return write

    def _send(self, write: Write) -> None:
        name = self._world.rng.choice(self._cluster.names)
        engine = self._cluster.engine(name)
        if engine is None:
            self._retry(write)
            return
        key = write.key and IdempotencyKey(
            "client", write.key, write.data[:16].ljust(16), 3_600_000
        )
        command = RecordEvent(node_id=write.participant, event_type="test", event_data=write.data)
        incarnation = self._cluster.nodes[name].process.incarnation

        write.asked = (name, incarnation)

        def answered(answer: Answer) -> None:
            if write.asked == (name, incarnation):
                write.asked = None
            self._on_answer(write, answer)

        def submit() -> None:
            request = Request(
                engine.stamps.elapsed_ms() + int(_TIMEOUT_S * 2000), key or None, (command,)
            )
            try:
                engine.propose(encode_request(request), engine.now() + _TIMEOUT_S, answered)
            except Exception as error:
                answered(error)

        self._cluster.run_as(name, submit)
        # A client whose node died hears nothing and asks another one.
        self._world.at(
            _TIMEOUT_S + 1.0, lambda: self._retry_if_dead(write, name, incarnation, write.attempts)
        )

    def _retry_if_dead(self, write: Write, name: str, incarnation: int, attempt: int) -> None:
        process = self._cluster.nodes[name].process
        gone = not process.up or process.incarnation != incarnation or process.paused
        if write.ended_at is None and write.attempts == attempt and gone:
            self._retry(write)

    def _on_answer(self, write: Write, answer: Answer) -> None:
        if write.ended_at is not None:
            return
        if not isinstance(answer, RequestOutcome):
            self.history.counters[type(answer).__name__] += 1
            self._retry(write)
            return
        outcome = answer.outcomes[0]
        write.ended_at = self._world.now
        if isinstance(outcome, Applied) and isinstance(outcome.result, EventRecorded):
            write.lamport = outcome.result.lamport_timestamp
            self.history.counters["acknowledged"] += 1
        else:
            write.rejected = True
            self.history.counters["rejected"] += 1

    def _retry(self, write: Write) -> None:
        """Only a key makes a retry safe; without one the outcome stays unknown."""
        if write.key is None or write.ended_at is not None or not self.running:
            return
        write.attempts += 1
        self._world.at(0.05 + self._world.rng.random() * 0.2, lambda: self._resend(write))

    def _resend(self, write: Write) -> None:
        if write.ended_at is None:
            self._send(write)

    # --- reads

    def read(self) -> None:
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

        self._cluster.run_as(name, lambda: engine.read(engine.now() + _TIMEOUT_S, ready))

    # --- timestamps

    def draw(self) -> None:
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

        self._cluster.run_as(name, lambda: engine.draw(count, engine.now() + _TIMEOUT_S, drawn))
