"""Global transactions: begun by an application, decided once, carried out by the cluster."""

from __future__ import annotations

import enum
from typing import Annotated, Final

import msgspec
from aiohttp import web

from api import branches, json_text, requests
from api.branches import BranchMode
from api.endpoints import (
    BODY_ERRORS,
    CONSISTENCY,
    PAGE,
    READ_ERRORS,
    WRITE_ERRORS,
    Endpoint,
    Parameter,
)
from api.errors import Problem
from api.replies import Reply
from api.row_keys import ResourceId, resource
from api.service import Service, applied
from api.shapes import PRINTABLE, Answer, Body, Name, Page
from api.transaction_views import (
    ExceptionView,
    TransactionState,
    TransactionSummary,
    TransactionView,
    exception_of,
    summary_of,
    view_of,
    view_of_summary,
)
from api.xids import EXAMPLE, TRANSACTION, Xid, XidPrefixes, new_xid, path_xid
from statemachine.commands import BeginGlobal, CancelWait, DecideGlobal, OperateGlobal
from statemachine.keys import GREATEST_NUMBER
from statemachine.outcomes import GlobalAnswered, RequestOutcome
from statemachine.transactions.incidents import list_incidents
from statemachine.transactions.listing import Wanted, list_globals
from statemachine.transactions.participation import GREATEST_BRANCHES
from statemachine.transactions.rows import get_global
from statemachine.transactions.statuses import GlobalStatus
from statemachine.transactions.summaries import get_summary

DEFAULT_TIMEOUT_MS: Final = 60_000
GREATEST_TIMEOUT_MS: Final = 7 * 24 * 3_600_000
GREATEST_WAIT_MS: Final = 3_600_000
GREATEST_REASON: Final = 500

TimeoutMs = Annotated[
    int,
    msgspec.Meta(
        ge=1,
        le=GREATEST_TIMEOUT_MS,
        description="Undecided after so long, it is rolled back. It counts the time in which the "
        "cluster had a leader.",
    ),
]

EndWaitMs = Annotated[
    int,
    msgspec.Meta(
        ge=0,
        le=GREATEST_WAIT_MS,
        description="How long the answer waits for the end; as long as the request may take when "
        "it is left out.",
    ),
]

Reason = Annotated[
    str,
    msgspec.Meta(max_length=GREATEST_REASON, extra_json_schema={"pattern": PRINTABLE}),
]


class BeginBody(Body, frozen=True, kw_only=True):
    """A transaction to begin."""

    name: Name | None = None
    timeout_ms: TimeoutMs = DEFAULT_TIMEOUT_MS
    xid: Xid | None = None
    """Its name; left out: one is made of the node's address and a number."""
    mode: BranchMode | None = None
    """What its branches will mostly be; lists can be asked for it."""


class DecisionBody(Body, frozen=True, kw_only=True):
    """A decision, and how long to wait for what comes of it."""

    wait_ms: EndWaitMs | None = None
    reason: Reason = ""
    branches_done: Annotated[
        list[Annotated[int, msgspec.Meta(ge=1, le=GREATEST_NUMBER)]],
        msgspec.Meta(max_length=GREATEST_BRANCHES),
    ] = msgspec.field(default_factory=list)
    """Branches whose phase one is done, as `PHASE_ONE_DONE` would report each by itself. What a
    branch has reported before stands. When the transaction was rolled back before without one of
    these reports, it is refused with `TRANSACTION_NOT_ACTIVE`, as a late report is.
    """


class Action(enum.StrEnum):
    """What an operator can do about a transaction that does not end by itself."""

    RETRY_NOW = "RETRY_NOW"
    STOP_RETRY = "STOP_RETRY"
    START_RETRY = "START_RETRY"
    FORCE_COMMIT = "FORCE_COMMIT"
    FORCE_ROLLBACK = "FORCE_ROLLBACK"
    FORGET = "FORGET"


class OperationBody(Body, frozen=True, kw_only=True):
    action: Action
    reason: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            max_length=GREATEST_REASON,
            extra_json_schema={"pattern": PRINTABLE},
            examples=["the stock service is back"],
        ),
    ]
    """For the audit log."""


class Begun(Answer, frozen=True, kw_only=True):
    """A transaction that was begun."""

    xid: str
    status: GlobalStatus
    name: str
    timeout_ms: int


