"""What cannot be read stops the process and changes nothing; what is merely wrong is an answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statemachine.codec import MalformedEntryError, encode_entry
from statemachine.machine import Machine
from statemachine.memory_store import MemoryStore
from statemachine.stored_events import (
    AnyEventRow,
    AnyVectorRow,
    AnyVersionRow,
    EventRow,
    ObjectWritten,
    decode_event,
)
from tests.statemachine.building import SESSION, Log, record
from tests.statemachine.histories import random_log
from tests.statemachine.lock_invariants import assert_locks_intact

ENTRIES = random_log(3, 40)


def assert_intact(store: MemoryStore) -> None:
    """The rows belong together: every event has its references, every expiry its timer."""
    machine = Machine(store)
    by_prefix: dict[bytes, list[tuple[bytes, bytes]]] = {}
    for key, value in store.items():
        by_prefix.setdefault(key[:1], []).append((key, value))
    events = {key[1:]: decode_event(row) for key, row in by_prefix.get(b"e", [])}
    lamport = [event for event, row in events.items() if isinstance(row, EventRow)]
    for references in (b"L", b"N"):
        assert sorted(value for _, value in by_prefix.get(references, [])) == lamport
    assert machine.event_count == len(events)
    assert_lists_intact([key for key, _ in by_prefix.get(b"F", [])], events)
    assert machine.idempotency_count == len(by_prefix.get(b"I", []))
    expiring = [key[1:] for prefix in b"ISWH" for key, _ in by_prefix.get(bytes([prefix]), [])]
    expiring += [timer_id for _, _, timer_id in assert_locks_intact(store)]
    expiring += [key[2:] for key, _ in by_prefix.get(b"B", []) if key.startswith(b"Br")]
    of_proposals = [key for key, _ in by_prefix.get(b"D", [])]
    undecided = {key[2:] for key in of_proposals if key.startswith(b"Dd")}
    proposed = [key[2:] for key in of_proposals if key.startswith(b"Dp")]
    decided = [name for name in proposed if name not in undecided]
    assert sorted(key[10:] for key, _ in by_prefix.get(b"T", [])) == sorted(expiring + decided)
    assert sum(key.startswith(b"De") for key in of_proposals) == len(decided)
    rounds = {key[2:] for key, _ in by_prefix.get(b"B", []) if key.startswith(b"Bc")}
    nodes = {key[2:10] for key, _ in by_prefix.get(b"B", []) if key.startswith(b"Bn")}
    assert nodes <= rounds
    sessions = {key[1:] for key, _ in by_prefix.get(b"S", [])}
    assert {key[1:17] for key, _ in by_prefix.get(b"U", [])} <= sessions


def assert_lists_intact(references: list[bytes], events: dict[bytes, AnyEventRow]) -> None:
    """Every event is in the lists that it belongs to, and the lists hold nothing else."""
    lists: dict[bytes, list[bytes]] = {}
    for key in references:
        lists.setdefault(key[1:2], []).append(key[-12:])
    versions = [event for event, row in events.items() if isinstance(row, AnyVersionRow)]
    objects = [event for event, row in events.items() if isinstance(row, ObjectWritten)]
    vectors = [event for event, row in events.items() if isinstance(row, AnyVectorRow)]
    assert sorted(lists.get(b"a", [])) == sorted(lists.get(b"n", [])) == versions
    assert sorted(lists.get(b"v", []) + lists.get(b"o", [])) == versions
    assert sorted(lists.get(b"o", [])) == objects
    assert sorted(lists.get(b"A", [])) == sorted(lists.get(b"c", [])) == vectors


@given(st.binary(max_size=100))
def test_garbage_stops_the_process_and_changes_nothing(payload: bytes) -> None:
    log = Log()
    log.do(record("a"))
    before = log.store.items()
    with pytest.raises(MalformedEntryError):
        log.append(payload)
    assert log.store.items() == before
    assert (log.machine.applied_index, Machine(log.store).applied_index) == (1, 1)


@settings(max_examples=300)
@given(st.data())
def test_a_changed_byte_makes_garbage_or_another_log_and_never_a_broken_state(
    data: st.DataObject,
) -> None:
    store = MemoryStore()
    machine = Machine(store)
    start = data.draw(st.integers(0, len(ENTRIES) - 3))
    for index, entry in enumerate(ENTRIES[start : start + 3], 1):
        changed = bytearray(entry)
        for _ in range(data.draw(st.integers(0, 2))):
            changed[data.draw(st.integers(0, len(entry) - 1))] = data.draw(st.integers(0, 255))
        before = store.items()
        try:
            machine.apply(index, 1, bytes(changed))
        except MalformedEntryError:
            assert store.items() == before
    assert_intact(store)


@pytest.mark.parametrize("seed", range(20))
def test_random_logs_keep_the_state_intact(seed: int) -> None:
    store = MemoryStore()
    machine = Machine(store)
    for index, entry in enumerate(random_log(seed, 80), 1):
        machine.apply(index, 1, entry)
    assert_intact(store)


NUMBERS = st.integers(-(2**63), 2**64 - 1)


@settings(max_examples=200)
@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.binary(max_size=20))
def test_any_numbers_are_answered(
    wall_ms: int, elapsed_ms: int, sequence: int, watermark: int, expires_at_ms: int, extra: bytes
) -> None:
    log = Log()
    requests = [log.request(record("a"), expires_at_ms=expires_at_ms)]
    for session in (SESSION, extra):
        unit = log.encode_unit(sequence, requests, session, watermark)
        log.append(encode_entry(wall_ms, elapsed_ms, [unit, unit]))
    assert_intact(log.store)


def test_an_error_of_the_store_in_the_middle_of_an_entry_leaves_the_store_as_it_was() -> None:
    class FailingStore(MemoryStore):
        failing = False

        def get(self, key: bytes) -> bytes | None:
            if self.failing and key.startswith(b"Pb"):
                raise OSError("the disk is gone")
            return super().get(key)

    log = Log()
    store = FailingStore()
    log.store, log.machine = store, Machine(store)
    log.do(record("a"))
    before = store.items()
    store.failing = True
    with pytest.raises(OSError, match="the disk is gone"):
        log.send(record("a"), record("b"))
    assert store.items() == before
