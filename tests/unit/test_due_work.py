"""A leader looks at what is due, soon and not again and again."""

from __future__ import annotations

import pytest

from node.delivery import due_work
from node.delivery.due_work import DueWork
from node.delivery.slots import Slots
from statemachine import keys
from statemachine.memory_store import MemoryStore


def index(*due: tuple[int, str]) -> MemoryStore:
    store = MemoryStore()
    for due_ms, xid in due:
        store.put(keys.DUE_GLOBAL + keys.pack_number(due_ms) + xid.encode(), b"")
    return store


def take(work: DueWork, elapsed_ms: int) -> list[str]:
    found: list[str] = []
    while (xid := work.next(elapsed_ms)) is not None:
        found.append(xid)
    return found


def test_all_that_is_due_is_found_once_and_the_rest_when_its_time_comes() -> None:
    work = DueWork(index((0, "a"), (0, "b"), (50, "c"), (80, "d")))
    assert take(work, 50) == ["a", "b", "c"]
    assert take(work, 60) == []
    assert work.next_due_ms() == 80
    assert take(work, 80) == ["d"]
    assert work.next_due_ms() is None


def test_what_entries_left_to_do_is_looked_at_though_the_index_was_read_beyond_it() -> None:
    work = DueWork(index((0, "a"), (50, "b")))
    assert take(work, 50) == ["a", "b"]
    work.add(["a", "a"])
    assert take(work, 50) == ["a"]


def test_a_part_that_is_to_wait_is_looked_at_when_its_time_comes() -> None:
    work = DueWork(index((0, "a")))
    assert take(work, 0) == ["a"]
    work.add_later(30, "a")
    assert take(work, 29) == []
    assert work.next_due_ms() == 30
    assert take(work, 30) == ["a"]


def test_time_brings_more_though_the_queue_is_never_empty() -> None:
    store = index((0, "a"), (10, "b"))
    work = DueWork(store)
    work.add(["x", "y"])
    assert work.next(9) == "x"
    work.add(["z"])
    found = [work.next(10) for _ in range(3)]
    assert "b" in [*found, work.next(10)]


def test_what_does_not_fit_into_the_queue_is_found_in_the_index_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(due_work, "GREATEST_QUEUED", 2)
    work = DueWork(index((0, "a"), (0, "b"), (0, "c")))
    assert take(work, 0) == ["a", "b", "c"]
    work.add(["a", "b", "c"])
    assert len(work) == 2
    assert take(work, 0) == ["a", "b", "a", "b", "c"]
    for xid in ("a", "b", "c"):
        work.add_later(5, xid)
    assert take(work, 4) == ["a", "b", "c"]


def test_a_lot_of_work_is_read_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(due_work, "PAGE", 3)
    names = [f"{number:03}" for number in range(20)]
    work = DueWork(index(*((0, name) for name in names)))
    assert take(work, 0) == names


def test_a_host_has_no_more_slots_than_its_own_and_all_have_no_more_than_there_are() -> None:
    slots = Slots(3, 2)
    assert slots.take("h", "a")
    assert slots.take("h", "b")
    assert not slots.take("h", "c")
    assert slots.take("g", "c")
    assert (slots.free, slots.taken, slots.waiting) == (False, 3, 1)
    assert slots.give_back("g") == []
    assert slots.give_back("h") == ["c"]
    assert slots.waiting == 0


def test_whoever_waits_has_a_turn_in_order_though_others_want_it_no_more() -> None:
    slots = Slots(10, 1)
    assert slots.take("h", "a")
    for xid in ("b", "c", "d", "b"):
        assert not slots.take("h", xid)
    # Nobody is left who could give a slot back, so all are asked.
    assert slots.give_back("h") == ["b", "c", "d"]


def test_a_slot_that_is_given_back_goes_to_as_many_as_there_is_room_for() -> None:
    slots = Slots(10, 2)
    assert slots.take("h", "a")
    assert slots.take("h", "b")
    for xid in ("c", "d"):
        assert not slots.take("h", xid)
    assert slots.give_back("h") == ["c"]
    assert slots.waiting == 1
