"""Definitions as they are read: what each field may say, and how what is wrong is told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from statemachine.transactions.state_language.fields import GREATEST_FAULTS
from statemachine.transactions.state_language.model import Compensation, Definition, ServiceTask
from statemachine.transactions.state_language.reading import (
    GREATEST_DOCUMENT_BYTES,
    GREATEST_STATES,
    InvalidDefinitionError,
    read_definition,
)
from tests.statemachine.defining import machine, task, undoing


def read(definition: object) -> Definition:
    return read_definition(json.dumps(definition).encode())


def faults(definition: object) -> dict[str, str]:
    """Return what is wrong, by path."""
    try:
        read(definition)
    except InvalidDefinitionError as error:
        return {each.path: each.message for each in error.faults}
    return {}


def of_state(state: object, **others: object) -> dict[str, str]:
    """Return what is wrong with a state A, without the way to it."""
    found = faults(machine("A", A=state, **others))
    return {path.removeprefix("States.A."): message for path, message in found.items()}


def test_a_service_task_of_seata_is_read() -> None:
    definition = read(
        {
            "Name": "reduceInventoryAndBalance",
            "Comment": "stock, then money",
            "StartState": "ReduceInventory",
            "Version": "0.0.1",
            "States": {
                "ReduceInventory": {
                    "Type": "ServiceTask",
                    "ServiceName": "http://shop/inventory/",
                    "ServiceMethod": "reduce",
                    "CompensateState": "CompensateReduceInventory",
                    "IsPersist": True,
                    "IsAsync": False,
                    "Next": "Choice",
                    "Input": ["$.[businessKey]", "$.[count]"],
                    "Output": {"reduceInventoryResult": "$.#root"},
                    "Status": {
                        "#root == true": "SU",
                        "#root == false": "FA",
                        "$Exception{java.lang.Throwable}": "UN",
                    },
                    "Retry": [
                        {"Exceptions": ["TIMEOUT"], "IntervalSeconds": 1.5, "MaxAttempts": 3,
                         "BackoffRate": 1.5},
                    ],
                    "Catch": [{"Exceptions": ["java.lang.Throwable"], "Next": "Trigger"}],
                },
                "Choice": {
                    "Type": "Choice",
                    "Choices": [{"Expression": "[reduceInventoryResult] == true", "Next": "End"}],
                    "Default": "Fail",
                },
                "CompensateReduceInventory": {
                    "Type": "ServiceTask",
                    "ServiceName": "http://shop/inventory/",
                    "ServiceMethod": "compensateReduce",
                    "Input": ["$.[businessKey]"],
                },
                "Trigger": {"Type": "CompensationTrigger", "Next": "Fail"},
                "End": {"Type": "Succeed"},
                "Fail": {"Type": "Fail", "ErrorCode": "NOT_ENOUGH", "Message": "no stock"},
            },
        }
    )  # fmt: skip
    reduce = definition.states["ReduceInventory"]
    assert isinstance(reduce, ServiceTask)
    assert (reduce.url, reduce.changes_data) == ("http://shop/inventory/reduce", True)
    assert reduce.retries[0].interval_ms == 1_500
    assert reduce.retries[0].backoff_permille == 1_500
    undo = definition.states["CompensateReduceInventory"]
    assert isinstance(undo, Compensation)
    assert undo.url == "http://shop/inventory/compensateReduce"


WRONG_STATES: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["Type"]),
    ({"Type": "Wait"}, ["Type"]),
    ({"Type": 5}, ["Type"]),
    ({"Type": "ServiceTask"}, ["ServiceUrl"]),
    (task("a", ServiceName="http://b"), ["ServiceName"]),
    ({"Type": "ServiceTask", "ServiceName": "bean", "ServiceMethod": "m"}, ["ServiceName"]),
    (task("a", HttpMethod="GET"), ["HttpMethod"]),
    (task("a", ServiceType="springBean"), ["ServiceType"]),
    (task("a", IsAsync=True), ["IsAsync"]),
    (task("a", ParameterTypes=[]), ["ParameterTypes"]),
    (task("a", Colour="red"), ["Colour"]),
    (task("a", IsForUpdate="yes"), ["IsForUpdate"]),
    (task("a", TimeoutMs=0), ["TimeoutMs"]),
    (task("a", Next="B"), ["Next"]),
    (task("a", CompensateState="B"), ["CompensateState"]),
    (task("a", CompensateState="A"), ["CompensateState"]),
    (task("a", Input="$.x"), ["Input"]),
    (task("a", Input=["$.x +"]), ["Input[0]"]),
    (task("a", Input=["$.a", {"b": ["$.("]}]), ["Input[1].b[0]"]),
    (task("a", Output=[1]), ["Output"]),
    (task("a", Output={"": "$.a", "b": "$.["}), ["Output.", "Output.b"]),
    (task("a", Status={"#root ==": "SU"}), ["Status.#root =="]),
    (task("a", Status={"true": "OK"}), ["Status.true"]),
    (task("a", Retry={"MaxAttempts": 1}), ["Retry"]),
    (task("a", Retry=[{}]), ["Retry[0].MaxAttempts"]),
    (task("a", Retry=[{"MaxAttempts": 1.5}]), ["Retry[0].MaxAttempts"]),
    (task("a", Retry=[{"MaxAttempts": 1, "IntervalSeconds": -1}]), ["Retry[0].IntervalSeconds"]),
    (task("a", Retry=[{"MaxAttempts": 1, "BackoffRate": "2"}]), ["Retry[0].BackoffRate"]),
    (task("a", Retry=[{"MaxAttempts": 1, "Exceptions": [5]}]), ["Retry[0].Exceptions[0]"]),
    (task("a", Catch=[{"Exceptions": ["*"]}]), ["Catch[0].Next"]),
    (task("a", Catch=[{"Next": "A"}]), ["Catch[0].Exceptions"]),
    (task("a", Catch=[{"Exceptions": ["*"], "Next": "B"}]), ["Catch[0].Next"]),
    (task("a", Loop={}), ["Loop.Collection"]),
    (task("a", Loop={"Collection": "$.[a]", "Parallel": 0}), ["Loop.Parallel"]),
    (task("a", Loop={"Collection": "$.[a]", "CompletionCondition": "("}),
     ["Loop.CompletionCondition"]),
    ({"Type": "Choice"}, ["Choices"]),
    ({"Type": "Choice", "Choices": []}, ["Choices"]),
    ({"Type": "Choice", "Choices": [{"Next": "A"}]}, ["Choices[0].Expression"]),
    ({"Type": "Choice", "Choices": [{"Expression": "true", "Next": "B"}]}, ["Choices[0].Next"]),
    ({"Type": "Choice", "Choices": [{"Expression": "true"}]}, ["Choices[0].Next"]),
    ({"Type": "SubStateMachine"}, ["StateMachineName"]),
    ({"Type": "SubStateMachine", "StateMachineName": "x", "Retry": []}, ["Retry"]),
    ({"Type": "CompensationTrigger", "Next": "B"}, ["Next"]),
    ({"Type": "CompensationTrigger", "Next": "A"}, ["Next"]),
    ({"Type": "Succeed", "Next": "A"}, ["Next"]),
    ({"Type": "Fail", "ErrorCode": 5}, ["ErrorCode"]),
]  # fmt: skip


@pytest.mark.parametrize(("state", "paths"), WRONG_STATES)
def test_what_is_wrong_with_a_state_is_told_with_its_path(
    state: dict[str, Any], paths: list[str]
) -> None:
    assert list(of_state(state)) == paths


def test_a_state_that_undoes_is_reached_by_nothing_else_and_leads_nowhere() -> None:
    undone = task("a", CompensateState="U")
    assert of_state(undone, U=undoing("a", Next="A")) == {
        "States.U.Next": "has no meaning in a state that undoes another: it is repeated until its "
        "HTTP status says that it is done"
    }
    assert list(of_state({**undone, "Next": "U"}, U=undoing("a"))) == ["Next"]
    assert list(faults(machine("U", A=undone, U=undoing("a")))) == ["StartState"]
    sub = {"Type": "CompensateSubMachine"}
    assert list(of_state(undone, U=sub)) == ["CompensateState"]
    calling = {"Type": "SubStateMachine", "StateMachineName": "x", "CompensateState": "U"}
    assert of_state(calling, U=sub) == {}
    assert list(of_state(calling, U=undoing("a"))) == ["CompensateState"]


def test_choices_that_lead_round_are_refused() -> None:
    def choice(*following: str) -> dict[str, object]:
        rows = [{"Expression": "true", "Next": each} for each in following]
        return {"Type": "Choice", "Choices": rows}

    found = faults(machine("A", A=choice("B"), B=choice("C", "T"), C=choice("A"), T=task("t")))
    assert list(found) == ["States.A", "States.B", "States.C"]
    assert faults(machine("A", A=choice("B"), B=choice("T"), T=task("t", "A"))) == {}


@pytest.mark.parametrize(
    "name", ["", "a/b", "a[0]", "x" * 65, "a\n", "a\x7f"]
)  # fmt: skip
def test_states_have_usable_names(name: str) -> None:
    assert list(faults({"StartState": "A", "States": {name: {"Type": "Succeed"}}})) == [
        f"States.{name[:64]}"
    ]


@pytest.mark.parametrize(
    ("document", "path"),
    [
        (b"", ""),
        (b"[]", ""),
        (b"5", ""),
        (b"{" * 100, ""),
        (b'{"a":' * 100 + b"1" + b"}" * 100, ""),
        (b'{"States": 1e99999}', ""),
        (b"x" * (GREATEST_DOCUMENT_BYTES + 1), ""),
    ],
)
def test_what_is_no_definition_at_all_says_so(document: bytes, path: str) -> None:
    with pytest.raises(InvalidDefinitionError) as refused:
        read_definition(document)
    assert refused.value.faults[0].path == path


def test_there_are_bounds_to_states_and_to_what_is_told() -> None:
    many = {f"S{n}": {"Type": "Succeed"} for n in range(GREATEST_STATES + 1)}
    assert list(faults({"StartState": "S0", "States": many})) == ["States"]
    wrong = {f"S{n}": {"Type": "?"} for n in range(GREATEST_STATES)}
    assert len(faults({"StartState": "S0", "States": wrong})) == GREATEST_FAULTS


def test_fields_of_the_whole_are_checked() -> None:
    wrong = {
        **machine("A", A={"Type": "Succeed"}),
        "StartState": 5,
        "TimeoutMs": "1",
        "RecoverStrategy": "Sideways",
        "IsPersist": 1,
        "Comment": [],
        "Extra": None,
    }
    assert list(faults(wrong)) == [
        "Comment", "IsPersist", "StartState", "TimeoutMs", "RecoverStrategy", "Extra"
    ]  # fmt: skip
