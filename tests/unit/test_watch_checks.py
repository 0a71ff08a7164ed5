"""Each rule of the watch is broken once in a stream, and found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from scripts.tidelock_scripts.chaos.checkers import Violation
from scripts.tidelock_scripts.chaos.watch_checks import (
    check_filtered,
    check_streams,
    check_told,
    position_of,
)


def message(position: str, *kinds: str) -> dict[str, Any]:
    return {"id": position, "changes": [{"kind": kind} for kind in kinds]}


STREAM = [message("9.1", "a"), message("9.2", "b", "a"), message("10.0", "b")]


def rules(violations: Sequence[Violation]) -> set[str]:
    return {violation.rule for violation in violations}


def test_streams_that_say_the_same_are_as_promised() -> None:
    assert check_streams({"one": STREAM, "other": list(STREAM)}) == []


def test_positions_are_numbers_and_not_texts() -> None:
    assert position_of("9.2") < position_of("10.0")
    assert position_of("") == (0, 0)


@pytest.mark.parametrize(
    "wrong",
    [[STREAM[1], STREAM[0]], [STREAM[0], STREAM[0]]],
    ids=["out of order", "twice"],
)
def test_a_stream_that_goes_back_is_found(wrong: list[dict[str, Any]]) -> None:
    assert rules(check_streams({"one": wrong})) == {"each change once and in order"}


@pytest.mark.parametrize("left_out", [0, 1, 2])
def test_a_change_that_one_watcher_is_not_told_is_found(left_out: int) -> None:
    short = STREAM[:left_out] + STREAM[left_out + 1 :]
    assert rules(check_streams({"one": STREAM, "other": short})) == {
        "all watchers are told the same"
    }
    assert rules(check_streams({"one": short, "other": STREAM})) == {
        "all watchers are told the same"
    }


def test_a_filter_leaves_out_the_others_only() -> None:
    filtered = [message("9.1", "a"), message("9.2", "a")]
    assert check_filtered(filtered, STREAM, lambda kind: kind == "a") == []
    for wrong in (filtered[:1], STREAM, [message("9.1", "a"), STREAM[1]]):
        assert rules(check_filtered(wrong, STREAM, lambda kind: kind == "a")) == {
            "a filter leaves out the others only"
        }


def test_what_is_stored_and_not_told_is_found() -> None:
    assert check_told("events", ["e1", "e2"], ["e1", "e2"]) == []
    for told in (["e1"], ["e1", "e2", "e2"], ["e2", "e1"], []):
        assert rules(check_told("events", told, ["e1", "e2"])) == {
            "watchers are told what is stored"
        }
