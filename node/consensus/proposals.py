"""From requests to log entries, and back from applied entries to their callers.

Requests that arrive at a node wait until they can leave together as a *unit*, numbered within the
node's session. The leader puts units, its own and forwarded ones, into entries. A node learns the
outcome of its units when **it applies them itself**, so a reply that is lost on the way costs
nothing, and whoever gets an answer can read what it wrote on the same node.

Until then a unit is resubmitted, to whoever leads, under the same number; apply recognises copies.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from api.cluster import (
    NoQuorumError,
    OutcomeUnknownError,
    OverloadedError,
    RequestTooLargeError,
    StorageFullError,
)
from node.consensus.foundation import Foundation
from node.consensus.leadership import Leadership
from node.consensus.messages import Kind
from node.consensus.stamps import Stamps
from statemachine.codec import MalformedEntryError, decode_unit, encode_unit
from statemachine.outcomes import RequestOutcome, UnitOutcome

Answer = RequestOutcome | Exception
"""What a caller gets: an outcome, or one of the errors of `api.cluster`."""

NOT_LEADER: Final = "NOT_LEADER"
OVERLOADED: Final = "OVERLOADED"
STORAGE_FULL: Final = "STORAGE_FULL"
MALFORMED: Final = "MALFORMED"

_MAX_ENTRIES_IN_FLIGHT: Final = 4
_MAX_RESEND_S: Final = 0.8


@dataclass(slots=True)
class Waiting:
    """A request and whoever waits for it."""

    request: bytes
    deadline: float
    on_answer: Callable[[Answer], None] | None
    """None once the caller was told that the outcome is unknown."""


@dataclass(slots=True)
class Slot:
    """A unit under way."""

    sequence: int
    unit: bytes
    waiting: list[Waiting]
    sent_term: int = -1
    sent_at: float = 0.0
    attempts: int = 0
    last_deadline: float = 0.0


@dataclass(slots=True)
class _Forwarded:
    """Units of other nodes, at the leader: accepted once, until they are applied."""

    queue: deque[tuple[bytes, int, bytes]] = field(default_factory=deque)
    accepted: set[tuple[bytes, int]] = field(default_factory=set)
    queued_bytes: int = 0

    def clear(self) -> None:
        self.queue.clear()
        self.accepted.clear()
        self.queued_bytes = 0


class Proposals:
    def __init__(
        self,
        base: Foundation,
        stamps: Stamps,
        leadership: Leadership,
    ) -> None:
        self._session = base.session
        self._raft = base.raft
        self._journal = base.journal
        self._links = base.links
        self._settings = base.settings
        self._stamps = stamps
        self._leadership = leadership
        self._pending: deque[Waiting] = deque()
        self._pending_bytes = 0
        self._slots: dict[int, Slot] = {}
        self._last_sequence = 0
        self._forwarded = _Forwarded()
        self.counters = base.counters

    # --- taking requests

    def submit(self, request: bytes, deadline: float, on_answer: Callable[[Answer], None]) -> None:
        """Queue an encoded request; `on_answer` is called exactly once, never from here.

        Raises:
            RequestTooLargeError, OverloadedError, StorageFullError
        """
        if len(request) > self._settings.max_unit_bytes:
            raise RequestTooLargeError(
                f"the request takes {len(request)} bytes, the limit is"
                f" {self._settings.max_unit_bytes}"
            )
        if (
            len(self._pending) >= self._settings.max_pending_requests
            or self._pending_bytes + len(request) > self._settings.max_pending_bytes
        ):
            raise OverloadedError("too many requests wait at this node")
        if self._raft.is_leader and self._leadership.full:
            raise StorageFullError("a member's storage has passed its limit")
        self._enqueue(request, deadline, on_answer)

    def submit_internal(
        self, request: bytes, deadline: float, on_answer: Callable[[Answer], None]
    ) -> None:
        """Queue a request of the leader itself, which no limit holds back."""
        self._enqueue(request, deadline, on_answer)

    def _enqueue(
        self, request: bytes, deadline: float, on_answer: Callable[[Answer], None]
    ) -> None:
        self._pending.append(Waiting(request, deadline, on_answer))
        self._pending_bytes += len(request)

    @property
    def has_pending(self) -> bool:
        return bool(self._pending)

    @property
    def pending_count(self) -> int:
        return len(self._pending) + sum(len(slot.waiting) for slot in self._slots.values())

    @property
    def can_progress(self) -> bool:
        """Whether another round of the engine would move something now, without waiting."""
        if self._raft.is_leader:
            return self._may_propose and bool(
                (self._pending and self._has_free_slot) or self._forwarded.queue
            )
        leader = self._raft.leader_id
        return bool(
            self._pending
            and self._has_free_slot
            and leader is not None
            and self._links.is_connected(leader)
        )

    @property
    def _has_free_slot(self) -> bool:
        """Whether another unit may leave now. Beside others under way, only one worth its entry."""
        under_way = len(self._slots)
        return under_way == 0 or (
            under_way < self._settings.units_in_flight
            and len(self._pending) >= self._settings.requests_worth_an_entry
        )

    @property
    def _may_propose(self) -> bool:
        in_flight = self._journal.last()[0] - self._raft.last_applied
        return self._leadership.may_propose and in_flight < _MAX_ENTRIES_IN_FLIGHT

    # --- moving them

    def feed(self, now: float) -> None:
        """Send what can be sent: into the log when this node leads, else to who does."""
        if self._raft.is_leader:
            if self._may_propose:
                self._propose(now)
            return
        leader = self._raft.leader_id
        if leader is None or not self._links.is_connected(leader):
            return
        for slot in self._slots.values():
            if self._is_due(slot, now):
                self._forward(leader, slot, now)
        while self._pending and self._has_free_slot:
            self._forward(leader, self._open_slot(), now)

    def _is_due(self, slot: Slot, now: float) -> bool:
        if slot.sent_term != self._raft.term:
            return True
        wait = min(2 * self._settings.heartbeat_s * (1 << min(slot.attempts - 1, 4)), _MAX_RESEND_S)
        return now - slot.sent_at >= wait

    def _forward(self, leader: str, slot: Slot, now: float) -> None:
        self._mark_sent(slot, now)
        self._links.send(leader, (int(Kind.FORWARD), slot.sequence, slot.unit))

    def _mark_sent(self, slot: Slot, now: float) -> None:
        if slot.attempts:
            self.counters["units_resent"] += 1
        slot.sent_term = self._raft.term
        slot.sent_at = now
        slot.attempts += 1

    def _open_slot(self) -> Slot:
        """Make a unit of this slot's share of the pending requests, as far as they fit.

        Callers that wait for answers come back together. Spread over all free slots, the next
        unit is on its way while this one is applied.
        """
        free = self._settings.units_in_flight - len(self._slots)
        share = max(self._settings.requests_worth_an_entry, -(-len(self._pending) // max(1, free)))
        waiting: list[Waiting] = []
        size = 0
        while self._pending and len(waiting) < share:
            size += len(self._pending[0].request) + 8
            if waiting and size > self._settings.max_unit_bytes:
                break
            waiting.append(self._pending.popleft())
        self._pending_bytes -= sum(len(each.request) for each in waiting)
        self._last_sequence += 1
        sequence = self._last_sequence
        watermark = min(self._slots, default=sequence)
        unit = encode_unit(self._session, sequence, watermark, [each.request for each in waiting])
        slot = Slot(sequence, unit, waiting, last_deadline=max(each.deadline for each in waiting))
        self._slots[sequence] = slot
        return slot

    def _propose(self, now: float) -> None:
        """Put one entry into the library's queue, if there is anything to put."""
        units: list[bytes] = []
        room = self._settings.max_unit_bytes
        # The first unit always fits: with its frame it may be longer than the requests in it, and
        # one that never left would hold back everything behind it.
        for slot in self._slots.values():
            if slot.sent_term != self._raft.term and (not units or len(slot.unit) <= room):
                self._mark_sent(slot, now)
                units.append(slot.unit)
                room -= len(slot.unit)
        queue = self._forwarded.queue
        while queue and (not units or len(queue[0][2]) <= room):
            _, _, unit = queue.popleft()
            self._forwarded.queued_bytes -= len(unit)
            units.append(unit)
            room -= len(unit)
        if (
            self._pending
            and self._has_free_slot
            and (not units or len(self._pending[0].request) + 256 <= room)
        ):
            slot = self._open_slot_within(room)
            self._mark_sent(slot, now)
            units.append(slot.unit)
        if units:
            self.counters["entries_proposed"] += 1
            self._raft.propose(self._stamps.entry(units))

    def _open_slot_within(self, room: int) -> Slot:
        if room >= self._settings.max_unit_bytes:
            return self._open_slot()
        kept: deque[Waiting] = deque()
        size = 256
        while self._pending and size + len(self._pending[0].request) + 8 <= room:
            size += len(self._pending[0].request) + 8
            kept.append(self._pending.popleft())
        rest, self._pending = self._pending, kept
        slot = self._open_slot()
        # The unit may have taken less than there was room for: what it left comes first.
        self._pending.extend(rest)
        return slot

    # --- the leader's side of forwarding

    def on_forward(self, peer: str, sequence: int, unit: bytes) -> None:
        refusal = self._reason_to_refuse(unit)
        if refusal is None:
            try:
                decoded = decode_unit(unit)
            except MalformedEntryError:
                refusal = MALFORMED
            else:
                if decoded.sequence != sequence:
                    refusal = MALFORMED
        if refusal is not None:
            self._links.send(peer, (int(Kind.FORWARD_REFUSED), sequence, refusal))
            return
        key = (decoded.session, sequence)
        if key in self._forwarded.accepted:
            self.counters["forwards_repeated"] += 1
            return
        self._forwarded.accepted.add(key)
        self._forwarded.queue.append((decoded.session, sequence, unit))
        self._forwarded.queued_bytes += len(unit)

    def _reason_to_refuse(self, unit: bytes) -> str | None:
        if not self._raft.is_leader:
            return NOT_LEADER
        if len(unit) > self._settings.max_unit_bytes + 4096:
            return MALFORMED
        if self._forwarded.queued_bytes + len(unit) > self._settings.max_pending_bytes:
            return OVERLOADED
        if self._leadership.full:
            return STORAGE_FULL
        return None

    def on_forward_refused(self, sequence: int, reason: str, now: float) -> None:
        slot = self._slots.get(sequence)
        if slot is None:
            return
        if slot.attempts == 1 and reason in (STORAGE_FULL, MALFORMED):
            del self._slots[sequence]
            error: Exception = (
                StorageFullError("a member's storage has passed its limit")
                if reason == STORAGE_FULL
                else RequestTooLargeError("the leader cannot take the request")
            )
            self._answer_all(slot, error)
            return
        # Somebody else leads, or will: try again after a heartbeat.
        slot.sent_at = now - self._settings.heartbeat_s

    # --- outcomes

    def on_applied(self, outcomes: Iterable[UnitOutcome]) -> None:
        for outcome in outcomes:
            if outcome.session == self._session:
                self._settle(outcome)
            elif self._forwarded.accepted:
                self._forwarded.accepted.discard((outcome.session, outcome.sequence))

    def _settle(self, outcome: UnitOutcome) -> None:
        slot = self._slots.pop(outcome.sequence, None)
        if slot is None:
            return
        for each, answer in zip(slot.waiting, outcome.requests, strict=True):
            if each.on_answer is not None:
                each.on_answer(answer)

    def on_snapshot(self, outcome_of: Callable[[bytes, int], UnitOutcome | None]) -> None:
        """Units may have been applied within a snapshot: their outcomes are in the state."""
        for sequence in list(self._slots):
            outcome = outcome_of(self._session, sequence)
            if outcome is not None:
                self._settle(outcome)

    def on_role_change(self) -> None:
        """Nothing proposed under another term is certain to stay in the log."""
        self._forwarded.clear()

    def expire(self, now: float) -> None:
        """Tell callers whose deadline passed what is known: nothing happened, or unknown."""
        if self._pending and any(each.deadline <= now for each in self._pending):
            kept = deque(each for each in self._pending if each.deadline > now)
            late = [each for each in self._pending if each.deadline <= now]
            self._pending = kept
            self._pending_bytes = sum(len(each.request) for each in kept)
            for each in late:
                self._answer_never_proposed(each)
        for sequence, slot in list(self._slots.items()):
            for each in slot.waiting:
                if each.deadline <= now and each.on_answer is not None:
                    on_answer, each.on_answer = each.on_answer, None
                    on_answer(OutcomeUnknownError("the deadline passed before the outcome"))
            if slot.last_deadline <= now:
                # A late copy finds the watermark beyond it and changes nothing.
                del self._slots[sequence]

    def _answer_never_proposed(self, waiting: Waiting) -> None:
        if waiting.on_answer is None:
            return
        leader = self._raft.leader_id
        if leader is None:
            waiting.on_answer(NoQuorumError("no leader was found before the deadline"))
        elif not self._raft.is_leader and not self._links.is_connected(leader):
            waiting.on_answer(NoQuorumError("the leader could not be reached before the deadline"))
        else:
            waiting.on_answer(OverloadedError("the request was not reached before its deadline"))

    def _answer_all(self, slot: Slot, error: Exception) -> None:
        for each in slot.waiting:
            if each.on_answer is not None:
                each.on_answer(error)
