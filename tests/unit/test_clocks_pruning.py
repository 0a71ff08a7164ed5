"""Pruned clocks never tell another relation than the clocks that were pruned."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.clock_laws import true_relation
from tests.unit.histories import PROCESSES, Happening, happened_before, histories
from tidelock.clocks import (
    ClockOverflowError,
    ClockValueError,
    Floor,
    Pruned,
    Relation,
    Retirements,
    UndecidedError,
    VectorClock,
    VersionVector,
)

PARTICIPANTS = [f"p{number}" for number in range(PROCESSES)]


def stamps_of(history: list[Happening]) -> list[VectorClock]:
    clocks: dict[int, VectorClock] = {}
    stamps: list[VectorClock] = []
    for event in history:
        clock = clocks.get(event.process, VectorClock())
        if event.received_from is not None:
            clock = clock.merge(stamps[event.received_from])
        clocks[event.process] = clock.tick(PARTICIPANTS[event.process])
        stamps.append(clocks[event.process])
    return stamps


@st.composite
def lists(draw: st.DrawFn, counts: VectorClock) -> Retirements:
    """Retire some participants, some of them several times, at counts that somebody reached."""
    retirements = Retirements()
    for _ in range(draw(st.integers(0, 4))):
        participant = draw(st.sampled_from(PARTICIPANTS))
        least = retirements.count(retirements.floor, participant) + 1
        if least <= counts.of(participant):
            count = draw(st.integers(least, counts.of(participant)))
            retirements = retirements.retire({participant: count})
    return retirements


def known_by_then(retirements: Retirements, length: int) -> Retirements:
    """The list as somebody knows it who has not heard of the later retirements."""
    return Retirements(retirements.each[:length])


def everything(stamps: list[VectorClock]) -> VectorClock:
    total = VectorClock()
    for stamp in stamps:
        total = total.merge(stamp)
    return total


def relation_or_none(
    first: Pruned[VectorClock], second: Pruned[VectorClock], retirements: Retirements | None
) -> Relation | None:
    try:
        return first.compare(second, retirements)
    except UndecidedError:
        return None


# Against unpruned clocks.


@settings(max_examples=50)
@given(histories(), st.data())
def test_pruned_stamps_tell_exactly_what_happened_before_what(
    history: list[Happening], data: st.DataObject
) -> None:
    """Each stamp is pruned by what somebody knew of the list; the whole list decides."""
    stamps = stamps_of(history)
    retirements = data.draw(lists(everything(stamps)))
    causes = happened_before(history)
    pruned = [
        known_by_then(retirements, data.draw(st.integers(0, 4))).prune(stamp) for stamp in stamps
    ]
    for first, one in enumerate(pruned):
        for second, other in enumerate(pruned):
            assert one.compare(other, retirements) is true_relation(causes, first, second)


@settings(max_examples=50)
@given(histories(), st.data())
def test_whoever_knows_too_little_of_the_list_hears_the_truth_or_that_it_is_undecided(
    history: list[Happening], data: st.DataObject
) -> None:
    """Two lists that part at some point, as after a mistake, prune and compare the same stamps."""
    stamps = stamps_of(history)
    causes = happened_before(history)
    one_list, other_list = (data.draw(lists(everything(stamps))) for _ in range(2))
    known = [known_by_then(known, data.draw(st.integers(0, 4))) for known in (one_list, other_list)]
    pruned = [data.draw(st.sampled_from(known)).prune(stamp) for stamp in stamps]
    for knower in (None, *known):
        for first, one in enumerate(pruned):
            for second, other in enumerate(pruned):
                told = relation_or_none(one, other, knower)
                assert told in (None, true_relation(causes, first, second))
                if one.floor == other.floor:
                    assert told is not None


@settings(max_examples=50)
@given(histories(), st.data())
def test_merging_and_advancing_pruned_clocks_is_the_same_as_doing_it_unpruned(
    history: list[Happening], data: st.DataObject
) -> None:
    stamps = stamps_of(history)
    retirements = data.draw(lists(everything(stamps)))
    pruned = [
        known_by_then(retirements, data.draw(st.integers(0, 4))).prune(stamp) for stamp in stamps
    ]
    for stamp, one in zip(stamps, pruned, strict=True):
        assert retirements.restore(one) == stamp
        participant = data.draw(st.sampled_from([*PARTICIPANTS, "new"]))
        advanced = one.advance(participant, retirements)
        assert retirements.restore(advanced) == stamp.tick(participant)
        for other_stamp, other in zip(stamps[:5], pruned[:5], strict=True):
            merged = one.merge(other, retirements)
            assert retirements.restore(merged) == stamp.merge(other_stamp)


@settings(max_examples=50)
@given(histories(), st.data())
def test_a_clock_is_pruned_as_far_as_it_has_heard_of_all_and_no_further(
    history: list[Happening], data: st.DataObject
) -> None:
    stamps = stamps_of(history)
    retirements = data.draw(lists(everything(stamps)))
    for stamp in stamps:
        pruned = retirements.prune(stamp)
        for number, counts in enumerate(retirements.each, start=1):
            heard = all(stamp.of(name) >= count for name, count in counts.items())
            if number <= pruned.floor.number:
                assert heard
            if number == pruned.floor.number + 1:
                assert not heard
        for name in pruned.rest.entries:
            assert stamp.of(name) > retirements.count(pruned.floor, name)


# What it is for.


def test_dropping_entries_alone_would_order_concurrent_events() -> None:
    last_of_d, of_b = VectorClock({"d": 5}), VectorClock({"b": 1, "d": 3})
    assert last_of_d.compare(of_b) is Relation.CONCURRENT
    assert VectorClock().compare(VectorClock({"b": 1})) is Relation.BEFORE

    retirements = Retirements([{"d": 5}])
    pruned, kept = retirements.prune(last_of_d), retirements.prune(of_b)
    assert pruned == Pruned(retirements.floor, VectorClock())
    assert kept == Pruned(Floor(), of_b)
    assert pruned.compare(kept, retirements) is Relation.CONCURRENT
    with pytest.raises(UndecidedError, match="compared and merged with the list"):
        pruned.compare(kept)
    with pytest.raises(UndecidedError):
        pruned.merge(kept)


def test_what_all_have_heard_of_takes_no_room() -> None:
    departed = {f"departed-{number}": number + 1 for number in range(1_000)}
    retirements = Retirements([departed])
    clock = VectorClock({**departed, "present": 7})
    assert dict(retirements.prune(clock).rest.entries) == {"present": 7}


def test_clocks_of_one_floor_need_no_list() -> None:
    retirements = Retirements([{"d": 5}])
    one = retirements.prune(VectorClock({"d": 5, "a": 1}))
    other = retirements.prune(VectorClock({"d": 5, "a": 1, "b": 2}))
    assert one.compare(other) is Relation.BEFORE
    assert one.merge(other) == other


def test_who_returns_has_an_entry_again_and_may_leave_again() -> None:
    retirements = Retirements([{"d": 5}])
    gone = retirements.prune(VectorClock({"d": 5}))
    back = gone.advance("d", retirements)
    assert dict(back.rest.entries) == {"d": 6}
    assert gone.compare(back) is Relation.BEFORE
    longer = retirements.retire({"d": 6})
    assert longer.prune(longer.restore(back)).rest == VectorClock()
    assert longer.count(retirements.floor, "d") == 5
    assert longer.count(longer.floor, "d") == 6


def test_version_vectors_are_pruned_like_vector_clocks() -> None:
    retirements = Retirements([{"d": 5}])
    pruned = retirements.prune(VersionVector({"a": 1, "d": 5}))
    assert pruned == Pruned(retirements.floor, VersionVector({"a": 1}))
    assert retirements.restore(pruned) == VersionVector({"a": 1, "d": 5})
    assert retirements.restore(pruned.advance("a", retirements)).of("a") == 2


def test_an_floor_of_another_list_is_recognised() -> None:
    here, there = Retirements([{"d": 5}]), Retirements([{"e": 5}])
    mine, yours = here.prune(VectorClock({"d": 5})), there.prune(VectorClock({"e": 5}))
    for retirements in (None, here, there):
        with pytest.raises(UndecidedError):
            mine.compare(yours, retirements)
    with pytest.raises(UndecidedError, match="other participants were retired"):
        here.restore(yours)
    with pytest.raises(UndecidedError, match="get the later ones"):
        Retirements().restore(mine)
    with pytest.raises(UndecidedError):
        mine.advance("d", there)


def test_the_fingerprint_depends_on_all_retirements_so_far() -> None:
    """Fixed values: the same list has the same floors in every version of this package."""
    one = Retirements().retire({"d": 5})
    assert one.floor == Floor(1, bytes.fromhex("9cd557dced318b94"))
    assert Retirements([{"d": 5}, {"e": 1}]).floor == one.retire({"e": 1}).floor
    different = [
        Retirements([{"d": 5}]),
        Retirements([{"d": 6}]),
        Retirements([{"e": 5}]),
        Retirements([{"d": 5, "e": 1}]),
        Retirements([{"d": 5}, {"e": 1}]),
        Retirements([{"e": 1}, {"d": 5}]),
    ]
    assert len({retirements.floor.fingerprint for retirements in different}) == len(different)
    assert Retirements([{"d": 5, "e": 1}]).floor == Retirements([{"e": 1, "d": 5}]).floor


# What is refused, and the values.


def test_a_retirement_names_somebody_at_a_greater_count_than_before() -> None:
    retirements = Retirements([{"d": 5}])
    with pytest.raises(ClockValueError, match="names at least one participant"):
        retirements.retire({})
    with pytest.raises(ClockValueError, match="names at least one participant"):
        retirements.retire({"a": 0})
    for count in (1, 5):
        with pytest.raises(ClockValueError, match=f"at 5 already, so it cannot be at {count}"):
            retirements.retire({"d": count})
        with pytest.raises(ClockValueError, match="'d' is retired at 5 already"):
            Retirements([{"d": 5}, {"d": count}])
    with pytest.raises(ClockValueError, match="the counter of 'd'"):
        retirements.retire({"d": 2**63})


def test_a_clock_that_nothing_was_pruned_to_is_refused() -> None:
    retirements = Retirements([{"d": 5}])
    with pytest.raises(ClockValueError, match="the entry of 'd' is 5, not above the 5 of"):
        retirements.restore(Pruned(retirements.floor, VectorClock({"d": 5})))


def test_what_is_no_floor_or_no_pruned_clock_is_refused() -> None:
    with pytest.raises(ClockValueError, match="the number of a floor"):
        Floor(-1)
    for fingerprint in (b"", bytes(9), "0" * 8):
        with pytest.raises(ClockValueError, match="a fingerprint is 8 bytes"):
            Floor(1, fingerprint)  # type: ignore[arg-type]
    with pytest.raises(ClockValueError, match="floor 0 is zero"):
        Floor(0, b"12345678")
    with pytest.raises(ClockValueError, match="a pruned clock is a Floor and"):
        Pruned(Floor(), {"a": 1})  # type: ignore[type-var]
    with pytest.raises(ClockValueError, match="a pruned clock is a Floor and"):
        Pruned(1, VectorClock())  # type: ignore[arg-type]


def test_no_event_follows_the_greatest_and_a_name_must_be_one() -> None:
    retirements = Retirements([{"d": 2**63 - 1}])
    full = retirements.prune(VectorClock({"d": 2**63 - 1}))
    with pytest.raises(ClockOverflowError):
        full.advance("d", retirements)
    with pytest.raises(ClockValueError, match="must be text"):
        full.advance("", retirements)


def test_a_list_cannot_be_changed_but_copied_pickled_and_shown() -> None:
    retirements = Retirements([{"b": 1, "a": 2}, {"c": 1}])
    with pytest.raises(AttributeError, match="immutable"):
        retirements.each = ()  # type: ignore[misc]
    retirements.each[0]["a"] = 9  # a copy
    assert retirements.each == ({"a": 2, "b": 1}, {"c": 1})
    assert copy.deepcopy(retirements) == retirements == pickle.loads(pickle.dumps(retirements))
    assert hash(copy.copy(retirements)) == hash(retirements)
    assert repr(retirements) == "Retirements([{'a': 2, 'b': 1}, {'c': 1}])"
    assert retirements != retirements.retire({"d": 1})
    with pytest.raises(FrozenInstanceError):
        retirements.floor.number = 7  # type: ignore[misc]
