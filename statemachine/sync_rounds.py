"""Synchronisation rounds: participants report their clocks, and are told the maximum of all.

A round gathers reports until it is closed. Then the maximum of each entry of what was reported is
its *target*: the cluster's copies of the reporters' clocks are raised to it, and each reporter is
to take it into its own clocks and to acknowledge that. A clock never decreases. A reporter counts
in the rounds that follow, too, until it was silent for three intervals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from statemachine import changes, keys, timers
from statemachine.change_log import ChangeLog
from statemachine.commands import AcknowledgeSync, CloseSyncRound, ReportClock, SetSyncInterval
from statemachine.members import Participants
from statemachine.outcomes import (
    Applied,
    ClockReported,
    Outcome,
    Rejected,
    RejectionCode,
    SyncAcknowledged,
    SyncIntervalSet,
    SyncRoundClosed,
)
from statemachine.positions import Position
from statemachine.rejections import NAME_UNUSABLE
from statemachine.state import MachineState, load_state
from statemachine.store import Reader
from statemachine.timers import TimerKind
from statemachine.vector_histories import VECTOR_UNUSABLE, checked
from statemachine.vectors import VectorClocks
from statemachine.write_buffer import WriteBuffer

GREATEST_REPORTERS: Final = 128
GREATEST_ENTRIES: Final = 128
"""Entries of one reported vector."""
GREATEST_TARGET: Final = 256
"""Entries of the target's vector."""
ROUNDS_KEPT: Final = 32
SILENT_INTERVALS: Final = 3
"""A reporter that is silent for so many intervals counts no more."""
LEAST_INTERVAL_MS: Final = 10
GREATEST_INTERVAL_MS: Final = 24 * 3_600_000
GREATEST_TIMESTAMP: Final = 2**63 - 1

_LAMPORT_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND, "lamport is below 0. Send the participant's Lamport clock."
)
_NO_ROOM: Final = Rejected(
    RejectionCode.CLOCK_OVERFLOW,
    "A reported clock has reached 2**63 - 1, so whoever took it could not go on. Check the clocks "
    "that are reported.",
)
_TOO_MANY_ENTRIES: Final = Rejected(
    RejectionCode.VECTOR_TOO_LARGE,
    f"A reported vector has at most {GREATEST_ENTRIES} entries, and all of them together "
    f"{GREATEST_TARGET} names. Report those that matter.",
)
_TOO_MANY_REPORTERS: Final = Rejected(
    RejectionCode.SYNC_REPORTERS_FULL,
    f"{GREATEST_REPORTERS} participants report, as many as can. Report again when others are "
    "silent.",
)
_ROUND_NOT_FOUND: Final = Rejected(
    RejectionCode.SYNC_ROUND_NOT_FOUND,
    f"No round of this number was closed, or it is not among the last {ROUNDS_KEPT} any more.",
)
_ROUND_OPEN: Final = Rejected(
    RejectionCode.SYNC_ROUND_OPEN,
    "The round is not closed yet: its target may still rise. Acknowledge it afterwards.",
)
_NOT_A_REPORTER: Final = Rejected(
    RejectionCode.NOT_A_REPORTER,
    "The participant did not report in this round, so it has nothing to acknowledge.",
)
_INTERVAL_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"interval_ms is not from {LEAST_INTERVAL_MS} to {GREATEST_INTERVAL_MS}.",
)


