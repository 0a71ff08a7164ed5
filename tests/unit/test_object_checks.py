"""Each rule of versioned objects is broken once, and found."""

from __future__ import annotations

from dataclasses import replace

from scripts.tidelock_scripts.chaos.object_checks import ObjectCall, StoredWrite, check_objects

FIRST = ObjectCall("k", 0, 10, (("a", 1),), {("a", 1): b"1"}, "a", b"1")
BESIDE = ObjectCall("k", 5, 20, (("a", 1), ("b", 1)), {("a", 1): b"1", ("b", 1): b"2"}, "b", b"2")
MERGED = ObjectCall(
    "k", 30, 40, (("a", 2), ("b", 1)), {("a", 2): b"3"}, "a", b"3", (("a", 1), ("b", 1))
)
READ = ObjectCall("k", 50, 60, MERGED.context, MERGED.siblings)


def rules(*calls: ObjectCall) -> set[str]:
    return {found.rule for found in check_objects(calls)}


def test_nothing_is_wrong_with_writes_beside_each_other_and_one_that_had_read_both() -> None:
    assert rules(FIRST, BESIDE, MERGED, READ) == set()


def test_objects_have_nothing_to_do_with_each_other() -> None:
    assert rules(FIRST, BESIDE, replace(FIRST, key="l", value=b"9", siblings={("a", 1): b"9"})) == (
        set()
    )


def test_a_write_that_is_not_in_its_own_answer_is_found() -> None:
    assert rules(replace(FIRST, siblings={("a", 1): b"9"})) == {"a write is in its own answer"}
    assert rules(replace(FIRST, context=())) == {"a write is in its own answer"}


def test_a_dot_that_is_given_twice_is_found() -> None:
    again = replace(FIRST, value=b"7", siblings={("a", 1): b"7"})
    assert "no dot is given twice" in rules(FIRST, again)


def test_a_value_that_was_lost_is_found() -> None:
    lost = replace(BESIDE, siblings={("b", 1): b"2"})
    assert rules(FIRST, lost) == {"what nobody had read stays, and nothing else"}


def test_a_value_that_came_back_is_found() -> None:
    back = replace(READ, siblings={**MERGED.siblings, ("b", 1): b"2"})
    assert rules(FIRST, BESIDE, MERGED, back) == {"what nobody had read stays, and nothing else"}


def test_states_that_are_beside_each_other_are_found() -> None:
    aside = ObjectCall("k", 5, 20, (("b", 1),), {("b", 1): b"2"}, "b", b"2")
    assert rules(FIRST, aside) == {"one state follows another"}


def test_a_state_that_is_older_than_what_was_answered_before_is_found() -> None:
    stale = ObjectCall("k", 70, 80, FIRST.context, FIRST.siblings)
    assert rules(FIRST, BESIDE, MERGED, stale) == {"what was answered before is there"}


def test_a_write_of_which_nobody_was_told_counts_as_well() -> None:
    untold = StoredWrite("k", ("b", 1), (("a", 1),), None)
    after = ObjectCall("k", 30, 40, (("a", 1), ("b", 1)), {("b", 1): b"2"})
    assert check_objects([FIRST, after], [untold]) == []
    beside = replace(untold, read=())
    (found,) = check_objects([FIRST, after], [beside])
    assert found.rule == "what nobody had read stays, and nothing else"
