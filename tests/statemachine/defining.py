"""Sagas that follow definitions, in a log: put, started, told by a driver what calls came to."""

from __future__ import annotations

import json
from typing import Any

from statemachine.commands import (
    DeleteSagaDefinition,
    PutSagaDefinition,
    ReportCalls,
    ReportedCall,
    StartSaga,
)
from statemachine.outcomes import Outcome, SagaDefinitionDeleted, SagaDefinitionPut
from statemachine.transactions.planning import Call, next_calls
from statemachine.transactions.state_language.runs import StateRecord, get_records, get_run
from tests.statemachine.building import result
from tests.statemachine.transacting import Transactions

URL = "http://participant/"


def task(name: str, following: str = "", **more: object) -> dict[str, object]:
    """Return a ServiceTask whose service has the state's name."""
    state: dict[str, object] = {"Type": "ServiceTask", "ServiceUrl": URL + name, **more}
    if following:
        state["Next"] = following
    return state


def calling(name: str, **more: object) -> dict[str, object]:
    """Return a state that calls another machine."""
    return {"Type": "SubStateMachine", "StateMachineName": name, **more}


def undoing(name: str, **more: object) -> dict[str, object]:
    return {"Type": "ServiceTask", "ServiceUrl": f"{URL}{name}/undo", **more}


def machine(start: str, **states: object) -> dict[str, Any]:
    return {"StartState": start, "States": states}


class Sagas(Transactions):
    """A log, with the words of those who define sagas and of the driver."""

    def put(self, definition: object, name: str = "d") -> SagaDefinitionPut:
        document = json.dumps(definition).encode()
        done = result(self.do(PutSagaDefinition(name=name, document=document)))
        assert isinstance(done, SagaDefinitionPut)
        return done

    def delete(self, name: str = "d") -> bool:
        done = result(self.do(DeleteSagaDefinition(name=name)))
        assert isinstance(done, SagaDefinitionDeleted)
        return done.deleted

    def start(
        self,
        variables: object = None,
        *,
        definition: str = "d",
        xid: str = "x",
        timeout_ms: int = 0,
        forward_recovery: bool = False,
    ) -> Outcome:
        return self.do(
            StartSaga(
                xid=xid,
                prefix="n1",
                name="",
                definition=definition,
                input=b"" if variables is None else json.dumps(variables).encode(),
                timeout_ms=timeout_ms,
                wait_ms=0,
                forward_recovery=forward_recovery,
            )
        )

    def run(
        self, definition: object, variables: object = None, forward_recovery: bool = False
    ) -> None:
        """Put a definition and start a saga that follows it."""
        self.put(definition)
        result(self.start(variables, forward_recovery=forward_recovery))

    def due(self, xid: str = "x") -> list[Call]:
        return next_calls(self.row(xid), self.branches(xid))

    def called(self, xid: str = "x") -> list[str]:
        """Which states' services are to be called: `Pay`, or `Pay undo` for its compensation."""
        undone = {"FORWARD": "", "ROLLBACK": " undo"}
        return [call.branch.name + undone[call.operation] for call in self.due(xid)]

    def answer(
        self,
        value: object = None,
        *,
        name: str = "",
        verdict: str = "DONE",
        failure: str = "",
        message: str = "no stock",
        xid: str = "x",
    ) -> None:
        """Let the call of a state come to something; of the first one when none is named."""
        call = next(each for each in self.due(xid) if name in ("", each.branch.name))
        reported = ReportedCall(
            xid=xid,
            branch_id=call.branch.branch_id,
            operation=call.operation,
            verdict=verdict,
            result=b"" if value is None else json.dumps(value).encode(),
            failure_type=failure,
            failure_message=message if failure else "",
            jitter_permille=0,
        )
        self.do(ReportCalls(epoch=1, calls=(reported,)))

    def fail(self, failure: str = "REFUSED", *, name: str = "", message: str = "no stock") -> None:
        self.answer(name=name, verdict="FAILED", failure=failure, message=message)

    def lose(self, failure: str = "TIMEOUT", *, name: str = "") -> None:
        """Nobody knows what became of the call."""
        self.answer(name=name, verdict="RETRY", failure=failure, message="no answer")

    def body(self, name: str = "") -> Any:
        """Return what a state's service is called with."""
        call = next(each for each in self.due() if name in ("", each.branch.name))
        branch = call.branch
        undoes = call.operation == "ROLLBACK" and branch.compensation
        body = branch.compensation if undoes else branch.payload
        return json.loads(body) if body else None

    def records(self, xid: str = "x") -> list[StateRecord]:
        return get_records(self.store, xid)

    def states(self, xid: str = "x") -> list[str]:
        """Return the states that it came to, each as `Pay SU`."""
        return [f"{each.name} {each.status}" for each in self.records(xid)]

    def variables(self, xid: str = "x") -> Any:
        run = get_run(self.store, xid)
        assert run is not None
        return json.loads(run.frames[0].context)

    def ended(self, xid: str = "x") -> str:
        return f"{self.row(xid).status} {self.row(xid).reason}".rstrip()

    def undo_all(self) -> list[str]:
        """Let all compensations be done; return them in the order in which they were called."""
        undone: list[str] = []
        while self.due():
            (called,) = self.called()
            undone.append(called.removesuffix(" undo"))
            self.answer()
        return undone
