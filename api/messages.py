"""Two-phase messages: prepared before the work that they tell of, submitted after it."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from aiohttp import web
from msgspec import UNSET, Raw, UnsetType

from api import json_text, requests
from api.branches import Url, checked_url
from api.endpoints import BODY_ERRORS, CONSISTENCY, READ_ERRORS, WRITE_ERRORS, Endpoint
from api.errors import Problem, refuse_field
from api.replies import Reply
from api.service import Service
from api.shapes import Answer, Body, Name
from api.transaction_views import BranchFailure, TransactionState, failure_of
from api.transactions import Reason, checked_reason, not_found, state_of
from api.xids import XID, Xid, XidPrefixes, new_xid, path_xid
from statemachine.commands import CancelWait, DecideGlobal, PrepareMessage, Step
from statemachine.state import load_state
from statemachine.store import Reader
from statemachine.transactions.messages import GREATEST_DELIVERIES, QUESTION, get_undelivered
from statemachine.transactions.planning import Program
from statemachine.transactions.rows import (
    Branch,
    Calls,
    Global,
    RetryRule,
    get_branches,
    get_global,
)
from statemachine.transactions.statuses import BranchStatus, GlobalStatus
from statemachine.transactions.summaries import get_summary
from statemachine.transactions.topics import GREATEST_SUBSCRIBERS, SCHEME, topic_of

GREATEST_DELAY_MS: Final = 30 * 24 * 3_600_000
GREATEST_QUERY_AFTER_MS: Final = 24 * 3_600_000
DEFAULT_QUERY_AFTER_MS: Final = 10_000
GREATEST_WAIT_MS: Final = 3_600_000

_PREPARED: Final = "PREPARED"


class MessageStep(Body, frozen=True, kw_only=True):
    """To whom the message goes: a URL, or all who subscribe to a topic when it is submitted."""

    action: Url | UnsetType = UNSET
    topic: Name | UnsetType = UNSET
    payload: Raw | UnsetType = UNSET
    """Any JSON: what is delivered. Left out: null."""


AnyStep = Annotated[
    MessageStep,
    msgspec.Meta(
        extra_json_schema={"oneOf": [{"required": ["action"]}, {"required": ["topic"]}]},
    ),
]


class PrepareBody(Body, frozen=True, kw_only=True):
    """A message to keep until it is submitted or aborted."""

    query: Annotated[Url, msgspec.Meta(min_length=1)]
    """Asked when neither comes: 2xx means submit, 409 abort, and anything else ask again."""
    steps: Annotated[list[AnyStep], msgspec.Meta(min_length=1, max_length=GREATEST_DELIVERIES)]
    xid: Xid | None = None
    name: Name | None = None
    delay_ms: Annotated[int, msgspec.Meta(ge=0, le=GREATEST_DELAY_MS)] = 0
    """From the submission to the first delivery."""
    timeout_ms: Annotated[int, msgspec.Meta(ge=1, le=GREATEST_QUERY_AFTER_MS)] = (
        DEFAULT_QUERY_AFTER_MS
    )
    """How long the submission is waited for before `query` is asked."""


class SubmitBody(Body, frozen=True, kw_only=True):
    wait_ms: Annotated[int, msgspec.Meta(ge=0, le=GREATEST_WAIT_MS)] = 0
    """How long the answer waits until everybody has accepted the message."""


class AbortBody(Body, frozen=True, kw_only=True):
    reason: Reason = ""


class Delivery(Answer, frozen=True, kw_only=True):
    """One of those that the message goes to."""

    name: str
    """The number of its step, and of the subscriber behind a dash when the topic has several."""
    action: str | None
    """Where it goes; null for a topic, as long as the message is not submitted."""
    topic: str | None
    status: str
    """PREPARED before the submission, REGISTERED until it is accepted."""
    attempts: int
    """How often it was not accepted."""
    next_attempt_at: int | None
    """Milliseconds since the epoch."""
    error: BranchFailure | None


class CheckBack(Answer, frozen=True, kw_only=True):
    """How its sender is asked what became of it."""

    url: str
    attempts: int
    next_attempt_at: int | None
    """Milliseconds since the epoch; null once it was submitted or aborted."""
    error: BranchFailure | None


class MessageView(TransactionState, frozen=True, kw_only=True):
    """A message, and how far its delivery is."""

    name: str
    submitted: bool
    query: CheckBack | None
    """Null when the retention of its details is over."""
    steps: list[Delivery]


class Messages:
    """The handlers of `/api/v1/messages`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._prefixes = XidPrefixes(service.cluster)
        self._prepares = msgspec.json.Decoder(PrepareBody)
        self._submits = msgspec.json.Decoder(SubmitBody)
        self._aborts = msgspec.json.Decoder(AbortBody)

    async def prepare(self, request: web.Request) -> Reply:
        service = self._service
        body = await requests.read_json(request, service.settings)
        asked = json_text.decode(body, self._prepares)
        topics = sum(step.topic is not UNSET for step in asked.steps)
        if len(asked.steps) - topics + topics * GREATEST_SUBSCRIBERS > GREATEST_DELIVERIES:
            refuse_field(
                "steps",
                f"has more than {GREATEST_DELIVERIES} deliveries, each topic counted as "
                f"{GREATEST_SUBSCRIBERS}",
            )
        command = PrepareMessage(
            xid=new_xid(asked.xid),
            prefix=self._prefixes.own(),
            name="" if asked.name is None else requests.name("name", asked.name),
            query=checked_url(service, "query", asked.query),
            steps=tuple([self._step(number, step) for number, step in enumerate(asked.steps)]),
            delay_ms=asked.delay_ms,
            query_after_ms=asked.timeout_ms,
        )
        outcome = await service.propose(request, body, (command,))
        return service.written(201, state_of(outcome), outcome, outcome.position)

    def _step(self, number: int, asked: MessageStep) -> Step:
        path = f"steps[{number}]"
        if asked.topic is not UNSET and asked.action is UNSET:
            url = SCHEME + requests.name(f"{path}.topic", asked.topic)
        elif asked.action is not UNSET and asked.topic is UNSET:
            url = checked_url(self._service, f"{path}.action", asked.action)
        else:
            refuse_field(path, "needs an action or a topic, and not both")
        return Step(
            name=f"{number + 1:02}",
            calls=Calls(forward=url, commit="", rollback=""),
            payload=b"null" if asked.payload is UNSET else bytes(asked.payload),
            depends_on=(),
            timeout_ms=0,
            retry=RetryRule(),
        )

    async def submit(self, request: web.Request) -> Reply:
        body = await requests.read_optional_json(request, self._service.settings)
        asked = json_text.decode(body or b"{}", self._submits)
        return await self._decide(request, body, to_submit=True, wait_ms=asked.wait_ms)

    async def abort(self, request: web.Request) -> Reply:
        body = await requests.read_optional_json(request, self._service.settings)
        asked = json_text.decode(body or b"{}", self._aborts)
        return await self._decide(request, body, to_submit=False, reason=asked.reason)

    async def _decide(
        self, request: web.Request, body: bytes, *, to_submit: bool, wait_ms: int = 0,
        reason: str = "",
    ) -> Reply:  # fmt: skip
        command = DecideGlobal(
            xid=path_xid(request),
            commit=to_submit,
            reason=checked_reason(reason),
            wait_ms=wait_ms,
            reports_expected=False,
            program=Program.MESSAGE,
        )
        # It is submitted though its client has gone: only the wait is over then.
        outcome = await self._service.propose_waiting(
            request, body, command, wait_ms=wait_ms, undo=lambda at: CancelWait(ticket=at)
        )
        return self._service.written(200, state_of(outcome), outcome, outcome.position)

    async def show(self, request: web.Request) -> Reply:
        xid = path_xid(request)
        view = await self._service.view(request)
        row = get_global(view.reader, xid)
        if row is not None:
            answer = _view_of(view.reader, row)
        else:
            answer = _view_of_summary(view.reader, xid)
        return self._service.replies.success(200, answer, view.position)


