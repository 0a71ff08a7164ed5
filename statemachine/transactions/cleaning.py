"""What resource managers keep for a transaction ends only when they are told that it is over.

Undo rows, fences and tombstones guard against calls that come late or twice. When a transaction
has ended, each of its branches that a resource manager has on its side is noted here, and the note
stands until one has said that nothing is left of it.

A resource whose manager does not come back would gather notes for ever. So there are only so many
of a place, and of all; of a branch beyond that no more is kept than that there was one of its mode.
Its guards lie where they lay: a manager that comes is asked to look through all that it has there,
and asks in turn which of it is over (`fates`), since an unfinished transaction is never forgotten.
"""

from __future__ import annotations

from typing import Final

from statemachine import keys
from statemachine.commands.channels import RecordBranchAnswer, RecordCleaned, RecordSwept
from statemachine.outcomes import (
    Applied,
    BranchAnswerRecorded,
    CleaningsRecorded,
    Outcome,
    Rejected,
    RejectionCode,
)
from statemachine.state import MachineState
from statemachine.store import Reader
from statemachine.transactions.channel_rows import (
    GREATEST_IDENTITY_BYTES,
    GREATEST_RESOURCE_BYTES,
    ChannelSession,
)
from statemachine.transactions.cleaning_rows import (
    AT_ONCE,
    Cleaning,
    LeftOut,
    delete_cleaning,
    delete_left_out,
    get_left_out,
    get_noted,
    host_of_place,
    put_cleaning,
    put_left_out,
    put_noted,
)
from statemachine.transactions.planning import Program
from statemachine.transactions.rows import GREATEST_XID_BYTES, Branch
from statemachine.transactions.statuses import GlobalStatus
from statemachine.transactions.transaction import Transaction
from statemachine.write_buffer import WriteBuffer

GREATEST_CLEANED: Final = 1_000
"""Branches of one command."""

GREATEST_NOTED: Final = 100_000
"""Notes of one place."""

GREATEST_ALL_NOTED: Final = 1_000_000

GREATEST_PLACES: Final = 10_000
"""Places with notes, and modes with branches left out, together."""

ANSWERS: Final = ("PREPARED", "COMMITTED", "ROLLED_BACK", "UNKNOWN")
"""What a resource manager says of a branch when it is asked."""

_MODES_WITH_GUARDS: Final = ("AT", "TXC", "TCC", "SAGA")

_GREATEST_MODE: Final = 16
"""Characters."""

_TOO_MANY: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"More than {GREATEST_CLEANED} branches are named. Name fewer at once.",
)
_ANSWER_UNKNOWN: Final = Rejected(
    RejectionCode.INVALID_COMMAND, f"answer is none of {', '.join(ANSWERS)}."
)


_TOO_MANY_PLACES: Final = Rejected(
    RejectionCode.TOO_MANY_RESOURCES,
    f"{GREATEST_PLACES} resources have branches of ended transactions that no resource manager has "
    "cleaned. Connect managers of these first, or name a resource that has been used before.",
    retryable=True,
)


def refusal(state: MachineState, reader: Reader, branch: Branch) -> Rejected | None:
    """Return why a branch cannot be registered, when too much is left to clean elsewhere."""
    if state.cleaning_place_count < GREATEST_PLACES or not _is_kept_by_a_manager(branch):
        return None
    resource_id = branch.resource_id
    host = host_of_place(resource_id, branch.host)
    known = get_noted(reader, resource_id, host) or get_left_out(
        reader, resource_id, host, branch.mode
    )
    return None if known else _TOO_MANY_PLACES


def note(state: MachineState, writes: WriteBuffer, transaction: Transaction) -> None:
    """Note what is to be cleaned of a transaction that has ended."""
    if transaction.row.program != Program.CLIENT:
        return
    for branch in transaction.branches:
        if _is_kept_by_a_manager(branch):
            cleaning = Cleaning(
                branch.resource_id,
                AT_ONCE if _can_go_at_once(transaction, branch) else state.elapsed_ms,
                transaction.row.xid,
                branch.branch_id,
                branch.mode.value,
                branch.host,
            )
            _note(state, writes, cleaning)


def _note(state: MachineState, writes: WriteBuffer, cleaning: Cleaning) -> None:
    resource_id, mode = cleaning.resource_id, cleaning.mode
    host = host_of_place(resource_id, cleaning.host)
    noted = get_noted(writes, resource_id, host)
    if noted < GREATEST_NOTED and state.cleaning_count < GREATEST_ALL_NOTED:
        put_cleaning(writes, cleaning)
        put_noted(writes, resource_id, host, noted + 1)
        state.cleaning_count += 1
        state.cleaning_place_count += not noted
        return
    before = get_left_out(writes, resource_id, host, mode)
    count = 0 if before is None else before.count
    put_left_out(writes, resource_id, host, mode, LeftOut(count + 1, state.elapsed_ms))
    state.cleaning_place_count += before is None


