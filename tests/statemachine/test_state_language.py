"""Sagas by definition: what follows from each state, and what is undone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from statemachine import keys
from statemachine.commands import OperateGlobal
from statemachine.outcomes import RejectionCode
from statemachine.state import load_state
from statemachine.transactions.driving import GREATEST_RESULT_BYTES
from statemachine.transactions.state_language.definitions import get_head, get_versions
from statemachine.transactions.state_language.interpreter import (
    GREATEST_CONTEXT_BYTES,
)
from statemachine.transactions.state_language.runs import GREATEST_STATES_ENTERED
from tests.statemachine.building import code
from tests.statemachine.defining import Sagas, calling, machine, task, undoing

ANY = ["*"]


def shop(**more: object) -> dict[str, Any]:
    """Return a purchase: stock is taken, then money; a Choice in between; both can be undone."""
    return machine(
        "Reserve",
        Reserve=task(
            "reserve",
            "Enough",
            CompensateState="Release",
            Input=[{"sku": "$.[sku]", "count": "$.[count]"}],
            Output={"reservation": "$.id", "price": "$.price"},
        ),
        Release=undoing("reserve", Input=[{"id": "$.[reservation]"}]),
        Enough={
            "Type": "Choice",
            "Choices": [{"Expression": "[price] * [count] <= [budget]", "Next": "Pay"}],
            "Default": "TooDear",
        },
        Pay=task(
            "pay",
            "Done",
            CompensateState="Refund",
            Input=[{"amount": "$.[price] * [count]"}],
            Catch=[{"Exceptions": ANY, "Next": "GiveUp"}],
            **more,
        ),
        Refund=undoing("pay"),
        GiveUp={"Type": "CompensationTrigger", "Next": "Unpaid"},
        Unpaid={"Type": "Fail", "ErrorCode": "UNPAID", "Message": "the account refused"},
        TooDear={"Type": "Fail", "ErrorCode": "TOO_DEAR"},
        Done={"Type": "Succeed"},
    )


ORDER = {"sku": "a", "count": 2, "budget": 100}


# --- the way through


def test_a_saga_goes_from_state_to_state_with_what_they_gave_out() -> None:
    log = Sagas()
    log.run(shop(), ORDER)
    assert log.called() == ["Reserve"]
    assert log.body() == {"sku": "a", "count": 2}
    log.answer({"id": 7, "price": 19.5})
    assert log.called() == ["Pay"]
    assert log.body() == {"amount": 39}
    log.answer()
    assert log.ended() == "COMMITTED"
    assert log.states() == ["Reserve SU", "Enough SU", "Pay SU", "Done SU"]
    assert log.variables() == {**ORDER, "reservation": 7, "price": 19.5}
    assert log.statuses() == ["PHASE_TWO_COMMITTED"] * 2


def test_a_choice_without_a_match_takes_the_default_and_fail_undoes_what_was_done() -> None:
    log = Sagas()
    log.run(shop(), ORDER)
    log.answer({"id": 7, "price": 50.01})
    assert log.called() == ["Reserve undo"]
    assert log.body() == {"id": 7}
    assert log.undo_all() == ["Reserve"]
    assert log.ended() == "ROLLED_BACK TOO_DEAR"
    assert log.states() == ["Reserve SU", "Enough SU", "TooDear FA"]


def test_what_is_caught_leads_on_and_a_trigger_undoes_all_in_reverse() -> None:
    log = Sagas()
    log.run(shop(), ORDER)
    log.answer({"id": 7, "price": 10})
    log.fail()
    # A definite refusal did nothing, so there is nothing of Pay to undo.
    assert log.undo_all() == ["Reserve"]
    assert log.ended() == "ROLLED_BACK UNPAID: the account refused"
    assert log.states() == ["Reserve SU", "Enough SU", "Pay FA", "GiveUp SU", "Unpaid FA"]


def test_what_nobody_knows_of_is_undone_too_with_its_own_body() -> None:
    log = Sagas()
    log.run(shop(), ORDER)
    log.answer({"id": 7, "price": 10})
    log.lose()
    assert log.called() == ["Pay undo"]
    assert log.body() == {"amount": 20}
    assert log.undo_all() == ["Pay", "Reserve"]
    assert log.states()[2] == "Pay UN"


def test_a_state_that_fails_uncaught_has_everything_undone() -> None:
    log = Sagas()
    log.run(shop(), ORDER)
    log.fail("OUT_OF_STOCK")
    assert log.ended() == "ROLLED_BACK state Reserve failed: OUT_OF_STOCK: no stock"


def test_after_a_catch_that_leads_elsewhere_the_saga_commits_without_what_failed() -> None:
    log = Sagas()
    log.run(
        machine(
            "A",
            A=task("a", Catch=[{"Exceptions": ["REFUSED"], "Next": "B"}]),
            B=task("b", Input=[{"because": "$.#error.type", "in": "$.#error.state"}]),
        )
    )
    log.fail("SOLD_OUT")
    assert log.body() == {"because": "SOLD_OUT", "in": "A"}
    log.answer()
    assert log.ended() == "COMMITTED"
    assert log.statuses() == ["WITHDRAWN", "PHASE_TWO_COMMITTED"]


CAUGHT: list[tuple[list[str], str, bool, bool]] = [
    (["*"], "TIMEOUT", False, True),
    (["java.lang.Throwable"], "SOLD_OUT", True, True),
    (["SOLD_OUT"], "SOLD_OUT", True, True),
    (["SOLD_OUT"], "SOLD", True, False),
    (["REFUSED"], "SOLD_OUT", True, True),
    (["REFUSED"], "TIMEOUT", False, False),
    (["STATUS_5*"], "STATUS_503", False, True),
    (["STATUS_5*"], "STATUS_404", False, False),
    (["A", "B", "TIMEOUT"], "TIMEOUT", False, True),
]


@pytest.mark.parametrize(("names", "failure", "definite", "caught"), CAUGHT)
def test_a_catch_names_failures(
    names: list[str], failure: str, definite: bool, caught: bool
) -> None:
    log = Sagas()
    catch = [{"Exceptions": names, "Next": "B"}]
    log.run(machine("A", A=task("a", Catch=catch), B=task("b")))
    (log.fail if definite else log.lose)(failure)
    assert log.called() == (["B"] if caught else [])


STATUSES: list[tuple[dict[str, str], object, str]] = [
    ({}, {"ok": False}, "SU"),
    ({"#root.ok == false": "FA"}, {"ok": False}, "FA"),
    ({"#root.ok == false": "FA"}, {"ok": True}, "SU"),
    ({"#root.ok == true": "SU", "#root != null": "UN"}, {"ok": True}, "SU"),
    ({"#root.ok == true": "SU", "#root != null": "UN"}, {"ok": False}, "UN"),
    ({"#root.ok.deep > 1": "FA"}, {"ok": False}, "SU"),
    ({"#root == null": "FA"}, None, "FA"),
]


@pytest.mark.parametrize(("rules", "answer", "status"), STATUSES)
def test_the_status_of_a_state_follows_from_its_answer(
    rules: dict[str, str], answer: object, status: str
) -> None:
    log = Sagas()
    log.run(machine("A", A=task("a", CompensateState="U", Status=rules), U=undoing("a")))
    log.answer(answer)
    assert log.states() == [f"A {status}"]
    assert log.called() == (["A undo"] if status == "UN" else [])
    assert log.row().status.startswith("COMMIT" if status == "SU" else "ROLL")


def test_failures_have_a_status_too() -> None:
    for rule, undone in (("UN", ["A undo"]), ("FA", [])):
        log = Sagas()
        log.run(
            machine(
                "A",
                A=task("a", CompensateState="U", Status={"$Exception{TIMEOUT}": rule}),
                U=undoing("a"),
            )
        )
        log.lose()
        assert log.called() == undone
        assert log.states() == [f"A {rule}"]


def test_a_state_that_changes_no_data_has_done_nothing_when_it_is_lost() -> None:
    log = Sagas()
    log.run(machine("A", A=task("a")))
    log.lose()
    assert log.states() == ["A FA"]
    log = Sagas()
    log.run(machine("A", A=task("a", IsForUpdate=True)))
    log.lose()
    assert log.states() == ["A UN"]


def test_an_answer_too_great_to_keep_fails_its_state_which_is_undone() -> None:
    log = Sagas()
    log.run(machine("A", A=task("a", CompensateState="U"), U=undoing("a")))
    log.answer("x" * (GREATEST_RESULT_BYTES + 1))
    assert log.called() == ["A undo"]
    assert "RESULT_TOO_LARGE" in log.row().reason


def test_a_compensation_that_is_refused_keeps_no_other_from_being_done() -> None:
    log = Sagas()
    log.run(shop(), ORDER)
    log.answer({"id": 7, "price": 10})
    log.lose()
    assert log.called() == ["Pay undo"]
    log.fail()
    assert log.called() == ["Reserve undo"]
    log.answer()
    assert log.row().status == "ROLLBACK_FAILED"
    assert [each.running for each in get_versions(log.store, "d")] == [1]
    log.do(OperateGlobal(xid="x", action="FORGET", reason="by hand", principal="me"))
    assert log.row().status == "FINISHED"
    assert [each.running for each in get_versions(log.store, "d")] == [0]


# --- repetitions


def test_what_fails_is_repeated_by_the_first_rule_that_means_it_later_and_later() -> None:
    log = Sagas()
    rules = [
        {"Exceptions": ["STATUS_503"], "IntervalSeconds": 2, "MaxAttempts": 3, "BackoffRate": 1.5},
        {"IntervalSeconds": 0.25, "MaxAttempts": 1},
    ]
    log.run(machine("A", A=task("a", Retry=rules)))
    waits = []
    for failure in ("STATUS_503", "STATUS_503", "TIMEOUT", "STATUS_503"):
        log.lose(failure)
        waits.append(log.row().due_ms - log.elapsed_ms)
    assert waits == [2_000, 3_000, 250, 4_500]
    log.lose("STATUS_503")
    assert log.ended() == "ROLLED_BACK state A failed: STATUS_503: no answer"


def test_a_refusal_is_repeated_only_by_a_rule_that_names_it() -> None:
    for names, again in ((["SOLD_OUT"], True), (["*"], True), ([], False)):
        log = Sagas()
        log.run(machine("A", A=task("a", Retry=[{"Exceptions": names, "MaxAttempts": 1}])))
        log.fail("SOLD_OUT")
        assert log.called() == (["A"] if again else [])


def test_recovery_forward_repeats_what_nothing_catches() -> None:
    for definition, asked in (({"RecoverStrategy": "Forward"}, False), ({}, True)):
        log = Sagas()
        catch = [{"Exceptions": ["SOLD_OUT"], "Next": "B"}]
        states = machine("A", A=task("a", Catch=catch), B={"Type": "Fail"})
        log.run({**states, **definition}, forward_recovery=asked)
        for _ in range(3):
            log.lose()
        assert log.called() == ["A"]
        assert log.branches()[0].attempts == 3
        log.fail("SOLD_OUT")
        assert log.ended() == "ROLLED_BACK FAILED"


def test_a_saga_past_its_time_is_undone() -> None:
    log = Sagas()
    log.put({**shop(), "TimeoutMs": 5_000})
    log.start(ORDER)
    log.answer({"id": 7, "price": 10})
    log.wait(5_000)
    log.fire_due()
    assert log.row().status == "TIMEOUT_ROLLING_BACK"
    assert log.undo_all() == ["Pay", "Reserve"]
    assert log.states() == ["Reserve SU", "Enough SU", "Pay UN"]


# --- bounds


def test_a_saga_that_goes_round_and_round_is_undone() -> None:
    log = Sagas()
    again = {"Type": "Choice", "Choices": [{"Expression": "true", "Next": "A"}]}
    log.run(machine("A", A=task("a", "Again"), Again=again))
    calls = 0
    while log.called() == ["A"]:
        log.answer()
        calls += 1
    assert calls == GREATEST_STATES_ENTERED // 2
    assert log.ended().startswith("ROLLED_BACK TOO_MANY_STATES")


def test_variables_that_grow_too_great_fail_their_state_which_is_undone() -> None:
    log = Sagas()
    log.run(
        machine(
            "A",
            A=task("a", "A2", Output={"a": "$.#root"}),
            A2=task("b", "A3", Output={"b": "$.#root"}),
            A3=task("c", CompensateState="U", Output={"c": "$.#root"}),
            U=undoing("c"),
        )
    )
    for _ in range(3):
        log.answer("x" * (GREATEST_CONTEXT_BYTES // 2 - 1_000))
    assert log.called() == ["A3 undo"]
    assert "CONTEXT_TOO_LARGE" in log.row().reason


def test_variables_of_many_machines_that_grow_too_great_together_end_the_saga() -> None:
    log = Sagas()
    log.put(machine("A", A=task("a")), "inner")
    rounds = {"Collection": "$.[items]", "Parallel": 100}
    calls = calling("inner", Loop=rounds, Input=[{"all": "$.[text]"}])
    log.run(machine("S", S=calls), {"text": "x" * 30_000, "items": [0] * 50})
    assert log.ended().startswith("ROLLED_BACK TOO_MUCH_DATA")


@pytest.mark.parametrize(
    "expression", ["[a].b.c", "[a] + 1", "[items][7]", "[a] and true", "1 / 0", "-[a]"]
)
def test_an_expression_without_a_value_fails_the_state_that_needs_it(expression: str) -> None:
    log = Sagas()
    log.run(machine("A", A=task("a", Input=[f"$.{expression}"])), {"items": []})
    assert log.ended().startswith("ROLLED_BACK state A failed: EXPRESSION_FAILED")
    log = Sagas()
    choices = [{"Expression": expression, "Next": "A"}]
    log.run(machine("C", C={"Type": "Choice", "Choices": choices}, A=task("a")), {"items": []})
    assert log.ended().startswith("ROLLED_BACK state C failed: EXPRESSION_FAILED")


def test_a_choice_that_nothing_matches_fails() -> None:
    log = Sagas()
    choices = [{"Expression": "false", "Next": "A"}]
    log.run(machine("C", C={"Type": "Choice", "Choices": choices}, A=task("a")))
    assert log.ended().startswith("ROLLED_BACK state C failed: NO_CHOICE")


def test_an_answer_that_nobody_can_compute_with_fails_its_state_which_is_undone() -> None:
    log = Sagas()
    log.run(machine("A", A=task("a", CompensateState="U"), U=undoing("a")))
    log.answer(json.loads("[" * 70 + "]" * 70))
    assert log.called() == ["A undo"]
    assert "RESULT_UNUSABLE" in log.row().reason


@pytest.mark.parametrize("variables", [[], 5, "x", {"a": "x" * 70_000}])
def test_the_input_is_an_object_of_bounded_size(variables: object) -> None:
    log = Sagas()
    log.put(machine("A", A=task("a")))
    assert code(log.start(variables)) is RejectionCode.INVALID_COMMAND


# --- versions


def test_a_saga_keeps_the_version_it_began_with_and_a_newer_one_is_followed_by_the_next() -> None:
    log = Sagas()
    log.put(machine("A", A=task("a", "B"), B=task("b")))
    log.start(xid="x")
    assert log.put(machine("A", A=task("a", "C"), C=task("c"))).version == 2
    log.start(xid="y")
    for xid in "xy":
        log.answer(xid=xid)
    assert (log.called("x"), log.called("y")) == (["B"], ["C"])
    assert [(each.version, each.running) for each in get_versions(log.store, "d")] == [
        (1, 1),
        (2, 1),
    ]
    log.answer(xid="x")
    assert [(each.version, each.running) for each in get_versions(log.store, "d")] == [(2, 1)]


def test_the_same_definition_again_is_no_new_version() -> None:
    log = Sagas()
    assert (log.put(shop()).version, log.put(shop()).changed) == (1, False)
    assert log.put(shop(IsForUpdate=True)).version == 2
    assert [each.version for each in get_versions(log.store, "d")] == [2]


def test_a_deleted_definition_is_followed_to_the_end_by_those_that_began() -> None:
    log = Sagas()
    log.put(machine("A", A=task("a", "B"), B=task("b")))
    log.start()
    assert log.delete()
    assert not log.delete()
    assert code(log.start(xid="y")) is RejectionCode.SAGA_DEFINITION_NOT_FOUND
    for _ in range(2):
        log.answer()
    assert log.ended() == "COMMITTED"
    assert get_head(log.store, "d") is None
    assert log.rows(keys.SAGA_DEFINITION) == []
    assert load_state(log.store).saga_definition_count == 0


def test_nothing_is_left_of_a_saga_whose_retention_is_over() -> None:
    log = Sagas()
    log.run(machine("A", A=task("a")))
    log.answer()
    log.wait(25 * 3_600_000)
    log.fire_due()
    assert log.rows(keys.SAGA_RUN) == []
    assert log.rows(keys.BRANCH) == []
