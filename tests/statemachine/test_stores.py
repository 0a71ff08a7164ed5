"""The in-memory store and the write buffer against a plain dict."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statemachine.memory_store import MemoryStore
from statemachine.write_buffer import WriteBuffer

some_keys = st.binary(min_size=1, max_size=2).map(lambda key: bytes(byte % 4 for byte in key))
writes = st.lists(st.tuples(some_keys, st.none() | st.binary(max_size=2)), max_size=20)
ranges = st.tuples(some_keys, some_keys, st.integers(0, 8), st.booleans())


def expected_page(
    values: dict[bytes, bytes], asked: tuple[bytes, bytes, int, bool]
) -> list[tuple[bytes, bytes]]:
    start, stop, limit, reverse = asked
    found = sorted(values.items(), reverse=reverse)
    return [(key, value) for key, value in found if start <= key < stop][:limit]


def write_all(
    store: MemoryStore | WriteBuffer,
    values: dict[bytes, bytes],
    changes: list[tuple[bytes, bytes | None]],
) -> None:
    for key, value in changes:
        if value is None:
            store.delete(key)
            values.pop(key, None)
        else:
            store.put(key, value)
            values[key] = value


@given(writes, ranges)
def test_a_memory_store_answers_as_a_dict_with_sorted_keys(
    changes: list[tuple[bytes, bytes | None]], asked: tuple[bytes, bytes, int, bool]
) -> None:
    store, values = MemoryStore(), dict[bytes, bytes]()
    write_all(store, values, changes)
    start, stop, limit, reverse = asked
    page = store.scan(start, stop, limit=limit, reverse=reverse)
    assert page == expected_page(values, asked)
    assert store.items() == sorted(values.items())
    assert [store.get(key) for key, _ in changes] == [values.get(key) for key, _ in changes]
    assert len(store) == len(values)


@given(writes, writes, ranges)
def test_a_write_buffer_answers_as_if_its_writes_were_in_the_store(
    stored: list[tuple[bytes, bytes | None]],
    buffered: list[tuple[bytes, bytes | None]],
    asked: tuple[bytes, bytes, int, bool],
) -> None:
    store, values = MemoryStore(), dict[bytes, bytes]()
    write_all(store, values, stored)
    before = store.items()
    buffer = WriteBuffer(store)
    write_all(buffer, values, buffered)
    start, stop, limit, reverse = asked
    assert buffer.scan(start, stop, limit=limit, reverse=reverse) == expected_page(values, asked)
    assert [buffer.get(key) for key, _ in buffered] == [values.get(key) for key, _ in buffered]
    assert store.items() == before
    buffer.flush()
    assert store.items() == sorted(values.items())
    assert not buffer.pending


@pytest.mark.parametrize(("reverse", "found"), [(False, b"d"), (True, b"b")])
def test_rows_deleted_in_a_write_buffer_take_no_room_in_a_page(reverse: bool, found: bytes) -> None:
    store = MemoryStore([(bytes([byte]), b"") for byte in b"abcdef"])
    buffer = WriteBuffer(store)
    for key in (b"a", b"b", b"c") if found == b"d" else (b"c", b"d", b"e", b"f"):
        buffer.delete(key)
    assert buffer.scan(b"a", b"z", limit=1, reverse=reverse) == [(found, b"")]


def test_a_page_stays_as_it_was_when_the_store_changes() -> None:
    store = MemoryStore([(b"a", b"1"), (b"b", b"2")])
    page = store.scan(b"a", b"z", limit=10)
    store.delete(b"a")
    store.put(b"b", b"3")
    assert page == [(b"a", b"1"), (b"b", b"2")]


def test_a_memory_store_holds_what_replaced_it_and_nothing_else() -> None:
    store = MemoryStore([(b"a", b"1")])
    store.replace([(b"c", b"3"), (b"b", b"2")])
    assert store.items() == [(b"b", b"2"), (b"c", b"3")]


@pytest.mark.parametrize("key", [b"", b"k" * 501])
def test_a_memory_store_refuses_keys_that_a_disk_would_refuse(key: bytes) -> None:
    store = MemoryStore()
    for refused in (
        lambda: store.put(key, b""),
        lambda: store.get(key),
        lambda: store.delete(key),
        lambda: store.scan(key, b"l", limit=1),
        lambda: store.scan(b"a", key, limit=1),
    ):
        with pytest.raises(ValueError, match="1 to 500 bytes"):
            refused()
