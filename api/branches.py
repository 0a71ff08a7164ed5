"""Branches of global transactions: registration with row locks, reports, the fence for TCC."""

from __future__ import annotations

import enum
from typing import Annotated, Final

import msgspec
from aiohttp import web
from msgspec import UNSET, Raw, UnsetType

from api import json_text, requests
from api.destinations import check_destination
from api.endpoints import BODY_ERRORS, WRITE_ERRORS, Endpoint
from api.errors import refuse_field, refuse_size
from api.replies import Reply
from api.row_keys import LockKeys, LockMode, Locks, ResourceId, resource, row_locks
from api.service import Service, applied
from api.shapes import Answer, Body, Name
from api.xids import BRANCH_ID, TRANSACTION, path_branch_id, path_xid
from statemachine.commands import (
    AbandonBranch,
    CancelWait,
    LockRows,
    PassFence,
    RegisterBranch,
    ReportBranch,
    UnlockRows,
)
from statemachine.outcomes import (
    BranchRegistered,
    BranchReported,
    FencePassed,
    Position,
    RowsLocked,
    RowsUnlocked,
)
from statemachine.transactions import fence
from statemachine.transactions.row_locks import RowLock
from statemachine.transactions.rows import Calls, Failure

GREATEST_WAIT_MS: Final = 3_600_000
GREATEST_DATA_BYTES: Final = 64 * 1024
GREATEST_URL_LENGTH: Final = 2_048
GREATEST_ERROR_LENGTH: Final = 1_000

WaitMs = Annotated[
    int,
    msgspec.Meta(
        ge=0, le=GREATEST_WAIT_MS, description="How long to wait for the rows; 0 is not to wait."
    ),
]

Url = Annotated[
    str,
    msgspec.Meta(
        max_length=GREATEST_URL_LENGTH,
        pattern=r"^(?:[Hh][Tt][Tt][Pp][Ss]?://[^/?#\\]+(?:[/?#][!-\[\]-~]*)?)?$(?!\n)",
        description="An http or https URL that the operator lets the cluster call; empty: there is "
        "nothing to call, and it counts as done.",
        examples=["http://127.0.0.1:9000/stock"],
    ),
]

ApplicationData = Annotated[
    Raw,
    msgspec.Meta(description=f"Any JSON, at most {GREATEST_DATA_BYTES} bytes as sent."),
]


class BranchMode(enum.StrEnum):
    """How a branch takes part."""

    AT = "AT"
    TCC = "TCC"
    XA = "XA"
    SAGA = "SAGA"
    LCN = "LCN"
    TXC = "TXC"


class Callbacks(Body, frozen=True, kw_only=True):
    """Where a branch is told what was decided; left out: over its manager's channel."""

    commit: Url | None = None
    rollback: Url | None = None


class BranchBody(Body, frozen=True, kw_only=True):
    """A branch that takes part, and the rows that it locks."""

    mode: BranchMode
    resource_id: ResourceId
    locks: Locks = msgspec.field(default_factory=list)
    lock_keys: LockKeys | None = None
    """The short form of one element of `locks`, with `lockMode`."""
    lock_mode: LockMode = LockMode.EXCLUSIVE
    wait_ms: WaitMs = 0
    application_id: Name | None = None
    unit_id: Name | None = None
    session_id: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)] | None = None
    """The session of the resource manager's channel; required for LCN, and for XA unless both
    callbacks are given."""
    application_data: ApplicationData | UnsetType = UNSET
    """Comes back with each call of the branch."""
    callbacks: Callbacks = Callbacks()


class RowsBody(Body, frozen=True, kw_only=True):
    """More rows for a branch."""

    locks: Locks = msgspec.field(default_factory=list)
    lock_keys: LockKeys | None = None
    """The short form of one element of `locks`, with `lockMode`."""
    lock_mode: LockMode = LockMode.EXCLUSIVE
    wait_ms: WaitMs = 0


class UnlockBody(Body, frozen=True, kw_only=True):
    """What was locked since the savepoint, as it was asked for then: what had been shared before it
    became exclusive is shared again."""

    locks: Locks = msgspec.field(default_factory=list)
    lock_keys: LockKeys | None = None
    """The short form of one element of `locks`, with `lockMode`."""
    lock_mode: LockMode = LockMode.EXCLUSIVE


class ReportStatus(enum.StrEnum):
    """How the work of a branch ended."""

    PHASE_ONE_DONE = "PHASE_ONE_DONE"
    PHASE_ONE_FAILED = "PHASE_ONE_FAILED"
    PHASE_ONE_READ_ONLY = "PHASE_ONE_READ_ONLY"
    WITHDRAWN = "WITHDRAWN"


class BranchError(Body, frozen=True, kw_only=True):
    """What went wrong."""

    type: Annotated[str, msgspec.Meta(max_length=100)]
    message: Annotated[str, msgspec.Meta(max_length=GREATEST_ERROR_LENGTH)]
    at: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)] | None = None
    """Milliseconds since the epoch, by the reporter's clock; left out: now."""


class ReportBody(Body, frozen=True, kw_only=True):
    status: ReportStatus
    application_data: ApplicationData | UnsetType = UNSET
    """Replaces what the registration brought."""
    error: BranchError | None = None


