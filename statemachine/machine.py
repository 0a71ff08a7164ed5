"""The state machine: applies the entries of the log, one after the other, to a store.

Equal entries make equal stores, byte for byte, on every node and in every replay. Bad data in a
command is a `Rejected`; an entry that cannot be read, or a broken invariant, is an exception, after
which the process must stop and the store is as it was before the entry.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from typing import Any, Final, assert_never, get_args

import msgspec

from statemachine import commands, gates, hybrid_clock, idempotency, keys, oracle, sessions, timers
from statemachine.audit import AuditLog
from statemachine.change_log import ChangeLog
from statemachine.codec import decode_entry, decode_outcomes, encode_outcomes
from statemachine.commands import AnyCommand, Command, FireTimers, Request, Unit
from statemachine.event_lists import EventLists
from statemachine.executions import Executions
from statemachine.idempotency import IdempotencyTable
from statemachine.locks import Locks
from statemachine.members import Participants, join, leave
from statemachine.objects import ObjectWriter
from statemachine.outcomes import (
    Applied,
    LockAbandoned,
    Outcome,
    Position,
    Rejected,
    RejectionCode,
    RequestOutcome,
    TimersFired,
    UnitOutcome,
    WaitCancelled,
)
from statemachine.proposals import Proposals
from statemachine.retention import trim_events
from statemachine.routing import change_routing
from statemachine.sequences import advance
from statemachine.sessions import Sessions
from statemachine.state import UnsupportedStateError, encode_state, load_state
from statemachine.store import Store
from statemachine.sync_rounds import SyncRounds
from statemachine.tickets import LEAST_KEPT_MS, Ticket, TicketKind, Tickets
from statemachine.timers import TimerKind
from statemachine.timestamps import EventRecorder
from statemachine.transactions.coordinator import Coordinator
from statemachine.transactions.due import DueNotes
from statemachine.transactions.transaction import Transaction
from statemachine.vector_histories import Histories
from statemachine.vectors import VectorClocks
from statemachine.versions import VersionRecorder
from statemachine.write_buffer import WriteBuffer

DIGEST_INTERVAL: Final = 1_024
"""Nodes compare the digests of the first applied entry at or after each multiple of it."""

GREATEST_TIME_MS: Final = 2**45 - 1
"""The greatest stamp that is believed, in the year 3084: above it, hybrid timestamps leave 63 bits.
A stamp outside of 0 to it counts as the time of the entry before."""

_DIGEST_BYTES: Final = 32

Handler = Callable[[Any, int], Outcome]
"""Does a command of one kind, given its place."""

_encode: Final = msgspec.msgpack.Encoder().encode

_REQUEST_EXPIRED: Final = Rejected(
    RejectionCode.REQUEST_EXPIRED,
    "The request's deadline passed before it was applied; nothing was done. Send it again with a "
    "later deadline.",
)

_LIFETIME_TOO_LONG: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"The request expires more than {sessions.GREATEST_LIFETIME_MS} ms ahead. Use an earlier "
    "deadline.",
)

_WINDOW_EXCEEDED: Final = Rejected(
    RejectionCode.SESSION_WINDOW_EXCEEDED,
    f"The unit is {sessions.WINDOW} or more sequences above the oldest one that its session has "
    "not settled. Settle some first.",
)

_UNIT_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"The unit's session is not {keys.SESSION_BYTES} bytes long, or its sequence or watermark is "
    "out of range.",
)

_LOCK_EXPIRY: Final = TimerKind.LOCK_EXPIRY
_TOO_MANY_TIMERS: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"More than {timers.GREATEST_FIRING} timers are named. Fire fewer at once.",
)

_TICKET_NOT_FOUND: Final = Rejected(
    RejectionCode.TICKET_NOT_FOUND,
    "No wait has this ticket: there never was one, or its outcome is no longer kept.",
)


class Machine:
    """Applies entries to `store`, whose rows of `statemachine.keys` nobody else may write.

    Raises:
        UnsupportedStateError: a newer version of this program wrote the state.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loads = 0
        self.reload()

    def reload(self) -> None:
        """Begin from what the store holds now, after a snapshot has replaced its content.

        Raises:
            UnsupportedStateError: a newer version of this program wrote the state.
        """
        state = load_state(self._store)
        if state.active_version > gates.SUPPORTED_VERSION:
            raise UnsupportedStateError(
                f"version {state.active_version} is active in the state, this program knows "
                f"{gates.SUPPORTED_VERSION}; start the newer program"
            )
        self._loads += 1
        self._state = state
        self._writes = WriteBuffer(self._store)
        self._changes = ChangeLog(state, self._writes)
        self._tickets = Tickets(state, self._writes, self._changes)
        self._locks = Locks(state, self._writes, self._changes, self._tickets)
        self._proposals = Proposals(state, self._writes, self._changes, self._tickets)
        self._audit = AuditLog(state, self._writes, self._changes)
        self._coordinator = Coordinator(
            state, self._writes, self._changes, self._tickets, self._audit
        )
        self._participants = Participants(state, self._writes, self._changes)
        self._sessions = Sessions(state, self._writes)
        self._remembered = IdempotencyTable(state, self._writes)
        self._events = EventRecorder(state, self._writes, self._participants)
        self._executions = Executions(state, self._writes, self._changes, self._events)
        lists = EventLists(state, self._writes, self._tickets)
        self._histories = Histories(self._writes)
        self._versions = VersionRecorder(lists, self._histories, self._participants)
        self._objects = ObjectWriter(self._writes, lists, self._participants)
        self._vectors = VectorClocks(
            state, self._writes, lists, self._histories, self._participants
        )
        self._sync_rounds = SyncRounds(
            state, self._writes, self._changes, self._participants, self._vectors
        )
        self._handlers = self._dispatch()

    @property
    def applied_index(self) -> int:
        """The last applied entry, 0 for an empty state."""
        return self._state.applied_index

    @property
    def applied_term(self) -> int:
        return self._state.applied_term

    @property
    def applied_position(self) -> Position:
        """The last applied command; (0, 0) when there was none."""
        return Position(self._state.last_entry, self._state.last_place)

    @property
    def wall_ms(self) -> int:
        """The replicated wall clock: milliseconds since the epoch, never running backwards."""
        return self._state.wall_ms

    @property
    def elapsed_ms(self) -> int:
        """The time during which the cluster had a leader."""
        return self._state.elapsed_ms

    @property
    def hlc(self) -> int:
        """The last hybrid timestamp given, encoded."""
        return self._state.hlc

    @property
    def reserved_upto(self) -> int:
        """The greatest timestamp of the oracle that a leader may have given out, encoded."""
        return self._state.reserved_upto

    @property
    def active_version(self) -> int:
        return self._state.active_version

    @property
    def event_count(self) -> int:
        """Stored events."""
        return self._state.event_count

    @property
    def idempotency_count(self) -> int:
        """Remembered idempotency keys."""
        return self._state.idempotency_count

    @property
    def lock_count(self) -> int:
        """Locks that are held, or were released just now."""
        return self._state.lock_count

    @property
    def lock_wait_count(self) -> int:
        """Acquires that wait for their turn."""
        return self._state.lock_wait_count

    @property
    def global_count(self) -> int:
        """Global transactions that have not ended."""
        return self._state.global_count

    @property
    def row_lock_count(self) -> int:
        """Rows that branches hold, each counted for each branch that shares it."""
        return self._state.row_lock_count

    @property
    def transaction_retention_ms(self) -> tuple[int, int]:
        """How long an ended transaction is kept in full, and then its summary."""
        return self._state.retention_ms, self._state.summary_retention_ms

    @property
    def sync_round(self) -> int:
        """The synchronisation round that gathers reports."""
        return self._state.sync_round

    @property
    def sync_interval_ms(self) -> int:
        """The interval of synchronisation rounds that leaders agreed on."""
        return self._state.sync_interval_ms

    @property
    def channel_count(self) -> int:
        """Channel sessions of resource managers that have not ended."""
        return self._state.channel_count

    @property
    def cleaning_count(self) -> int:
        """Branches that are noted for resource managers to clean."""
        return self._state.cleaning_count

    @property
    def channel_revision(self) -> tuple[int, int]:
        """When it differs from before, a resource manager has registered. Each node has its own."""
        return self._loads, self._coordinator.channel_revision

    @property
    def proposals_revision(self) -> tuple[int, int]:
        """When it differs from before, there may be work for a voter. Each node has its own."""
        return self._loads, self._proposals.revision

    @property
    def execution_count(self) -> int:
        """Executions of the XA and JTA services that have not ended."""
        return self._state.open_executions

    @property
    def executions_revision(self) -> tuple[int, int]:
        """When it differs from before, there may be something to run. Each node has its own."""
        return self._loads, self._executions.revision

    @property
    def due_transactions(self) -> DueNotes:
        """What the driver of this node should look at. Each node has its own."""
        return self._coordinator.due

    def transaction(self, xid: str) -> Transaction | None:
        """Return a global transaction as the last entry left it, for whoever only looks at it.

        Not to be kept beyond the next entry, which may change it.
        """
        return self._coordinator.look_at(xid)

    @property
    def digest(self) -> bytes:
        """Over everything that was ever written; empty before the first entry."""
        return self._state.digest

    @property
    def checkpoint(self) -> tuple[int, bytes]:
        """The entry at which nodes compare themselves, and the digest after it; (0, b"") at first.

        It is part of the state: a node that installed a snapshot has it too.
        """
        return self._state.checkpoint_index, self._state.checkpoint_digest

    def outcome_of(self, session: bytes, sequence: int) -> UnitOutcome | None:
        """Return what `apply` answered to a unit, or None when it was not applied.

        Without requests when the session had settled it. For a node that learnt of the unit's entry
        through a snapshot.
        """
        known = self._sessions.find(session) if len(session) == keys.SESSION_BYTES else None
        if known is None:
            return None
        if sequence < known.watermark:
            return UnitOutcome(session, sequence, ())
        stored = self._sessions.settled_outcomes(session, known, sequence)
        return None if stored is None else UnitOutcome(session, sequence, decode_outcomes(stored))

    def apply(self, index: int, term: int, payload: bytes) -> tuple[UnitOutcome, ...]:
        """Apply one entry and return one outcome for each of its units.

        An entry at or below the applied index is skipped and answers nothing.

        Raises:
            MalformedEntryError: the entry cannot be read. The process must stop.
            DamagedStateError: a row is damaged. The node must rebuild its state from a peer.
        """
        state = self._state
        if index <= state.applied_index:
            return ()
        entry = decode_entry(payload)
        reaches_checkpoint = index // DIGEST_INTERVAL > state.applied_index // DIGEST_INTERVAL
        state.applied_index = index
        state.applied_term = term
        if state.wall_ms < entry.wall_ms <= GREATEST_TIME_MS:
            state.wall_ms = entry.wall_ms
        if state.elapsed_ms < entry.elapsed_ms <= GREATEST_TIME_MS:
            state.elapsed_ms = entry.elapsed_ms

        # Every command of an entry has its place, done or not: positions follow from the log alone.
        place = 0
        outcomes: list[UnitOutcome] = []
        for unit in entry.units:
            requests = self._apply_unit(unit, place)
            outcomes.append(UnitOutcome(unit.session, unit.sequence, requests))
            place += sum([len(request.commands) for request in unit.requests])
        if place:
            state.last_entry = index
            state.last_place = place - 1

        self._participants.save()
        self._histories.save()
        self._sessions.save()
        self._coordinator.save()
        self._changes.save()
        self._seal(reaches_checkpoint)
        return tuple(outcomes)

    def _seal(self, reaches_checkpoint: bool) -> None:
        """Chain the digest and hand the entry's writes to the store."""
        state, writes = self._state, self._writes
        # The scalars still hold the digest of the entry before.
        digest = blake2b(encode_state(state), digest_size=_DIGEST_BYTES)
        digest.update(_encode(writes.pending))
        state.digest = digest.digest()
        if reaches_checkpoint:
            state.checkpoint_index = state.applied_index
            state.checkpoint_digest = state.digest
        writes.put(keys.META, encode_state(state))
        writes.flush()

    def _apply_unit(self, unit: Unit, place: int) -> tuple[RequestOutcome, ...]:
        if not (
            len(unit.session) == keys.SESSION_BYTES
            and 1 <= unit.sequence <= keys.GREATEST_NUMBER
            and 0 <= unit.watermark <= keys.GREATEST_NUMBER
        ):
            return self._reject_unit(unit, place, _UNIT_UNUSABLE)
        session = self._sessions.find(unit.session)
        watermark = unit.watermark
        if session is not None:
            stored = self._sessions.settled_outcomes(unit.session, session, unit.sequence)
            if stored is not None:
                return decode_outcomes(stored)
            watermark = max(watermark, session.watermark)
        if unit.sequence < watermark:
            return ()
        if unit.sequence >= watermark + sessions.WINDOW:
            return self._reject_unit(unit, place, _WINDOW_EXCEEDED)

        session = self._sessions.use(unit, session)
        outcomes: list[RequestOutcome] = []
        for request in unit.requests:
            outcomes.append(self._apply_request(request, place))
            place += len(request.commands)
        settled = tuple(outcomes)
        self._sessions.settle(unit, session, encode_outcomes(settled))
        return settled

    def _reject_unit(self, unit: Unit, place: int, why: Rejected) -> tuple[RequestOutcome, ...]:
        outcomes: list[RequestOutcome] = []
        for request in unit.requests:
            outcomes.append(self._reject(request, place, why))
            place += len(request.commands)
        return tuple(outcomes)

    def _reject(self, request: Request, place: int, why: Rejected) -> RequestOutcome:
        position = Position(self._state.applied_index, place)
        return RequestOutcome(position, False, (why,) * len(request.commands))

    def _apply_request(self, request: Request, place: int) -> RequestOutcome:
        state = self._state
        if request.expires_at_ms < state.elapsed_ms:
            return self._reject(request, place, _REQUEST_EXPIRED)
        if request.expires_at_ms > state.elapsed_ms + sessions.GREATEST_LIFETIME_MS:
            return self._reject(request, place, _LIFETIME_TOO_LONG)
        if request.idempotency is not None:
            return self._apply_once(request, request.idempotency, place)
        return self._execute_all(request, place)

    def _apply_once(
        self, request: Request, key: commands.IdempotencyKey, place: int
    ) -> RequestOutcome:
        """Apply a request whose key is new; else answer what is remembered."""
        identity = idempotency.row_id(key)
        if identity is None:
            return self._reject(request, place, idempotency.KEY_UNUSABLE)
        remembered = self._remembered.recall(identity)
        if remembered is not None:
            if remembered.digest != key.digest:
                return self._reject(request, place, idempotency.refusal(remembered, request))
            return RequestOutcome(remembered.position, True, remembered.outcomes)
        if self._remembered.full:
            return self._reject(request, place, idempotency.TABLE_FULL)
        self._tickets.kept_ms = max(
            LEAST_KEPT_MS,
            min(key.ttl_ms, idempotency.GREATEST_TTL_MS),
            request.expires_at_ms + 1 - self._state.elapsed_ms,
        )
        self._remembered.applying = identity
        outcome = self._execute_all(request, place)
        self._remembered.applying = None
        self._tickets.kept_ms = LEAST_KEPT_MS
        self._remembered.remember(identity, key, request.expires_at_ms, outcome)
        return outcome

    def _execute_all(self, request: Request, place: int) -> RequestOutcome:
        position = Position(self._state.applied_index, place)
        self._histories.begin_request()
        wanted = request.commands
        if len(wanted) == 1:
            return RequestOutcome(position, False, (self._execute(wanted[0], place),))
        execute = self._execute
        outcomes = tuple([execute(command, at) for at, command in enumerate(wanted, place)])
        return RequestOutcome(position, False, outcomes)

    def _execute(self, command: AnyCommand, place: int) -> Outcome:
        state = self._state
        if gates.SINCE[type(command)] > state.active_version:
            return gates.not_active(command, state.active_version)
        return self._handlers[type(command)](command, place)

    def _dispatch(self) -> dict[type[Command], Handler]:
        """Return who does each command: a table, because a case for each takes longer than most."""
        state, writes, coordinator = self._state, self._writes, self._coordinator
        return {
            commands.RecordEvent: self._events.record,
            commands.SyncClock: self._events.sync,
            commands.JoinParticipant: partial(join, self._participants),
            commands.LeaveParticipant: partial(leave, self._participants),
            commands.ChangeRouting: self._change_routing,
            commands.FireTimers: self._fire_timers,
            commands.ActivateVersion: lambda command, _: gates.activate(state, command),
            commands.TrimEvents: lambda command, _: trim_events(state, writes, command),
            commands.CancelWait: lambda command, at: self._cancel_wait(command.ticket, at),
            commands.TrimChanges: lambda command, _: self._changes.trim(command),
            commands.ReserveTimestamps: lambda command, _: oracle.reserve(state, command),
            commands.TickHybridClock: lambda _, __: hybrid_clock.tick(state),
            commands.ObserveHybridTime: lambda command, _: hybrid_clock.observe(state, command),
            commands.AdvanceSequence: lambda command, _: advance(writes, command),
            commands.AcquireLock: self._locks.acquire,
            commands.RenewLock: self._locks.renew,
            commands.ReleaseLock: self._locks.release,
            commands.AbandonLock: self._locks.abandon,
            commands.AbandonAcquire: self._abandon_acquire,
            commands.IncrementVersion: self._versions.increment,
            commands.MergeVersion: self._versions.merge,
            commands.WriteObject: self._objects.write,
            commands.TickVector: self._vectors.tick,
            commands.SendMessage: self._vectors.send,
            commands.ReceiveMessage: self._vectors.receive,
            commands.ReportClock: self._sync_rounds.report,
            commands.CloseSyncRound: self._sync_rounds.close,
            commands.AcknowledgeSync: self._sync_rounds.acknowledge,
            commands.SetSyncInterval: lambda command, _: self._sync_rounds.set_interval(command),
            commands.ProposeData: self._proposals.propose,
            commands.VoteProposals: self._proposals.vote,
            commands.DecideProposal: self._proposals.decide,
            commands.AcceptExecution: self._executions.accept,
            commands.ClaimExecution: self._executions.claim,
            commands.AdvanceExecution: self._executions.advance,
            commands.RenewExecutions: self._executions.renew,
            commands.FinishExecution: self._executions.finish,
            commands.SetTransactionRetention: lambda command, _: coordinator.set_retention(command),
            commands.RecordAction: self._audit.record_action,
            **dict.fromkeys(get_args(commands.TransactionCommand), coordinator.execute),
            **dict.fromkeys(get_args(commands.MessageCommand), coordinator.execute_message),
            **dict.fromkeys(get_args(commands.DtmCommand), coordinator.execute_dtm),
            **dict.fromkeys(get_args(commands.SagaCommand), coordinator.execute_saga),
            **dict.fromkeys(get_args(commands.ChannelCommand), coordinator.execute_channel),
        }

    def _change_routing(self, command: commands.ChangeRouting, place: int) -> Outcome:
        if command.state == "FAILED":
            self._coordinator.lose_node(command.node_id)
        return change_routing(self._state, self._writes, self._changes, command, place)

    def _fire_timers(self, command: FireTimers, place: int) -> Outcome:
        """Do each named timer that still stands and is due, the first due first."""
        if len(command.timers) > timers.GREATEST_FIRING:
            return _TOO_MANY_TIMERS
        elapsed_ms = self._state.elapsed_ms
        fired = 0
        left = sorted(command.timers)
        last = left[-1] if left else ()
        while left:
            due_ms, kind, timer_id = heapq.heappop(left)
            if due_ms > elapsed_ms or not timers.is_armed(self._writes, due_ms, kind, timer_id):
                continue
            fired += 1
            moved_ms = None
            if kind == TimerKind.LOCK_EXPIRY:
                moved_ms = self._locks.put_off(due_ms, timer_id)
            if moved_ms is None:
                self._fire(due_ms, TimerKind(kind), timer_id, place)
            elif (moved := (moved_ms, kind, timer_id)) <= last:
                # One that is due after the last is for the next command: others may be due before.
                heapq.heappush(left, moved)
        return Applied(TimersFired(fired=fired))

    def _fire(  # noqa: PLR0912 - a case for each timer
        self, due_ms: int, kind: TimerKind, timer_id: bytes, place: int
    ) -> None:
        match kind:
            case TimerKind.IDEMPOTENCY_EXPIRY:
                self._remembered.forget(due_ms, timer_id)
            case TimerKind.SESSION_EXPIRY:
                self._sessions.expire(due_ms, timer_id)
            case TimerKind.WAIT_DEADLINE:
                self._pass_deadline(Position(*keys.unpack_event(timer_id)), place)
            case TimerKind.TICKET_EXPIRY:
                self._tickets.forget(due_ms, timer_id)
            case TimerKind.SHARED_LOCK_EXPIRY:
                self._locks.expire_shared(timer_id, place)
            case TimerKind.LOCK_EXPIRY:
                self._locks.expire(timer_id, place)
            case TimerKind.MESSAGE_EXPIRY:
                self._vectors.forget_message(due_ms, timer_id)
            case TimerKind.SYNC_REPORT_EXPIRY:
                self._sync_rounds.expire(due_ms, timer_id)
            case TimerKind.PROPOSAL_EXPIRY:
                self._proposals.forget(timer_id)
            case TimerKind.GLOBAL_TIMEOUT:
                self._coordinator.time_out(due_ms, timer_id.decode(), place)
            case TimerKind.GLOBAL_RETENTION:
                self._coordinator.forget(due_ms, timer_id.decode())
            case TimerKind.GLOBAL_SUMMARY_EXPIRY:
                self._coordinator.forget_summary(due_ms, timer_id.decode())
            case TimerKind.CHANNEL_END:
                self._coordinator.pass_grace(due_ms, timer_id, place)
            case TimerKind.EXECUTION_LEASE:
                self._executions.lapse(timer_id, place)
            case TimerKind.EXECUTION_RETENTION:
                self._executions.forget(due_ms, timer_id)
            case TimerKind.CHANNEL_NODE_LOST:
                self._coordinator.detach_node(due_ms, timer_id, place)
            case unknown:
                assert_never(unknown)

    def _pass_deadline(self, position: Position, place: int) -> None:
        ticket = self._tickets.get(position)
        assert ticket is not None, "a wait's deadline is disarmed with it"
        self._end_wait(position, ticket, place)

    def _cancel_wait(self, position: Position, place: int) -> Outcome:
        ticket = self._tickets.get(position)
        if ticket is None:
            return _TICKET_NOT_FOUND
        # A proposal is for all to see: it is decided though its client has gone.
        waits = ticket.outcome is None and ticket.kind is not TicketKind.PROPOSAL
        if waits:
            self._end_wait(position, ticket, place)
        return Applied(WaitCancelled(cancelled=waits))

    def _abandon_acquire(self, command: commands.AbandonAcquire, place: int) -> Outcome:
        """Undo what came under a key, or see to it that nothing will."""
        key = commands.IdempotencyKey(command.principal, command.key, b"", command.ttl_ms)
        identity = idempotency.row_id(key)
        if identity is None:
            return idempotency.KEY_UNUSABLE
        if identity == self._remembered.applying:
            return idempotency.OWN_KEY
        remembered = self._remembered.recall(identity)
        if remembered is not None:
            undone = commands.AbandonLock(
                name=command.name, owner=command.owner, acquire=remembered.position
            )
            return self._locks.abandon(undone, place)
        if self._remembered.full:
            return idempotency.TABLE_FULL
        self._remembered.refuse(identity, key, Position(self._state.applied_index, place))
        return Applied(LockAbandoned(cancelled=False, released=False))

    def _end_wait(self, position: Position, ticket: Ticket, place: int) -> None:
        """End a wait whose turn has not come."""
        match ticket.kind:
            case TicketKind.LOCK:
                self._locks.end_wait(position, ticket, place)
            case TicketKind.PROPOSAL:
                self._proposals.expire(ticket.reference, place)
            case TicketKind.ROW_LOCKS:
                self._coordinator.end_wait_for_rows(position, place)
            case TicketKind.GLOBAL_END:
                xid = ticket.reference.decode()
                self._coordinator.end_wait_for_end(position, xid, place)
            case unknown:
                assert_never(unknown)
