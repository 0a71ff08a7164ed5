"""TCC that the cluster runs: Try of all branches, then Confirm of all, or Cancel of all."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from api import json_text, requests, runs
from api.branches import Url, checked_url
from api.endpoints import BODY_ERRORS, WRITE_ERRORS, Endpoint
from api.errors import refuse_field
from api.replies import Reply
from api.runs import RunState
from api.sagas import WaitMs
from api.service import Service
from api.shapes import Body, Name
from api.steps import CallMs, Payload, RetryBody, StepName, payload, retry_rule
from api.transactions import DEFAULT_TIMEOUT_MS, TimeoutMs
from api.xids import Xid, XidPrefixes, new_xid
from statemachine.commands import RunGlobal, Step
from statemachine.transactions.participation import GREATEST_BRANCHES
from statemachine.transactions.planning import Program
from statemachine.transactions.rows import Calls


class TccBranchBody(Body, frozen=True, kw_only=True):
    """A branch: what reserves, what keeps and what gives back what was reserved."""

    name: StepName | None = None
    """Left out: its number, from 1."""
    try_: Url = msgspec.field(name="try")
    confirm: Url
    cancel: Url
    payload: Payload | UnsetType = UNSET
    """The body of all three calls."""
    timeout_ms: CallMs | None = None
    retry: RetryBody = RetryBody()
    """Of Try. Confirm and Cancel are repeated until they succeed or refuse."""


class TccBody(Body, frozen=True, kw_only=True):
    """Branches that are all confirmed or all cancelled."""

    xid: Xid | None = None
    name: Name | None = None
    branches: Annotated[
        list[TccBranchBody], msgspec.Meta(min_length=1, max_length=GREATEST_BRANCHES)
    ]
    in_order: bool = False
    """Confirm one after the other, Cancel in reverse; otherwise all at once."""
    timeout_ms: TimeoutMs = DEFAULT_TIMEOUT_MS
    wait_ms: WaitMs = 0


class Tcc:
    """The handler of `/api/v1/tcc`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._prefixes = XidPrefixes(service.cluster)
        self._bodies = msgspec.json.Decoder(TccBody)

    async def run(self, request: web.Request) -> Reply:
        service = self._service
        body = await requests.read_json(request, service.settings)
        asked = json_text.decode(body, self._bodies)
        command = RunGlobal(
            xid=new_xid(asked.xid),
            prefix=self._prefixes.own(),
            name="" if asked.name is None else requests.name("name", asked.name),
            program=Program.TCC,
            steps=tuple([self._step(number, each) for number, each in enumerate(asked.branches)]),
            timeout_ms=asked.timeout_ms,
            wait_ms=asked.wait_ms,
            in_order=asked.in_order,
            compensate_failed=False,
            forward_recovery=False,
        )
        _refuse_equal_names(command)
        return await runs.run(service, request, body, command)

    def _step(self, number: int, branch: TccBranchBody) -> Step:
        service, path = self._service, f"branches[{number}]"
        name = str(number + 1) if branch.name is None else branch.name
        return Step(
            name=requests.name(f"{path}.name", name, 4 * len(name)),
            calls=Calls(
                forward=checked_url(service, f"{path}.try", branch.try_),
                commit=checked_url(service, f"{path}.confirm", branch.confirm),
                rollback=checked_url(service, f"{path}.cancel", branch.cancel),
            ),
            payload=payload(f"{path}.payload", branch.payload),
            depends_on=(),
            timeout_ms=branch.timeout_ms or 0,
            retry=retry_rule(branch.retry),
        )


def _refuse_equal_names(command: RunGlobal) -> None:
    numbers: dict[str, int] = {}
    for number, step in enumerate(command.steps):
        if numbers.setdefault(step.name, number) != number:
            refuse_field(
                f"branches[{number}].name", f"is the name of branches[{numbers[step.name]}], too"
            )


def endpoints(service: Service) -> list[Endpoint]:
    return [
        Endpoint(
            method="POST",
            path="/api/v1/tcc",
            operation="runTcc",
            summary="Call Try of all branches, then Confirm of all, or Cancel of all",
            tag="tcc",
            handler=Tcc(service).run,
            body=TccBody,
            example={
                "branches": [
                    {
                        "try": f"http://127.0.0.1:9000/{what}/try",
                        "confirm": f"http://127.0.0.1:9000/{what}/confirm",
                        "cancel": f"http://127.0.0.1:9000/{what}/cancel",
                        "payload": {"amount": 30},
                    }
                    for what in ("withdrawal", "deposit")
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
    ]
