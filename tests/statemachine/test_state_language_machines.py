"""Sagas by definition: loops, and machines within machines."""

from __future__ import annotations

from typing import Any

import pytest

from statemachine.outcomes import RejectionCode
from statemachine.transactions.state_language.definitions import get_versions
from statemachine.transactions.state_language.interpreter import (
    GREATEST_ROUNDS,
    GREATEST_SUB_MACHINES,
)
from tests.statemachine.building import code
from tests.statemachine.defining import Sagas, calling, machine, task, undoing

# --- loops


def loop(**more: object) -> dict[str, Any]:
    rows: dict[str, object] = {"Collection": "$.[items]", "ElementVariableName": "item", **more}
    return machine(
        "Pack",
        Pack=task(
            "pack",
            "After",
            Loop=rows,
            Input=[{"item": "$.[item]", "number": "$.[loopCounter]"}],
            Output={"box": "$.box"},
            CompensateState="Unpack",
        ),
        Unpack=undoing("pack", Input=[{"item": "$.[item]", "box": "$.[box]"}]),
        After=task("after", Input=[{"boxes": "$.[loopResult]"}]),
    )


def test_a_loop_calls_for_each_element_and_gathers_what_they_gave_out() -> None:
    log = Sagas()
    log.run(loop(), {"items": ["a", "b"]})
    assert log.called() == ["Pack[0]"]
    assert log.body() == {"item": "a", "number": 0}
    log.answer({"box": 1})
    assert log.body() == {"item": "b", "number": 1}
    log.answer({"box": 2})
    assert log.called() == ["After"]
    assert log.body() == {"boxes": [{"box": 1}, {"box": 2}]}
    log.fail()
    assert log.body() == {"item": "b", "box": 2}
    assert log.undo_all() == ["Pack[1]", "Pack[0]"]


def test_rounds_are_made_at_once_as_far_as_they_may() -> None:
    log = Sagas()
    log.run(loop(Parallel=2), {"items": [1, 2, 3]})
    assert log.called() == ["Pack[0]", "Pack[1]"]
    log.answer({"box": "second"}, name="Pack[1]")
    assert log.called() == ["Pack[0]", "Pack[2]"]
    log.answer({"box": "third"}, name="Pack[2]")
    log.answer({"box": "first"})
    assert [each["box"] for each in log.variables()["loopResult"]] == ["first", "second", "third"]


def test_a_round_that_fails_lets_no_further_one_begin_but_those_under_way_end() -> None:
    log = Sagas()
    log.run(loop(Parallel=2), {"items": [1, 2, 3]})
    log.fail(name="Pack[0]")
    assert log.called() == ["Pack[1]"]
    log.answer({"box": 5})
    assert log.undo_all() == ["Pack[1]"]
    assert log.states() == ["Pack FA"]


def test_a_loop_ends_when_enough_is_done() -> None:
    log = Sagas()
    condition = "[nrOfCompletedInstances] / [nrOfInstances] >= 0.6"
    log.run(loop(CompletionCondition=condition), {"items": [1, 2, 3, 4, 5]})
    for _ in range(3):
        log.answer({"box": 0})
    assert log.called() == ["After"]
    assert log.body() == {"boxes": [{"box": 0}] * 3 + [None] * 2}


def test_a_loop_over_nothing_makes_no_round() -> None:
    log = Sagas()
    log.run(loop(), {"items": []})
    assert log.body() == {"boxes": []}


@pytest.mark.parametrize("items", [None, 5, {"a": 1}, list(range(GREATEST_ROUNDS + 1))])
def test_a_loop_over_no_array_or_too_long_a_one_fails(items: object) -> None:
    log = Sagas()
    log.run(loop(), {"items": items})
    assert log.ended().startswith("ROLLED_BACK state Pack failed: LOOP_FAILED")


# --- machines within machines


def test_a_sub_machine_has_variables_of_its_own_and_gives_out_what_it_ends_with() -> None:
    log = Sagas()
    log.put(
        machine(
            "Pack",
            Pack=task("pack", Input=[{"what": "$.[what]"}], Output={"box": "$.box"},
                      CompensateState="Unpack"),
            Unpack=undoing("pack", Input=[{"box": "$.[box]", "why": "$.[why]"}]),
        ),
        "ship",
    )  # fmt: skip
    log.run(
        machine(
            "Ship",
            Ship={
                "Type": "SubStateMachine",
                "StateMachineName": "ship",
                "Input": [{"what": "$.[sku]"}],
                "Output": {"shipped": "$.#root.box"},
                "CompensateState": "Unship",
                "Next": "Tell",
            },
            Unship={"Type": "CompensateSubMachine", "Input": [{"why": "$.[reason]"}]},
            Tell=task("tell", Input=[{"box": "$.[shipped]"}]),
        ),
        {"sku": "a", "reason": "r"},
    )
    assert log.called() == ["Ship/Pack"]
    assert log.body() == {"what": "a"}
    log.answer({"box": 9})
    assert log.called() == ["Tell"]
    assert log.body() == {"box": 9}
    log.fail()
    assert log.called() == ["Ship/Pack undo"]
    assert log.body() == {"box": 9, "why": "r"}
    assert log.undo_all() == ["Ship/Pack"]
    assert log.states() == ["Ship SU", "Ship/Pack SU", "Tell FA"]


