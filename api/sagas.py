"""Sagas: steps that the cluster calls, and compensates when one fails."""

from __future__ import annotations

import enum
from typing import Annotated, Final

import msgspec
from aiohttp import web
from msgspec import UNSET, Raw, UnsetType

from api import json_text, requests, runs
from api.endpoints import (
    BODY_ERRORS,
    CONSISTENCY,
    READ_ERRORS,
    WRITE_ERRORS,
    Endpoint,
    Parameter,
)
from api.errors import refuse_field, refuse_size
from api.replies import Reply
from api.runs import RunState
from api.service import Service
from api.shapes import Answer, Body, Name
from api.steps import StepBody, commands_of
from api.transactions import GREATEST_WAIT_MS, TimeoutMs
from api.xids import Xid, XidPrefixes, new_xid, path_xid
from statemachine.commands import RunGlobal, StartSaga
from statemachine.store import Reader
from statemachine.transactions.participation import GREATEST_BRANCHES
from statemachine.transactions.planning import Program
from statemachine.transactions.state_language.runs import StateRecord, get_records, get_run

WaitMs = Annotated[
    int,
    msgspec.Meta(
        ge=0,
        le=GREATEST_WAIT_MS,
        description="How long the answer waits for the end; 0: it says what was begun.",
    ),
]


GREATEST_INPUT_BYTES: Final = 64 * 1024

Input = Annotated[
    Raw,
    msgspec.Meta(
        description=f"An object of any JSON, at most {GREATEST_INPUT_BYTES} bytes as sent.",
        extra_json_schema={"type": "object"},
        examples=[{"sku": "a-1", "count": 2}],
    ),
]


class Recovery(enum.StrEnum):
    """What becomes of a saga of which a step fails."""

    BACKWARD = "BACKWARD"
    """What was done is undone."""
    FORWARD = "FORWARD"
    """The step is repeated until it succeeds."""


class SagaBody(Body, frozen=True, kw_only=True):
    """Steps to run, one after the other unless they say otherwise; or a definition to follow."""

    xid: Xid | None = None
    name: Name | None = None
    definition: Name | None = None
    """Of `/api/v1/saga-definitions`, in its newest version; instead of `steps`."""
    input: Input | UnsetType = UNSET
    """The variables that a definition begins with."""
    steps: (
        Annotated[list[StepBody], msgspec.Meta(min_length=1, max_length=GREATEST_BRANCHES)] | None
    ) = None
    concurrent: bool = False
    """All at once; steps that name others in `dependsOn` wait for those alone."""
    compensate_failed: bool = False
    """A step that refused is compensated, too; one whose outcome nobody knows always is."""
    recovery: Recovery = Recovery.BACKWARD
    timeout_ms: TimeoutMs | None = None
    """Left out: it goes on until every step is done, or one has failed."""
    wait_ms: WaitMs = 0


class StateStatus(enum.StrEnum):
    """Seata's words for what became of a state."""

    RUNNING = "RU"
    SUCCEEDED = "SU"
    FAILED = "FA"
    """Nothing of it was done."""
    UNKNOWN = "UN"
    """It may have done something, and is undone when the saga is rolled back."""


class StateError(Answer, frozen=True, kw_only=True):
    type: str
    message: str


class StateView(Answer, frozen=True, kw_only=True):
    """A state that a saga came to."""

    name: str
    """With the states above it, when it is a sub-machine's: `Ship/Pack`."""
    type: str
    status: StateStatus
    began_at: int
    """Milliseconds since the epoch, as the next."""
    ended_at: int | UnsetType = UNSET
    branch_ids: list[int]
    """The calls that it made, which are among the steps."""
    error: StateError | UnsetType = UNSET


class FollowedDefinition(Answer, frozen=True, kw_only=True):
    name: str
    version: int


class SagaState(RunState, frozen=True, kw_only=True):
    """A saga, and, when it follows a definition, the states that it came to."""

    definition: FollowedDefinition | UnsetType = UNSET
    states: list[StateView] | UnsetType = UNSET
    """In the order in which it came to them."""
    variables: Raw | UnsetType = UNSET
    """As the definition's own states have made them so far."""


