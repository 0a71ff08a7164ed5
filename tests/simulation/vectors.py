"""Clients of vector clocks and version vectors: they tick, send, receive, write and merge.

What a message carries is what the cluster answered to its sender. Some messages are received twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from scripts.tidelock_scripts.chaos.vector_checks import (
    Vector,
    VectorCall,
    VectorEvent,
    as_vector,
    check_vectors,
)
from statemachine import vectors, versions
from statemachine.commands import (
    AnyCommand,
    IncrementVersion,
    MergeVersion,
    ReceiveMessage,
    SendMessage,
    TickVector,
)
from statemachine.outcomes import Rejected, VectorAdvanced, VersionAdvanced
from statemachine.store import Reader
from statemachine.stored_events import VectorReceived, VersionMerged
from tests.simulation.calls import TIMEOUT_S, Call, Callers, nanoseconds
from tests.simulation.clients import SteadyClients, require_none
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.world import Violation

PARTICIPANTS = ("a", "b", "c", "d")
KEYS = ("cart", "profile")
_LIMIT = 1_000


@dataclass(frozen=True, slots=True)
class _Message:
    message_id: str
    sender: str
    vector: Vector


@dataclass(slots=True)
class _Calling:
    """A call under way, and what is known of it so far."""

    name: str
    counts: str
    received: Vector
    call: Call | None = None
    answer: Vector | None = None
    relation: str | None = None

    def as_call(self) -> VectorCall:
        assert self.call is not None
        told = self.answer is not None
        return VectorCall(
            self.name,
            self.call.begun_ns,
            self.call.ended_ns if told else None,
            counts=self.counts,
            received=self.received,
            answer=self.answer,
            relation=self.relation,
        )


class VectorClients(SteadyClients):
    """`tests.simulation.clients.Clients` of vectors."""

    rate_per_s = 8.0

    def __init__(self, cluster: SimulatedCluster, callers: Callers) -> None:
        super().__init__(cluster, callers)
        self._messages: list[_Message] = []
        self._receipts: dict[tuple[str, str], Vector] = {}
        self._clocks: list[_Calling] = []
        self._versions: list[_Calling] = []
        self._clock_reads: list[VectorCall] = []
        self._version_reads: list[VectorCall] = []

    def _begin(self) -> None:
        rng = self._world.rng
        kind = rng.random()
        name, key = rng.choice(PARTICIPANTS), rng.choice(KEYS)
        if kind < 0.15:
            self._advance(name, TickVector(node_id=name), ())
        elif kind < 0.35:
            self._send(name)
        elif kind < 0.6:
            self._receive(name)
        elif kind < 0.75:
            self._write(key, IncrementVersion(key=key, node_id=name), name, ())
        elif kind < 0.85:
            self._merge(key, name)
        else:
            self._read(name, key)

    # --- clocks

    def _advance(
        self,
        name: str,
        command: AnyCommand,
        received: Vector,
        then: Callable[[Vector, str], None] = lambda _vector, _event_id: None,
    ) -> None:
        calling = _Calling(name, name, received)

        def ended(call: Call) -> None:
            event = self._event(call)
            self.counters["vectors_known" if event else "vectors_not_told"] += 1
            if event is not None:
                calling.answer = as_vector(event.vector)
                if isinstance(event.row, VectorReceived):
                    calling.relation = event.row.relation.value
                then(calling.answer, event.event_id)

        calling.call = self._callers.call(command, ended, keyed=self._world.rng.random() < 0.7)
        self._clocks.append(calling)

    def _event(self, call: Call) -> vectors.StoredVectorEvent | None:
        """Return the event of an answer from the state of the node that gave it, as a node does."""
        result = call.result
        if not isinstance(result, VectorAdvanced):
            return None
        event = vectors.get_event(self._state_of(call), result.event)
        if event is None:
            raise Violation(f"{call.via} answered {result}, and has no such event")
        return event

    def _state_of(self, call: Call) -> Reader:
        engine = self._cluster.nodes[call.via].engine
        assert engine is not None
        return engine.machine_store

    def _send(self, name: str) -> None:
        def sent(vector: Vector, event_id: str) -> None:
            self._messages.append(_Message(event_id, name, vector))

        self._advance(name, SendMessage(node_id=name, message=b""), (), sent)

    def _receive(self, name: str) -> None:
        rng = self._world.rng
        message = rng.choice(self._messages[-12:]) if self._messages else None
        if message is None or message.sender == name:
            return
        command = ReceiveMessage(
            node_id=name,
            vector=dict(message.vector),
            message_id=message.message_id,
            message=b"",
        )
        place = name, message.message_id
        if place in self._receipts:
            self._receive_again(command, place)
            return
        # Told twice before the first time is known, either of them may be the first.
        self._receipts[place] = ()

        def received(vector: Vector, _event_id: str) -> None:
            self._receipts[place] = vector

        self._advance(name, command, message.vector, received)

    def _receive_again(self, command: ReceiveMessage, place: tuple[str, str]) -> None:
        """A repeated receipt changes nothing and is answered the same."""
        before = self._receipts[place]
        if not before:
            return

        def ended(call: Call) -> None:
            event = self._event(call)
            if event is not None and as_vector(event.vector) != before:
                raise Violation(f"{place} was received as {before}, and again as {event.vector}")
            self.counters["vectors_received_again"] += 1

        self._callers.call(command, ended, keyed=False)

    # --- versions

    def _write(self, key: str, command: AnyCommand, counts: str, received: Vector) -> None:
        calling = _Calling(key, counts, received)

        def ended(call: Call) -> None:
            result = call.result
            self.counters["versions_known" if result else "versions_not_told"] += 1
            if not isinstance(result, VersionAdvanced):
                return
            event = versions.get_event(self._state_of(call), result.event)
            if event is None:
                raise Violation(f"{call.via} answered {result}, and has no such event")
            calling.answer = as_vector(event.vector)
            if isinstance(event.row, VersionMerged):
                calling.relation = event.row.relation.value

        # Tried until it is known: nothing else tells which of a key's events was whose.
        calling.call = self._callers.call(command, ended, keyed=True)
        self._versions.append(calling)

    def _merge(self, key: str, name: str) -> None:
        """Bring what another key's writers know, or something that nobody here has written."""
        rng = self._world.rng
        vector = {other: rng.randrange(1, 40) for other in rng.sample(PARTICIPANTS, 2)}
        command = MergeVersion(key=key, node_id=name, vector=vector)
        self._write(key, command, "", as_vector(vector))

    # --- reads

    def _read(self, name: str, key: str) -> None:
        via = self._world.rng.choice(self._cluster.names)
        engine = self._cluster.engine(via)
        if engine is None:
            return
        begun_ns = nanoseconds(self._world.now)

        def ready(error: Exception | None) -> None:
            if error is not None:
                return
            now_ns, reader = nanoseconds(self._world.now), engine.machine_store
            clock = as_vector(vectors.vector_clock(reader, name))
            version = as_vector(versions.version_vector(reader, key))
            self._clock_reads.append(VectorCall(name, begun_ns, now_ns, is_read=True, answer=clock))
            self._version_reads.append(
                VectorCall(key, begun_ns, now_ns, is_read=True, answer=version)
            )

        self._cluster.run_as(via, lambda: engine.read(engine.now() + TIMEOUT_S, ready))

    # --- the end

    def at_rest(self) -> bool:
        return not any(
            calling.call is None or calling.call.ended_at is None
            for calling in [*self._clocks, *self._versions]
        )

    def check(self) -> None:
        clocks = [*self._calls(self._clocks), *self._clock_reads]
        written = [*self._calls(self._versions), *self._version_reads]
        for engine in self._cluster.members()[:1]:
            require_none(check_vectors(clocks, stored_events(engine.machine_store), written))

    @staticmethod
    def _calls(callings: Iterable[_Calling]) -> list[VectorCall]:
        return [
            calling.as_call()
            for calling in callings
            if calling.call is not None
            and calling.call.sent
            and not isinstance(calling.call.outcome, Rejected)
        ]

    def seen(self) -> Iterable[object]:
        return [*self._calls(self._clocks), *self._calls(self._versions), *self._clock_reads]


def stored_events(reader: Reader) -> list[VectorEvent]:
    """Return all vector events in the order of the log."""
    found: list[VectorEvent] = []
    cursor: str | None = None
    while True:
        page, cursor = vectors.list_events(reader, cursor=cursor, limit=_LIMIT)
        found += [
            VectorEvent(
                event.event_id,
                event.row.node_id,
                as_vector(event.vector),
                event.row.message_id if isinstance(event.row, VectorReceived) else "",
            )
            for event in page
        ]
        if cursor is None:
            return found
