"""Vector clocks and version vectors: the laws of their order and join, and true causality."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.clock_laws import (
    assert_join_semilattice,
    assert_partial_order,
    assert_tells_the_truth,
    at_most,
)
from tests.unit.histories import Happening, histories
from tidelock.clocks import (
    ClockOverflowError,
    ClockValueError,
    Relation,
    VectorClock,
    VersionVector,
    compare,
    covers,
    merge,
)

entries = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3))
vectors = st.builds(VectorClock, entries)
either_kind = pytest.mark.parametrize("kind", [VectorClock, VersionVector])


# The order.


@pytest.mark.parametrize(
    ("first", "second", "relation"),
    [
        ({}, {}, Relation.EQUAL),
        ({}, {"a": 1}, Relation.BEFORE),
        ({"a": 1}, {}, Relation.AFTER),
        ({"a": 0}, {}, Relation.EQUAL),
        ({"a": 0, "b": 1}, {"b": 1, "c": 0}, Relation.EQUAL),
        ({"a": 2, "b": 3}, {"a": 2, "b": 3}, Relation.EQUAL),
        ({"a": 2, "b": 3}, {"a": 2, "b": 4}, Relation.BEFORE),
        ({"a": 2}, {"a": 2, "b": 1}, Relation.BEFORE),
        ({"a": 2, "b": 1}, {"a": 2, "b": 0}, Relation.AFTER),
        ({"a": 3, "b": 2}, {"a": 2, "b": 3}, Relation.CONCURRENT),
        ({"a": 2, "b": 3}, {"a": 3, "b": 2}, Relation.CONCURRENT),
        ({"a": 1}, {"b": 1}, Relation.CONCURRENT),
    ],
)
def test_two_vectors_stand_to_each_other_like_this(
    first: dict[str, int], second: dict[str, int], relation: Relation
) -> None:
    assert compare(first, second) is relation
    assert VectorClock(first).compare(VectorClock(second)) is relation
    assert VersionVector(first).compare(VersionVector(second)) is relation


@given(entries, entries)
def test_the_relation_is_that_of_the_sets_of_known_events(
    first: dict[str, int], second: dict[str, int]
) -> None:
    def known(counters: dict[str, int]) -> set[tuple[str, int]]:
        return {(name, n) for name, count in counters.items() for n in range(count)}

    expected = Relation.of(bool(known(first) - known(second)), bool(known(second) - known(first)))
    assert compare(first, second) is expected
    assert covers(first, second) == (known(second) <= known(first))
    assert known(merge(first, second)) == known(first) | known(second)


@given(vectors, vectors, vectors)
def test_comparing_is_a_partial_order(a: VectorClock, b: VectorClock, c: VectorClock) -> None:
    assert_partial_order(a, b, c)


@given(vectors, vectors, vectors)
def test_merging_is_a_join(a: VectorClock, b: VectorClock, c: VectorClock) -> None:
    assert_join_semilattice(a, b, c, VectorClock.merge)


def test_a_relation_read_from_the_other_side_is_its_inverse() -> None:
    assert Relation.BEFORE.inverse is Relation.AFTER
    assert Relation.AFTER.inverse is Relation.BEFORE
    assert Relation.EQUAL.inverse is Relation.EQUAL
    assert Relation.CONCURRENT.inverse is Relation.CONCURRENT


def test_plain_mappings_are_left_as_they_are() -> None:
    first, second = {"a": 1}, {"a": 2, "b": 1}
    assert merge(first, second) == {"a": 2, "b": 1}
    assert (first, second) == ({"a": 1}, {"a": 2, "b": 1})


# The steps.


@given(vectors, st.sampled_from("abcd"))
def test_an_event_strictly_advances_the_clock(clock: VectorClock, participant: str) -> None:
    assert clock.compare(clock.tick(participant)) is Relation.BEFORE
    assert clock.tick(participant).of(participant) == clock.of(participant) + 1


@given(vectors, vectors, st.sampled_from("abcd"))
def test_a_receipt_is_after_what_was_known_and_what_was_received(
    clock: VectorClock, message: VectorClock, participant: str
) -> None:
    received = clock.receive(message, participant)
    assert clock.compare(received) is Relation.BEFORE
    assert message.compare(received) is Relation.BEFORE
    assert received == clock.merge(message).tick(participant)


def test_a_receipt_merges_and_then_ticks_the_receivers_entry() -> None:
    local, message = VectorClock({"a": 3, "b": 3}), VectorClock({"a": 5, "b": 2})
    assert local.receive(message, "b") == VectorClock({"a": 5, "b": 4})


@given(entries, st.sampled_from("abcd"))
def test_a_write_strictly_advances_the_version(counters: dict[str, int], participant: str) -> None:
    vector = VersionVector(counters)
    assert vector.compare(vector.increment(participant)) is Relation.BEFORE
    assert vector.increment(participant).of(participant) == vector.of(participant) + 1


@given(histories())
def test_vector_clocks_tell_exactly_what_happened_before_what(history: list[Happening]) -> None:
    clocks: dict[int, VectorClock] = {}
    stamps: list[VectorClock] = []
    for event in history:
        name = f"p{event.process}"
        clock = clocks.get(event.process, VectorClock())
        if event.received_from is None:
            clock = clock.tick(name)
        else:
            clock = clock.receive(stamps[event.received_from], name)
        clocks[event.process] = clock
        stamps.append(clock)

    assert_tells_the_truth(history, lambda a, b: stamps[a].compare(stamps[b]))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30))
def test_version_vectors_tell_exactly_which_copy_lacks_writes(
    steps: list[tuple[int, int]],
) -> None:
    """Copies are written, and merged where the two numbers of a step differ."""
    copies = [VersionVector() for _ in range(4)]
    writes: list[set[int]] = [set() for _ in range(4)]
    for number, (to, source) in enumerate(steps):
        if to == source:
            copies[to] = copies[to].increment(f"p{to}")
            writes[to].add(number)
        else:
            copies[to] = copies[to].merge(copies[source])
            writes[to] |= writes[source]
        for a in range(4):
            for b in range(4):
                expected = Relation.of(bool(writes[a] - writes[b]), bool(writes[b] - writes[a]))
                assert copies[a].compare(copies[b]) is expected


@given(vectors, vectors, st.sampled_from("abcd"))
def test_ticking_keeps_the_order_of_what_was_ordered(
    first: VectorClock, second: VectorClock, participant: str
) -> None:
    if at_most(first, second):
        assert at_most(first.tick(participant), second.tick(participant))


# The values.


@either_kind
def test_entries_of_zero_are_left_out(kind: type[VectorClock | VersionVector]) -> None:
    assert dict(kind({"a": 0, "b": 1}).entries) == {"b": 1}
    assert kind({"a": 0}) == kind()
    assert kind().of("a") == 0


@either_kind
def test_a_value_cannot_be_changed(kind: type[VectorClock | VersionVector]) -> None:
    given_entries = {"a": 1}
    value = kind(given_entries)
    given_entries["a"] = 2
    assert value.of("a") == 1
    with pytest.raises(TypeError):
        value.entries["a"] = 2  # type: ignore[index]
    with pytest.raises(AttributeError, match="immutable"):
        value.entries = {}  # type: ignore[misc]
    with pytest.raises(AttributeError, match="immutable"):
        del value.entries


@either_kind
def test_a_value_survives_being_copied_and_pickled(
    kind: type[VectorClock | VersionVector],
) -> None:
    value = kind({"b": 1, "a": 2})
    assert copy.deepcopy(value) == value
    assert pickle.loads(pickle.dumps(value)) == value


@either_kind
def test_a_value_is_shown_with_its_entries_in_order(
    kind: type[VectorClock | VersionVector],
) -> None:
    assert repr(kind({"b": 1, "a": 2})) == f"{kind.__name__}({{'a': 2, 'b': 1}})"


def test_a_vector_clock_is_no_version_vector() -> None:
    clock, vector = VectorClock({"a": 1}), VersionVector({"a": 1})
    assert clock != vector
    with pytest.raises(ClockValueError, match="a VectorClock knows only its own kind"):
        clock.compare(vector)  # type: ignore[arg-type]
    with pytest.raises(ClockValueError, match="a VersionVector knows only its own kind"):
        vector.merge(clock)  # type: ignore[arg-type]


@either_kind
@pytest.mark.parametrize("name", ["", "x" * 513, "é" * 257, "\ud800", 7, None])
def test_a_name_that_is_none_is_refused(kind: type[VectorClock | VersionVector], name: str) -> None:
    with pytest.raises(ClockValueError, match="must be text of 1 to 512 bytes"):
        kind({name: 1})
    with pytest.raises(ClockValueError, match="must be text of 1 to 512 bytes"):
        VectorClock().tick(name)
    with pytest.raises(ClockValueError, match="must be text of 1 to 512 bytes"):
        VersionVector().increment(name)


@pytest.mark.parametrize("name", ["x", "x" * 512, "é" * 256, "\x00", "节点"])
def test_any_other_text_is_a_name(name: str) -> None:
    assert VectorClock().tick(name).of(name) == 1


@either_kind
@pytest.mark.parametrize("count", [-1, 2**63, True, 1.0, "1", None])
def test_a_counter_that_is_none_is_refused_by_name(
    kind: type[VectorClock | VersionVector], count: int
) -> None:
    with pytest.raises(ClockValueError, match="the counter of 'a' must be an integer from 0 to"):
        kind({"a": count})


@either_kind
@pytest.mark.parametrize("bad", [None, [("a", 1)], "a"])
def test_what_maps_nothing_is_refused(
    kind: type[VectorClock | VersionVector], bad: Mapping[str, int]
) -> None:
    with pytest.raises(ClockValueError, match="entries must map participants to counters"):
        kind(bad)


def test_nothing_follows_the_greatest_counter() -> None:
    assert VectorClock({"a": 2**63 - 2}).tick("a").of("a") == VectorClock.GREATEST
    with pytest.raises(ClockOverflowError, match="no event of 'a' follows"):
        VectorClock({"a": VectorClock.GREATEST}).tick("a")
    with pytest.raises(ClockOverflowError):
        VectorClock().receive(VectorClock({"a": VectorClock.GREATEST}), "a")
    with pytest.raises(ClockOverflowError):
        VersionVector({"a": VersionVector.GREATEST}).increment("a")
