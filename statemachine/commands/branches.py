"""Commands of branches beyond registration and report: more rows, the fence, second thoughts."""

from __future__ import annotations

from statemachine.commands.command import Command
from statemachine.positions import Position
from statemachine.transactions.row_locks import RowLock


class LockRows(Command, frozen=True, tag=70):
    """Lock more rows for a branch whose work goes on: all of them or none."""

    xid: str
    branch_id: int
    locks: tuple[RowLock, ...]
    """Their resource is the branch's, whatever they name."""
    wait_ms: int


class UnlockRows(Command, frozen=True, tag=71):
    """Undo what locked rows since a savepoint to which the branch has gone back."""

    xid: str
    branch_id: int
    locks: tuple[RowLock, ...]
    """As they were asked for: what was shared before it became exclusive is shared again."""


class PassFence(Command, frozen=True, tag=72):
    """Ask whether a step of TCC may run, or say that it has."""

    xid: str
    branch_id: int
    step: str
    """TRY, CONFIRM or CANCEL."""
    phase: str
    """ENTER or DONE."""


class AbandonBranch(Command, frozen=True, tag=73):
    """Undo a registration of which nobody was told."""

    xid: str
    registration: Position
    """Of the `RegisterBranch`, whether it waits or was done."""
