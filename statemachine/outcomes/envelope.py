"""Outcomes, and how they answer requests and units."""

from __future__ import annotations

import msgspec

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
from statemachine.outcomes.executions import (
    ExecutionAccepted,
    ExecutionMoved,
    ExecutionsRenewed,
)
from statemachine.outcomes.holders import AnyHolder
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
from statemachine.outcomes.proposals import ProposalDecided, VotesCounted
from statemachine.outcomes.recovery import RecoveriesRecorded
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
from statemachine.outcomes.vectors import ObjectWritten, VectorAdvanced, VersionAdvanced
from statemachine.positions import Position

AnyResult = (
    EventRecorded
    | ParticipantChanged
    | RoutingChanged
    | TimersFired
    | VersionActivated
    | EventsTrimmed
    | WaitCancelled
    | ChangesTrimmed
    | TimestampsReserved
    | HybridClockTicked
    | SequenceAdvanced
    | LockGranted
    | LockReleased
    | LockAbandoned
    | VersionAdvanced
    | VectorAdvanced
    | ObjectWritten
    | ClockReported
    | SyncRoundClosed
    | SyncAcknowledged
    | SyncIntervalSet
    | ProposalDecided
    | VotesCounted
    | GlobalAnswered
    | BranchRegistered
    | BranchReported
    | CallsReported
    | RecoveriesRecorded
    | RowsLocked
    | RowsUnlocked
    | FencePassed
    | BranchAbandoned
    | TransactionRetentionSet
    | ActionRecorded
    | ChannelRegistered
    | ChannelsChanged
    | CleaningsRecorded
    | BranchAnswerRecorded
    | SubscribersChanged
    | DtmHastened
    | SagaDefinitionPut
    | SagaDefinitionDeleted
    | ExecutionAccepted
    | ExecutionMoved
    | ExecutionsRenewed
)


class Applied(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    result: AnyResult


class Rejected(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=2):
    code: RejectionCode
    detail: str
    """One sentence for the client: what was wrong, and what to do."""
    holder: AnyHolder | None = None
    retryable: bool | None = None
    """Whether the same request may succeed later; None when its code alone tells."""
    transaction: TransactionStanding | None = None
    """The one that it was about, when that is what was wrong."""


class Pending(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=3):
    """The command waits for its turn: the ticket of that name will have the outcome."""

    ticket: Position


Outcome = Applied | Rejected | Pending


class RequestOutcome(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One outcome for each command of a request."""

    position: Position
    """Of the request's first command when it was first applied; the others follow it."""
    replayed: bool
    """True when an earlier request with the same idempotency key got these outcomes."""
    outcomes: tuple[Outcome, ...]


class UnitOutcome(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What became of a unit: one outcome for each of its requests."""

    session: bytes
    sequence: int
    requests: tuple[RequestOutcome, ...]
