"""Commands of global transactions: those of transaction and resource managers, and the driver's."""

from __future__ import annotations

import msgspec

from statemachine.commands.command import Command
from statemachine.transactions.row_locks import RowLock
from statemachine.transactions.rows import Calls, Failure, RetryRule


class Step(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """A branch that the cluster runs itself."""

    name: str
    calls: Calls
    payload: bytes
    depends_on: tuple[int, ...]
    """Places of earlier steps, from 0."""
    timeout_ms: int
    retry: RetryRule


class BeginGlobal(Command, frozen=True, tag=60):
    """Begin a global transaction that a client decides."""

    xid: str
    """Empty: one is made of `prefix` and a number."""
    prefix: str
    """`host:port` of the node, or its id."""
    name: str
    timeout_ms: int
    """0: it may stay undecided for ever."""
    mode: str = ""
    """What its branches will mostly be, for lists; empty when its client does not say."""


class RegisterBranch(Command, frozen=True, tag=61):
    """Let a branch take part, with its row locks or not at all."""

    xid: str
    mode: str
    resource_id: str
    locks: tuple[RowLock, ...]
    wait_ms: int
    application_id: str
    unit_id: str
    session_id: int
    application_data: bytes
    calls: Calls


class ReportBranch(Command, frozen=True, tag=62):
    """Say how a branch's phase one ended."""

    xid: str
    branch_id: int
    status: str
    application_data: bytes | None
    failure: Failure | None
    """At 0 milliseconds: now."""


class DecideGlobal(Command, frozen=True, tag=63):
    """Commit a global transaction, or roll it back."""

    xid: str
    commit: bool
    reason: str
    wait_ms: int
    """How long the answer may wait for the end; 0: it says where the transaction stands."""
    reports_expected: bool
    """A branch that has not reported yet keeps it from committing."""
    program: str = ""
    """Only a transaction of this program is meant; empty: any."""
    branches_done: tuple[int, ...] = ()
    """Branches whose phase one is done: reported together with the decision."""


class RunGlobal(Command, frozen=True, tag=64):
    """Begin a transaction that the cluster runs by itself, all its steps known."""

    xid: str
    prefix: str
    name: str
    program: str
    steps: tuple[Step, ...]
    timeout_ms: int
    wait_ms: int
    in_order: bool
    compensate_failed: bool
    forward_recovery: bool
    """A failed step is repeated for ever instead of rolled back."""


class ReportedCall(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What came of one call."""

    xid: str
    branch_id: int
    operation: str
    verdict: str
    result: bytes
    failure_type: str
    failure_message: str
    jitter_permille: int
    """How much of the interval is left out before the next call, drawn by the driver."""
    attempts: int = -1
    """The branch's, as it was when it was called: what did not succeed counts once, however often
    it is reported. -1: it counts in any case."""


class ReportCalls(Command, frozen=True, tag=65):
    """What the driver learnt from the branches that it called."""

    epoch: int
    """The term in which it called."""
    calls: tuple[ReportedCall, ...]


class OperateGlobal(Command, frozen=True, tag=66):
    """An operator's act upon a transaction that cannot end by itself."""

    xid: str
    action: str
    reason: str
    principal: str
