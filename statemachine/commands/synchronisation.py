"""Commands of synchronisation rounds: reports, the end of a round, and acknowledgements."""

from __future__ import annotations

from statemachine.commands.command import Command


class ReportClock(Command, frozen=True, tag=40):
    """Say where a participant's own clocks stand."""

    node_id: str
    lamport: int
    vector: dict[str, int]
    own: bool
    """A cluster node reports for the participant of its name. What others report under that name
    counts before."""


class CloseSyncRound(Command, frozen=True, tag=41):
    """Close the open round: what was reported becomes its target, to which clocks are raised."""

    only_if_behind: bool
    """Do nothing unless there are new reports and somebody is behind."""


class AcknowledgeSync(Command, frozen=True, tag=42):
    """Say that a participant has taken the target of a round."""

    round: int
    node_id: str


class SetSyncInterval(Command, frozen=True, tag=46):
    """Take over the leader's `sync.interval_ms`, after three of which a silent reporter expires."""

    interval_ms: int
