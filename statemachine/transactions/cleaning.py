"""What resource managers keep for a transaction ends only when they are told that it is over.

Undo rows, fences and tombstones guard against calls that come late or twice. When a transaction
has ended, each of its branches that a resource manager has on its side is noted here, and the note
stands until one has said that nothing is left of it.
"""

from __future__ import annotations

from typing import Final

from statemachine import keys
from statemachine.commands.channels import RecordBranchAnswer, RecordCleaned
from statemachine.outcomes import (
    Applied,
    BranchAnswerRecorded,
    CleaningsRecorded,
    Outcome,
    Rejected,
    RejectionCode,
)
from statemachine.state import MachineState
from statemachine.transactions.channel_rows import (
    GREATEST_RESOURCE_BYTES,
    Cleaning,
    delete_cleaning,
    put_cleaning,
)
from statemachine.transactions.planning import Program
from statemachine.transactions.rows import GREATEST_XID_BYTES, Branch
from statemachine.transactions.transaction import Transaction
from statemachine.write_buffer import WriteBuffer

GREATEST_CLEANED: Final = 1_000
"""Branches of one command."""

ANSWERS: Final = ("PREPARED", "COMMITTED", "ROLLED_BACK", "UNKNOWN")
"""What a resource manager says of a branch when it is asked."""

_TOO_MANY: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"More than {GREATEST_CLEANED} branches are named. Name fewer at once.",
)
_ANSWER_UNKNOWN: Final = Rejected(
    RejectionCode.INVALID_COMMAND, f"answer is none of {', '.join(ANSWERS)}."
)


def note(state: MachineState, writes: WriteBuffer, transaction: Transaction) -> None:
    """Note what is to be cleaned of a transaction that has ended."""
    if transaction.row.program != Program.CLIENT:
        return
    for branch in transaction.branches:
        if _is_kept_by_a_manager(branch):
            put_cleaning(
                writes,
                Cleaning(
                    branch.resource_id,
                    state.elapsed_ms,
                    transaction.row.xid,
                    branch.branch_id,
                    branch.mode.value,
                    branch.host,
                ),
            )


def _is_kept_by_a_manager(branch: Branch) -> bool:
    by_channel = branch.calls.commit is None or branch.calls.rollback is None
    return by_channel and _names_a_resource(branch.resource_id)


def _names_a_resource(resource_id: str) -> bool:
    """Whether a channel session can have a resource of this id."""
    return 1 < len(keys.terminated(resource_id)) <= GREATEST_RESOURCE_BYTES


def record(writes: WriteBuffer, command: RecordCleaned) -> Outcome:
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
            cleaning = Cleaning(
                branch.resource_id, branch.ended_ms, branch.xid, branch.branch_id, ""
            )
            count += delete_cleaning(writes, cleaning)
    return Applied(CleaningsRecorded(count=count))


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
