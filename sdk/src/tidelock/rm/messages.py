"""What a resource manager and a node say to each other on the channel (docs/CHANNELS.md)."""

from __future__ import annotations

import enum
import re
from typing import Annotated, Any, Final

import msgspec

from tidelock.rm.resource import BranchStatus, Fate, PhaseTwoStatus

GREATEST_MESSAGE_BYTES: Final = 64 << 10
"""What a node takes."""

GREATEST_HEARD_BYTES: Final = 4 << 20
"""What a node says at most, and more: a `clean` of 200 branches, the data of one."""

GREATEST_RESOURCES: Final = 64
"""Of one session."""

GREATEST_RESOURCE_BYTES: Final = 255

GREATEST_CLEAN_BATCH: Final = 200
"""Branches of one `clean`."""

GREATEST_FATES: Final = 500
"""Branches of one `ask-fates`."""

LEAST_GRACE_MS: Final = 1_000
GREATEST_GRACE_MS: Final = 600_000

GREATEST_DETAIL: Final = 1_000
"""Characters of a result's detail that are kept."""

_Number = Annotated[int, msgspec.Meta(ge=1, le=2**53)]


class CallKind(enum.StrEnum):
    """What the coordinator asks for."""

    COMMIT = "branch-commit"
    ROLLBACK = "branch-rollback"
    STATUS = "branch-status"
    CLEAN = "clean"
    SWEEP = "sweep"


class Cleaning(enum.StrEnum):
    """What a `clean` or a `sweep` came to."""

    CLEANED = "CLEANED"
    CLEAN_FAILED = "CLEAN_FAILED"


Status = PhaseTwoStatus | BranchStatus | Cleaning

RESULTS: Final[dict[CallKind, tuple[Status, ...]]] = {
    CallKind.COMMIT: (
        PhaseTwoStatus.COMMITTED,
        PhaseTwoStatus.COMMIT_FAILED_RETRYABLE,
        PhaseTwoStatus.COMMIT_FAILED_UNRETRYABLE,
    ),
    CallKind.ROLLBACK: (
        PhaseTwoStatus.ROLLED_BACK,
        PhaseTwoStatus.ROLLBACK_FAILED_RETRYABLE,
        PhaseTwoStatus.ROLLBACK_FAILED_UNRETRYABLE,
    ),
    CallKind.STATUS: tuple(BranchStatus),
    CallKind.CLEAN: tuple(Cleaning),
    CallKind.SWEEP: tuple(Cleaning),
}
"""Which results answer which question."""

NOT_NOW: Final[dict[CallKind, Status]] = {
    CallKind.COMMIT: PhaseTwoStatus.COMMIT_FAILED_RETRYABLE,
    CallKind.ROLLBACK: PhaseTwoStatus.ROLLBACK_FAILED_RETRYABLE,
    CallKind.STATUS: BranchStatus.UNKNOWN,
    CallKind.CLEAN: Cleaning.CLEAN_FAILED,
    CallKind.SWEEP: Cleaning.CLEAN_FAILED,
}
"""What is answered when a question was not gone into: it is asked again."""


