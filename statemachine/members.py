"""Participants: who has a logical clock here, and where it stands.

A participant is part of an application, not a node of the cluster. It joins by itself with its
first event; its row is its Lamport clock as well.
"""

from __future__ import annotations

from typing import Final

import msgspec

from statemachine import keys, paging
from statemachine.change_log import ChangeLog
from statemachine.changes import ParticipantJoined, ParticipantLeft
from statemachine.commands import JoinParticipant, LeaveParticipant
from statemachine.outcomes import (
    Applied,
    Outcome,
    ParticipantChanged,
    Rejected,
    RejectionCode,
)
from statemachine.rejections import NAME_UNUSABLE
from statemachine.state import MachineState
from statemachine.store import Reader
from statemachine.write_buffer import WriteBuffer

GREATEST_CACHED: Final = 10_000


class ParticipantStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A participant as a query returns it."""

    node_id: str
    lamport_timestamp: int
    active: bool
    since_ms: int
    """When it last joined or left, milliseconds since the epoch."""


class _Row(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    lamport: int
    active: bool
    since_ms: int


_encode: Final = msgspec.msgpack.Encoder().encode
_rows: Final = msgspec.msgpack.Decoder(_Row)


class Participant:
    """A participant's row in memory, with the parts of keys that its events need."""

    __slots__ = ("active", "events_prefix", "known", "lamport", "name", "row_key", "since_ms")

    def __init__(self, name: bytes, terminated_name: bytes, row: bytes | None) -> None:
        self.name = name
        self.row_key = keys.PARTICIPANT + terminated_name
        self.events_prefix = keys.EVENT_BY_NODE + terminated_name
        self.known = row is not None
        """False until its first row is written: a rejected command leaves no trace of it."""
        found = _Row(0, False, 0) if row is None else _rows.decode(row)
        self.lamport = found.lamport
        self.active = found.active
        self.since_ms = found.since_ms


class Participants:
    """The participants of the state, those in use kept in memory."""

    def __init__(self, state: MachineState, writes: WriteBuffer, log: ChangeLog) -> None:
        self._state = state
        self._writes = writes
        self._log = log
        self._cached: dict[str, Participant] = {}
        self.changed: dict[str, Participant] = {}
        """Those whose rows `save` has to write, in the order of their first change."""

    def find(self, node_id: str) -> Participant | None:
        """Return the participant, known or not, or None when the name cannot be one's."""
        participant = self._cached.get(node_id)
        if participant is None:
            participant = self._load(node_id)
        return participant

    def _load(self, node_id: str) -> Participant | None:
        terminated = keys.terminated(node_id)
        if not node_id or len(terminated) > keys.GREATEST_NAME_BYTES:
            return None
        row = self._writes.get(keys.PARTICIPANT + terminated)
        participant = Participant(node_id.encode(), terminated, row)
        self._cached[node_id] = participant
        return participant

    def set_active(self, node_id: str, participant: Participant, active: bool, place: int) -> None:
        """Let a participant join or leave, done by the command at `place`."""
        participant.known = True
        participant.active = active
        participant.since_ms = self._state.wall_ms
        self.changed[node_id] = participant
        change = ParticipantJoined if active else ParticipantLeft
        self._log.note(place, change(node_id=node_id))

    def appear(self, node_id: str, place: int) -> None:
        """Let a participant join that has a usable name and did something, unless it has."""
        participant = self.find(node_id)
        assert participant is not None, "who names a participant looks for it first"
        if not participant.active:
            self.set_active(node_id, participant, True, place)

    def raise_lamport(self, node_id: str, lamport: int) -> None:
        """Raise the Lamport clock of a participant that is known; it never decreases."""
        participant = self.find(node_id)
        assert participant is not None, "who names a participant looks for it first"
        if participant.known and participant.lamport < lamport:
            participant.lamport = lamport
            self.changed[node_id] = participant

    def save(self) -> None:
        """Write the rows that the entry changed."""
        for participant in self.changed.values():
            row = _Row(participant.lamport, participant.active, participant.since_ms)
            self._writes.put(participant.row_key, _encode(row))
        self.changed.clear()
        if len(self._cached) > GREATEST_CACHED:
            self._cached.clear()


def join(participants: Participants, command: JoinParticipant, place: int) -> Outcome:
    """Make the participant known and active."""
    node_id = command.node_id
    participant = participants.find(node_id)
    if participant is None:
        return NAME_UNUSABLE
    changed = not participant.active
    if changed:
        participants.set_active(node_id, participant, True, place)
    return Applied(ParticipantChanged(node_id=node_id, active=True, changed=changed))


def leave(participants: Participants, command: LeaveParticipant, place: int) -> Outcome:
    """Mark the participant as departed; its clock stands where it was."""
    node_id = command.node_id
    participant = participants.find(node_id)
    if participant is None or not participant.known:
        return Rejected(
            RejectionCode.PARTICIPANT_NOT_FOUND,
            "No participant of this name ever joined or recorded an event.",
        )
    changed = participant.active
    if changed:
        participants.set_active(node_id, participant, False, place)
    return Applied(ParticipantChanged(node_id=node_id, active=False, changed=changed))


def get_participant(reader: Reader, node_id: str) -> ParticipantStatus | None:
    terminated = keys.terminated(node_id)
    if len(terminated) > keys.GREATEST_NAME_BYTES:
        return None
    row = reader.get(keys.PARTICIPANT + terminated)
    return None if row is None else _status(node_id, row)


def list_participants(
    reader: Reader, *, cursor: str | None, limit: int
) -> tuple[list[ParticipantStatus], str | None]:
    """Return a page of participants in order of name, and the cursor of the next one.

    Raises:
        InvalidCursorError
    """
    start = keys.PARTICIPANT
    if cursor is not None:
        start += paging.decode_cursor(cursor) + b"\0"
    rows = reader.scan(start, keys.stop_of(keys.PARTICIPANT), limit=limit + 1)
    page = [_status(keys.name_of(key[len(keys.PARTICIPANT) :]), row) for key, row in rows[:limit]]
    if len(rows) <= limit:
        return page, None
    return page, paging.encode_cursor(rows[limit - 1][0][len(keys.PARTICIPANT) :])


def _status(node_id: str, row: bytes) -> ParticipantStatus:
    found = _rows.decode(row)
    return ParticipantStatus(
        node_id=node_id,
        lamport_timestamp=found.lamport,
        active=found.active,
        since_ms=found.since_ms,
    )