class Report(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A participant's clocks as it last reported them, or took them with a target."""

    lamport: int
    vector: dict[str, int]
    """Entries above 0, in the order of the names."""
    own: bool
    """A cluster node reported it for itself."""
    round: int
    """The open round when it was heard last."""
    reported_ms: int
    """In wall time."""
    due_ms: int
    """In elapsed time: when it expires."""


class Round(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A closed round."""

    target_lamport: int
    target_vector: dict[str, int]
    closed_at: Position
    closed_ms: int
    """In wall time."""
    reporters: int
    acknowledged: int
    synchronised_ms: int | None
    """When the last reporter acknowledged, in wall time."""


class RoundNode(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A reporter of a closed round."""

    lamport: int
    vector: dict[str, int]
    """Both as it had reported them."""
    own: bool
    acknowledged_ms: int | None
    """In wall time."""


class Target(msgspec.Struct, frozen=True):
    """The maximum of each entry of several reports."""

    lamport: int
    vector: dict[str, int]

    def is_ahead_of(self, lamport: int, vector: Mapping[str, int]) -> bool:
        reported = vector.get
        return self.lamport > lamport or any(
            count > reported(name, 0) for name, count in self.vector.items()
        )


_encode: Final = msgspec.msgpack.Encoder().encode
_reports: Final = msgspec.msgpack.Decoder(Report)
_rounds: Final = msgspec.msgpack.Decoder(Round)
_nodes: Final = msgspec.msgpack.Decoder(RoundNode)


class SyncRounds:
    """The reports and rounds of the state."""

    __slots__ = ("_log", "_participants", "_state", "_vectors", "_writes")

    def __init__(
        self,
        state: MachineState,
        writes: WriteBuffer,
        log: ChangeLog,
        participants: Participants,
        vectors: VectorClocks,
    ) -> None:
        self._state = state
        self._writes = writes
        self._log = log
        self._participants = participants
        self._vectors = vectors

    # --- reports

    def report(self, command: ReportClock, place: int) -> Outcome:
        """Take a participant's clocks into the open round."""
        node_id, lamport = command.node_id, command.lamport
        if self._participants.find(node_id) is None:
            return NAME_UNUSABLE
        refused = _why_unusable(lamport, command.vector)
        if refused is not None:
            return refused
        name = keys.terminated(node_id)
        before = _read_report(self._writes, name)
        reports = read_reports(self._writes)
        if before is not None and command.own and not before.own:
            return Applied(self._reported(reports.values()))
        if before is None and len(reports) >= GREATEST_REPORTERS:
            return _TOO_MANY_REPORTERS
        vector = {node: count for node, count in sorted(command.vector.items()) if count}
        report = self._renewed(lamport, vector, own=command.own)
        reports[node_id] = report
        reported = self._reported(reports.values())
        if len(reported.target_vector) > GREATEST_TARGET:
            return _TOO_MANY_ENTRIES
        self._put(name, before, report)
        self._participants.appear(node_id, place)
        return Applied(reported)

    def _renewed(self, lamport: int, vector: dict[str, int], *, own: bool) -> Report:
        state = self._state
        return Report(
            lamport=lamport,
            vector=vector,
            own=own,
            round=state.sync_round,
            reported_ms=state.wall_ms,
            due_ms=state.elapsed_ms + SILENT_INTERVALS * state.sync_interval_ms,
        )

    def _reported(self, reports: Iterable[Report]) -> ClockReported:
        target = target_of(reports)
        return ClockReported(
            round=self._state.sync_round,
            target_lamport=target.lamport,
            target_vector=target.vector,
        )

    def _put(self, name: bytes, before: Report | None, report: Report) -> None:
        if before is not None:
            timers.disarm(self._writes, before.due_ms, TimerKind.SYNC_REPORT_EXPIRY, name)
        self._writes.put(keys.SYNC_REPORT + name, _encode(report))
        timers.arm(self._writes, report.due_ms, TimerKind.SYNC_REPORT_EXPIRY, name)

    def expire(self, due_ms: int, name: bytes) -> None:
        """Do what the timer of a report is for: its participant was silent for too long."""
        timers.disarm(self._writes, due_ms, TimerKind.SYNC_REPORT_EXPIRY, name)
        self._writes.delete(keys.SYNC_REPORT + name)

    def set_interval(self, command: SetSyncInterval) -> Outcome:
        """Take over the leader's interval; reports that stand expire when they would have."""
        if not LEAST_INTERVAL_MS <= command.interval_ms <= GREATEST_INTERVAL_MS:
            return _INTERVAL_UNUSABLE
        self._state.sync_interval_ms = command.interval_ms
        return Applied(SyncIntervalSet(interval_ms=command.interval_ms))

    # --- rounds

    def close(self, command: CloseSyncRound, place: int) -> Outcome:
        """Close the open round, raise the cluster's copies of clocks, and begin the next one."""
        state = self._state
        number = state.sync_round
        reports = read_reports(self._writes)
        target = target_of(reports.values())
        if command.only_if_behind and not should_close(number, reports, target):
            return Applied(SyncRoundClosed(round=number, closed=False))
        closed = Round(
            target_lamport=target.lamport,
            target_vector=target.vector,
            closed_at=Position(state.applied_index, place),
            closed_ms=state.wall_ms,
            reporters=len(reports),
            acknowledged=0,
            synchronised_ms=None if reports else state.wall_ms,
        )
        self._writes.put(_round_key(number), _encode(closed))
        for node_id, report in reports.items():
            node = RoundNode(report.lamport, report.vector, report.own, None)
            self._writes.put(_node_key(number, keys.terminated(node_id)), _encode(node))
            self._participants.raise_lamport(node_id, target.lamport)
            # A clock that has no room for new names is left as it is.
            self._vectors.raise_to(node_id, target.vector)
        state.sync_round += 1
        self._forget(number - ROUNDS_KEPT)
        self._log.note(
            place,
            changes.SyncClosed(
                round=number,
                target_lamport=target.lamport,
                target_vector=target.vector,
                reporters=tuple(reports),
            ),
        )
        if not reports:
            self._log.note(place, changes.SyncSynchronised(round=number))
        return Applied(SyncRoundClosed(round=number, closed=True))

    def _forget(self, number: int) -> None:
        if number < 1:
            return
        self._writes.delete(_round_key(number))
        for node_id in read_nodes(self._writes, number):
            self._writes.delete(_node_key(number, keys.terminated(node_id)))

    def acknowledge(self, command: AcknowledgeSync, place: int) -> Outcome:
        """Note that a reporter has taken the target. Again: nothing changes."""
        number, node_id = command.round, command.node_id
        if number == self._state.sync_round:
            return _ROUND_OPEN
        closed = get_round(self._writes, number)
        if closed is None:
            return _ROUND_NOT_FOUND
        name = keys.terminated(node_id)
        node = _read_node(self._writes, number, name)
        if node is None:
            return _NOT_A_REPORTER
        if node.acknowledged_ms is None:
            closed = self._count(number, closed, name, node)
            if closed.synchronised_ms is not None:
                self._log.note(place, changes.SyncSynchronised(round=number))
        synchronised = closed.synchronised_ms is not None
        return Applied(SyncAcknowledged(round=number, node_id=node_id, synchronised=synchronised))

    def _count(self, number: int, closed: Round, name: bytes, node: RoundNode) -> Round:
        """Count an acknowledgement; the participant's clocks are now at least at the target."""
        now_ms = self._state.wall_ms
        node = msgspec.structs.replace(node, acknowledged_ms=now_ms)
        self._writes.put(_node_key(number, name), _encode(node))
        acknowledged = closed.acknowledged + 1
        closed = msgspec.structs.replace(
            closed,
            acknowledged=acknowledged,
            synchronised_ms=now_ms if acknowledged == closed.reporters else None,
        )
        self._writes.put(_round_key(number), _encode(closed))
        before = _read_report(self._writes, name)
        if before is not None:
            lamport = max(before.lamport, closed.target_lamport)
            vector = _maximum(before.vector, closed.target_vector)
            self._put(name, before, self._renewed(lamport, vector, own=before.own))
        return closed


# Rules


def target_of(reports: Iterable[Report]) -> Target:
    """Return the maximum of each entry of what was reported; of nothing, 0 and no entries."""
    lamport = 0
    vector: dict[str, int] = {}
    for report in reports:
        lamport = max(lamport, report.lamport)
        for node_id, count in report.vector.items():
            if count > vector.get(node_id, 0):
                vector[node_id] = count
    return Target(lamport, dict(sorted(vector.items())))


def should_close(number: int, reports: Mapping[str, Report], target: Target) -> bool:
    """Tell whether the open round `number` has news, and somebody is behind."""
    return any(report.round == number for report in reports.values()) and any(
        target.is_ahead_of(report.lamport, report.vector) for report in reports.values()
    )


def _maximum(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    names = sorted({**first, **second})
    return {name: max(first.get(name, 0), second.get(name, 0)) for name in names}


def _why_unusable(lamport: int, vector: Mapping[str, int]) -> Rejected | None:
    if lamport < 0:
        return _LAMPORT_UNUSABLE
    if len(vector) > GREATEST_ENTRIES:
        return _TOO_MANY_ENTRIES
    if checked(vector) is not None:
        return VECTOR_UNUSABLE
    if lamport >= GREATEST_TIMESTAMP or GREATEST_TIMESTAMP in vector.values():
        return _NO_ROOM
    return None


# Rows


def read_reports(reader: Reader) -> dict[str, Report]:
    """Return the reports that count, in the order of the participants' names."""
    stop = keys.stop_of(keys.SYNC_REPORT)
    rows = reader.scan(keys.SYNC_REPORT, stop, limit=GREATEST_REPORTERS)
    return {
        keys.name_of(key[len(keys.SYNC_REPORT) :]): _reports.decode(value) for key, value in rows
    }


def get_report(reader: Reader, node_id: str) -> Report | None:
    """Return what a participant reported last, or None when it was silent for too long."""
    name = keys.terminated(node_id)
    return _read_report(reader, name) if len(name) <= keys.GREATEST_NAME_BYTES else None


def open_round(reader: Reader) -> int:
    """Return the number of the round that gathers reports."""
    return load_state(reader).sync_round


def get_round(reader: Reader, number: int) -> Round | None:
    """Return a closed round, or None when it is open, forgotten or yet to come."""
    if not 1 <= number <= keys.GREATEST_NUMBER:
        return None
    row = reader.get(_round_key(number))
    return None if row is None else _rounds.decode(row)


def list_rounds(reader: Reader, *, limit: int) -> list[tuple[int, Round]]:
    """Return number and content of the last closed rounds, the newest first."""
    stop = keys.stop_of(keys.SYNC_ROUND)
    rows = reader.scan(keys.SYNC_ROUND, stop, limit=limit, reverse=True)
    return [
        (int.from_bytes(key[len(keys.SYNC_ROUND) :], "big"), _rounds.decode(value))
        for key, value in rows
    ]


def read_nodes(reader: Reader, number: int) -> dict[str, RoundNode]:
    """Return the reporters of a closed round, in the order of their names."""
    prefix = keys.SYNC_NODE + keys.pack_number(number)
    stop = keys.SYNC_NODE + keys.pack_number(number + 1)
    rows = reader.scan(prefix, stop, limit=GREATEST_REPORTERS)
    return {keys.name_of(key[len(prefix) :]): _nodes.decode(value) for key, value in rows}


def get_node(reader: Reader, number: int, node_id: str) -> RoundNode | None:
    """Return a reporter of a closed round, or None when it was none."""
    name = keys.terminated(node_id)
    return _read_node(reader, number, name) if len(name) <= keys.GREATEST_NAME_BYTES else None


def _read_report(reader: Reader, name: bytes) -> Report | None:
    row = reader.get(keys.SYNC_REPORT + name)
    return None if row is None else _reports.decode(row)


def _read_node(reader: Reader, number: int, name: bytes) -> RoundNode | None:
    row = reader.get(_node_key(number, name)) if len(name) <= keys.GREATEST_NAME_BYTES else None
    return None if row is None else _nodes.decode(row)


def _round_key(number: int) -> bytes:
    return keys.SYNC_ROUND + keys.pack_number(number)


def _node_key(number: int, name: bytes) -> bytes:
    return keys.SYNC_NODE + keys.pack_number(number) + name
