"""Problems: every answer that is not a success, as RFC 9457 wants it.

One table says which status, title and advice belong to a code. A code that a rejection, an
exception or a check can carry is in it, or the test of this table fails.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final, NoReturn, assert_never

import msgspec

from api.cluster import (
    MembershipError,
    NoQuorumError,
    OutcomeUnknownError,
    OverloadedError,
    RequestTooLargeError,
    StorageFullError,
    TimestampsExhaustedError,
)
from api.routing import RejoinRefusedError
from statemachine.change_log import CompactedError
from statemachine.outcomes import (
    AnyHolder,
    LockHolder,
    Position,
    Rejected,
    RequestOutcome,
    RowLockHolder,
    TransactionStanding,
)
from statemachine.paging import InvalidCursorError
from statemachine.store import DamagedStateError

RETRY_AFTER_S: Final = 1
"""What `Retry-After` says: elections end well within a second."""

GREATEST_MESSAGE: Final = 300
"""Characters of a message that may quote the client; what is longer is cut."""


class ProblemKind(msgspec.Struct, frozen=True):
    """What is the same in every problem of one code."""

    status: int
    title: str
    retryable: bool = False
    """The same request may succeed when sent again, unchanged."""
    closes: bool = False
    """The connection ends with it, because nobody knows where another request would begin."""


KINDS: Final[dict[str, ProblemKind]] = {
    "MALFORMED_JSON": ProblemKind(400, "The body is not well-formed JSON"),
    "DUPLICATE_KEY": ProblemKind(400, "An object of the body names a key twice"),
    "MALFORMED_REQUEST": ProblemKind(400, "The request is not well-formed HTTP", closes=True),
    "NOT_FOUND": ProblemKind(404, "There is nothing at this path"),
    "EVENT_NOT_FOUND": ProblemKind(404, "No such event is stored"),
    "PARTICIPANT_NOT_FOUND": ProblemKind(404, "No such participant is known"),
    "NOT_A_MEMBER": ProblemKind(404, "No such node belongs to the cluster"),
    "SYNC_ROUND_NOT_FOUND": ProblemKind(404, "No such round is kept"),
    "PROPOSAL_NOT_FOUND": ProblemKind(404, "No such proposal is kept"),
    "DATA_NOT_FOUND": ProblemKind(404, "Nothing is committed under this key"),
    "TRANSACTION_NOT_FOUND": ProblemKind(404, "No such transaction is known"),
    "BRANCH_NOT_FOUND": ProblemKind(404, "The transaction has no such branch"),
    "SAGA_DEFINITION_NOT_FOUND": ProblemKind(404, "No such saga definition is there"),
    "EXECUTION_NOT_FOUND": ProblemKind(404, "No such execution is remembered"),
    "TICKET_NOT_FOUND": ProblemKind(404, "No wait has this ticket"),
    "METHOD_NOT_ALLOWED": ProblemKind(405, "The path does not take this method"),
    "BODY_TIMEOUT": ProblemKind(
        408, "The body did not arrive in time", retryable=True, closes=True
    ),
    "CLOCK_OVERFLOW": ProblemKind(409, "The clock cannot hold the timestamp"),
    "SEQUENCE_EXHAUSTED": ProblemKind(409, "The sequence has too few numbers left"),
    "LOCK_HELD": ProblemKind(409, "The lock is held"),
    "LOCK_UPGRADE_REFUSED": ProblemKind(409, "A shared lock cannot be made exclusive"),
    "REQUEST_ABANDONED": ProblemKind(409, "The request was abandoned by its client"),
    "FENCING_TOKEN_STALE": ProblemKind(409, "The fencing token is not that of a lease"),
    "VECTOR_TOO_LARGE": ProblemKind(409, "The vector cannot hold so many participants"),
    "TOO_MANY_SIBLINGS": ProblemKind(409, "The object has too many concurrent values"),
    "SYNC_ROUND_OPEN": ProblemKind(409, "The round is not closed yet"),
    "NOT_A_REPORTER": ProblemKind(409, "The participant did not report in the round"),
    "REJECTED": ProblemKind(409, "The proposal was rejected"),
    "PROPOSAL_EXPIRED": ProblemKind(409, "The proposal was not decided in time"),
    "PROPOSAL_ID_TAKEN": ProblemKind(409, "The id belongs to another proposal"),
    "PROPOSAL_UNDECIDED": ProblemKind(409, "The votes do not suffice yet"),
    "TRANSACTION_EXISTS": ProblemKind(409, "A transaction has this xid already"),
    "TRANSACTION_NOT_ACTIVE": ProblemKind(409, "The transaction takes nothing more"),
    "TRANSACTION_DECIDED": ProblemKind(409, "The transaction is decided otherwise"),
    "BRANCH_FAILED": ProblemKind(409, "A branch of the transaction failed"),
    "BRANCH_UNFINISHED": ProblemKind(409, "A branch of the transaction has not reported"),
    "BRANCH_NOT_TRIED": ProblemKind(409, "The branch has not been tried"),
    "BRANCH_STATUS_FIXED": ProblemKind(409, "The branch cannot change so any more"),
    "LOCK_CONFLICT": ProblemKind(409, "A row is locked by another transaction"),
    "DEADLOCK": ProblemKind(409, "Transactions wait for each other"),
    "CHANNEL_SESSION_ENDED": ProblemKind(409, "The resource manager's session has ended"),
    "CHANNEL_SESSION_TAKEN": ProblemKind(409, "The resource manager's session is another's"),
    "EXECUTION_TAKEN_OVER": ProblemKind(409, "Another node runs the execution"),
    "SERVICES_NOT_CONFIGURED": ProblemKind(409, "The node has no data sources"),
    "EPOCH_STALE": ProblemKind(409, "Another node leads now"),
    "OPERATION_NOT_POSSIBLE": ProblemKind(409, "The operation is not possible now"),
    "VERSION_NOT_ACTIVE": ProblemKind(409, "Not every node knows this operation yet"),
    "VERSION_UNKNOWN": ProblemKind(409, "No node knows this version"),
    "ALREADY_MEMBER": ProblemKind(409, "The node belongs to the cluster already"),
    "CHANGE_IN_PROGRESS": ProblemKind(409, "Another change of the members is under way"),
    "LAST_VOTER": ProblemKind(409, "The cluster needs its last voter"),
    "NOT_A_VOTER": ProblemKind(409, "The node does not vote"),
    "NOT_EMPTY": ProblemKind(409, "The node has been in a cluster before"),
    "MEMBERSHIP_REFUSED": ProblemKind(409, "The members of the cluster stay as they are"),
    "REJOIN_REFUSED": ProblemKind(409, "The node cannot come back into rotation yet"),
    "COMPACTED": ProblemKind(410, "What was asked for is no longer kept"),
    "ANSWER_NOT_KEPT": ProblemKind(410, "The answer can no longer be made"),
    "ANSWER_TOO_LARGE": ProblemKind(413, "The answers to the request are too large"),
    "REQUEST_TOO_LARGE": ProblemKind(413, "The request is too large"),
    "NOT_JSON": ProblemKind(415, "The body is not declared as JSON"),
    "EXPECTATION_FAILED": ProblemKind(417, "The expectation cannot be met"),
    "UPGRADE_REQUIRED": ProblemKind(426, "The path is a WebSocket"),
    "HEAD_TOO_LARGE": ProblemKind(431, "The head of the request is too large", closes=True),
    "INVALID_FIELD": ProblemKind(422, "A field has a value that it cannot have"),
    "POSITION_UNKNOWN": ProblemKind(422, "The cluster's log has not got as far"),
    "INVALID_COMMAND": ProblemKind(422, "The operation cannot be done with these values"),
    "CLOCK_SKEW_TOO_LARGE": ProblemKind(422, "The timestamp is too far in the future"),
    "IDEMPOTENCY_KEY_REUSED": ProblemKind(422, "The idempotency key belongs to another request"),
    "OVERLOADED": ProblemKind(429, "The node has more requests than it can take", retryable=True),
    "TOO_MANY_TRANSACTIONS": ProblemKind(
        429, "No more transactions can be under way", retryable=True
    ),
    "TOO_MANY_EXECUTIONS": ProblemKind(429, "No more executions can be under way", retryable=True),
    "TOO_MANY_CHANNELS": ProblemKind(
        429, "No more resource managers can be connected now", retryable=True
    ),
    "TOO_MANY_RESOURCES": ProblemKind(
        429, "Too many resources have something left to be cleaned", retryable=True
    ),
    "IDEMPOTENCY_TABLE_FULL": ProblemKind(
        429, "No more idempotency keys can be remembered now", retryable=True
    ),
    "LOCK_QUEUE_FULL": ProblemKind(429, "No more can wait for the lock now", retryable=True),
    "LOCK_TABLE_FULL": ProblemKind(429, "No more locks can be held now", retryable=True),
    "SAGA_DEFINITIONS_FULL": ProblemKind(
        429, "No more saga definitions can be taken", retryable=True
    ),
    "SUBSCRIBERS_FULL": ProblemKind(429, "No more subscribers can be taken", retryable=True),
    "SYNC_REPORTERS_FULL": ProblemKind(429, "No more participants can report now", retryable=True),
    "PROPOSALS_FULL": ProblemKind(
        429, "No more proposals can be undecided at once", retryable=True
    ),
    "SESSION_WINDOW_EXCEEDED": ProblemKind(
        429, "The node has more requests under way than it can take", retryable=True
    ),
    "TOO_MANY_WATCHERS": ProblemKind(
        429, "The node has as many watchers as it takes", retryable=True
    ),
    "INTERNAL_ERROR": ProblemKind(500, "The node failed to answer"),
    "NO_QUORUM": ProblemKind(503, "No majority of the nodes confirms a leader", retryable=True),
    "NO_LEADER": ProblemKind(503, "No leader is known to this node", retryable=True),
    "TIMED_OUT": ProblemKind(503, "The change was not finished in time", retryable=True),
    "TRANSFER_FAILED": ProblemKind(503, "Leadership was not taken over", retryable=True),
    "OUTCOME_UNKNOWN": ProblemKind(503, "The outcome was not learnt in time", retryable=True),
    "REQUEST_EXPIRED": ProblemKind(503, "The request expired and was not applied", retryable=True),
    "NOT_READY": ProblemKind(503, "The node cannot serve now", retryable=True),
    "SERVICES_UNAVAILABLE": ProblemKind(503, "The data sources cannot be used", retryable=True),
    "NOT_LEADER": ProblemKind(503, "The node is not a confirmed leader", retryable=True),
    "STATE_DAMAGED": ProblemKind(503, "The node's copy of the state is damaged", retryable=True),
    "COMMITTED_KEYS_FULL": ProblemKind(507, "No more keys can have committed data"),
    "STORAGE_FULL": ProblemKind(507, "The cluster has no room for more"),
}


OPEN_CODES: Final = frozenset({"MEMBERSHIP_REFUSED", "REJOIN_REFUSED"})
"""Who refuses names the reason with a code of its own; these stand for any of them."""


class FieldError(msgspec.Struct, frozen=True):
    """What is wrong with one field."""

    path: str
    """As a client would write it, `operations[3].nodeId`; a header or a parameter by its name."""
    message: str


class HolderBody(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Who has what was asked for: a lock, or a row."""

    owner: str | None = None
    """Of a lock, with the three below."""
    mode: str | None = None
    fencing_token: int | None = None
    expires_at: int | None = None
    """Milliseconds since the epoch."""
    xid: str | None = None
    """Of a row, with the rest."""
    branch_id: int | None = None
    resource_id: str | None = None
    table: str | None = None
    key: tuple[int | str | bool | None, ...] = ()
    since: int | None = None
    """Milliseconds since the epoch."""


