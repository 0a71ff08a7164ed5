"""Executions: who runs which business of the XA and JTA services, how far it is, how it ended.

Nothing is run here. A node that takes a request has an execution accepted, of which it is the
*owner* for as long as it renews its lease; what it says under another *epoch* than the execution's
is refused. Who becomes the owner of an execution that was begun before finds the xid of its
transaction here and asks what became of that first, so that nothing is done twice:

==============  ==========================  =====================================================
what            from                        what follows
==============  ==========================  =====================================================
accepted        –                           its event is stored; owned by who took the request
lease over      owned                       owned by nobody, under a new epoch
claimed         owned by nobody, or by the  owned, under a new epoch
                claimant: its process died
advanced        owned                       RUNNING, with what its owner says
finished        owned                       ended; remembered for a while
==============  ==========================  =====================================================
"""

from __future__ import annotations

from typing import Final

import msgspec

from statemachine import keys, timers
from statemachine.change_log import ChangeLog
from statemachine.changes import ExecutionChanged
from statemachine.commands import (
    AcceptExecution,
    AdvanceExecution,
    ClaimExecution,
    FinishExecution,
    RecordEvent,
    RenewExecutions,
)
from statemachine.execution_rows import (
    ENDS,
    GREATEST_KEPT,
    GREATEST_OPEN,
    GREATEST_TIMELINE,
    JTA_STATUSES,
    RUNNING,
    SERVICES,
    ExecutionRow,
    Step,
    encode_execution,
    get_execution,
    packed,
    transaction_id,
    xid_of,
)
from statemachine.outcomes import (
    Applied,
    EventRecorded,
    ExecutionAccepted,
    ExecutionMoved,
    ExecutionsRenewed,
    Outcome,
    Position,
    Rejected,
    RejectionCode,
)
from statemachine.state import MachineState
from statemachine.timers import TimerKind
from statemachine.timestamps import EventRecorder
from statemachine.write_buffer import WriteBuffer

LEAST_LEASE_MS: Final = 100
GREATEST_LEASE_MS: Final = 10 * 60_000
GREATEST_KEEP_MS: Final = 365 * 24 * 3_600_000
GREATEST_NAME_LENGTH: Final = 128
GREATEST_ERROR_LENGTH: Final = 2_000
GREATEST_RESULT_BYTES: Final = 256 * 1024
GREATEST_RENEWED: Final = 2_000

_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    "A field of the command is out of its range, or a name is empty or too long. Nothing was done.",
)
_FULL: Final = Rejected(
    RejectionCode.TOO_MANY_EXECUTIONS,
    f"{GREATEST_OPEN} executions are under way, {GREATEST_KEPT} that have ended are remembered, or "
    "the request would make them more. Send fewer at once, or retry later.",
)
_NOT_FOUND: Final = Rejected(
    RejectionCode.EXECUTION_NOT_FOUND,
    "No execution has this transactionId: there never was one, or it ended so long ago that it is "
    "not remembered.",
)
_STALE: Final = Rejected(
    RejectionCode.EXECUTION_TAKEN_OVER,
    "The execution has ended, or goes on under another epoch: whoever says this does not run it.",
)


