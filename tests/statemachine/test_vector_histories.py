"""A vector after any event is made again exactly, though events hold changes only."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from statemachine import vector_histories, vectors, versions
from statemachine.commands import AnyCommand, TrimEvents
from statemachine.event_ids import parse_event_id
from statemachine.machine import Machine
from statemachine.memory_store import MemoryStore
from statemachine.outcomes import EventsTrimmed, Position
from statemachine.vector_histories import GREATEST_STEPS
from tests.statemachine.building import (
    MINUTE_MS,
    Log,
    increment,
    merge,
    receive,
    result,
    send,
    tick,
)
from tidelock.clocks import VectorClock, VersionVector

NAMES = st.sampled_from(["a", "b", "c", "a\0"])
VECTORS = st.dictionaries(st.sampled_from(["a", "b", "c", "d", "a\0"]), st.integers(0, 9))


@dataclass
class Happened:
    """An event as the model has it."""

    position: Position
    owner: str
    vector: VectorClock | VersionVector
    before: VectorClock | VersionVector
    received: VectorClock | VersionVector | None = None


class HistoriesAgainstModel(RuleBasedStateMachine):
    """The model keeps the vector after every event, as the SDK's clocks have it."""

    @initialize(least_steps=st.sampled_from([1, 3, 8]))
    def begin(self, least_steps: int) -> None:
        # Few events must do, for several bases to come.
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(vector_histories, "_LEAST_STEPS", least_steps)
        self.log = Log()
        self.clocks: dict[str, VectorClock] = {}
        self.versions: dict[str, VersionVector] = {}
        self.happened: list[Happened] = []

    def teardown(self) -> None:
        self.patch.undo()

    def do(self, command: AnyCommand) -> Position:
        outcome = self.log.send(command)
        result(outcome.outcomes[0])
        return outcome.position

    def clock_event(
        self, command: AnyCommand, node_id: str, received: VectorClock | None = None
    ) -> None:
        before = self.clocks.get(node_id, VectorClock())
        after = before.tick(node_id) if received is None else before.receive(received, node_id)
        self.clocks[node_id] = after
        position = self.do(command)
        self.happened.append(Happened(position, node_id, after, before, received))

    @rule(node_id=NAMES)
    def tick(self, node_id: str) -> None:
        self.clock_event(tick(node_id), node_id)

    @rule(node_id=NAMES)
    def send(self, node_id: str) -> None:
        self.clock_event(send(node_id), node_id)

    @rule(node_id=NAMES, vector=VECTORS)
    def receive(self, node_id: str, vector: dict[str, int]) -> None:
        self.clock_event(receive(node_id, vector), node_id, VectorClock(vector))

    @precondition(lambda self: self.happened)
    @rule(node_id=NAMES, data=st.data())
    def receive_what_was_sent(self, node_id: str, data: st.DataObject) -> None:
        event = data.draw(st.sampled_from(self.happened))
        if isinstance(event.vector, VectorClock):
            self.clock_event(receive(node_id, dict(event.vector.entries)), node_id, event.vector)

    @rule(node_id=NAMES, vector=VECTORS)
    def raise_to(self, node_id: str, vector: dict[str, int]) -> None:
        before = self.clocks.get(node_id, VectorClock())
        self.clocks[node_id] = before.merge(VectorClock(vector))
        assert self.log.machine._vectors.raise_to(node_id, vector) is None
        self.log.tick()

    @rule(key=NAMES, node_id=NAMES)
    def increment(self, key: str, node_id: str) -> None:
        before = self.versions.get(key, VersionVector())
        after = self.versions[key] = before.increment(node_id)
        self.happened.append(Happened(self.do(increment(key, node_id)), key, after, before))

    @rule(key=NAMES, vector=VECTORS)
    def merge(self, key: str, vector: dict[str, int]) -> None:
        before = self.versions.get(key, VersionVector())
        received = VersionVector(vector)
        after = self.versions[key] = before.merge(received)
        position = self.do(merge(vector, key))
        self.happened.append(Happened(position, key, after, before, received))

    @rule(kept=st.integers(0, 20))
    def trim(self, kept: int) -> None:
        self.log.wait(3 * MINUTE_MS)
        limit = max(0, len(self.happened) - kept)
        self.do(TrimEvents(before_wall_ms=self.log.wall_ms, limit=limit))
        del self.happened[:limit]

    @rule()
    def restart(self) -> None:
        self.log.machine = Machine(self.log.store)

    @invariant()
    def every_event_has_its_vector(self) -> None:
        for event in self.happened:
            found: vectors.StoredVectorEvent | versions.StoredVersionEvent | None
            if isinstance(event.vector, VectorClock):
                found = vectors.get_event(self.log.store, event.position)
            else:
                found = versions.get_event(self.log.store, event.position)
            assert found is not None
            assert found.vector == event.vector.entries
            assert list(found.vector) == sorted(found.vector)
            if event.received is not None:
                relation = getattr(found.row, "relation", None)
                assert relation == event.before.compare(event.received)  # type: ignore[arg-type]

    @invariant()
    def lists_show_the_same(self) -> None:
        store = self.log.store
        clocks = [event for event in self.happened if isinstance(event.vector, VectorClock)]
        others = [event for event in self.happened if isinstance(event.vector, VersionVector)]
        for listed, expected in (
            (vectors.list_events(store, limit=1_000)[0], clocks),
            (versions.list_events(store, limit=1_000)[0], others),
        ):
            assert [(parse_event_id(each.event_id), each.vector) for each in listed] == [
                (event.position, event.vector.entries) for event in expected
            ]

    @invariant()
    def the_present_is_the_sum_of_all(self) -> None:
        for node_id, clock in self.clocks.items():
            assert vectors.vector_clock(self.log.store, node_id) == clock.entries
        for key, vector in self.versions.items():
            assert versions.version_vector(self.log.store, key) == vector.entries


