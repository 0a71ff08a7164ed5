"""What the coordinator asks of a branch, and what a resource answers.

A resource is a database in one mode, a pair of Confirm and Cancel, a compensation. The runtime
(`tidelock.rm.runtime`) hears the coordinator on the channel, finds the resource by mode and id, and
calls it on the application's own loop; blocking work goes to a thread (`tidelock.rm.workers`).
docs/CHANNELS.md of the repository says what each question means.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec

Mode = Literal["AT", "TCC", "XA", "SAGA", "LCN", "TXC"]


class BranchCall(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A branch, and for whom it is asked."""

    xid: str
    branch_id: int
    mode: Mode
    resource_id: str
    application_data: Any = None
    """As it was given at registration, or with the last report."""
    epoch: int = 0
    """The term of the leader that asks. Of two, the greater is the newer."""
    phase_one_done: bool = False
    """The branch reported that its first phase is done."""
    owner_gone: bool = False
    """The session that registered the branch has ended: nobody works on it any more."""
    cluster_id: str = ""
    """Of the cluster that asks. What is kept for the branch is kept for that one."""


class Fate(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Where the transaction of a branch stands, as `Application.fates` tells."""

    xid: str
    branch_id: int
    status: str
    """Of the transaction. FORGOTTEN: it ended so long ago that nothing is kept of it. UNKNOWN: the
    cluster never had such a branch.
    """
    may_clean: bool
    """What guards against late calls of the branch may go."""


class PhaseTwoStatus(enum.StrEnum):
    """What committing or rolling back a branch came to."""

    COMMITTED = "COMMITTED"
    COMMIT_FAILED_RETRYABLE = "COMMIT_FAILED_RETRYABLE"
    COMMIT_FAILED_UNRETRYABLE = "COMMIT_FAILED_UNRETRYABLE"
    ROLLED_BACK = "ROLLED_BACK"
    ROLLBACK_FAILED_RETRYABLE = "ROLLBACK_FAILED_RETRYABLE"
    ROLLBACK_FAILED_UNRETRYABLE = "ROLLBACK_FAILED_UNRETRYABLE"


class BranchStatus(enum.StrEnum):
    """What became of a branch, as far as its resource can tell."""

    PREPARED = "PREPARED"
    COMMITTED = "COMMITTED"
    ROLLED_BACK = "ROLLED_BACK"
    UNKNOWN = "UNKNOWN"


class PhaseTwoResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a commit or a rollback."""

    status: PhaseTwoStatus
    detail: str = ""
    """For people; kept up to 1,000 characters."""
    not_found: bool = False
    """XA: the database does not know the branch, and its owner may still prepare it."""


class Resource(Protocol):
    """Does the second phase of the branches of one resource in one mode.

    Every question may come more than once, and gets the same answer. What a method raises is
    logged and answered as a retryable failure.
    """

    @property
    def resource_id(self) -> str:
        """Its identity for all processes that reach it, as branches name it."""
        ...

    @property
    def mode(self) -> Mode:
        """The mode of its branches."""
        ...

    async def commit(self, call: BranchCall) -> PhaseTwoResult:
        """Make the branch final."""
        ...

    async def rollback(self, call: BranchCall) -> PhaseTwoResult:
        """Undo the branch, or keep it from ever being done."""
        ...

    async def status(self, call: BranchCall) -> BranchStatus:
        """Tell what became of the branch. It changes nothing."""
        ...

    async def clean(self, ended: Sequence[BranchCall]) -> None:
        """Forget the guards (undo rows, fences, tombstones) of branches whose xid is finished."""
        ...


@runtime_checkable
class SessionBound(Protocol):
    """What a resource has besides when its branches end with the session of the process (LCN)."""

    async def session_lost(self, session_id: int) -> None:
        """The session has ended: roll back what was begun in it.

        Except what belongs to a transaction that is committed, as `GET /api/v1/transactions/{xid}`
        says. Calls that were under way go on beside it. Nothing more is asked of this process, and
        no session is given out, before it returns, for up to 30 s.
        """
        ...


@runtime_checkable
class Sweeping(Protocol):
    """What a resource has besides when it can find by itself which of its guards are over."""

    async def sweep(self) -> None:
        """Look through all guards, ask the cluster which transactions are over, forget those.

        `tidelock.sql.sweeping` does it, given where the guards are; what keeps none returns. It is
        asked for when more was to be cleaned than the cluster notes, and again until it returns.
        The answer is waited for for 120 s; what takes longer goes on, and is joined when it is
        asked for again.
        """
        ...
