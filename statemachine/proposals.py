"""Data proposals: proposed, voted on by each node, and then committed or rejected.

Two replicated steps, after the use case of two-phase agreement: PROPOSE lays the data before the
voters, each of which answers with a vote of its own; a decision follows once the votes suffice. A
proposal that nobody could decide in time expires: its ticket's deadline sees to it.

One rule decides what is committed: for each key, timestamps only rise. Voters judge it at the place
of the proposal in the log, and the decision judges it once more, because another proposal for the
key may have been committed meanwhile.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

import msgspec

from statemachine import changes, keys, timers
from statemachine.change_log import ChangeLog
from statemachine.commands import Ballot, DecideProposal, ProposeData, VoteProposals
from statemachine.event_ids import format_event_id
from statemachine.outcomes import (
    Applied,
    Outcome,
    Pending,
    Rejected,
    RejectionCode,
    VotesCounted,
)
from statemachine.positions import Position
from statemachine.state import MachineState
from statemachine.store import DamagedStateError
from statemachine.stored_proposals import (
    GREATEST_BALLOTS,
    GREATEST_UNDECIDED,
    ProposalRow,
    ProposalState,
    ValueRow,
    Vote,
    decidable_key,
    decided_key,
    decision,
    encode_decidable,
    encode_row,
    name_of_row,
    owed_key,
    read_proposal,
    read_value,
    verdict,
    why_not_committed,
    written_id,
)
from statemachine.tickets import TicketKind, Tickets
from statemachine.timers import TimerKind
from statemachine.write_buffer import WriteBuffer

GREATEST_DATA_BYTES: Final = 64 * 1024
GREATEST_VOTERS: Final = 64
GREATEST_KEPT: Final = 10_000
"""Decided proposals; beyond so many the oldest is forgotten."""
KEPT_MS: Final = 24 * 3_600_000
"""And after so long, in elapsed time."""
GREATEST_KEYS: Final = 1_000_000
"""Keys with committed data."""
LEAST_WINDOW_MS: Final = 50
GREATEST_WINDOW_MS: Final = 600_000
GREATEST_REASON: Final = 300
"""Characters of a voter's reason that are kept."""
GREATEST_TIMESTAMP: Final = 2**63 - 1

_DIGEST_BYTES: Final = 16

_INTEGER: Final = re.compile(r"-?(0|[1-9][0-9]{0,18})")

_NAME_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"id or key is longer than {keys.GREATEST_NAME_BYTES - 1} bytes of UTF-8. Use a shorter one.",
)
_INTEGER_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    "The id is no integer of 64 bits. Send it as text.",
)
_DATA_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"data is empty or exceeds {GREATEST_DATA_BYTES} bytes. Propose less at once.",
)
_TIMESTAMP_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    "timestamp is not from 0 to 2**63 - 1. Send the proposal's logical timestamp.",
)
_VOTERS_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"voters are not 1 to {GREATEST_VOTERS} names in ascending order.",
)
_TOO_MANY_BALLOTS: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"More than {GREATEST_BALLOTS} ballots are cast. Cast fewer at once.",
)
_ID_TAKEN: Final = Rejected(
    RejectionCode.PROPOSAL_ID_TAKEN,
    "A proposal of this id has another key, timestamp or data. Use a new id for it.",
)
_TOO_MANY_UNDECIDED: Final = Rejected(
    RejectionCode.PROPOSALS_FULL,
    f"{GREATEST_UNDECIDED} proposals are undecided, as many as can be. Propose again later.",
)
_TOO_MANY_KEYS: Final = Rejected(
    RejectionCode.COMMITTED_KEYS_FULL,
    f"{GREATEST_KEYS} keys have committed data, as many as can be. Use one of them again.",
)
_NOT_FOUND: Final = Rejected(
    RejectionCode.PROPOSAL_NOT_FOUND,
    "No proposal has this id: there never was one, or it is no longer kept.",
)
_UNDECIDED: Final = Rejected(
    RejectionCode.PROPOSAL_UNDECIDED,
    "The votes do not suffice for a decision yet.",
)