TestHistoriesAgainstModel = HistoriesAgainstModel.TestCase
TestHistoriesAgainstModel.settings = settings(
    max_examples=30, stateful_step_count=40, deadline=None
)


SIZE = 1_000
LARGE = {f"participant-{number:04}": number + 1 for number in range(SIZE)}


class CountingStore(MemoryStore):
    reads = 0

    def get(self, key: bytes) -> bytes | None:
        self.reads += 1
        return super().get(key)


def test_events_on_a_large_clock_are_small_and_their_clocks_are_made_in_a_few_steps() -> None:
    log = Log()
    log.do(receive("a", LARGE))
    for _ in range(50):
        log.send(*[tick("a")] * 10)
    rows = log.rows(b"e")
    assert max(len(row) for _, row in rows[1:]) < 100
    whole = sum(len(row) for prefix in (b"e", b"Z", b"F") for _, row in log.rows(prefix))
    assert whole < 500 * 500, "a clock in each event would be 20 times as much"
    store = CountingStore(log.store.items())
    for number in (0, 1, 63, 64, 250, 500):
        store.reads = 0
        position = parse_event_id(rows[number][0][1:].hex())
        assert position is not None
        found = vectors.get_event(store, position)
        assert found is not None
        assert found.vector == {"a": number + 1, **LARGE}
        assert store.reads <= GREATEST_STEPS + 3


def test_receipts_that_change_everything_are_taken_back_in_a_few_steps_too() -> None:
    log = Log()
    for number in range(1, 20):
        log.do(receive("a", dict.fromkeys(LARGE, number)))
    assert len(log.rows(b"Z")) == 19, "an event that changed all there is, is a base"
    assert vectors.list_events(log.store, limit=3)[0][2].vector == {"a": 3} | dict.fromkeys(
        LARGE, 3
    )


def test_what_is_trimmed_leaves_nothing_behind() -> None:
    log = Log()
    commands: list[AnyCommand] = [tick("a"), increment("k", "a")]
    log.send(*commands * 100)
    assert len(log.rows(b"Z")) > 10
    log.wait(3 * MINUTE_MS)
    trim = TrimEvents(before_wall_ms=log.wall_ms, limit=1_000)
    assert result(log.do(trim)) == EventsTrimmed(removed=200, more=False)
    assert [row for row in log.store.items() if row[0][:1] in b"eFZ"] == []
    log.do(tick("a"))
    assert [event.vector for event in vectors.list_events(log.store, limit=9)[0]] == [{"a": 101}]


def test_vectors_in_memory_are_forgotten_before_they_are_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vector_histories, "_GREATEST_CACHED_ENTRIES", 100)
    log = Log()
    for number in range(50):
        log.do(tick(f"p{number}"))
    assert len(log.machine._histories._cached) < 15
    log.do(tick("p0"))
    assert vectors.vector_clock(log.store, "p0") == {"p0": 2}