class StandingBody(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Where the transaction stands that the request was about."""

    xid: str
    status: str
    reason: str = ""
    """Why it was decided so."""
    ended_at: int | None = None
    """Milliseconds since the epoch; left out while something of it is left to do."""
    branch_id: int | None = None
    """The branch that is the reason for the problem, when one is."""


class ProblemBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The members of `application/problem+json`."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: tuple[FieldError, ...] = ()
    holder: HolderBody | None = None
    """Who has what was asked for."""
    transaction: StandingBody | None = None
    """The one that is not, or no longer, what it would have to be."""
    oldest: str | None = None
    """The position behind which everything is still kept."""
    votes: dict[str, str] | None = None
    """How each node voted on the proposal: ACCEPT, REJECT or PENDING."""
    reasons: dict[str, str] | None = None
    """Why nodes voted REJECT."""
    retryable: bool | None = None


class Problem(Exception):  # noqa: N818 - the RFC's word
    """Raised where a request cannot be answered as asked; the wrapper of the handler sends it."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        allow: Sequence[str] = (),
        kind: ProblemKind | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.kind = KINDS[code] if kind is None else kind
        self.detail = detail
        self.errors = tuple(errors)
        self.allow = tuple(allow)
        self.position: Position | None = None
        """Where the log rejected the request, when it did."""
        self.oldest: Position | None = None
        self.votes: dict[str, str] | None = None
        self.reasons: dict[str, str] | None = None
        self.holder: HolderBody | None = None
        self.transaction: StandingBody | None = None
        self.retryable = self.kind.retryable
        self.replayed = False
        """An earlier request with the same idempotency key was rejected so."""

    @property
    def status(self) -> int:
        return self.kind.status

    def within(self, path: str) -> Problem:
        """Return the problem as that of a part at `path` of a larger request."""
        errors = [FieldError(f"{path}.{error.path}", error.message) for error in self.errors]
        return Problem(self.code, f"{path}.{self.detail}", errors=errors, kind=self.kind)

    def body(self) -> ProblemBody:
        return ProblemBody(
            type=f"urn:problem-type:tidelock:{self.code.lower().replace('_', '-')}",
            title=self.kind.title,
            status=self.kind.status,
            detail=self.detail[:GREATEST_MESSAGE],
            code=self.code,
            errors=self.errors,
            holder=self.holder,
            transaction=self.transaction,
            oldest=None if self.oldest is None else str(self.oldest),
            votes=self.votes,
            reasons=self.reasons,
            retryable=self.retryable,
        )

    def headers(self) -> dict[str, str]:
        """Return the headers that the status calls for."""
        headers = {}
        if self.allow:
            headers["Allow"] = ", ".join(self.allow)
        if self.replayed:
            headers["Idempotency-Replayed"] = "true"
        if self.kind.status == HTTPStatus.UPGRADE_REQUIRED:
            headers["Upgrade"] = "websocket"
        if self.kind.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
            headers["Retry-After"] = str(RETRY_AFTER_S)
        return headers


def refuse_field(path: str, message: str) -> NoReturn:
    """Raise the problem of one invalid field."""
    raise Problem(
        "INVALID_FIELD",
        f"{path}: {message}" if path else message,
        errors=[FieldError(path, message[:GREATEST_MESSAGE])],
    )


def refuse_size(path: str, size_bytes: int, limit_bytes: int) -> NoReturn:
    """Raise the problem of one field, or a whole body, that exceeds its limit."""
    message = f"has {size_bytes} bytes, at most {limit_bytes} are allowed"
    raise Problem("REQUEST_TOO_LARGE", f"{path} {message}", errors=[FieldError(path, message)])


def of_rejection(rejected: Rejected, outcome: RequestOutcome) -> Problem:
    """Return the problem that a rejection by the state machine is."""
    problem = Problem(rejected.code.value, rejected.detail)
    problem.position = outcome.position
    problem.replayed = outcome.replayed
    if rejected.holder is not None:
        problem.holder = _holder(rejected.holder)
    if rejected.retryable is not None:
        problem.retryable = rejected.retryable
    if rejected.transaction is not None:
        problem.transaction = _standing(rejected.transaction)
    return problem


def of_compaction(error: CompactedError) -> Problem:
    """Return the problem of who wants to go on behind a position that is too old."""
    problem = Problem(
        "COMPACTED",
        f"Changes are kept behind {error.oldest}, and what is asked for begins earlier. Read the "
        "state you need, then watch on from there.",
    )
    problem.oldest = error.oldest
    return problem


def _standing(standing: TransactionStanding) -> StandingBody:
    return StandingBody(
        xid=standing.xid,
        status=standing.status,
        reason=standing.reason,
        ended_at=standing.ended_ms or None,
        branch_id=standing.branch_id or None,
    )


def _holder(holder: AnyHolder) -> HolderBody:
    match holder:
        case LockHolder():
            return HolderBody(
                owner=holder.owner,
                mode=holder.mode,
                fencing_token=holder.fencing_token,
                expires_at=holder.expires_at_ms,
            )
        case RowLockHolder():
            return HolderBody(
                xid=holder.xid,
                branch_id=holder.branch_id,
                resource_id=holder.resource_id,
                table=holder.table,
                key=holder.key,
                since=holder.since_ms,
            )
        case _:
            assert_never(holder)


_MISSING: Final = re.compile(r"Object missing required field `([^`]*)`")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_PLACE: Final = re.compile(r" - at `\$(?P<path>[^`]*)`\Z")


def of_invalid_json(error: msgspec.ValidationError) -> Problem:
    """Return the problem of a body that is JSON but not of the shape that was asked for."""
    text = str(error)
    place = _PLACE.search(text)
    path = "" if place is None else place["path"]
    message = text if place is None else text[: place.start()]
    if found := _MISSING.match(message):
        path, message = f"{path}.{found[1]}", "is required"
    elif found := _UNKNOWN.match(message):
        path, message = f"{path}.{found[1][:GREATEST_MESSAGE]}", "is not a field of this request"
    path = path.removeprefix(".")
    return Problem(
        "INVALID_FIELD",
        f"{path}: {message}" if path else message,
        errors=[FieldError(path, message[:GREATEST_MESSAGE])],
    )


_NOT_APPLIED: Final = "Nothing was applied. Send the request again."

_EXPECTED: Final[dict[type[Exception], tuple[str, str]]] = {
    OutcomeUnknownError: (
        "OUTCOME_UNKNOWN",
        "The request may have been applied or may still be. Send it again with the same "
        "Idempotency-Key: it is applied at most once.",
    ),
    NoQuorumError: (
        "NO_QUORUM",
        f"No majority confirmed a leader before the request's deadline. {_NOT_APPLIED}",
    ),
    OverloadedError: (
        "OVERLOADED",
        f"The queue of this node is full. {_NOT_APPLIED}",
    ),
    RequestTooLargeError: (
        "REQUEST_TOO_LARGE",
        "The encoded request exceeds 1 MiB, the greatest entry of the log. Nothing was applied. "
        "Send it in parts.",
    ),
    TimestampsExhaustedError: (
        "CLOCK_OVERFLOW",
        "The oracle's timestamps end before 2**63, and fewer are left than were asked for.",
    ),
    StorageFullError: (
        "STORAGE_FULL",
        "State or disk has passed its limit, so nothing that would grow it is accepted. Give the "
        "nodes more room, or shorten events.retention.",
    ),
    DamagedStateError: (
        "STATE_DAMAGED",
        "A stored value fails its checksum on this node. Ask another node.",
    ),
}


def of_exception(error: Exception) -> Problem | None:
    """Return the problem that an expected exception is, or None for one that nobody expected."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, InvalidCursorError):
        return Problem("INVALID_FIELD", str(error), errors=[FieldError("cursor", str(error))])
    if isinstance(error, CompactedError):
        return of_compaction(error)
    if isinstance(error, MembershipError):
        return _with_own_code(error.code, "MEMBERSHIP_REFUSED", str(error))
    if isinstance(error, RejoinRefusedError):
        return _with_own_code(error.code, "REJOIN_REFUSED", str(error))
    expected = _EXPECTED.get(type(error))
    return None if expected is None else Problem(*expected)


def _with_own_code(code: str, kind_code: str, detail: str) -> Problem:
    """Return a problem under the raiser's code; unless the table knows it, it is a conflict."""
    return Problem(code, detail, kind=KINDS.get(code, KINDS[kind_code]))


INTERNAL: Final = Problem(
    "INTERNAL_ERROR", "The node failed in a way that its log describes. Ask another node."
)
