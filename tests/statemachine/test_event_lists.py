"""Lists of events: their order, their filters, their pages, and what a page may cost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statemachine import timestamps
from statemachine.memory_store import MemoryStore
from statemachine.paging import InvalidCursorError
from statemachine.store import DamagedStateError
from statemachine.timestamps import StoredEvent, list_events
from tests.statemachine.building import Log, record, sync


def all_pages(
    log: Log,
    *,
    limit: int,
    node_id: str | None = None,
    event_type: str | None = None,
    after_lamport: int = 0,
) -> list[StoredEvent]:
    found: list[StoredEvent] = []
    cursor: str | None = None
    while True:
        page, cursor = list_events(
            log.store,
            node_id=node_id,
            event_type=event_type,
            after_lamport=after_lamport,
            cursor=cursor,
            limit=limit,
        )
        assert len(page) <= limit
        found += page
        if cursor is None:
            return found


names = st.sampled_from(["a", "b", "a\0", "a\0b", "ab"])
histories = st.lists(st.tuples(names, st.integers(0, 6), st.sampled_from("xy")), max_size=25)


@settings(max_examples=60)
@given(
    histories,
    st.none() | names,
    st.none() | st.sampled_from("xy"),
    st.integers(0, 8),
    st.integers(1, 5),
)
def test_pages_together_are_the_filtered_events_in_lamport_order(
    history: list[tuple[str, int, str]],
    node_id: str | None,
    event_type: str | None,
    after_lamport: int,
    limit: int,
) -> None:
    log = Log()
    for name, received, kind in history:
        log.do(sync(name, received) if kind == "x" else record(name, "y"))
    everything = all_pages(log, limit=1_000)
    assert [(e.lamport_timestamp, e.node_id) for e in everything] == sorted(
        (e.lamport_timestamp, e.node_id) for e in everything
    )
    assert len(everything) == len(history)
    wanted_type = {"x": "sync", "y": "y", None: None}[event_type]
    expected = [
        event
        for event in everything
        if (node_id is None or event.node_id == node_id)
        and (wanted_type is None or event.event_type == wanted_type)
        and event.lamport_timestamp > after_lamport
    ]
    found = all_pages(
        log, limit=limit, node_id=node_id, event_type=wanted_type, after_lamport=after_lamport
    )
    assert found == expected


@pytest.mark.parametrize("node_id", [None, "a"])
def test_a_rare_type_costs_a_bounded_page_at_a_time(
    node_id: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timestamps, "GREATEST_EXAMINED", 10)
    log = Log()
    log.send(*[record("a", "common")] * 25, record("a", "rare"))
    reads = 0

    class CountingStore(MemoryStore):
        def get(self, key: bytes) -> bytes | None:
            nonlocal reads
            reads += 1
            return super().get(key)

    store = CountingStore(log.store.items())
    sizes = []
    cursor = None
    while True:
        reads = 0
        page, cursor = list_events(
            store, node_id=node_id, event_type="rare", cursor=cursor, limit=100
        )
        assert reads <= 10
        sizes.append(len(page))
        if cursor is None:
            break
    assert sizes == [0, 0, 1]


@pytest.mark.parametrize("event_type", [None, "t"])
def test_a_page_that_is_exactly_full_is_the_last_one(event_type: str | None) -> None:
    log = Log()
    log.send(*[record("a")] * 3)
    assert list_events(log.store, event_type=event_type, limit=3)[1] is None
    assert list_events(log.store, event_type=event_type, limit=2)[1] is not None


def test_events_recorded_between_two_pages_are_neither_repeated_nor_in_the_way() -> None:
    log = Log()
    log.send(*[record("a")] * 4)
    first, cursor = list_events(log.store, limit=2)
    log.send(record("b"), record("a"))
    second, _ = list_events(log.store, cursor=cursor, limit=10)
    times = [(event.lamport_timestamp, event.node_id) for event in first + second]
    assert times == [(1, "a"), (2, "a"), (3, "a"), (4, "a"), (5, "a")]


def test_a_cursor_never_leads_back_to_what_was_to_come_after() -> None:
    log = Log()
    log.send(*[record("a")] * 5)
    _, cursor = list_events(log.store, limit=1)
    found, _ = list_events(log.store, after_lamport=3, cursor=cursor, limit=5)
    assert [event.lamport_timestamp for event in found] == [4, 5]


@pytest.mark.parametrize("cursor", ["nonsense", "0", "ff" * 500])
def test_a_cursor_from_elsewhere_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidCursorError, match="cursor is not one"):
        list_events(MemoryStore(), cursor=cursor, limit=1)


@pytest.mark.parametrize("cursor", ["", "00", "ff" * 488])
@pytest.mark.parametrize("node_id", [None, "n" * 479, "n" * 10_000])
def test_a_made_up_cursor_finds_nothing_and_breaks_nothing(
    cursor: str, node_id: str | None
) -> None:
    store = MemoryStore()
    assert list_events(store, node_id=node_id, cursor=cursor, limit=1) == ([], None)


@pytest.mark.parametrize("after_lamport", [-1, 2**63 - 1, 2**63, 2**70])
def test_any_number_may_be_asked_to_come_after(after_lamport: int) -> None:
    log = Log()
    log.do(sync("a", 2**63 - 2))
    found, _ = list_events(log.store, after_lamport=after_lamport, limit=5)
    assert len(found) == (1 if after_lamport < 0 else 0)


def test_a_reference_to_nothing_is_damage() -> None:
    log = Log()
    log.do(record("a"))
    ((event_key, _),) = log.rows(b"e")
    log.store.delete(event_key)
    with pytest.raises(DamagedStateError, match="000000000000000100000000 is missing"):
        list_events(log.store, limit=1)