class Sagas:
    """The handlers of `/api/v1/sagas`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._prefixes = XidPrefixes(service.cluster)
        self._bodies = msgspec.json.Decoder(SagaBody)

    async def run(self, request: web.Request) -> Reply:
        service = self._service
        body = await requests.read_json(request, service.settings)
        asked = json_text.decode(body, self._bodies)
        forward = asked.recovery is Recovery.FORWARD
        if forward and asked.timeout_ms is not None:
            refuse_field("timeoutMs", "would roll back what is to recover FORWARD; leave it out")
        if asked.definition is not None:
            return await self._follow(request, body, asked, asked.definition)
        if asked.steps is None or asked.input is not UNSET:
            field = "steps" if asked.steps is None else "input"
            refuse_field(field, "a saga has steps, or a definition and its input")
        command = RunGlobal(
            xid=new_xid(asked.xid),
            prefix=self._prefixes.own(),
            name="" if asked.name is None else requests.name("name", asked.name),
            program=Program.SAGA,
            steps=commands_of(service, asked.steps, concurrent=asked.concurrent),
            timeout_ms=asked.timeout_ms or 0,
            wait_ms=asked.wait_ms,
            in_order=False,
            compensate_failed=asked.compensate_failed,
            forward_recovery=forward,
        )
        return await runs.run(service, request, body, command)

    async def _follow(
        self, request: web.Request, body: bytes, asked: SagaBody, definition: str
    ) -> Reply:
        for field, given in (
            ("steps", asked.steps is not None),
            ("concurrent", asked.concurrent),
            ("compensateFailed", asked.compensate_failed),
        ):
            if given:
                refuse_field(field, "stands beside definition, which says what the steps are")
        variables = b"" if asked.input is UNSET else bytes(asked.input)
        if len(variables) > GREATEST_INPUT_BYTES:
            refuse_size("input", len(variables), GREATEST_INPUT_BYTES)
        if variables[:1] not in (b"", b"{"):
            refuse_field("input", "must be an object: variables by name")
        command = StartSaga(
            xid=new_xid(asked.xid),
            prefix=self._prefixes.own(),
            name="" if asked.name is None else requests.name("name", asked.name),
            definition=requests.name("definition", definition),
            input=variables,
            timeout_ms=asked.timeout_ms or 0,
            wait_ms=asked.wait_ms,
            forward_recovery=asked.recovery is Recovery.FORWARD,
        )
        return await runs.run(self._service, request, body, command, _with_states)

    async def show(self, request: web.Request) -> Reply:
        xid = path_xid(request)
        view = await self._service.view(request)
        answer = runs.state_of(view.reader, xid, Program.SAGA, Program.STATE_MACHINE)
        shown = _with_states(view.reader, answer)
        return self._service.replies.success(200, shown, view.position)


def _with_states(reader: Reader, answer: RunState) -> RunState:
    """Return the same with the states that it came to, when it follows a definition."""
    run = get_run(reader, answer.xid)
    if run is None:
        return answer
    own = run.machines[0]
    return SagaState(
        xid=answer.xid,
        status=answer.status,
        reason=answer.reason,
        steps=answer.steps,
        definition=FollowedDefinition(name=own.name, version=own.version),
        states=[_state(record) for record in get_records(reader, answer.xid)],
        variables=Raw(run.frames[0].context),
    )


def _state(record: StateRecord) -> StateView:
    failure = record.failure
    return StateView(
        name=record.name,
        type=record.kind,
        status=StateStatus(record.status),
        began_at=record.began_ms,
        ended_at=record.ended_ms or UNSET,
        branch_ids=list(record.branches),
        error=UNSET if failure is None else StateError(type=failure.type, message=failure.message),
    )


_EXAMPLE: Final = "trip-1"


def endpoints(service: Service) -> list[Endpoint]:
    sagas = Sagas(service)
    path = "/api/v1/sagas"
    tag = "sagas"
    return [
        Endpoint(
            method="POST",
            path=path,
            operation="runSaga",
            summary="Run steps, and compensate those that were done when one fails",
            tag=tag,
            handler=sagas.run,
            body=SagaBody,
            example={
                "xid": _EXAMPLE,
                "steps": [
                    {
                        "name": "reserve",
                        "action": "http://127.0.0.1:9000/reserve",
                        "compensation": "http://127.0.0.1:9000/release",
                        "payload": {"sku": "a-1", "count": 2},
                    },
                    {
                        "name": "pay",
                        "action": "http://127.0.0.1:9000/pay",
                        "compensation": "http://127.0.0.1:9000/refund",
                        "payload": {"reservation": {"$ref": "reserve.id"}},
                        "retry": {"limit": 5},
                    },
                ],
            },
            answer=SagaState,
            status=201,
            other_statuses=(200,),
            errors=(
                *BODY_ERRORS,
                *WRITE_ERRORS,
                "TRANSACTION_EXISTS",
                "TOO_MANY_TRANSACTIONS",
                "SAGA_DEFINITION_NOT_FOUND",
            ),
            writes=True,
            timed=True,
        ),
        Endpoint(
            method="GET",
            path=f"{path}/{{xid}}",
            operation="getSaga",
            summary="A saga, and where each of its steps stands",
            tag=tag,
            handler=sagas.show,
            answer=SagaState,
            parameters=(
                Parameter(name="xid", type=Xid, description="The saga.", example=_EXAMPLE),
                CONSISTENCY,
            ),
            errors=(*READ_ERRORS, "TRANSACTION_NOT_FOUND"),
            timed=True,
        ),
    ]
