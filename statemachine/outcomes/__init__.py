"""What apply answers: outcomes are data, never exceptions.

A fourth outcome, *unknown*, is not here: it belongs to a submitter that never learnt which of the
others it was.
"""

from statemachine.outcomes.branches import (
    BranchAbandoned,
    FencePassed,
    RowsLocked,
    RowsUnlocked,
)
from statemachine.outcomes.channels import (
    BranchAnswerRecorded,
    ChannelRegistered,
    ChannelsChanged,
    CleaningsRecorded,
)
from statemachine.outcomes.codes import RejectionCode
from statemachine.outcomes.dtm import DtmHastened
from statemachine.outcomes.envelope import (
    AnyResult,
    Applied,
    Outcome,
    Pending,
    Rejected,
    RequestOutcome,
    UnitOutcome,
)
from statemachine.outcomes.executions import (
    ExecutionAccepted,
    ExecutionMoved,
    ExecutionsRenewed,
)
from statemachine.outcomes.holders import AnyHolder, LockHolder, RowLockHolder
from statemachine.outcomes.housekeeping import (
    ChangesTrimmed,
    EventsTrimmed,
    RoutingChanged,
    TimersFired,
    VersionActivated,
    WaitCancelled,
)
from statemachine.outcomes.hybrid_clock import HybridClockTicked
from statemachine.outcomes.locks import LockAbandoned, LockGranted, LockReleased
from statemachine.outcomes.operating import ActionRecorded, TransactionRetentionSet
from statemachine.outcomes.oracle import TimestampsReserved
from statemachine.outcomes.proposals import ProposalDecided, VoteCast, VotesCounted
from statemachine.outcomes.recovery import RecoveriesRecorded
from statemachine.outcomes.result import Result
from statemachine.outcomes.saga_definitions import SagaDefinitionDeleted, SagaDefinitionPut
from statemachine.outcomes.sequences import SequenceAdvanced
from statemachine.outcomes.standings import TransactionStanding
from statemachine.outcomes.synchronisation import (
    ClockReported,
    SyncAcknowledged,
    SyncIntervalSet,
    SyncRoundClosed,
)
from statemachine.outcomes.timestamps import EventRecorded, ParticipantChanged
from statemachine.outcomes.topics import SubscribersChanged
from statemachine.outcomes.transactions import (
    BranchRegistered,
    BranchReported,
    CallsReported,
    GlobalAnswered,
)
from statemachine.outcomes.vectors import (
    ObjectWritten,
    Sibling,
    VectorAdvanced,
    VersionAdvanced,
)
from statemachine.positions import Position

__all__ = [
    "ActionRecorded",
    "AnyHolder",
    "AnyResult",
    "Applied",
    "BranchAbandoned",
    "BranchAnswerRecorded",
    "BranchRegistered",
    "BranchReported",
    "CallsReported",
    "ChangesTrimmed",
    "ChannelRegistered",
    "ChannelsChanged",
    "CleaningsRecorded",
    "ClockReported",
    "DtmHastened",
    "EventRecorded",
    "EventsTrimmed",
    "ExecutionAccepted",
    "ExecutionMoved",
    "ExecutionsRenewed",
    "FencePassed",
    "GlobalAnswered",
    "HybridClockTicked",
    "LockAbandoned",
    "LockGranted",
    "LockHolder",
    "LockReleased",
    "ObjectWritten",
    "Outcome",
    "ParticipantChanged",
    "Pending",
    "Position",
    "ProposalDecided",
    "RecoveriesRecorded",
    "Rejected",
    "RejectionCode",
    "RequestOutcome",
    "Result",
    "RoutingChanged",
    "RowLockHolder",
    "RowsLocked",
    "RowsUnlocked",
    "SagaDefinitionDeleted",
    "SagaDefinitionPut",
    "SequenceAdvanced",
    "Sibling",
    "SubscribersChanged",
    "SyncAcknowledged",
    "SyncIntervalSet",
    "SyncRoundClosed",
    "TimersFired",
    "TimestampsReserved",
    "TransactionRetentionSet",
    "TransactionStanding",
    "UnitOutcome",
    "VectorAdvanced",
    "VersionActivated",
    "VersionAdvanced",
    "VoteCast",
    "VotesCounted",
    "WaitCancelled",
]