class FenceBody(Body, frozen=True, kw_only=True):
    step: fence.Step
    phase: fence.Phase


class BranchState(Answer, frozen=True, kw_only=True):
    """A branch, and where it stands."""

    xid: str
    branch_id: int
    status: str


class RowsOfBranch(Answer, frozen=True, kw_only=True):
    xid: str
    branch_id: int


class RowsGivenBack(RowsOfBranch, frozen=True, kw_only=True):
    unlocked: int
    """How many of the rows the branch held in that mode, and holds so no more."""


class FenceVerdict(Answer, frozen=True, kw_only=True):
    verdict: fence.Verdict


class Branches:
    """The handlers of `/api/v1/transactions/{xid}/branches`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._registrations = msgspec.json.Decoder(BranchBody)
        self._rows = msgspec.json.Decoder(RowsBody)
        self._unlocks = msgspec.json.Decoder(UnlockBody)
        self._reports = msgspec.json.Decoder(ReportBody)
        self._fences = msgspec.json.Decoder(FenceBody)

    async def register(self, request: web.Request) -> Reply:
        service = self._service
        body = await requests.read_json(request, service.settings)
        asked = json_text.decode(body, self._registrations)
        xid = path_xid(request)
        command = self._registration(xid, asked)

        def undo(position: Position) -> AbandonBranch:
            return AbandonBranch(xid=xid, registration=position)

        outcome = await service.propose_waiting(
            request, body, command, wait_ms=asked.wait_ms, undo=undo
        )
        done = applied(outcome)
        assert isinstance(done, BranchRegistered)
        answer = BranchState(xid=done.xid, branch_id=done.branch_id, status="REGISTERED")
        return service.written(201, answer, outcome, outcome.position)

    def _registration(self, xid: str, asked: BranchBody) -> RegisterBranch:
        resource_id = resource("resourceId", asked.resource_id)
        if asked.session_id is None and _is_held_over_a_channel(asked):
            refuse_field("sessionId", f"is required for {asked.mode.value}")
        return RegisterBranch(
            xid=xid,
            mode=asked.mode.value,
            resource_id=resource_id,
            locks=row_locks(resource_id, asked.locks, asked.lock_keys, asked.lock_mode),
            wait_ms=asked.wait_ms,
            application_id=_optional_name("applicationId", asked.application_id),
            unit_id=_optional_name("unitId", asked.unit_id),
            session_id=asked.session_id or 0,
            application_data=application_data(asked.application_data) or b"",
            calls=Calls(
                forward=None,
                commit=self._callback("callbacks.commit", asked.callbacks.commit),
                rollback=self._callback("callbacks.rollback", asked.callbacks.rollback),
            ),
        )

    def _callback(self, path: str, url: str | None) -> str | None:
        return None if url is None else checked_url(self._service, path, url)

    async def lock(self, request: web.Request) -> Reply:
        service = self._service
        body = await requests.read_json(request, service.settings)
        asked = json_text.decode(body, self._rows)
        command = LockRows(
            xid=path_xid(request),
            branch_id=path_branch_id(request),
            locks=_some_rows(asked),
            wait_ms=asked.wait_ms,
        )
        # What a client that has gone was given stays with the branch, and ends with it.
        outcome = await service.propose_waiting(
            request, body, command, wait_ms=asked.wait_ms, undo=lambda at: CancelWait(ticket=at)
        )
        done = applied(outcome)
        assert isinstance(done, RowsLocked)
        answer = RowsOfBranch(xid=done.xid, branch_id=done.branch_id)
        return service.written(200, answer, outcome, outcome.position)

    async def unlock(self, request: web.Request) -> Reply:
        service = self._service
        body = await requests.read_json(request, service.settings)
        asked = json_text.decode(body, self._unlocks)
        command = UnlockRows(
            xid=path_xid(request), branch_id=path_branch_id(request), locks=_some_rows(asked)
        )
        outcome = await service.propose(request, body, (command,))
        done = applied(outcome)
        assert isinstance(done, RowsUnlocked)
        answer = RowsGivenBack(xid=done.xid, branch_id=done.branch_id, unlocked=done.unlocked)
        return service.written(200, answer, outcome, outcome.position)

    async def report(self, request: web.Request) -> Reply:
        service = self._service
        body = await requests.read_json(request, service.settings)
        asked = json_text.decode(body, self._reports)
        error = asked.error
        command = ReportBranch(
            xid=path_xid(request),
            branch_id=path_branch_id(request),
            status=asked.status.value,
            application_data=application_data(asked.application_data),
            failure=None if error is None else Failure(error.type, error.message, error.at or 0),
        )
        outcome = await service.propose(request, body, (command,))
        done = applied(outcome)
        assert isinstance(done, BranchReported)
        answer = BranchState(xid=done.xid, branch_id=done.branch_id, status=done.status)
        return service.written(200, answer, outcome, outcome.position)

    async def pass_fence(self, request: web.Request) -> Reply:
        service = self._service
        body = await requests.read_json(request, service.settings)
        asked = json_text.decode(body, self._fences)
        command = PassFence(
            xid=path_xid(request),
            branch_id=path_branch_id(request),
            step=asked.step.value,
            phase=asked.phase.value,
        )
        outcome = await service.propose(request, body, (command,))
        done = applied(outcome)
        assert isinstance(done, FencePassed)
        answer = FenceVerdict(verdict=fence.Verdict(done.verdict))
        return service.written(200, answer, outcome, outcome.position)


def _is_held_over_a_channel(asked: BranchBody) -> bool:
    calls = asked.callbacks
    called_elsewhere = calls.commit is not None and calls.rollback is not None
    return asked.mode is BranchMode.LCN or (asked.mode is BranchMode.XA and not called_elsewhere)


def checked_url(service: Service, path: str, url: str) -> str:
    """Return a URL that may be called, or the empty one, which never is.

    Raises:
        Problem
    """
    return check_destination(service.settings.destinations, path, url) if url else ""


def application_data(raw: Raw | UnsetType) -> bytes | None:
    """Return the client's text, None when there is none."""
    if raw is UNSET:
        return None
    data = bytes(raw)
    if len(data) > GREATEST_DATA_BYTES:
        refuse_size("applicationData", len(data), GREATEST_DATA_BYTES)
    return data


