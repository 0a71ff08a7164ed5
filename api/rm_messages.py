"""What a node and a resource manager say to each other: JSON objects that name their `type`."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

import msgspec

from api import json_text
from api.errors import FieldError, Problem
from api.shapes import Name
from api.xids import Xid
from statemachine.transactions.channel_sessions import (
    GREATEST_CLEAN_BATCH,
    GREATEST_GRACE_MS,
    GREATEST_RESOURCES,
    LEAST_GRACE_MS,
)

GREATEST_MESSAGE_BYTES: Final = 64 << 10
"""Of what a resource manager sends."""

GREATEST_FATES: Final = 500
"""Branches of one `ask-fates`."""

GREATEST_DETAIL: Final = 1_000
"""Characters of a result's detail that are kept."""

REQUEST_ID: Final = b'"requestId"'


class RmMode(enum.StrEnum):
    """How a resource manager can take part."""

    AT = "AT"
    TCC = "TCC"
    XA = "XA"
    SAGA = "SAGA"
    LCN = "LCN"
    TXC = "TXC"


class ResultStatus(enum.StrEnum):
    """What a call came to."""

    COMMITTED = "COMMITTED"
    ROLLED_BACK = "ROLLED_BACK"
    COMMIT_FAILED_RETRYABLE = "COMMIT_FAILED_RETRYABLE"
    COMMIT_FAILED_UNRETRYABLE = "COMMIT_FAILED_UNRETRYABLE"
    ROLLBACK_FAILED_RETRYABLE = "ROLLBACK_FAILED_RETRYABLE"
    ROLLBACK_FAILED_UNRETRYABLE = "ROLLBACK_FAILED_UNRETRYABLE"
    PREPARED = "PREPARED"
    UNKNOWN = "UNKNOWN"
    CLEANED = "CLEANED"
    CLEAN_FAILED = "CLEAN_FAILED"


class CallKind(enum.StrEnum):
    """What a resource manager is asked for."""

    COMMIT = "branch-commit"
    ROLLBACK = "branch-rollback"
    STATUS = "branch-status"
    CLEAN = "clean"
    SWEEP = "sweep"
    """Look through all guards on a resource, and clean those whose transactions are over."""


EXPECTED: Final[Mapping[CallKind, frozenset[ResultStatus]]] = MappingProxyType(
    {
        CallKind.COMMIT: frozenset(
            {
                ResultStatus.COMMITTED,
                ResultStatus.COMMIT_FAILED_RETRYABLE,
                ResultStatus.COMMIT_FAILED_UNRETRYABLE,
            }
        ),
        CallKind.ROLLBACK: frozenset(
            {
                ResultStatus.ROLLED_BACK,
                ResultStatus.ROLLBACK_FAILED_RETRYABLE,
                ResultStatus.ROLLBACK_FAILED_UNRETRYABLE,
            }
        ),
        CallKind.STATUS: frozenset(
            {
                ResultStatus.PREPARED,
                ResultStatus.COMMITTED,
                ResultStatus.ROLLED_BACK,
                ResultStatus.UNKNOWN,
            }
        ),
        CallKind.CLEAN: frozenset({ResultStatus.CLEANED, ResultStatus.CLEAN_FAILED}),
        CallKind.SWEEP: frozenset({ResultStatus.CLEANED, ResultStatus.CLEAN_FAILED}),
    }
)
"""Which results answer which call."""


class CloseCode(enum.IntEnum):
    """Why a node closes a channel."""

    STOPPING = 1001
    """The node stops: connect to another one, with the same `sessionId`."""
    TOO_LARGE = 1009
    """A message exceeds what is read at all."""
    BAD_MESSAGE = 4400
    """The message before says what was wrong."""
    NOT_REGISTERED = 4408
    """No `register` came in time."""
    REPLACED = 4409
    """Another connection has the session, or a newer process of the instance registered."""
    SESSION_ENDED = 4410
    """Register without `sessionId`: what the session held is rolled back."""
    REFUSED = 4429
    """The cluster has as many resource managers as it takes; try again later."""
    GO_ELSEWHERE = 4503
    """No majority confirms a leader to this node: connect to another one, as above."""


