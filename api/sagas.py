"""Sagas: steps that the cluster calls, and compensates when one fails."""

from __future__ import annotations

import enum
from typing import Annotated, Final

import msgspec
from aiohttp import web

from api import json_text, requests, runs
from api.endpoints import (
    BODY_ERRORS,
    CONSISTENCY,
    READ_ERRORS,
    WRITE_ERRORS,
    Endpoint,
    Parameter,
)
from api.errors import refuse_field
from api.replies import Reply
from api.runs import RunState
from api.service import Service
from api.shapes import Body, Name
from api.steps import StepBody, commands_of
from api.transactions import GREATEST_WAIT_MS, TimeoutMs
from api.xids import Xid, XidPrefixes, new_xid, path_xid
from statemachine.commands import RunGlobal
from statemachine.transactions.participation import GREATEST_BRANCHES
from statemachine.transactions.planning import Program

WaitMs = Annotated[
    int,
    msgspec.Meta(
        ge=0,
        le=GREATEST_WAIT_MS,
        description="How long the answer waits for the end; 0: it says what was begun.",
    ),
]


class Recovery(enum.StrEnum):
    """What becomes of a saga of which a step fails."""

    BACKWARD = "BACKWARD"
    """What was done is undone."""
    FORWARD = "FORWARD"
    """The step is repeated until it succeeds."""


class SagaBody(Body, frozen=True, kw_only=True):
    """Steps to run: one after the other, unless they say otherwise."""

    xid: Xid | None = None
    name: Name | None = None
    steps: Annotated[list[StepBody], msgspec.Meta(min_length=1, max_length=GREATEST_BRANCHES)]
    concurrent: bool = False
    """All at once; steps that name others in `dependsOn` wait for those alone."""
    compensate_failed: bool = False
    """A step that refused is compensated, too; one whose outcome nobody knows always is."""
    recovery: Recovery = Recovery.BACKWARD
    timeout_ms: TimeoutMs | None = None
    """Left out: it goes on until every step is done, or one has failed."""
    wait_ms: WaitMs = 0


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

    async def show(self, request: web.Request) -> Reply:
        xid = path_xid(request)
        view = await self._service.view(request)
        answer = runs.state_of(view.reader, xid, Program.SAGA)
        return self._service.replies.success(200, answer, view.position)


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
            answer=RunState,
            status=201,
            other_statuses=(200,),
            errors=(
                *BODY_ERRORS,
                *WRITE_ERRORS,
                "TRANSACTION_EXISTS",
                "TOO_MANY_TRANSACTIONS",
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
            answer=RunState,
            parameters=(
                Parameter(name="xid", type=Xid, description="The saga.", example=_EXAMPLE),
                CONSISTENCY,
            ),
            errors=(*READ_ERRORS, "TRANSACTION_NOT_FOUND"),
            timed=True,
        ),
    ]