def _optional_name(path: str, text: str | None) -> str:
    return "" if text is None else requests.name(path, text)


def _some_rows(asked: RowsBody | UnlockBody) -> tuple[RowLock, ...]:
    if not asked.locks and asked.lock_keys is None:
        refuse_field("locks", "names no row")
    return row_locks("", asked.locks, asked.lock_keys, asked.lock_mode)


_UNKNOWN: Final = ("TRANSACTION_NOT_FOUND", "BRANCH_NOT_FOUND")
_ROW_ERRORS: Final = ("LOCK_CONFLICT", "DEADLOCK", "LOCK_QUEUE_FULL", "LOCK_TABLE_FULL")


def endpoints(service: Service) -> list[Endpoint]:
    branches = Branches(service)
    path = "/api/v1/transactions/{xid}/branches"
    branch = f"{path}/{{branchId}}"
    tag = "transactions"
    parameters = (TRANSACTION, BRANCH_ID)
    return [
        Endpoint(
            method="POST",
            path=path,
            operation="registerBranch",
            summary="Let a branch take part, with all its row locks or not at all",
            tag=tag,
            handler=branches.register,
            body=BranchBody,
            answer=BranchState,
            status=201,
            parameters=(TRANSACTION,),
            errors=(
                *BODY_ERRORS,
                *WRITE_ERRORS,
                *_ROW_ERRORS,
                "TRANSACTION_NOT_FOUND",
                "TRANSACTION_NOT_ACTIVE",
                "CHANNEL_SESSION_ENDED",
                "TOO_MANY_RESOURCES",
            ),
            writes=True,
            timed=True,
        ),
        Endpoint(
            method="POST",
            path=f"{branch}/locks",
            operation="lockRows",
            summary="Lock more rows for a branch, all or none",
            tag=tag,
            handler=branches.lock,
            body=RowsBody,
            answer=RowsOfBranch,
            parameters=parameters,
            errors=(
                *BODY_ERRORS,
                *WRITE_ERRORS,
                *_UNKNOWN,
                *_ROW_ERRORS,
                "TRANSACTION_NOT_ACTIVE",
                "BRANCH_STATUS_FIXED",
            ),
            writes=True,
            timed=True,
        ),
        Endpoint(
            method="DELETE",
            path=f"{branch}/locks",
            operation="unlockRows",
            summary="Give back rows that a branch locked since the savepoint that it went back to",
            tag=tag,
            handler=branches.unlock,
            body=UnlockBody,
            answer=RowsGivenBack,
            parameters=parameters,
            errors=(
                *BODY_ERRORS,
                *WRITE_ERRORS,
                *_UNKNOWN,
                "TRANSACTION_NOT_ACTIVE",
                "BRANCH_STATUS_FIXED",
            ),
            writes=True,
            timed=True,
        ),
        Endpoint(
            method="POST",
            path=f"{branch}/report",
            operation="reportBranch",
            summary="Say how a branch's work ended",
            tag=tag,
            handler=branches.report,
            body=ReportBody,
            answer=BranchState,
            parameters=parameters,
            errors=(
                *BODY_ERRORS,
                *WRITE_ERRORS,
                *_UNKNOWN,
                "TRANSACTION_NOT_ACTIVE",
                "BRANCH_STATUS_FIXED",
            ),
            writes=True,
            timed=True,
        ),
        Endpoint(
            method="POST",
            path=f"{branch}/fence",
            operation="passFence",
            summary="Ask whether a step of TCC may run, or say that it has",
            tag=tag,
            handler=branches.pass_fence,
            body=FenceBody,
            example={"step": "TRY", "phase": "ENTER"},
            answer=FenceVerdict,
            parameters=parameters,
            errors=(*BODY_ERRORS, *WRITE_ERRORS, *_UNKNOWN, "BRANCH_NOT_TRIED"),
            writes=True,
            timed=True,
        ),
    ]