class _Message(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The base of all messages."""


# --- what a resource manager says


class Register(_Message, frozen=True, kw_only=True, tag="register", omit_defaults=True):
    """Who it is and what it has."""

    application_id: str
    host: str
    resources: tuple[str, ...]
    modes: tuple[str, ...]
    modes_of: tuple[tuple[str, ...], ...] = ()
    instance: str = ""
    session_id: int = 0
    clean_batch: int = 1
    grace_ms: int | None = None


class Result(_Message, frozen=True, kw_only=True, tag="result", omit_defaults=True):
    """What a call came to."""

    request_id: int
    status: Status
    detail: str = ""
    not_found: bool = False


class GuardedBranch(_Message, frozen=True, kw_only=True):
    """A branch for which something is kept."""

    xid: str
    branch_id: int


class AskFates(_Message, frozen=True, kw_only=True, tag="ask-fates"):
    """What became of these?"""

    request_id: int
    branches: tuple[GuardedBranch, ...]


class Leave(_Message, frozen=True, kw_only=True, tag="leave"):
    """The process ends."""


class Request(_Message, frozen=True, kw_only=True, tag="request", omit_defaults=True):
    """A call of the HTTP contract. Nodes want the body to come last."""

    request_id: int
    method: str
    path: str
    key: str = ""
    timeout_ms: int | None = None
    body: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


Said = Register | Result | AskFates | Leave | Request

_encode: Final = msgspec.json.Encoder().encode


def encode(message: Said) -> str:
    return _encode(message).decode()


# --- what a node says


class Welcome(_Message, frozen=True, kw_only=True, tag="welcome"):
    """Answer to `Register`."""

    session_id: _Number
    resumed: bool
    heartbeat_ms: Annotated[int, msgspec.Meta(ge=1, le=3_600_000)]
    cluster_id: str = ""
    node_id: str = ""
    grace_ms: int = 0
    takes_requests: bool = False
    """It answers `Request`."""


class CleanBranch(_Message, frozen=True, kw_only=True):
    """A branch of a finished transaction."""

    xid: str
    branch_id: _Number
    mode: str


class _Called(_Message, frozen=True, kw_only=True, tag_field="type"):
    request_id: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    xid: str
    branch_id: _Number
    mode: str
    resource_id: str
    application_data: Any = None
    epoch: Annotated[int, msgspec.Meta(ge=0)]
    phase_one_done: bool = False
    owner_gone: bool = False
    branches: tuple[CleanBranch, ...] = ()


class CommitAsked(_Called, frozen=True, kw_only=True, tag="branch-commit"):
    """Commit the branch."""


class RollbackAsked(_Called, frozen=True, kw_only=True, tag="branch-rollback"):
    """Undo it."""


class StatusAsked(_Called, frozen=True, kw_only=True, tag="branch-status"):
    """Tell what became of it."""


class CleanAsked(_Called, frozen=True, kw_only=True, tag="clean"):
    """Forget the guards of `branches`, or of the one that is named when there are none."""


class SweepAsked(_Message, frozen=True, kw_only=True, tag_field="type", tag="sweep"):
    """Find out which guards of a resource are of finished transactions, and forget those."""

    request_id: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    mode: str
    resource_id: str
    epoch: Annotated[int, msgspec.Meta(ge=0)]


class FatesTold(_Message, frozen=True, kw_only=True, tag="fates"):
    """Answer to `AskFates`, in its order."""

    request_id: int
    branches: tuple[Fate, ...]


class Response(_Message, frozen=True, kw_only=True, tag="response"):
    """Answer to `Request`, as HTTP would have brought it."""

    request_id: int
    status: Annotated[int, msgspec.Meta(ge=100, le=599)]
    body: msgspec.Raw = msgspec.Raw(b"")


class Complaint(_Message, frozen=True, kw_only=True, tag="error"):
    """What was wrong with a message. The channel is closed behind it."""

    code: str
    detail: str = ""


class GoElsewhere(_Message, frozen=True, kw_only=True, tag="go-elsewhere"):
    """The node is about to close the channel; another one will serve it."""

    reason: str = ""


Asked = CommitAsked | RollbackAsked | StatusAsked | CleanAsked | SweepAsked

KIND_OF: Final[dict[type[Asked], CallKind]] = {
    CommitAsked: CallKind.COMMIT,
    RollbackAsked: CallKind.ROLLBACK,
    StatusAsked: CallKind.STATUS,
    CleanAsked: CallKind.CLEAN,
    SweepAsked: CallKind.SWEEP,
}


class Unreadable(msgspec.Struct, frozen=True):
    """A question of which only this much could be read."""

    kind: CallKind
    request_id: int
    why: str


class Unknown(msgspec.Struct, frozen=True):
    """What a later release may say; nothing follows from it."""

    kind: str


Heard = Welcome | Asked | FatesTold | Response | Complaint | GoElsewhere | Unreadable | Unknown


class _Head(msgspec.Struct, frozen=True, rename="camel"):
    type: str
    request_id: int | None = None


_heard: Final = msgspec.json.Decoder(
    Welcome | Asked | FatesTold | Response | Complaint | GoElsewhere
)
_head: Final = msgspec.json.Decoder(_Head)
_BEGINS: Final = re.compile(rb'\{"type":"([a-z-]+)","requestId":([0-9]{1,16}),')
_CALLS: Final = frozenset(map(str, CallKind))
_OTHERS: Final = frozenset({"welcome", "fates", "response", "error", "go-elsewhere"})


def decode(text: bytes) -> Heard:
    """Return what a node says.

    Raises:
        ValueError: no node says this.
    """
    try:
        try:
            heard: Heard = _heard.decode(text)
            return heard
        except msgspec.ValidationError as error:
            head = _head.decode(text)
            return _without_its_parts(head, error)
    except RecursionError:
        # The data of one branch must not end the channel for all.
        begins = _BEGINS.match(text)
        if begins is None or begins[1].decode() not in _CALLS:
            raise ValueError("it is nested too deeply") from None
        why = "its data is nested too deeply"
        return Unreadable(CallKind(begins[1].decode()), int(begins[2]), why)


def _without_its_parts(head: _Head, error: msgspec.ValidationError) -> Heard:
    """Raises: ValueError"""
    if head.type in _CALLS and head.request_id is not None:
        return Unreadable(CallKind(head.type), head.request_id, str(error))
    if head.type in _CALLS or head.type in _OTHERS:
        raise error
    return Unknown(head.type)
