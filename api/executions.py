"""The XA and JTA services: business in two databases, both or neither.

A request is one replicated command, which stores the timestamp event and the execution. The node
that took it has its worker run it; its end is replicated too, so that any node knows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

import msgspec
from aiohttp import web
from msgspec import Raw

from api import json_text, requests
from api.cluster import OutcomeUnknownError
from api.endpoints import (
    BODY_ERRORS,
    CONSISTENCY,
    READ_ERRORS,
    WRITE_ERRORS,
    Endpoint,
    Handler,
    Parameter,
)
from api.errors import FieldError, Problem, of_rejection, refuse_field, refuse_size
from api.execution_runs import ExecutionRuns
from api.execution_views import (
    Accepted,
    BatchAnswer,
    ExecutionAnswer,
    ExecutionStatus,
    answer,
    status_of,
)
from api.replies import Reply
from api.service import Service
from api.shapes import Body, Name
from statemachine.commands import AcceptExecution
from statemachine.execution_rows import (
    JTA,
    XA,
    ExecutionRow,
    get_execution,
    parse_transaction_id,
    transaction_id,
    xid_of,
)
from statemachine.outcomes import Position, Rejected, RequestOutcome
from tidelock.services import BatchUpdate, ComplexOrder, DataMigration

GREATEST_DATA_BYTES: Final = 512 * 1024
GREATEST_BATCH: Final = 100
WAIT_MS: Final = 55_000
"""How long a request waits for the end when it names no deadline, beyond what others may take."""

ALIAS: Final = "/api/v1"

BusinessData = Annotated[
    Raw,
    msgspec.Meta(
        description="What the business type takes (docs/SERVICES.md): an object of at most "
        f"{GREATEST_DATA_BYTES} bytes as sent.",
        extra_json_schema={"type": "object"},
    ),
]

EXAMPLE: Final = {
    "businessType": "COMPLEX_ORDER",
    "businessData": {
        "orderId": "order-1",
        "customerId": "customer-1",
        "items": [{"sku": "tea", "price": "10.10", "quantity": 3}],
        "discounts": [{"type": "PERCENT", "value": 10}],
        "payment": {"method": "card", "accountId": "account-1"},
        "shipping": {"region": "north", "weight": 1.5},
    },
}

_SHAPES: Final[dict[str, Any]] = {
    "COMPLEX_ORDER": ComplexOrder,
    "BATCH_UPDATE": BatchUpdate,
    "DATA_MIGRATION": DataMigration,
}
_DECODERS: Final = {name: msgspec.json.Decoder(shape) for name, shape in _SHAPES.items()}


class ExecutionBody(Body, frozen=True, kw_only=True):
    """Business to be done in both data sources."""

    business_type: Name
    """COMPLEX_ORDER, BATCH_UPDATE, DATA_MIGRATION, or what is installed beside them."""
    business_data: BusinessData


class ExecutionBatchBody(Body, frozen=True, kw_only=True):
    """Several executions, one after the other, each in a transaction of its own."""

    transactions: Annotated[
        list[ExecutionBody], msgspec.Meta(min_length=1, max_length=GREATEST_BATCH)
    ]


class Executions:
    """The handlers of `/xa` and `/jta`."""

    def __init__(self, service: Service, runs: ExecutionRuns) -> None:
        self._service = service
        self._runs = runs
        self._bodies = msgspec.json.Decoder(ExecutionBody)
        self._batches = msgspec.json.Decoder(ExecutionBatchBody)

    def execute(self, kind: str) -> Callable[[web.Request], Any]:
        async def handler(request: web.Request) -> Reply:
            asked, body = await self._asked(request)
            outcome = await self._accept(request, body, kind, [asked], asynchronous=False)
            (found,) = await self._ends(request, [outcome.position])
            return await self._answered(outcome, [found], batch=False)

        return handler

    async def execute_batch(self, request: web.Request) -> Reply:
        body = await requests.read_json(request, self._service.settings)
        asked = json_text.decode(body, self._batches).transactions
        for at, each in enumerate(asked):
            try:
                self._check(each)
            except Problem as problem:
                raise problem.within(f"transactions[{at}]") from None
        outcome = await self._accept(request, body, XA, asked, asynchronous=False)
        first = outcome.position
        positions = [Position(first.entry, first.place + at) for at in range(len(asked))]
        found = await self._ends(request, positions)
        return await self._answered(outcome, found, batch=True)

    async def execute_async(self, request: web.Request) -> Reply:
        asked, body = await self._asked(request)
        outcome = await self._accept(request, body, XA, [asked], asynchronous=True)
        at = outcome.position
        name = transaction_id(XA, at)
        accepted = Accepted(transaction_id=name, xid=xid_of(XA, at, 1), status="ACCEPTED")
        reply = self._service.written(202, accepted, outcome, at)
        reply.add_header(f"Location: /xa/status/{name}\r\n")
        return reply

    def status(self, kind: str) -> Callable[[web.Request], Any]:
        async def handler(request: web.Request) -> Reply:
            name = request.match_info["transactionId"]
            view = await self._service.view(request)
            parsed = parse_transaction_id(name)
            row = None
            if parsed is not None and parsed[0] == kind:
                row = get_execution(view.reader, parsed[1])
            if parsed is None or row is None or row.service != kind:
                raise Problem(
                    "EXECUTION_NOT_FOUND",
                    f"No {kind} execution {name[:64]!r} is remembered: there never was one, or it "
                    "ended so long ago that it is forgotten.",
                )
            found = status_of(view.reader, parsed[1], row)
            return self._service.replies.success(200, found, view.position)

        return handler

    # --- the request

    async def _asked(self, request: web.Request) -> tuple[ExecutionBody, bytes]:
        body = await requests.read_json(request, self._service.settings)
        asked = json_text.decode(body, self._bodies)
        self._check(asked)
        return asked, body

    def _check(self, asked: ExecutionBody) -> None:
        """Raise unless the business is known here and its data is what it takes."""
        data = bytes(asked.business_data)
        if len(data) > GREATEST_DATA_BYTES:
            refuse_size("businessData", len(data), GREATEST_DATA_BYTES)
        known = self._runs.business_types
        if asked.business_type not in known:
            refuse_field("businessType", f"is none of {', '.join(known)}")
        if not data.startswith(b"{"):
            refuse_field("businessData", "must be an object")
        decoder = _DECODERS.get(asked.business_type)
        if decoder is None:
            return
        try:
            shape = json_text.decode(data, decoder)
        except Problem as problem:
            raise _inside(problem) from None
        faults = [FieldError(f"businessData.{path}", message) for path, message in shape.faults()]
        if faults:
            first = faults[0]
            raise Problem("INVALID_FIELD", f"{first.path}: {first.message}", errors=faults[:100])

    async def _accept(
        self,
        request: web.Request,
        body: bytes,
        kind: str,
        asked: Sequence[ExecutionBody],
        *,
        asynchronous: bool,
    ) -> RequestOutcome:
        # What is wrong with the request is said first: it is wrong at every node.
        requests.idempotency_key(request)
        requests.timeout_ms(request, self._service.settings)
        refusal = self._runs.refusal()
        if refusal is not None:
            raise refusal
        outcome = await self._service.propose(
            request,
            body,
            [
                AcceptExecution(
                    service=kind,
                    business_type=each.business_type,
                    business_data=bytes(each.business_data),
                    asynchronous=asynchronous,
                    owner=self._service.cluster.node_id,
                    follows=at > 0,
                    room=len(asked) - at,
                    lease_ms=self._runs.lease_ms,
                )
                for at, each in enumerate(asked)
            ],
        )
        for each in outcome.outcomes:
            if isinstance(each, Rejected):
                raise of_rejection(each, outcome)
        return outcome

    # --- the answer

    async def _ends(
        self, request: web.Request, positions: Sequence[Position]
    ) -> list[tuple[Position, ExecutionRow]]:
        """Return the executions once all have ended, or raise at the request's deadline."""
        deadline_ms = requests.waiting_timeout_ms(request, self._service.settings, WAIT_MS)
        try:
            async with asyncio.timeout(deadline_ms / 1000):
                for position in positions:
                    await self._runs.ended(position)
        except TimeoutError:
            raise OutcomeUnknownError from None
        reader = (await self._service.own_view()).reader
        found = [(position, get_execution(reader, position)) for position in positions]
        return [(position, row) for position, row in found if row is not None]

    async def _answered(
        self, outcome: RequestOutcome, found: list[tuple[Position, ExecutionRow]], *, batch: bool
    ) -> Reply:
        view = await self._service.own_view()
        answers = [answer(view.reader, position, row) for position, row in found]
        if not answers:
            raise Problem(
                "ANSWER_NOT_KEPT",
                "The execution ended so long ago that it is forgotten. Its result is not known.",
            )
        whole = BatchAnswer(results=answers) if batch else answers[0]
        return self._service.written(200, whole, outcome, view.position)


