"""What watchers are told: the changes that applied commands made, as they stand in the change log.

Recorded events are changes too, but have rows of their own (`statemachine.stored_events`); they are
kept as long as events are.
"""

from statemachine.changes.change import Change
from statemachine.changes.channels import ChannelChanged
from statemachine.changes.cluster import ParticipantJoined, ParticipantLeft, RoutingChanged
from statemachine.changes.executions import ExecutionChanged
from statemachine.changes.locks import LockExpired, LockGranted, LockReleased
from statemachine.changes.operating import OperatorActed
from statemachine.changes.proposals import (
    ProposalCommitted,
    ProposalProposed,
    ProposalRejected,
    ProposalVoted,
)
from statemachine.changes.synchronisation import SyncClosed, SyncSynchronised
from statemachine.changes.transactions import GlobalChanged

AnyChange = (
    ParticipantJoined
    | ParticipantLeft
    | RoutingChanged
    | LockGranted
    | LockReleased
    | LockExpired
    | SyncClosed
    | SyncSynchronised
    | ProposalProposed
    | ProposalVoted
    | ProposalCommitted
    | ProposalRejected
    | GlobalChanged
    | OperatorActed
    | ChannelChanged
    | ExecutionChanged
)

__all__ = [
    "AnyChange",
    "Change",
    "ChannelChanged",
    "ExecutionChanged",
    "GlobalChanged",
    "LockExpired",
    "LockGranted",
    "LockReleased",
    "OperatorActed",
    "ParticipantJoined",
    "ParticipantLeft",
    "ProposalCommitted",
    "ProposalProposed",
    "ProposalRejected",
    "ProposalVoted",
    "RoutingChanged",
    "SyncClosed",
    "SyncSynchronised",
]