def test_a_sub_machine_that_fails_fails_the_state_that_called_it() -> None:
    log = Sagas()
    log.put(machine("F", F={"Type": "Fail", "ErrorCode": "CLOSED", "Message": "m"}), "inner")
    catch = [{"Exceptions": ["CLOSED"], "Next": "B"}]
    log.run(machine("S", S=calling("inner", Catch=catch), B=task("b")))
    assert log.called() == ["B"]
    other = Sagas()
    other.put(machine("F", F={"Type": "Fail", "ErrorCode": "CLOSED", "Message": "m"}), "inner")
    other.run(machine("S", S=calling("inner")))
    assert other.ended() == "ROLLED_BACK state S failed: CLOSED: m"
    assert other.states() == ["S FA", "S/F FA"]


def test_a_loop_runs_sub_machines_side_by_side() -> None:
    log = Sagas()
    log.put(machine("A", A=task("a", "B"), B=task("b", Output={"n": "$.n"})), "inner")
    rounds = {"Collection": "$.[items]", "Parallel": 2}
    log.run(
        machine("S", S=calling("inner", Loop=rounds, Output={"n": "$.n"})), {"items": [1, 2, 3]}
    )
    assert log.called() == ["S[0]/A", "S[1]/A"]
    log.answer(name="S[1]/A")
    assert log.called() == ["S[0]/A", "S[1]/B"]
    log.answer({"n": 5}, name="S[1]/B")
    assert log.called() == ["S[0]/A", "S[2]/A"]
    for name in ("S[0]/A", "S[0]/B", "S[2]/A", "S[2]/B"):
        log.answer({"n": 1}, name=name)
    assert log.ended() == "COMMITTED"
    assert log.variables()["loopResult"] == [{"n": 1}, {"n": 5}, {"n": 1}]


def test_machines_that_call_each_other_for_ever_are_stopped() -> None:
    log = Sagas()
    log.put(machine("S", S=calling("d")), "e")
    log.run(machine("S", S=calling("e")))
    assert "SUB_MACHINE_FAILED" in log.ended()
    assert log.row().status == "ROLLED_BACK"


def test_sub_machines_within_each_other_have_a_bound() -> None:
    log = Sagas()
    log.run(machine("S", S=calling("d")))
    assert log.ended() == (
        "ROLLED_BACK state S failed: SUB_MACHINE_FAILED: there are too many sub-machines: at most "
        f"{GREATEST_SUB_MACHINES} within each other, 200 at once"
    )
    assert len(log.records()) == GREATEST_SUB_MACHINES + 1


def test_what_a_state_above_catches_is_not_repeated_by_recovery_forward() -> None:
    log = Sagas()
    log.put(machine("A", A=task("a")), "inner")
    catch = [{"Exceptions": ["TIMEOUT"], "Next": "B"}]
    log.run(machine("S", S=calling("inner", Catch=catch), B=task("b")), forward_recovery=True)
    log.lose("STATUS_503")
    assert log.called() == ["S/A"]
    log.lose("TIMEOUT")
    assert log.called() == ["B"]


def test_a_call_under_way_in_a_sub_machine_is_undone_with_the_variables_for_it() -> None:
    log = Sagas()
    inner = machine("A", A=task("a", CompensateState="U"), U=undoing("a", Input=["$.[why]"]))
    log.put(inner, "inner")
    log.run(
        machine(
            "S",
            S=calling("inner", CompensateState="Undo"),
            Undo={"Type": "CompensateSubMachine", "Input": [{"why": "$.[reason]"}]},
        ),
        {"reason": "r"},
    )
    log.roll_back()
    assert (log.called(), log.body()) == (["S/A undo"], "r")


def test_a_machine_that_is_not_there_cannot_be_followed() -> None:
    log = Sagas()
    assert code(log.start()) is RejectionCode.SAGA_DEFINITION_NOT_FOUND
    log.put(machine("S", S=calling("other")))
    assert code(log.start()) is RejectionCode.SAGA_DEFINITION_NOT_FOUND
    assert [each.running for each in get_versions(log.store, "d")] == [0]