def _inside(problem: Problem) -> Problem:
    """Return a problem of the business data as one of the body."""
    errors = [
        FieldError(f"businessData.{each.path}" if each.path else "businessData", each.message)
        for each in problem.errors
    ]
    return Problem(
        problem.code, f"businessData: {problem.detail}", errors=errors, kind=problem.kind
    )


_ACCEPT_ERRORS: Final = (
    *BODY_ERRORS,
    *WRITE_ERRORS,
    "CLOCK_OVERFLOW",
    "TOO_MANY_EXECUTIONS",
    "SERVICES_NOT_CONFIGURED",
    "SERVICES_UNAVAILABLE",
)


def endpoints(service: Service, runs: ExecutionRuns) -> list[Endpoint]:
    executions = Executions(service, runs)
    return [
        _running(
            "/xa/execute",
            "executeXa",
            "Run business in both data sources and wait for its end",
            executions.execute(XA),
        ),
        _running(
            "/xa/batch-execute",
            "executeXaBatch",
            "Run several executions in their order, each in a transaction of its own",
            executions.execute_batch,
            body=ExecutionBatchBody,
            example={"transactions": [EXAMPLE]},
            answer=BatchAnswer,
        ),
        _running(
            "/xa/execute-async",
            "executeXaAsync",
            "Run business in both data sources; its status says when it has ended",
            executions.execute_async,
            answer=Accepted,
            status=202,
            errors=_ACCEPT_ERRORS,
        ),
        _status(executions, "xa", XA, "getXaStatus"),
        _running(
            "/jta/execute",
            "executeJta",
            "Run business in both data sources, with synchronizations around its end",
            executions.execute(JTA),
        ),
        _status(executions, "jta", JTA, "getJtaStatus"),
    ]