def _view_of(reader: Reader, row: Global) -> MessageView:
    if row.program != Program.MESSAGE:
        raise _no_message(row.xid, row.program)
    state = load_state(reader)
    wall_minus_elapsed_ms = state.wall_ms - state.elapsed_ms
    question, *deliveries = get_branches(reader, row.xid)
    assert question.name == QUESTION, "a message begins with the question to its sender"
    kept = get_undelivered(reader, row.xid)
    steps = [_delivery_of(branch, wall_minus_elapsed_ms) for branch in deliveries]
    if kept is not None:
        steps = [_prepared(step) for step in kept.steps]
    return MessageView(
        xid=row.xid,
        status=row.status,
        reason=row.reason,
        name=row.name,
        submitted=row.submitted,
        query=CheckBack(
            url=question.calls.forward or "",
            attempts=question.attempts,
            next_attempt_at=_next_attempt_at(question, wall_minus_elapsed_ms),
            error=failure_of(question.failure),
        ),
        steps=steps,
    )


def _view_of_summary(reader: Reader, xid: str) -> MessageView:
    summary = get_summary(reader, xid)
    if summary is None:
        raise not_found(xid)
    if summary.program != Program.MESSAGE:
        raise _no_message(xid, summary.program)
    return MessageView(
        xid=xid,
        status=GlobalStatus(summary.status),
        reason=summary.reason,
        name=summary.name,
        submitted=summary.status == GlobalStatus.COMMITTED,
        query=None,
        steps=[],
    )


