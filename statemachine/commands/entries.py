"""Entries, units and requests: what the log holds around the commands."""

from __future__ import annotations

from typing import Final

import msgspec

from statemachine.commands.branches import AbandonBranch, LockRows, PassFence, UnlockRows
from statemachine.commands.channels import (
    AttachChannel,
    DetachChannels,
    EndChannel,
    RecordBranchAnswer,
    RecordCleaned,
    RecordSwept,
    RegisterChannel,
)
from statemachine.commands.dtm import (
    AbortDtm,
    HastenAllDtm,
    HastenDtm,
    PrepareDtm,
    RecordDtmProgress,
    RegisterDtmBranch,
    StopDtm,
    SubmitDtm,
)
from statemachine.commands.executions import (
    AcceptExecution,
    AdvanceExecution,
    ClaimExecution,
    FinishExecution,
    RenewExecutions,
)
from statemachine.commands.housekeeping import (
    ActivateVersion,
    CancelWait,
    ChangeRouting,
    FireTimers,
    TrimChanges,
    TrimEvents,
)
from statemachine.commands.hybrid_clock import ObserveHybridTime, TickHybridClock
from statemachine.commands.locks import (
    AbandonAcquire,
    AbandonLock,
    AcquireLock,
    ReleaseLock,
    RenewLock,
)
from statemachine.commands.messages import (
    DeleteSubscriber,
    DeleteTopic,
    PrepareMessage,
    PutSubscriber,
)
from statemachine.commands.operating import RecordAction, SetTransactionRetention
from statemachine.commands.oracle import ReserveTimestamps
from statemachine.commands.proposals import DecideProposal, ProposeData, VoteProposals
from statemachine.commands.recovery import RecordRecoveries
from statemachine.commands.saga_definitions import (
    DeleteSagaDefinition,
    PutSagaDefinition,
    StartSaga,
)
from statemachine.commands.sequences import AdvanceSequence
from statemachine.commands.synchronisation import (
    AcknowledgeSync,
    CloseSyncRound,
    ReportClock,
    SetSyncInterval,
)
from statemachine.commands.timestamps import (
    JoinParticipant,
    LeaveParticipant,
    RecordEvent,
    SyncClock,
)
from statemachine.commands.transactions import (
    BeginGlobal,
    DecideGlobal,
    OperateGlobal,
    RegisterBranch,
    ReportBranch,
    ReportCalls,
    RunGlobal,
)
from statemachine.commands.vectors import ReceiveMessage, SendMessage, TickVector
from statemachine.commands.versions import IncrementVersion, MergeVersion, WriteObject

ENTRY_FORMAT: Final = 1

MAX_ENTRY_BYTES: Final = 1 << 20
"""The greatest size of an encoded entry; larger requests are refused before they are proposed."""

TransactionCommand = (
    BeginGlobal
    | RegisterBranch
    | ReportBranch
    | DecideGlobal
    | RunGlobal
    | ReportCalls
    | OperateGlobal
    | LockRows
    | UnlockRows
    | PassFence
    | AbandonBranch
    | RecordRecoveries
)

ChannelCommand = (
    RegisterChannel
    | AttachChannel
    | DetachChannels
    | EndChannel
    | RecordCleaned
    | RecordSwept
    | RecordBranchAnswer
)

SagaCommand = PutSagaDefinition | DeleteSagaDefinition | StartSaga

MessageCommand = PrepareMessage | PutSubscriber | DeleteSubscriber | DeleteTopic

DtmCommand = (
    PrepareDtm
    | SubmitDtm
    | AbortDtm
    | StopDtm
    | HastenDtm
    | RegisterDtmBranch
    | RecordDtmProgress
    | HastenAllDtm
)

AnyCommand = (
    RecordEvent
    | SyncClock
    | JoinParticipant
    | LeaveParticipant
    | ChangeRouting
    | FireTimers
    | ActivateVersion
    | TrimEvents
    | CancelWait
    | TrimChanges
    | ReserveTimestamps
    | TickHybridClock
    | ObserveHybridTime
    | AdvanceSequence
    | AcquireLock
    | RenewLock
    | ReleaseLock
    | AbandonLock
    | AbandonAcquire
    | IncrementVersion
    | MergeVersion
    | WriteObject
    | TickVector
    | SendMessage
    | ReceiveMessage
    | ReportClock
    | CloseSyncRound
    | AcknowledgeSync
    | SetSyncInterval
    | ProposeData
    | VoteProposals
    | DecideProposal
    | BeginGlobal
    | RegisterBranch
    | ReportBranch
    | DecideGlobal
    | RunGlobal
    | ReportCalls
    | OperateGlobal
    | RecordRecoveries
    | LockRows
    | UnlockRows
    | PassFence
    | AbandonBranch
    | SetTransactionRetention
    | RecordAction
    | RegisterChannel
    | AttachChannel
    | DetachChannels
    | EndChannel
    | RecordCleaned
    | RecordSwept
    | RecordBranchAnswer
    | PrepareMessage
    | PutSubscriber
    | DeleteSubscriber
    | DeleteTopic
    | PrepareDtm
    | SubmitDtm
    | AbortDtm
    | StopDtm
    | HastenDtm
    | RegisterDtmBranch
    | RecordDtmProgress
    | HastenAllDtm
    | PutSagaDefinition
    | DeleteSagaDefinition
    | StartSaga
    | AcceptExecution
    | AdvanceExecution
    | ClaimExecution
    | FinishExecution
    | RenewExecutions
)
"""Every command. Tags 1 to 19 belong to the machine and to Lamport timestamps, 20 to 29 to version
vectors and vector clocks, 30 to 39 to the hybrid clock, the oracle and sequences, 40 to 49 to
synchronisation and proposals, 50 to 59 to locks, 60 to 105 to
transactions, 110 to 119 to executions; results and changes follow the same ranges."""


class IdempotencyKey(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A client's promise that requests with this key are one request."""

    principal: str
    """Whose key it is: two principals may use the same text."""
    key: str
    digest: bytes
    """16 bytes over method, path and the client's body before defaults are filled in."""
    ttl_ms: int
    """How long the outcome is remembered, in elapsed time."""


class Request(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The commands of one client request: applied together, in order, under one key."""

    expires_at_ms: int
    """Elapsed time after which apply rejects the request instead of doing it."""
    idempotency: IdempotencyKey | None
    commands: tuple[AnyCommand, ...]


class Unit(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What one node's batcher submits in one piece; applied at most once."""

    session: bytes
    """16 bytes, new at each boot of the submitting node."""
    sequence: int
    """Counts up from 1 within the session."""
    watermark: int
    """Every sequence below it is settled at the submitter: its outcomes may be forgotten."""
    requests: tuple[Request, ...]


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One Raft log entry of the state machine."""

    format: int
    wall_ms: int
    """The leader's wall clock, milliseconds since the epoch; apply never lets it run backwards."""
    elapsed_ms: int
    """Time during which the cluster had a leader; every timeout counts in it."""
    units: tuple[Unit, ...]
