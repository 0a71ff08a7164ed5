"""What can be proposed: entries, units, requests and commands, as they stand in the log.

An *entry* is one Raft log entry. It carries the leader's stamps and *units*; a unit is what one
node's batcher sent in one piece, numbered within that node's session so that a repeated unit is
recognised. A unit carries *requests*, one for each HTTP request, and a request carries commands.

Everything is encoded as msgpack arrays. A tag, once released, keeps its meaning for ever; fields
are only ever appended together with a new tag, because unknown fields are refused.
"""

from statemachine.commands.branches import AbandonBranch, LockRows, PassFence, UnlockRows
from statemachine.commands.channels import (
    AttachChannel,
    CleanedBranch,
    DetachChannels,
    EndChannel,
    RecordBranchAnswer,
    RecordCleaned,
    RecordSwept,
    RegisterChannel,
)
from statemachine.commands.command import Command
from statemachine.commands.dtm import (
    AbortDtm,
    DtmTransaction,
    HastenAllDtm,
    HastenDtm,
    PrepareDtm,
    RecordDtmProgress,
    RegisterDtmBranch,
    StopDtm,
    SubmitDtm,
)
from statemachine.commands.entries import (
    ENTRY_FORMAT,
    MAX_ENTRY_BYTES,
    AnyCommand,
    ChannelCommand,
    DtmCommand,
    Entry,
    IdempotencyKey,
    MessageCommand,
    Request,
    SagaCommand,
    TransactionCommand,
    Unit,
)
from statemachine.commands.executions import (
    AcceptExecution,
    AdvanceExecution,
    ClaimExecution,
    FinishExecution,
    Progress,
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
from statemachine.commands.proposals import (
    Ballot,
    DecideProposal,
    ProposeData,
    VoteProposals,
)
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
    ReportedCall,
    RunGlobal,
    Step,
)
from statemachine.commands.vectors import ReceiveMessage, SendMessage, TickVector
from statemachine.commands.versions import IncrementVersion, MergeVersion, WriteObject

__all__ = [
    "ENTRY_FORMAT",
    "MAX_ENTRY_BYTES",
    "AbandonAcquire",
    "AbandonBranch",
    "AbandonLock",
    "AbortDtm",
    "AcceptExecution",
    "AcknowledgeSync",
    "AcquireLock",
    "ActivateVersion",
    "AdvanceExecution",
    "AdvanceSequence",
    "AnyCommand",
    "AttachChannel",
    "Ballot",
    "BeginGlobal",
    "CancelWait",
    "ChangeRouting",
    "ChannelCommand",
    "ClaimExecution",
    "CleanedBranch",
    "CloseSyncRound",
    "Command",
    "DecideGlobal",
    "DecideProposal",
    "DeleteSagaDefinition",
    "DeleteSubscriber",
    "DeleteTopic",
    "DetachChannels",
    "DtmCommand",
    "DtmTransaction",
    "EndChannel",
    "Entry",
    "FinishExecution",
    "FireTimers",
    "HastenAllDtm",
    "HastenDtm",
    "IdempotencyKey",
    "IncrementVersion",
    "JoinParticipant",
    "LeaveParticipant",
    "LockRows",
    "MergeVersion",
    "MessageCommand",
    "ObserveHybridTime",
    "OperateGlobal",
    "PassFence",
    "PrepareDtm",
    "PrepareMessage",
    "Progress",
    "ProposeData",
    "PutSagaDefinition",
    "PutSubscriber",
    "ReceiveMessage",
    "RecordAction",
    "RecordBranchAnswer",
    "RecordCleaned",
    "RecordDtmProgress",
    "RecordEvent",
    "RecordRecoveries",
    "RecordSwept",
    "RegisterBranch",
    "RegisterChannel",
    "RegisterDtmBranch",
    "ReleaseLock",
    "RenewExecutions",
    "RenewLock",
    "ReportBranch",
    "ReportCalls",
    "ReportClock",
    "ReportedCall",
    "Request",
    "ReserveTimestamps",
    "RunGlobal",
    "SagaCommand",
    "SendMessage",
    "SetSyncInterval",
    "SetTransactionRetention",
    "StartSaga",
    "Step",
    "StopDtm",
    "SubmitDtm",
    "SyncClock",
    "TickHybridClock",
    "TickVector",
    "TransactionCommand",
    "TrimChanges",
    "TrimEvents",
    "Unit",
    "UnlockRows",
    "VoteProposals",
    "WriteObject",
]