class Executions:
    """The executions of the state."""

    __slots__ = ("_events", "_log", "_state", "_writes", "revision")

    def __init__(
        self, state: MachineState, writes: WriteBuffer, log: ChangeLog, events: EventRecorder
    ) -> None:
        self._state = state
        self._writes = writes
        self._log = log
        self._events = events
        self.revision = 0
        """Grows when there may be something to run. Each node has its own."""

    # --- commands

    def accept(self, command: AcceptExecution, place: int) -> Outcome:
        """Record the event and the execution."""
        state = self._state
        usable = (
            command.service in SERVICES
            and _is_name(command.business_type)
            and _is_name(command.owner)
            and _is_lease(command.lease_ms)
            and command.business_data != b""
        )
        if not usable:
            return _UNUSABLE
        here = Position(state.applied_index, place)
        before = Position(here.entry, here.place - 1) if command.follows else None
        if before is not None and get_execution(self._writes, before) is None:
            return _UNUSABLE
        room = max(1, command.room)
        if (
            state.open_executions + room > GREATEST_OPEN
            or state.kept_executions + room > GREATEST_KEPT
        ):
            return _FULL
        event = RecordEvent(
            node_id=command.owner,
            event_type=f"{command.service}_TRANSACTION",
            event_data=msgspec.json.encode({"businessType": command.business_type}),
        )
        recorded = self._events.record(event, place)
        if not isinstance(recorded, Applied):
            return recorded
        assert isinstance(recorded.result, EventRecorded)
        row = ExecutionRow(
            service=command.service,
            business_type=command.business_type,
            asynchronous=command.asynchronous,
            accepted_by=command.owner,
            lamport=recorded.result.lamport_timestamp,
            created_at_ms=recorded.result.created_at_ms,
            follows=before,
            owner=command.owner,
            xid=xid_of(command.service, here, 1),
        )
        state.open_executions += 1
        self._writes.put(keys.EXECUTION_DATA + packed(here), command.business_data)
        self._arm(here, row, TimerKind.EXECUTION_LEASE, command.lease_ms)
        self._changed(here, row, place)
        return Applied(
            ExecutionAccepted(
                lamport_timestamp=row.lamport,
                hlc=recorded.result.hlc,
                created_at_ms=row.created_at_ms,
            )
        )

    def claim(self, command: ClaimExecution, place: int) -> Outcome:
        """Give an execution that nobody runs to who asks first."""
        if not _is_name(command.owner) or not _is_lease(command.lease_ms):
            return _UNUSABLE
        at = command.execution
        row = get_execution(self._writes, at)
        if row is None:
            return _NOT_FOUND
        if row.ended or row.epoch != command.epoch or row.owner not in ("", command.owner):
            return _STALE
        row.owner = command.owner
        row.epoch += 1
        row.attempts += 1
        self._disarm(at, row)
        self._arm(at, row, TimerKind.EXECUTION_LEASE, command.lease_ms)
        self._changed(at, row, place)
        return Applied(ExecutionMoved(epoch=row.epoch))

    def advance(self, command: AdvanceExecution, place: int) -> Outcome:
        """Take down what the owner says."""
        usable = (
            command.jta_status in ("", *JTA_STATUSES)
            and len(command.xid) <= GREATEST_NAME_LENGTH
            and (command.result is None or len(command.result) <= GREATEST_RESULT_BYTES)
            and _is_lease(command.lease_ms)
            and _is_progress(command)
        )
        if not usable:
            return _UNUSABLE
        at = command.execution
        found = self._owned(at, command.epoch)
        if isinstance(found, Rejected):
            return found
        row = found
        before = (row.status, row.jta_status, row.xid)
        row.status = RUNNING
        row.jta_status = command.jta_status or row.jta_status
        row.xid = command.xid or row.xid
        if command.progress is not None:
            row.progress = command.progress
        if command.result is not None:
            row.result = command.result
        self._disarm(at, row)
        self._arm(at, row, TimerKind.EXECUTION_LEASE, command.lease_ms)
        if before == (row.status, row.jta_status, row.xid):
            self._put(at, row)
        else:
            self._changed(at, row, place)
        return Applied(ExecutionMoved(epoch=row.epoch))

    def renew(self, command: RenewExecutions, place: int) -> Outcome:
        """Let leases begin anew."""
        if len(command.executions) > GREATEST_RENEWED or not _is_lease(command.lease_ms):
            return _UNUSABLE
        lost: list[int] = []
        for number, (at, epoch) in enumerate(command.executions):
            row = self._owned(at, epoch)
            if isinstance(row, Rejected) or row.owner != command.owner:
                lost.append(number)
                continue
            self._disarm(at, row)
            self._arm(at, row, TimerKind.EXECUTION_LEASE, command.lease_ms)
            self._put(at, row)
        return Applied(ExecutionsRenewed(lost=tuple(lost)))

    def finish(self, command: FinishExecution, place: int) -> Outcome:
        """Take down how it ended, and let go of what it was accepted with."""
        usable = (
            command.status in ENDS
            and command.jta_status in JTA_STATUSES
            and len(command.error) <= GREATEST_ERROR_LENGTH
            and len(command.failures) <= GREATEST_RESULT_BYTES
            and 0 < command.keep_ms <= GREATEST_KEEP_MS
        )
        if not usable:
            return _UNUSABLE
        at = command.execution
        found = self._owned(at, command.epoch)
        if isinstance(found, Rejected):
            return found
        row = found
        row.status = command.status
        row.jta_status = command.jta_status
        row.error = command.error
        row.failures = command.failures
        if row.status != "SUCCESS":
            row.result = b""
        state = self._state
        state.open_executions -= 1
        state.kept_executions += 1
        self._writes.delete(keys.EXECUTION_DATA + packed(at))
        self._disarm(at, row)
        self._arm(at, row, TimerKind.EXECUTION_RETENTION, command.keep_ms)
        self._changed(at, row, place)
        return Applied(ExecutionMoved(epoch=row.epoch))

    # --- timers

    def lapse(self, timer_id: bytes, place: int) -> None:
        """The owner has said nothing for too long: whoever wants may have it."""
        at = Position(*keys.unpack_event(timer_id))
        row = get_execution(self._writes, at)
        assert row is not None, "an execution is there as long as its timer"
        self._disarm(at, row)
        row.timer_ms = 0
        row.owner = ""
        row.epoch += 1
        self._changed(at, row, place)

    def forget(self, due_ms: int, timer_id: bytes) -> None:
        """It ended long ago."""
        timers.disarm(self._writes, due_ms, TimerKind.EXECUTION_RETENTION, timer_id)
        self._writes.delete(keys.EXECUTION + timer_id)
        self._state.kept_executions -= 1

    # --- rows

    def _owned(self, at: Position, epoch: int) -> ExecutionRow | Rejected:
        row = get_execution(self._writes, at)
        if row is None:
            return _NOT_FOUND
        return _STALE if row.ended or row.epoch != epoch or not row.owner else row

    def _changed(self, at: Position, row: ExecutionRow, place: int) -> None:
        """Write a row whose status is another than before, and tell of it."""
        step = Step(self._state.wall_ms, row.status, row.jta_status, row.xid, row.owner, row.epoch)
        row.timeline = (*row.timeline[: GREATEST_TIMELINE - 1], step)
        self._put(at, row)
        self.revision += 1
        self._log.note(
            place,
            ExecutionChanged(
                transaction_id=transaction_id(row.service, at),
                service=row.service,
                business_type=row.business_type,
                status=row.status,
                jta_status=row.jta_status,
                xid=row.xid,
                owner=row.owner,
            ),
        )

    def _put(self, at: Position, row: ExecutionRow) -> None:
        self._writes.put(keys.EXECUTION + packed(at), encode_execution(row))

    def _arm(self, at: Position, row: ExecutionRow, kind: TimerKind, within_ms: int) -> None:
        row.timer_ms = self._state.elapsed_ms + within_ms
        timers.arm(self._writes, row.timer_ms, kind, packed(at))

    def _disarm(self, at: Position, row: ExecutionRow) -> None:
        """Of an execution that has not ended: its lease, if it is owned."""
        if row.timer_ms:
            timers.disarm(self._writes, row.timer_ms, TimerKind.EXECUTION_LEASE, packed(at))


def _is_name(name: str) -> bool:
    return 0 < len(name) <= GREATEST_NAME_LENGTH


def _is_lease(lease_ms: int) -> bool:
    return LEAST_LEASE_MS <= lease_ms <= GREATEST_LEASE_MS


def _is_progress(command: AdvanceExecution) -> bool:
    progress = command.progress
    counted = () if progress is None else (
        progress.read, progress.written, progress.total, progress.batch
    )  # fmt: skip
    return all(0 <= count <= keys.GREATEST_NUMBER for count in counted)
