"""The machine against a model that is too simple to be wrong, over histories that Hypothesis draws.

The model keeps everything for ever in plain dicts and forgets only what the rules say. Two machines
follow it: one as it is, the other reloaded from its store now and then.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from statemachine.codec import encode_entry, encode_request, encode_unit
from statemachine.commands import FireTimers, IdempotencyKey, RecordEvent, Request, SyncClock
from statemachine.machine import Machine
from statemachine.memory_store import MemoryStore
from statemachine.outcomes import Applied, EventRecorded, Outcome, Rejected
from statemachine.sessions import IDLE_MS
from statemachine.timers import due_timers
from statemachine.timestamps import clock, list_events
from tests.statemachine.building import record, sync

NAMES = st.sampled_from(["a", "b", "a\0"])
SESSIONS = [bytes([number]) * 16 for number in range(2)]
LEADER = b"the leader's own"

commands = st.builds(record, NAMES) | st.builds(sync, NAMES, st.integers(0, 30))
idempotency_keys = st.none() | st.builds(
    IdempotencyKey,
    st.just("p"),
    st.sampled_from("xyz"),
    st.sampled_from([b"d" * 16, b"e" * 16]),
    st.sampled_from([0, 20_000]),
)


@dataclass
class ModelUnit:
    session: bytes
    sequence: int
    requests: list[Request]
    answer: list[list[str]] | None = None
    """What it was answered when it was applied."""


@dataclass
class ModelKey:
    digest: bytes
    due_ms: int
    answer: list[str]


class Model:
    """What the rules say, without a thought for bytes."""

    def __init__(self) -> None:
        self.elapsed_ms = 0
        self.clocks: dict[str, int] = {}
        self.events: list[tuple[int, str]] = []
        self.keys: dict[str, ModelKey] = {}
        self.used_until_ms: dict[bytes, int] = {}
        self.watermarks: dict[bytes, int] = {}

    def apply(self, unit: ModelUnit, watermark: int) -> list[list[str]]:
        watermark = max(watermark, self.watermarks.get(unit.session, 0))
        known = self.watermarks.get(unit.session, 0)
        if unit.sequence < known or (unit.answer is None and unit.sequence < watermark):
            return []
        if unit.answer is not None:
            return unit.answer
        self.watermarks[unit.session] = watermark
        until = [self.elapsed_ms + IDLE_MS, self.used_until_ms.get(unit.session, 0)]
        until += [each.expires_at_ms + 1 for each in unit.requests]
        self.used_until_ms[unit.session] = max(until)
        unit.answer = [self.request(each) for each in unit.requests]
        return unit.answer

    def request(self, request: Request) -> list[str]:
        if request.expires_at_ms < self.elapsed_ms:
            return ["REQUEST_EXPIRED" for _ in request.commands]
        key = request.idempotency
        if key is None:
            return self.execute(request)
        known = self.keys.get(key.key)
        if known is None:
            due_ms = max(self.elapsed_ms + key.ttl_ms, request.expires_at_ms + 1)
            known = self.keys[key.key] = ModelKey(key.digest, due_ms, self.execute(request))
            return known.answer
        if known.digest != key.digest:
            return ["IDEMPOTENCY_KEY_REUSED" for _ in request.commands]
        return ["again", *known.answer]

    def execute(self, request: Request) -> list[str]:
        answer = []
        for command in request.commands:
            assert isinstance(command, RecordEvent | SyncClock)
            name = command.node_id
            received = command.timestamp if isinstance(command, SyncClock) else 0
            self.clocks[name] = max(self.clocks.get(name, 0), received) + 1
            self.events.append((self.clocks[name], name))
            answer.append(f"{name}@{self.clocks[name]}")
        return answer

    def fire(self) -> None:
        self.keys = {k: kept for k, kept in self.keys.items() if kept.due_ms > self.elapsed_ms}
        for session, until_ms in list(self.used_until_ms.items()):
            if until_ms <= self.elapsed_ms:
                del self.used_until_ms[session], self.watermarks[session]


def told(outcome: Outcome) -> str:
    if isinstance(outcome, Rejected):
        return outcome.code.value
    assert isinstance(outcome, Applied)
    assert isinstance(outcome.result, EventRecorded)
    return f"{outcome.result.node_id}@{outcome.result.lamport_timestamp}"


class MachineAgainstModel(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.stores = [MemoryStore(), MemoryStore()]
        self.machines = [Machine(store) for store in self.stores]
        self.model = Model()
        self.index = 0
        self.units: list[ModelUnit] = []
        self.firings = 0

    def entry(self, units: list[bytes]) -> list[list[list[str]]]:
        """Apply an entry to both machines; return what they tell."""
        self.index += 1
        payload = encode_entry(1_000 + self.index, self.model.elapsed_ms, units)
        first, second = (each.apply(self.index, 1, payload) for each in self.machines)
        assert first == second
        return [
            [
                ["again"] * request.replayed + [told(outcome) for outcome in request.outcomes]
                for request in unit.requests
            ]
            for unit in first
        ]

    def send(self, units: list[ModelUnit], watermark: int) -> None:
        expected = [self.model.apply(unit, watermark) for unit in units]
        encoded = [
            encode_unit(
                unit.session, unit.sequence, watermark, [encode_request(r) for r in unit.requests]
            )
            for unit in units
        ]
        assert self.entry(encoded) == expected

    @rule(
        session=st.sampled_from(SESSIONS),
        requests=st.lists(
            st.tuples(
                st.lists(commands, max_size=3),
                idempotency_keys,
                st.sampled_from([-1, 0, 5_000, 30_000]),
            ),
            max_size=3,
        ),
        gap=st.integers(0, 2),
        lag=st.integers(0, 3),
    )
    def new_unit(
        self,
        session: bytes,
        requests: list[tuple[list[RecordEvent | SyncClock], IdempotencyKey | None, int]],
        gap: int,
        lag: int,
    ) -> None:
        last = max((unit.sequence for unit in self.units if unit.session == session), default=0)
        made = [
            Request(self.model.elapsed_ms + lifetime_ms, key, tuple(wanted))
            for wanted, key, lifetime_ms in requests
        ]
        unit = ModelUnit(session, last + 1 + gap, made)
        self.units.append(unit)
        self.send([unit], max(1, unit.sequence - lag))

    @precondition(lambda self: self.units)
    @rule(data=st.data(), lag=st.integers(0, 3), twice=st.booleans())
    def repeated_unit(self, data: st.DataObject, lag: int, twice: bool) -> None:
        """A copy comes late, perhaps in one entry with another; its session may be forgotten."""
        unit = data.draw(st.sampled_from(self.units[-8:]))
        if unit.session not in self.model.watermarks:
            self.copy_of_forgotten_session(unit)
            return
        self.send([unit] * (2 if twice else 1), max(1, unit.sequence - lag))

    def copy_of_forgotten_session(self, unit: ModelUnit) -> None:
        """Nothing of it may apply again: whatever the copy is told, no clock moves."""
        requests = [encode_request(each) for each in unit.requests]
        told_now = self.entry([encode_unit(unit.session, unit.sequence, 1, requests)])
        for request in told_now[0]:
            assert set(request) <= {"REQUEST_EXPIRED"}
        # The copy began the session anew; forget it again, in the model it never came back.
        for store, machine in zip(self.stores, self.machines, strict=True):
            assert machine.outcome_of(unit.session, unit.sequence) is not None
            assert clock(store, "a") == self.model.clocks.get("a", 0)
        self.model.watermarks[unit.session] = 1
        self.model.used_until_ms[unit.session] = self.model.elapsed_ms + IDLE_MS
        for other in self.units:
            if other.session == unit.session:
                other.answer = None
        unit.answer = told_now[0]

    @rule(duration_ms=st.sampled_from([1, 5_000, 5_001, 30_000, IDLE_MS - 1, IDLE_MS]))
    def time_passes(self, duration_ms: int) -> None:
        self.model.elapsed_ms += duration_ms
        self.entry([])

    @rule()
    def fire_what_is_due(self) -> None:
        """The leader fires until nothing is due; its own session takes no part in the model."""
        now_ms = self.model.elapsed_ms
        while due := due_timers(self.stores[0], now_ms, limit=2):
            self.firings += 1
            request = Request(now_ms, None, (FireTimers(timers=due),))
            unit = encode_unit(LEADER, self.firings, self.firings, [encode_request(request)])
            self.index += 1
            payload = encode_entry(1_000 + self.index, now_ms, [unit])
            for machine in self.machines:
                machine.apply(self.index, 1, payload)
        self.model.fire()
        for sent in self.units:
            if sent.session not in self.model.watermarks:
                # Its outcome went with its session, which a later unit may begin anew.
                sent.answer = None

    @rule()
    def restart_the_second(self) -> None:
        self.machines[1] = Machine(self.stores[1])

    @rule()
    def second_installs_a_snapshot_of_the_first(self) -> None:
        self.stores[1].replace(self.stores[0].items())
        self.machines[1].reload()

    @invariant()
    def clocks_and_events_are_those_of_the_model(self) -> None:
        for name, time in self.model.clocks.items():
            assert clock(self.stores[0], name) == time
        listed, _ = list_events(self.stores[0], limit=1_000)
        found = [(event.lamport_timestamp, event.node_id) for event in listed]
        assert found == sorted(self.model.events)

    @invariant()
    def exactly_what_is_not_forgotten_is_kept(self) -> None:
        sessions = {key[1:] for key, _ in self.stores[0].scan(b"S", b"T", limit=100)}
        assert sessions - {LEADER} == set(self.model.watermarks)
        assert self.machines[0].idempotency_count == len(self.model.keys)

    @invariant()
    def both_machines_hold_the_same_bytes(self) -> None:
        assert self.stores[0].items() == self.stores[1].items()


MachineAgainstModel.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None
)
TestMachineAgainstModel = MachineAgainstModel.TestCase