def note_lost(state: MachineState, writes: WriteBuffer, session: ChannelSession) -> None:
    """Have the guards looked through of resources whose process was lost.

    It may have done something for a transaction that was over and cleaned already, and have had no
    time to take it back. Its guards came after those that are noted, so nobody else asks for them.
    """
    for resource_id in session.resources:
        host = host_of_place(resource_id, session.host)
        for mode in _MODES_WITH_GUARDS:
            if not session.serves(resource_id, mode):
                continue
            before = get_left_out(writes, resource_id, host, mode)
            if before is None and state.cleaning_place_count >= GREATEST_PLACES // 2:
                # Whoever has branches to clean needs the rest.
                return
            count = 0 if before is None else before.count
            put_left_out(writes, resource_id, host, mode, LeftOut(count, state.elapsed_ms))
            state.cleaning_place_count += before is None


def _can_go_at_once(transaction: Transaction, branch: Branch) -> bool:
    """Say whether nothing of a branch is on its way that its guards would have to meet.

    Who has reported the end of phase one does nothing in it any more. Others may: a process that
    was held up between its registration and its local commit, for which guards stay a while.
    """
    done = transaction.row.status is not GlobalStatus.FINISHED
    return done and branch.did_phase_one


def _is_kept_by_a_manager(branch: Branch) -> bool:
    by_channel = branch.calls.commit is None or branch.calls.rollback is None
    return by_channel and _names_a_resource(branch.resource_id)


def _names_a_resource(resource_id: str) -> bool:
    """Whether a channel session can have a resource of this id."""
    return 1 < len(keys.terminated(resource_id)) <= GREATEST_RESOURCE_BYTES


def record(state: MachineState, writes: WriteBuffer, command: RecordCleaned) -> Outcome:
    """Take note of what was cleaned. Naming a branch again changes nothing."""
    if len(command.branches) > GREATEST_CLEANED:
        return _TOO_MANY
    count = 0
    for branch in command.branches:
        usable = (
            _names_a_resource(branch.resource_id)
            and 0 < len(branch.xid.encode()) <= GREATEST_XID_BYTES
            and 0 <= branch.ended_ms <= keys.GREATEST_NUMBER
            and 0 < branch.branch_id <= keys.GREATEST_NUMBER
        )
        if usable:
            named = Cleaning(branch.resource_id, branch.ended_ms, branch.xid, branch.branch_id, "")
            count += _forget(state, writes, named)
    return Applied(CleaningsRecorded(count=count))


def _forget(state: MachineState, writes: WriteBuffer, named: Cleaning) -> bool:
    cleaning = delete_cleaning(writes, named)
    if cleaning is None:
        return False
    host = host_of_place(cleaning.resource_id, cleaning.host)
    noted = get_noted(writes, cleaning.resource_id, host)
    put_noted(writes, cleaning.resource_id, host, noted - 1)
    state.cleaning_count -= 1
    state.cleaning_place_count -= noted == 1
    return True


def record_swept(state: MachineState, writes: WriteBuffer, command: RecordSwept) -> Outcome:
    """Take note that a manager has looked through its guards, unless it missed later ones."""
    usable = (
        _names_a_resource(command.resource_id)
        and len(keys.terminated(command.host)) <= GREATEST_IDENTITY_BYTES
        and len(command.mode) <= _GREATEST_MODE
    )
    if not usable:
        return Applied(CleaningsRecorded(count=0))
    place = command.resource_id, command.host, command.mode
    left_out = get_left_out(writes, *place)
    if left_out is None or left_out.ended_ms > command.upto_ms:
        return Applied(CleaningsRecorded(count=0))
    delete_left_out(writes, *place)
    state.cleaning_place_count -= 1
    return Applied(CleaningsRecorded(count=left_out.count))


def record_answer(transaction: Transaction, command: RecordBranchAnswer, place: int) -> Outcome:
    """Write into the timeline what a resource manager said of a branch."""
    if command.answer not in ANSWERS:
        return _ANSWER_UNKNOWN
    recorded = transaction.is_driven and transaction.branch(command.branch_id) is not None
    if recorded:
        transaction.happen(
            place, "BRANCH_STATUS", branch_id=command.branch_id, detail=command.answer
        )
    return Applied(BranchAnswerRecorded(recorded=recorded))