class Transactions:
    """The handlers of `/api/v1/transactions`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._prefixes = XidPrefixes(service.cluster)
        self._begins = msgspec.json.Decoder(BeginBody)
        self._decisions = msgspec.json.Decoder(DecisionBody)
        self._operations = msgspec.json.Decoder(OperationBody)

    async def begin(self, request: web.Request) -> Reply:
        service = self._service
        body = await requests.read_optional_json(request, service.settings)
        asked = json_text.decode(body or b"{}", self._begins)
        command = BeginGlobal(
            xid=new_xid(asked.xid),
            prefix=self._prefixes.own(),
            name="" if asked.name is None else requests.name("name", asked.name),
            timeout_ms=asked.timeout_ms,
            mode="" if asked.mode is None else asked.mode.value,
        )
        outcome = await service.propose(request, body, (command,))
        done = applied(outcome)
        assert isinstance(done, GlobalAnswered)
        answer = Begun(
            xid=done.xid,
            status=GlobalStatus(done.status),
            name=command.name,
            timeout_ms=command.timeout_ms,
        )
        return service.written(201, answer, outcome, outcome.position)

    async def commit(self, request: web.Request) -> Reply:
        return await self._decide(request, to_commit=True)

    async def roll_back(self, request: web.Request) -> Reply:
        return await self._decide(request, to_commit=False)

    async def _decide(self, request: web.Request, *, to_commit: bool) -> Reply:
        service = self._service
        body = await requests.read_optional_json(request, service.settings)
        asked = json_text.decode(body or b"{}", self._decisions)
        wait_ms = asked.wait_ms
        if wait_ms is None:
            wait_ms = requests.timeout_ms(request, service.settings)
        command = DecideGlobal(
            xid=path_xid(request),
            commit=to_commit,
            reason=checked_reason(asked.reason),
            wait_ms=wait_ms,
            reports_expected=True,
            branches_done=tuple(asked.branches_done),
        )
        # A decision stands though its client has gone: only the wait is over then.
        outcome = await service.propose_waiting(
            request, body, command, wait_ms=wait_ms, undo=lambda at: CancelWait(ticket=at)
        )
        return self._state(outcome)

    async def operate(self, request: web.Request) -> Reply:
        service = self._service
        body = await requests.read_json(request, service.settings)
        asked = json_text.decode(body, self._operations)
        command = OperateGlobal(
            xid=path_xid(request),
            action=asked.action.value,
            reason=checked_reason(asked.reason),
            principal=requests.PRINCIPAL,
        )
        return self._state(await service.propose(request, body, (command,)))

    def _state(self, outcome: RequestOutcome) -> Reply:
        return self._service.written(200, state_of(outcome), outcome, outcome.position)

    async def show(self, request: web.Request) -> Reply:
        xid = path_xid(request)
        view = await self._service.view(request)
        row = get_global(view.reader, xid)
        if row is not None:
            answer = view_of(view.reader, row)
        else:
            summary = get_summary(view.reader, xid)
            if summary is None:
                raise not_found(xid)
            answer = view_of_summary(xid, summary)
        return self._service.replies.success(200, answer, view.position)

    async def list(self, request: web.Request) -> Reply:
        limit, cursor = requests.page(request)
        status = requests.choice(request, "status", GlobalStatus)
        mode = requests.choice(request, "mode", BranchMode)
        resource_id = request.query.get("resourceId")
        wanted = Wanted(
            status=status,
            mode=mode,
            resource_id=None if resource_id is None else resource("resourceId", resource_id),
            name=requests.query_name(request, "name"),
            since_ms=requests.integer(request, "since", 0, least=0, greatest=2**53 - 1),
        )
        view = await self._service.view(request)
        rows, next_cursor = list_globals(view.reader, wanted, cursor=cursor, limit=limit)
        page = Page(items=[summary_of(row) for row in rows], next_cursor=next_cursor)
        return self._service.replies.success(200, page, view.position)

    async def list_exceptions(self, request: web.Request) -> Reply:
        limit, cursor = requests.page(request)
        view = await self._service.view(request)
        found, next_cursor = list_incidents(view.reader, cursor=cursor, limit=limit)
        page = Page(items=[exception_of(each) for each in found], next_cursor=next_cursor)
        return self._service.replies.success(200, page, view.position)


def state_of(outcome: RequestOutcome) -> TransactionState:
    """Return where the transaction stands that a request was about.

    Raises:
        Problem: the request was rejected.
    """
    done = applied(outcome)
    assert isinstance(done, GlobalAnswered)
    return TransactionState(xid=done.xid, status=GlobalStatus(done.status), reason=done.reason)


def not_found(xid: str) -> Problem:
    return Problem(
        "TRANSACTION_NOT_FOUND",
        f"No transaction {xid} is known: it was never begun, or it ended so long ago that it was "
        "forgotten.",
    )


def checked_reason(text: str) -> str:
    return requests.name("reason", text, 4 * GREATEST_REASON) if text else ""


_PATH: Final = "/api/v1/transactions"
_ONE: Final = f"{_PATH}/{{xid}}"
_TAG: Final = "transactions"


def endpoints(service: Service) -> list[Endpoint]:
    transactions = Transactions(service)
    return [
        *_begin_and_read(transactions),
        *branches.endpoints(service),
        *_decide_and_operate(transactions),
    ]


def _begin_and_read(transactions: Transactions) -> list[Endpoint]:
    return [
        Endpoint(
            method="POST",
            path=_PATH,
            operation="beginTransaction",
            summary="Begin a transaction that the application decides",
            tag=_TAG,
            handler=transactions.begin,
            body=BeginBody,
            example={"name": "purchase", "xid": EXAMPLE, "timeoutMs": DEFAULT_TIMEOUT_MS},
            body_required=False,
            answer=Begun,
            status=201,
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
            path=_PATH,
            operation="listTransactions",
            summary="Transactions that are kept in full, the last one begun first",
            tag=_TAG,
            handler=transactions.list,
            answer=Page[TransactionSummary],
            parameters=(
                Parameter(name="status", type=GlobalStatus, description="Only with this status."),
                Parameter(
                    name="mode",
                    type=BranchMode,
                    description="Only those begun for this mode, or with a branch of it.",
                ),
                Parameter(
                    name="resourceId",
                    type=ResourceId,
                    description="Only those with a branch on this resource.",
                ),
                Parameter(name="name", type=Name, description="Only those of this name."),
                Parameter(
                    name="since",
                    type=Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)],
                    description="Only those begun then or later, milliseconds since the epoch.",
                ),
                *PAGE,
                CONSISTENCY,
            ),
            errors=READ_ERRORS,
            timed=True,
        ),
        Endpoint(
            method="GET",
            path=f"{_PATH}/exceptions",
            operation="listTransactionExceptions",
            summary="What went wrong in branches, the last first",
            tag=_TAG,
            handler=transactions.list_exceptions,
            answer=Page[ExceptionView],
            parameters=(*PAGE, CONSISTENCY),
            errors=READ_ERRORS,
            timed=True,
        ),
        Endpoint(
            method="GET",
            path=_ONE,
            operation="getTransaction",
            summary="Everything about a transaction: branches, locks, retries, timeline",
            tag=_TAG,
            handler=transactions.show,
            answer=TransactionView,
            parameters=(TRANSACTION, CONSISTENCY),
            errors=(*READ_ERRORS, "TRANSACTION_NOT_FOUND"),
            timed=True,
        ),
    ]


def _decide_and_operate(transactions: Transactions) -> list[Endpoint]:
    decision_errors = (
        *BODY_ERRORS,
        *WRITE_ERRORS,
        "TRANSACTION_NOT_FOUND",
        "TRANSACTION_DECIDED",
        "BRANCH_NOT_FOUND",
        "TRANSACTION_NOT_ACTIVE",
    )
    return [
        Endpoint(
            method="POST",
            path=f"{_ONE}/commit",
            operation="commitTransaction",
            summary="Commit a transaction once every branch has reported, and await its end",
            tag=_TAG,
            handler=transactions.commit,
            body=DecisionBody,
            body_required=False,
            answer=TransactionState,
            parameters=(TRANSACTION,),
            errors=(
                *decision_errors,
                "BRANCH_FAILED",
                "BRANCH_UNFINISHED",
                "OPERATION_NOT_POSSIBLE",
            ),
            writes=True,
            timed=True,
        ),
        Endpoint(
            method="POST",
            path=f"{_ONE}/rollback",
            operation="rollBackTransaction",
            summary="Roll a transaction back, and await its end",
            tag=_TAG,
            handler=transactions.roll_back,
            body=DecisionBody,
            body_required=False,
            answer=TransactionState,
            parameters=(TRANSACTION,),
            errors=decision_errors,
            writes=True,
            timed=True,
        ),
        Endpoint(
            method="POST",
            path=f"{_ONE}/operations",
            operation="operateTransaction",
            summary="Help a transaction that cannot end by itself, as an operator",
            tag=_TAG,
            handler=transactions.operate,
            body=OperationBody,
            answer=TransactionState,
            parameters=(TRANSACTION,),
            errors=(
                *BODY_ERRORS,
                *WRITE_ERRORS,
                "TRANSACTION_NOT_FOUND",
                "OPERATION_NOT_POSSIBLE",
            ),
            writes=True,
            timed=True,
        ),
    ]