def _running(
    path: str,
    operation: str,
    summary: str,
    handler: Handler,
    *,
    body: type[Body] = ExecutionBody,
    example: Any = EXAMPLE,
    answer: type[msgspec.Struct] = ExecutionAnswer,
    status: int = 200,
    errors: tuple[str, ...] = (*_ACCEPT_ERRORS, "ANSWER_NOT_KEPT"),
) -> Endpoint:
    return Endpoint(
        method="POST",
        path=path,
        aliases=(ALIAS + path,),
        operation=operation,
        summary=summary,
        tag=path.split("/")[1],
        handler=handler,
        body=body,
        example=example,
        answer=answer,
        status=status,
        errors=errors,
        writes=True,
        timed=True,
    )


def _status(executions: Executions, tag: str, kind: str, operation: str) -> Endpoint:
    path = f"/{tag}/status/{{transactionId}}"
    return Endpoint(
        method="GET",
        path=path,
        aliases=(ALIAS + path,),
        operation=operation,
        summary="Where an execution stands, how it got there, and what it came to",
        tag=tag,
        handler=executions.status(kind),
        answer=ExecutionStatus,
        parameters=(
            Parameter(
                name="transactionId",
                type=str,
                description="`transactionId` of what accepted it.",
                example=f"{tag}-00000000000000010000000",
            ),
            CONSISTENCY,
        ),
        errors=(*READ_ERRORS, "EXECUTION_NOT_FOUND"),
        timed=True,
    )
