"""Commands of transactions that are begun, joined and ended in DTM's protocol."""

from __future__ import annotations

import msgspec

from statemachine.commands.command import Command
from statemachine.commands.transactions import Step


class DtmTransaction(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True
):
    """What a client says when it prepares or submits."""

    xid: str
    """Made of the gid, the same at every node."""
    trans_type: str
    """saga, tcc, xa, msg or workflow."""
    name: str
    steps: tuple[Step, ...]
    """Of a saga and of a message; their names are DTM's branch ids."""
    timeout_ms: int
    """Until a prepared transaction is rolled back, a message's sender is asked or a saga is given
    up; 0: never."""
    delay_ms: int
    """From a message's submission to its first delivery."""
    options: bytes
    """An encoded `transactions.dtm_options.DtmOptions`."""


class PrepareDtm(Command, frozen=True, tag=90):
    """Begin a transaction that is submitted later, if it does not exist."""

    transaction: DtmTransaction
    in_any_status: bool
    """One that exists is no mistake, however far it got."""


class SubmitDtm(Command, frozen=True, tag=91):
    """Begin a transaction and run it, or run one that is prepared."""

    transaction: DtmTransaction
    wait_ms: int
    """How long the answer may wait for the end; 0: it says where the transaction stands."""
    ended_as: str
    """Of a workflow: succeed or failed, as its client says."""
    reason: str


class AbortDtm(Command, frozen=True, tag=92):
    """Roll back what is prepared."""

    xid: str
    reason: str


class StopDtm(Command, frozen=True, tag=93):
    """End an unfinished transaction as it stands: nothing is called any more."""

    xid: str


class HastenDtm(Command, frozen=True, tag=94):
    """Make the next calls of a transaction at once."""

    xid: str


class RegisterDtmBranch(Command, frozen=True, tag=95):
    """Let a branch of a TCC or XA transaction take part."""

    xid: str
    branch_id: str
    commit: str
    rollback: str
    payload: bytes


class RecordDtmProgress(Command, frozen=True, tag=96):
    """Keep what a step of a workflow came to, for the run after the next crash."""

    xid: str
    branch_id: str
    op: str
    status: str
    data: bytes


class HastenAllDtm(Command, frozen=True, tag=97):
    """Make calls at once that are due only much later."""

    later_than_ms: int
    """From now."""
    limit: int
