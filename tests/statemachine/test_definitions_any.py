"""Any definition, any answers: the state stays whole, and every saga comes to an end."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from statemachine import keys
from statemachine.commands import PutSagaDefinition, ReportCalls, ReportedCall, StartSaga
from statemachine.machine import Machine
from statemachine.outcomes import Applied
from statemachine.transactions.rows import get_global
from statemachine.transactions.state_language import interpreter
from statemachine.transactions.state_language.definitions import get_versions
from statemachine.transactions.statuses import BRANCH_ENDED, ENDED
from tests.statemachine.defining import URL, Sagas

NAMES = ("A", "B", "C", "D", "E")
UNDOING = ("U", "V")
GREATEST_PATIENCE = 400
"""Calls, of which each state makes one for each element and each repetition."""

expressions = st.sampled_from(
    ["[n]", "[n] + 1", "#root", "#root.n", "[list]", "[list].size()", "#error.type", "1 / 0",
     "[absent].x", "#xid", "[n] > 2", "true", "[loopResult]", "[loopElement]"]
)  # fmt: skip
conditions = st.sampled_from(
    ["[n] > 2", "[n] == null", "true", "false", "[n]", "[list].size() > 1", "#error != null"]
)
templates = st.recursive(
    expressions.map(lambda text: f"$.{text}") | st.sampled_from([1, "x", None, True]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
    ),
    max_leaves=4,
)
following = st.sampled_from(["", *NAMES])
reached = st.sampled_from(NAMES)
failures = st.sampled_from([["*"], ["REFUSED"], ["STATUS_5*"], ["TIMEOUT"]])


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in ("", None)}


maybe_loop = st.none() | st.fixed_dictionaries(
    {"Collection": st.sampled_from(["[list]", "[n]"]), "Parallel": st.integers(1, 3)},
    optional={"CompletionCondition": conditions},
)
catches = st.lists(st.fixed_dictionaries({"Exceptions": failures, "Next": reached}), max_size=2)
shared: dict[str, Any] = {
    "Input": st.none() | st.lists(templates, max_size=2),
    "Output": st.none() | st.dictionaries(st.sampled_from(["n", "list", "z"]), templates),
    "Catch": catches,
    "Loop": maybe_loop,
    "Next": following,
}
tasks = st.fixed_dictionaries(
    {
        **shared,
        "Type": st.just("ServiceTask"),
        "ServiceUrl": st.just(URL),
        "CompensateState": st.sampled_from(["", *UNDOING]),
        "Status": st.dictionaries(
            st.sampled_from(["#root == 1", "#root.n > 1", "$Exception{TIMEOUT}", "true"]),
            st.sampled_from(["SU", "FA", "UN"]),
            max_size=2,
        ),
        "Retry": st.lists(
            st.fixed_dictionaries({"MaxAttempts": st.integers(0, 2)}, optional={
                "Exceptions": failures, "BackoffRate": st.sampled_from([0, 1.5, 2])}),
            max_size=2,
        ),
    }
).map(_present)  # fmt: skip
machines = st.fixed_dictionaries(
    {**shared, "Type": st.just("SubStateMachine"), "StateMachineName": st.sampled_from("de")}
).map(_present)
choices = st.fixed_dictionaries(
    {
        "Type": st.just("Choice"),
        "Choices": st.lists(
            st.fixed_dictionaries({"Expression": conditions, "Next": reached}),
            min_size=1,
            max_size=2,
        ),
        "Default": following,
    }
).map(_present)
ends = st.sampled_from(
    [
        {"Type": "Succeed"},
        {"Type": "Fail", "ErrorCode": "E", "Message": "m"},
        {"Type": "CompensationTrigger"},
    ]
)
undoings = st.fixed_dictionaries(
    {"Type": st.just("ServiceTask"), "ServiceUrl": st.just(URL), "Input": shared["Input"]}
).map(_present)
definitions = st.fixed_dictionaries(
    {
        "StartState": reached,
        "States": st.fixed_dictionaries(
            dict.fromkeys(NAMES, tasks | tasks | machines | choices | ends)
            | dict.fromkeys(UNDOING, undoings)
        ),
    },
    optional={"RecoverStrategy": st.sampled_from(["Compensate", "Forward"])},
)
answers = st.sampled_from([None, 1, {"n": 3}, {"n": 1, "list": [1, 2, 3]}, "text", [1, 2]])
verdicts = st.tuples(
    st.sampled_from(["DONE", "DONE", "DONE", "FAILED", "RETRY", "ONGOING"]),
    answers,
    st.sampled_from(["TIMEOUT", "STATUS_503", "SOLD_OUT"]),
    st.integers(0, 5),
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(definitions, definitions, st.lists(verdicts, max_size=30))
def test_every_saga_ends_whatever_its_definition_and_its_participants_say(
    own: dict[str, Any], called: dict[str, Any], said: list[tuple[str, object, str, int]]
) -> None:
    with patch.object(interpreter, "GREATEST_STATES_ENTERED", 40):
        _run(own, called, said)


def _run(
    own: dict[str, Any], called: dict[str, Any], said: list[tuple[str, object, str, int]]
) -> None:
    log = Sagas()
    for name, definition in (("d", own), ("e", called)):
        log.do(PutSagaDefinition(name=name, document=json.dumps(definition).encode()))
    started = log.do(
        StartSaga(
            xid="x",
            prefix="n",
            name="",
            definition="d",
            input=b'{"n": 1, "list": [1, 2]}',
            timeout_ms=0,
            wait_ms=0,
            forward_recovery=False,
        )
    )
    event(type(started).__name__)
    if not isinstance(started, Applied):
        assert get_global(log.store, "x") is None
        assert all(not each.running for name in "de" for each in get_versions(log.store, name))
        return
    script = iter(said)
    calls_made = 0
    while calls := log.due():
        calls_made += 1
        if calls_made == GREATEST_PATIENCE:
            # What recovers forward may go on for ever: then somebody has it rolled back.
            assert log.row().recovers_forward
            log.roll_back()
            continue
        assert calls_made < 2 * GREATEST_PATIENCE
        verdict, value, failure, at = next(script, ("DONE", {"n": 3}, "", 0))
        call = calls[at % len(calls)]
        if call.operation == "ROLLBACK" and verdict == "FAILED":
            verdict = "RETRY"
        result = b"" if value is None else json.dumps(value).encode()
        log.do(
            ReportCalls(
                epoch=1,
                calls=(
                    ReportedCall(
                        xid="x",
                        branch_id=call.branch.branch_id,
                        operation=call.operation,
                        verdict=verdict,
                        result=result if verdict == "DONE" else b"",
                        failure_type=failure if verdict != "DONE" else "",
                        failure_message="",
                        jitter_permille=0,
                    ),
                ),
            )
        )
        if at == 5:
            # Nothing is known but the rows: a node that has just begun goes on from them.
            log.machine = Machine(log.store)
    row = log.row()
    event(row.reason.partition(":")[0] or row.status)
    assert row.status in ENDED
    assert all(branch.status in BRANCH_ENDED for branch in log.branches())
    assert all(record.status != "RU" for record in log.records())
    assert not log.rows(keys.DUE_GLOBAL)
    assert all(not each.running for name in "de" for each in get_versions(log.store, name))