class Proposals:
    """The data proposals of the state."""

    __slots__ = ("_log", "_state", "_tickets", "_writes", "revision")

    def __init__(
        self, state: MachineState, writes: WriteBuffer, log: ChangeLog, tickets: Tickets
    ) -> None:
        self._state = state
        self._writes = writes
        self._log = log
        self._tickets = tickets
        self.revision = 0
        """Rises with everything that may be work for a voter; not part of the state."""

    # --- proposing

    def propose(self, command: ProposeData, place: int) -> Outcome:
        """Lay the data before the voters, and wait; an id that is known answers what it came to."""
        position = Position(self._state.applied_index, place)
        proposal_id = command.proposal_id or format_event_id(position.entry, position.place)
        name = name_of_row(proposal_id)
        key_name = name_of_row(command.key or proposal_id)
        if name is None or key_name is None:
            return _NAME_UNUSABLE
        unusable = _why_unusable(command)
        if unusable is not None:
            return unusable
        known = read_proposal(self._writes, name)
        if known is not None:
            return self._again(proposal_id, known, command)
        value = read_value(self._writes, key_name)
        if self._state.undecided_proposals >= GREATEST_UNDECIDED:
            return _TOO_MANY_UNDECIDED
        if value is None and self._state.committed_keys >= GREATEST_KEYS:
            return _TOO_MANY_KEYS
        return self._open(command, proposal_id, name, value, place)

    def _again(self, proposal_id: str, known: ProposalRow, command: ProposeData) -> Outcome:
        """Answer who proposes what was proposed already."""
        asked = (command.key or proposal_id, command.timestamp, _digest(command.data))
        if asked != (known.key, known.timestamp, known.digest):
            return _ID_TAKEN
        if known.state is ProposalState.PROPOSED:
            return Pending(known.proposed_at)
        return Applied(decision(proposal_id, known))

    def _open(
        self,
        command: ProposeData,
        proposal_id: str,
        name: bytes,
        value: ValueRow | None,
        place: int,
    ) -> Outcome:
        window_ms = max(LEAST_WINDOW_MS, min(command.window_ms, GREATEST_WINDOW_MS))
        pending = self._tickets.open(place, TicketKind.PROPOSAL, name, window_ms)
        row = ProposalRow(
            integer_id=command.integer_id,
            key=command.key or proposal_id,
            key_given=bool(command.key),
            timestamp=command.timestamp,
            digest=_digest(command.data),
            proposer=command.proposer,
            voters=command.voters,
            above=None if value is None else value.timestamp,
            proposed_at=pending.ticket,
            proposed_ms=self._state.wall_ms,
            votes=(None,) * len(command.voters),
        )
        self._writes.put(keys.PROPOSAL + name, encode_row(row))
        self._writes.put(keys.PROPOSED_DATA + name, command.data)
        for voter in row.voters:
            self._writes.put(owed_key(voter, row.proposed_at), proposal_id.encode())
        self._state.undecided_proposals += 1
        self.revision += 1
        self._log.note(
            place,
            changes.ProposalProposed(
                id=written_id(proposal_id, row),
                key=row.key,
                timestamp=row.timestamp,
                proposed_by=row.proposer,
                voters=row.voters,
            ),
        )
        return pending

    # --- voting

    def vote(self, command: VoteProposals, place: int) -> Outcome:
        """Count a node's ballots; those that say nothing new are left out."""
        if len(command.ballots) > GREATEST_BALLOTS:
            return _TOO_MANY_BALLOTS
        counted = sum([self._count(command.node_id, each, place) for each in command.ballots])
        return Applied(VotesCounted(counted=counted))

    def _count(self, node_id: str, ballot: Ballot, place: int) -> bool:
        name = name_of_row(ballot.proposal_id)
        row = None if name is None else read_proposal(self._writes, name)
        if name is None or row is None or node_id not in row.voters:
            return False
        at = row.voters.index(node_id)
        before = row.votes[at]
        reason = "" if ballot.accept else ballot.reason[:GREATEST_REASON]
        vote = before or Vote(ballot.accept, reason, False)
        if ballot.applied and row.state is ProposalState.COMMITTED:
            vote = Vote(vote.accept, vote.reason, True)
        if vote == before:
            return False
        votes = (*row.votes[:at], vote, *row.votes[at + 1 :])
        row = msgspec.structs.replace(row, votes=votes)
        self._writes.put(keys.PROPOSAL + name, encode_row(row))
        self._note_ballot(ballot.proposal_id, row, node_id, vote)
        if before is None:
            self._log.note(
                place,
                changes.ProposalVoted(
                    id=written_id(ballot.proposal_id, row),
                    node_id=node_id,
                    vote="ACCEPT" if vote.accept else "REJECT",
                    reason=vote.reason,
                ),
            )
        return True

    def _note_ballot(self, proposal_id: str, row: ProposalRow, node_id: str, vote: Vote) -> None:
        """Keep what is still to be done of a proposal that got a ballot."""
        if vote.applied or row.state is not ProposalState.COMMITTED:
            self._writes.delete(owed_key(node_id, row.proposed_at))
        if row.state is ProposalState.PROPOSED and verdict(row) is not None:
            decidable = encode_decidable(row.proposer, proposal_id)
            self._writes.put(decidable_key(row.proposed_at), decidable)
            self.revision += 1

    # --- deciding

    def decide(self, command: DecideProposal, place: int) -> Outcome:
        """Do what the votes come to."""
        proposal_id = command.proposal_id
        name = name_of_row(proposal_id)
        row = None if name is None else read_proposal(self._writes, name)
        if name is None or row is None:
            return _NOT_FOUND
        if row.state is ProposalState.PROPOSED:
            result = verdict(row)
            if result is None:
                return _UNDECIDED
            row = self._end(proposal_id, name, row, result, place)
        return Applied(decision(proposal_id, row))

    def expire(self, name: bytes, place: int) -> None:
        """Do what the deadline of a proposal's ticket is for: `name` is the ticket's reference.

        Votes that suffice count all the same, though nobody lived to decide upon them.
        """
        row = read_proposal(self._writes, name)
        assert row is not None, "a proposal lives as long as its ticket waits"
        result = verdict(row) or ProposalState.EXPIRED
        self._end(keys.name_of(name), name, row, result, place)

    def _end(
        self, proposal_id: str, name: bytes, row: ProposalRow, result: ProposalState, place: int
    ) -> ProposalRow:
        """End a proposal that is undecided, and tell who waits for it."""
        state = self._state
        if result is ProposalState.COMMITTED:
            reason = self._commit(proposal_id, name, row, Position(state.applied_index, place))
            result = ProposalState.REJECTED if reason else result
        else:
            reason = why_not_committed(row, result)
        row = msgspec.structs.replace(
            row,
            state=result,
            reason=reason,
            decided_at=Position(state.applied_index, place),
            decided_term=state.applied_term,
            decided_ms=state.wall_ms,
            kept_until_ms=state.elapsed_ms + KEPT_MS,
        )
        self._writes.put(keys.PROPOSAL + name, encode_row(row))
        self._writes.delete(keys.PROPOSED_DATA + name)
        self._writes.delete(decidable_key(row.proposed_at))
        state.undecided_proposals -= 1
        self._keep(proposal_id, name, row)
        if result is ProposalState.COMMITTED:
            for voter in row.voters:
                self._writes.put(owed_key(voter, row.proposed_at), proposal_id.encode())
        self.revision += 1
        self._note_end(proposal_id, row, place)
        self._tickets.settle(row.proposed_at, Applied(decision(proposal_id, row)), place)
        return row

    def _commit(self, proposal_id: str, name: bytes, row: ProposalRow, position: Position) -> str:
        """Write the data under its key; return why it cannot be, empty when it was."""
        key_name = keys.terminated(row.key)
        before = read_value(self._writes, key_name)
        if before is not None and before.timestamp >= row.timestamp:
            return (
                f"The timestamp {row.timestamp} is not above {before.timestamp}, which was "
                "committed for the key while this was voted on."
            )
        data = self._writes.get(keys.PROPOSED_DATA + name)
        if data is None:
            raise DamagedStateError(f"the data of proposal {proposal_id!r} is missing")
        value = ValueRow(
            proposal_id=proposal_id,
            integer_id=row.integer_id,
            lasting=row.key_given or (before is not None and before.lasting),
            timestamp=row.timestamp,
            committed_at=position,
            term=self._state.applied_term,
            committed_ms=self._state.wall_ms,
            data=data,
        )
        self._writes.put(keys.COMMITTED_DATA + key_name, encode_row(value))
        if before is None:
            self._state.committed_keys += 1
        return ""

    def _note_end(self, proposal_id: str, row: ProposalRow, place: int) -> None:
        if row.state is ProposalState.COMMITTED:
            committed = changes.ProposalCommitted(
                id=written_id(proposal_id, row), key=row.key, timestamp=row.timestamp
            )
            self._log.note(place, committed)
            return
        rejected = changes.ProposalRejected(
            id=written_id(proposal_id, row),
            key=row.key,
            timestamp=row.timestamp,
            status=row.state.name,
            reason=row.reason,
        )
        self._log.note(place, rejected)

    # --- forgetting

    def _keep(self, proposal_id: str, name: bytes, row: ProposalRow) -> None:
        """Keep a decided proposal for its time, and not too many of them."""
        writes, state = self._writes, self._state
        writes.put(decided_key(row), proposal_id.encode())
        timers.arm(writes, row.kept_until_ms, TimerKind.PROPOSAL_EXPIRY, name)
        state.decided_proposals += 1
        if state.decided_proposals > GREATEST_KEPT:
            stop = keys.stop_of(keys.DECIDED_PROPOSAL)
            ((_, oldest),) = writes.scan(keys.DECIDED_PROPOSAL, stop, limit=1)
            self.forget(keys.terminated(oldest.decode()))

    def forget(self, name: bytes) -> None:
        """Do what the expiry timer of a decided proposal is for: `name` is the timer's id."""
        writes = self._writes
        row = read_proposal(writes, name)
        assert row is not None, "a decided proposal lives as long as its timer"
        timers.disarm(writes, row.kept_until_ms, TimerKind.PROPOSAL_EXPIRY, name)
        writes.delete(keys.PROPOSAL + name)
        writes.delete(decided_key(row))
        for voter in row.voters:
            writes.delete(owed_key(voter, row.proposed_at))
        self._state.decided_proposals -= 1
        # Data under no key but the proposal's own is forgotten with it.
        value = read_value(writes, keys.terminated(row.key))
        if value is not None and not value.lasting and value.committed_at == row.decided_at:
            writes.delete(keys.COMMITTED_DATA + keys.terminated(row.key))
            self._state.committed_keys -= 1


def _why_unusable(command: ProposeData) -> Rejected | None:
    if not 1 <= len(command.data) <= GREATEST_DATA_BYTES:
        return _DATA_UNUSABLE
    if not 0 <= command.timestamp <= GREATEST_TIMESTAMP:
        return _TIMESTAMP_UNUSABLE
    if command.integer_id and _INTEGER.fullmatch(command.proposal_id) is None:
        return _INTEGER_UNUSABLE
    voters = command.voters
    if (
        not 1 <= len(voters) <= GREATEST_VOTERS
        or list(voters) != sorted(dict.fromkeys(voters))
        or any(name_of_row(voter) is None for voter in voters)
    ):
        return _VOTERS_UNUSABLE
    return None


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=_DIGEST_BYTES).digest()