def _no_message(xid: str, program: str) -> Problem:
    return Problem("TRANSACTION_NOT_FOUND", f"{xid} is a transaction of another kind: {program}.")


def _next_attempt_at(branch: Branch, wall_minus_elapsed_ms: int) -> int | None:
    waits = branch.status is BranchStatus.REGISTERED and branch.due_ms > 0
    return branch.due_ms + wall_minus_elapsed_ms if waits else None


def _delivery_of(branch: Branch, wall_minus_elapsed_ms: int) -> Delivery:
    return Delivery(
        name=branch.name,
        action=branch.calls.forward,
        topic=None,
        status=branch.status,
        attempts=branch.attempts,
        next_attempt_at=_next_attempt_at(branch, wall_minus_elapsed_ms),
        error=failure_of(branch.failure),
    )


def _prepared(step: Step) -> Delivery:
    url = step.calls.forward or ""
    topic = topic_of(url)
    return Delivery(
        name=step.name,
        action=url if topic is None else None,
        topic=topic,
        status=_PREPARED,
        attempts=0,
        next_attempt_at=None,
        error=None,
    )


_PATH: Final = "/api/v1/messages"
_ONE: Final = f"{_PATH}/{{xid}}"
_TAG: Final = "messages"
_DECIDED: Final = (*BODY_ERRORS, *WRITE_ERRORS, "TRANSACTION_NOT_FOUND", "TRANSACTION_DECIDED")


def endpoints(service: Service) -> list[Endpoint]:
    messages = Messages(service)
    return [
        Endpoint(
            method="POST",
            path=_PATH,
            operation="prepareMessage",
            summary="Keep a message that is delivered once it is submitted",
            tag=_TAG,
            handler=messages.prepare,
            body=PrepareBody,
            example={
                "xid": "order-4711",
                "query": "http://127.0.0.1:9000/what-became-of-it",
                "steps": [
                    {"action": "http://127.0.0.1:9000/paid", "payload": {"orderId": 48213}},
                    {"topic": "paid", "payload": {"orderId": 48213}},
                ],
            },
            answer=TransactionState,
            status=201,
            errors=(*BODY_ERRORS, *WRITE_ERRORS, "TRANSACTION_EXISTS", "TOO_MANY_TRANSACTIONS"),
            writes=True,
            timed=True,
        ),
        Endpoint(
            method="GET",
            path=_ONE,
            operation="getMessage",
            summary="A message, and how far its delivery is",
            tag=_TAG,
            handler=messages.show,
            answer=MessageView,
            parameters=(XID, CONSISTENCY),
            errors=(*READ_ERRORS, "TRANSACTION_NOT_FOUND"),
            timed=True,
        ),
        Endpoint(
            method="POST",
            path=f"{_ONE}/submit",
            operation="submitMessage",
            summary="Have a prepared message delivered",
            tag=_TAG,
            handler=messages.submit,
            body=SubmitBody,
            body_required=False,
            example={"waitMs": 0},
            answer=TransactionState,
            parameters=(XID,),
            errors=_DECIDED,
            writes=True,
            timed=True,
        ),
        Endpoint(
            method="POST",
            path=f"{_ONE}/abort",
            operation="abortMessage",
            summary="Give a prepared message up",
            tag=_TAG,
            handler=messages.abort,
            body=AbortBody,
            body_required=False,
            answer=TransactionState,
            parameters=(XID,),
            errors=_DECIDED,
            writes=True,
            timed=True,
        ),
    ]
