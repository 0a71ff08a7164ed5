"""Locks and their queues are bounded, leave nothing behind, and cost the same in any queue."""

from __future__ import annotations

import pytest

from statemachine import locks
from statemachine.commands import CancelWait
from statemachine.linked_rows import EMPTY, append, remove
from statemachine.linked_rows import scan as scan_list
from statemachine.machine import Machine
from statemachine.memory_store import MemoryStore
from statemachine.outcomes import (
    LockReleased as ReleasedResult,
)
from statemachine.outcomes import (
    RejectionCode,
)
from statemachine.state import load_state
from statemachine.tickets import get_ticket
from statemachine.write_buffer import WriteBuffer
from tests.statemachine.building import (
    Log,
    acquire,
    code,
    granted,
    release,
    renew,
    result,
    ticket,
)
from tests.statemachine.lock_invariants import assert_locks_intact


def test_a_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "GREATEST_QUEUE", 2)
    log = Log()
    log.do(acquire(owner="holder"))
    for owner in "ab":
        ticket(log.do(acquire(owner=owner, wait_ms=9)))
    assert code(log.do(acquire(owner="c", wait_ms=9))) is RejectionCode.LOCK_QUEUE_FULL
    log.do(release(1, "holder"))
    ticket(log.do(acquire(owner="c", wait_ms=9)))


def test_all_queues_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "GREATEST_WAITS", 1)
    log = Log()
    for name in "lm":
        log.do(acquire(name, "holder"))
    ticket(log.do(acquire("l", "a", wait_ms=9)))
    assert code(log.do(acquire("m", "a", wait_ms=9))) is RejectionCode.LOCK_QUEUE_FULL
    assert log.machine.lock_wait_count == 1


def test_locks_are_bounded_and_each_that_is_forgotten_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(locks, "GREATEST_LOCKS", 2)
    log = Log()
    for name in "lm":
        log.do(acquire(name, ttl_ms=50))
    assert code(log.do(acquire("n"))) is RejectionCode.LOCK_TABLE_FULL
    assert granted(log.do(acquire("l"))).fencing_token == 1
    log.do(release(1))
    assert granted(log.do(acquire("l"))).fencing_token == 3
    log.wait(50)
    log.fire_due()
    assert log.machine.lock_count == 1
    assert granted(log.do(acquire("n"))).fencing_token == 4


def test_so_many_share_and_the_next_waits_for_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "GREATEST_SHARED", 2)
    log = Log()
    log.do(acquire(owner="a"))
    waiting = [
        ticket(log.do(acquire(owner=owner, mode="SHARED", wait_ms=9_000))) for owner in "bcd"
    ]
    log.do(release(1, "a"))
    outcomes = [get_ticket(log.store, each) for each in waiting]
    assert [each is not None and each.outcome is not None for each in outcomes] == [
        True,
        True,
        False,
    ]
    assert code(log.do(acquire(owner="e", mode="SHARED"))) is RejectionCode.LOCK_HELD
    log.do(release(2, "b"))
    last = get_ticket(log.store, waiting[2])
    assert last is not None
    assert granted(last.outcome).fencing_token == 4


def test_a_sharer_whose_lease_is_over_makes_room_for_one_who_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(locks, "GREATEST_SHARED", 2)
    log = Log()
    log.do(acquire(owner="a", mode="SHARED"))
    log.do(acquire(owner="b", mode="SHARED", ttl_ms=10))
    waiting = ticket(log.do(acquire(owner="c", mode="SHARED", wait_ms=9_000)))
    log.wait(10)
    assert code(log.do(renew(2, "b"))) is RejectionCode.FENCING_TOKEN_STALE
    found = get_ticket(log.store, waiting)
    assert found is not None
    assert granted(found.outcome).owner == "c"
    assert_locks_intact(log.store)


def test_nothing_is_left_of_a_lock_that_nobody_wants() -> None:
    log = Log()
    log.do(acquire(ttl_ms=1_000))
    log.do(acquire(owner="b", mode="SHARED", wait_ms=5_000, ttl_ms=10))
    log.do(acquire(owner="c", mode="SHARED", wait_ms=5_000, ttl_ms=10))
    for _ in range(200):
        log.wait(1_000)
        log.fire_due()
    for prefix in (b"K", b"W"):
        assert log.rows(prefix) == []
    assert (log.machine.lock_count, log.machine.lock_wait_count) == (0, 0)
    assert granted(log.do(acquire())).fencing_token == 4


class CountingStore(MemoryStore):
    """Counts what an entry reads and writes of locks."""

    touched = 0

    def get(self, key: bytes) -> bytes | None:
        self.touched += 1
        return super().get(key)

    def put(self, key: bytes, value: bytes) -> None:
        self.touched += 1
        super().put(key, value)

    def delete(self, key: bytes) -> None:
        self.touched += 1
        super().delete(key)

    def scan(
        self, start: bytes, stop: bytes, *, limit: int, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        raise AssertionError("applying commands of locks scans nothing")


@pytest.mark.parametrize("mode", ["EXCLUSIVE", "SHARED"])
def test_no_length_of_the_queue_changes_the_price_of_an_operation(mode: str) -> None:
    prices = {}
    for length in (20, 2_000):
        log = Log()
        store = CountingStore()
        log.store, log.machine = store, Machine(store)
        log.do(acquire("l", "first", mode="SHARED"))
        log.do(acquire("l", "second", wait_ms=9_000))
        waiting = [
            ticket(log.do(acquire("l", f"w{at}", mode=mode, wait_ms=9_000))) for at in range(length)
        ]
        price = []
        steps = (
            acquire("l", "last", mode=mode, wait_ms=9_000),
            CancelWait(ticket=waiting[length // 2]),
            CancelWait(ticket=waiting[-1]),
            acquire("l", "x"),
            release(1, "first"),
            renew(2, "second"),
        )
        for command in steps:
            store.touched = 0
            log.do(command)
            price.append(store.touched)
        prices[length] = price
        assert get_ticket(store, waiting[0]) is not None
        assert result(log.do(release(2, "second"))) == ReleasedResult(
            name="l", owner="second", fencing_token=2, released=True
        )
    assert prices[20] == prices[2_000]


def test_a_list_of_rows_survives_any_removal() -> None:
    store = MemoryStore()
    writes = WriteBuffer(store)
    names = [bytes([number]) for number in range(1, 6)]
    for gone in ([2], [0], [4], [0, 1, 2], [4, 3], [1, 3], [0, 4], [0, 1, 2, 3, 4]):
        ends = EMPTY
        for name in names:
            ends = append(writes, b"p", ends, name, b"c" + name)
        for at in gone:
            ends = remove(writes, b"p", ends, names[at])
        left = [name for at, name in enumerate(names) if at not in gone]
        assert [name for name, _ in scan_list(writes, b"p", limit=9)] == left
        assert ends.count == len(left)
        assert (ends.first, ends.last) == ((left[0], left[-1]) if left else (b"", b""))
        ends = append(writes, b"p", ends, b"\x09", b"end")
        forward = []
        while ends.count:
            forward.append(ends.first)
            ends = remove(writes, b"p", ends, ends.first)
        assert forward == [*left, b"\x09"]
        assert scan_list(writes, b"p", limit=9) == []
    assert load_state(store).lock_count == 0