class _Message(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The base of all messages."""


class Register(_Message, frozen=True, kw_only=True, tag="register", forbid_unknown_fields=True):
    """Who the resource manager is and what it has. May be sent again when that changes."""

    application_id: Name
    host: Name
    """Of the process. A file of a host is only used by processes that name the same."""
    resources: Annotated[
        list[Annotated[str, msgspec.Meta(min_length=1, max_length=255)]],
        msgspec.Meta(max_length=GREATEST_RESOURCES),
    ]
    """The ids of its resources, as branches name them."""
    modes: Annotated[list[RmMode], msgspec.Meta(min_length=1, max_length=len(RmMode))]
    modes_of: Annotated[
        list[Annotated[list[RmMode], msgspec.Meta(min_length=1, max_length=len(RmMode))]],
        msgspec.Meta(max_length=GREATEST_RESOURCES),
    ] = []
    """The modes of each of `resources`, in their order, out of `modes`. Empty: each has all."""
    instance: Annotated[str, msgspec.Meta(max_length=128)] = ""
    """Which of its application's processes it is: the newest one that says so ends those before.
    Empty: it succeeds nobody."""
    session_id: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0
    """What it was welcomed with before, to go on with; 0 when it is new, and after a fork."""
    clean_batch: Annotated[int, msgspec.Meta(ge=1, le=GREATEST_CLEAN_BATCH)] = 1
    """How many branches one `clean` may name; above 1 they stand in `branches`."""
    grace_ms: Annotated[int, msgspec.Meta(ge=LEAST_GRACE_MS, le=GREATEST_GRACE_MS)] | None = None
    """How long the session outlives its connection; `channels.grace_ms` unless given."""


class Result(_Message, frozen=True, kw_only=True, tag="result", forbid_unknown_fields=True):
    """What a call came to."""

    request_id: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    status: ResultStatus
    detail: str | None = None
    not_found: bool = False
    """Of XA: the database does not know the branch, while its owner may still prepare it."""


class Leave(_Message, frozen=True, kw_only=True, tag="leave", forbid_unknown_fields=True):
    """The process ends: its session is not to wait for it."""


class GuardedBranch(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """A branch for which the resource manager keeps something."""

    xid: Xid
    branch_id: Annotated[int, msgspec.Meta(ge=1, le=2**53)]


class AskFates(_Message, frozen=True, kw_only=True, tag="ask-fates", forbid_unknown_fields=True):
    """What became of these? Answered with `fates` under the same `requestId`."""

    request_id: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    """The resource manager's own."""
    branches: Annotated[list[GuardedBranch], msgspec.Meta(min_length=1, max_length=GREATEST_FATES)]


class _RequestHead(_Message, frozen=True, kw_only=True, tag="request", forbid_unknown_fields=True):
    request_id: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    """The resource manager's own, which is answered under it."""
    method: Literal["GET", "POST", "DELETE"]
    path: Annotated[str, msgspec.Meta(pattern=r"^/[!-~]{1,4000}\Z")]
    """Below `/api/v1/transactions` or `/api/v1/row-locks`, encoded, with its query."""
    key: Annotated[str, msgspec.Meta(max_length=200)] = ""
    """What `Idempotency-Key` says."""
    timeout_ms: int | None = None
    """What `Tidelock-Timeout-Ms` says."""


class Request(_RequestHead, frozen=True, kw_only=True, tag="request", forbid_unknown_fields=True):
    """A request of the HTTP contract, answered with `response` under the same `requestId`."""

    body: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    """What the body of the request would be, as the last field."""


class _RequestChecked(
    _RequestHead, frozen=True, kw_only=True, tag="request", forbid_unknown_fields=True
):
    body: None = None


Incoming = Register | Result | Leave | AskFates | Request

_incoming: Final = msgspec.json.Decoder(Register | Result | Leave | AskFates | _RequestChecked)
_requests: Final = msgspec.json.Decoder(Request)
_REQUEST: Final = re.compile(rb'\s*\{\s*"type"\s*:\s*"request"')


class Welcome(_Message, frozen=True, kw_only=True, tag="welcome"):
    """Answer to `register`."""

    session_id: int
    resumed: bool
    """It is the session that was named. If another had been named, that one has ended."""
    cluster_id: str
    """Whose branches it will hear of: what it keeps for those of another cluster is not theirs."""
    node_id: str
    heartbeat_ms: int
    """The node pings this often; who hears nothing for twice as long should connect anew."""
    grace_ms: int
    takes_requests: bool = True
    """It answers `request`."""


class Response(_Message, frozen=True, kw_only=True, tag="response"):
    """Answer to `request`: what HTTP would have said."""

    request_id: int
    status: int
    body: msgspec.Raw
    """The JSON of a success or of a problem."""


class BranchFate(_Message, frozen=True, kw_only=True):
    """Where a branch's transaction stands."""

    xid: str
    branch_id: int
    status: str
    """Of the transaction; FORGOTTEN when it ended so long ago that nothing is kept of it; UNKNOWN
    when this cluster never had such a branch."""
    may_clean: bool
    """What guards against late calls of the branch may go."""


class Fates(_Message, frozen=True, kw_only=True, tag="fates"):
    """Answer to `ask-fates`, in its order."""

    request_id: int
    branches: list[BranchFate]


class CleanBranch(_Message, frozen=True, kw_only=True):
    """A branch of an ended transaction."""

    xid: str
    branch_id: int
    mode: str


class Called(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """What a call says, behind its `type` and `requestId`."""

    xid: str | msgspec.UnsetType = msgspec.UNSET
    """This and the next are left out of a `sweep`."""
    branch_id: int | msgspec.UnsetType = msgspec.UNSET
    mode: str
    resource_id: str
    application_data: msgspec.Raw | str | None = msgspec.UNSET  # type: ignore[assignment]
    epoch: int
    """The Raft term of the leader that calls. A smaller one than was seen is an old call."""
    phase_one_done: bool = False
    """The branch has reported that its phase one is done."""
    owner_gone: bool = False
    """The session that registered the branch has ended: nobody can prepare it any more."""
    branches: list[CleanBranch] = []
    """Of a `clean` that names several: all of them, the one above included."""


class Complaint(_Message, frozen=True, kw_only=True, tag="error"):
    """What was wrong with a message. The channel is closed behind it."""

    code: str
    detail: str


class GoElsewhere(_Message, frozen=True, kw_only=True, tag="go-elsewhere"):
    """The node is about to close the channel, and another one will serve it."""

    reason: str


_encode: Final = msgspec.json.Encoder().encode


def decode(text: bytes) -> Incoming:
    """Return what a resource manager says.

    Raises:
        Problem: it is no message.
    """
    if _REQUEST.match(text):
        return _decode_request(text)
    message: Register | Result | Leave | AskFates | _RequestChecked
    message = json_text.decode(text, _incoming)
    if isinstance(message, _RequestChecked):
        raise _refused("type", "must be the first field of a request")
    return message


def _decode_request(text: bytes) -> Request:
    """Return a request. Whoever serves it checks its body: that is the affair of who asked for it,
    and must not end the channel for all.
    """
    try:
        request = _requests.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        json_text.decode(text, _incoming)
        raise _refused("body", "cannot be read") from None
    if request.body is not msgspec.UNSET:
        body = bytes(request.body)
        head, found, behind = text.rpartition(body)
        if not found or behind.strip() != b"}":
            raise _refused("body", "must be the last field of a request")
        text = head + b"null}"
    json_text.decode(text, _incoming)
    return request


def _refused(field: str, why: str) -> Problem:
    return Problem("INVALID_FIELD", f"{field}: {why}", errors=[FieldError(field, why)])


def encode(message: Welcome | Complaint | GoElsewhere | Called | Fates) -> bytes:
    return _encode(message)


def response_message(request_id: int, status: int, body: bytes) -> bytes:
    """Return a `Response`; `body` is JSON."""
    return b'{"type":"response","requestId":%d,"status":%d,"body":%b}' % (request_id, status, body)


def call_message(kind: CallKind, request_id: int, called: bytes) -> bytes:
    """Return a call as a resource manager reads it. `called` is an encoded `Called`."""
    return b'{"type":"%b","requestId":%d,%b' % (kind.value.encode(), request_id, called[1:])


def application_data_of(data: bytes) -> Any:
    """Return what an application gave its branch: the JSON that it sent, else text."""
    if not data:
        return None
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return data.decode(errors="replace")
    return msgspec.Raw(data)
