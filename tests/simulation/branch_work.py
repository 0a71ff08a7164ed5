"""What resource managers keep of their branches: in a database that all reach, or in one process.

Work of AT and TCC has a fence beside it, in the same local transaction. Work of XA is prepared in
the database, which knows nothing of branches that were never prepared. Work of LCN is an open
connection of one process, and gone with it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from statemachine.transactions.rows import Branch, Global
from statemachine.transactions.statuses import BranchStatus, GlobalStatus, Mode

BranchKey = tuple[str, int]
"""Xid and branch id."""

FENCED = (Mode.AT, Mode.TCC)


class State(enum.StrEnum):
    NONE = "NONE"
    OPEN = "OPEN"
    """Done in phase one: tried, prepared, held."""
    COMMITTED = "COMMITTED"
    UNDONE = "UNDONE"
    """Or never to be done: it is fenced."""
    LOST = "LOST"
    """Its process died, or gave it up."""


@dataclass(slots=True)
class Work:
    """The work of one branch."""

    mode: Mode
    owner: int = 0
    """The process that registered it: no two have the same number. 0: it has not heard of it."""
    state: State = State.NONE
    acknowledged: bool = False
    """The cluster knows that its phase one is done."""
    told: str = ""
    """The decision that was told of it."""
    times_committed: int = 0


@dataclass(slots=True)
class Ledger:
    """The work of all branches."""

    work: dict[BranchKey, Work] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    """What should not have been asked."""

    def find(self, key: BranchKey, mode: Mode, *, owner: int = 0) -> Work:
        """Return the work of a branch, of which phase two may be told first."""
        work = self.work.setdefault(key, Work(mode))
        work.owner = work.owner or owner
        return work

    def begin(self, key: BranchKey) -> bool:
        """Do phase one; False when it is too late for that."""
        work = self.work[key]
        if work.state is not State.NONE:
            return False
        work.state = State.OPEN
        return True

    def refuse(self, key: BranchKey) -> None:
        """The cluster does not take the branch in any more: its owner undoes what it did."""
        work = self.work[key]
        if work.state is State.OPEN and work.mode not in FENCED:
            work.state = State.UNDONE

    def lose_process(self, owner: int) -> None:
        """A process died: its open connections are closed, what they did is rolled back."""
        for work in self.work.values():
            if work.owner == owner and work.mode is Mode.LCN and work.state is State.OPEN:
                work.state = State.LOST

    # --- phase two

    def commit(self, key: BranchKey, asked: int) -> str:
        """Return the status that process `asked` answers."""
        work = self._told(key, "commit")
        if work.state is State.OPEN and not self._is_elsewhere(work, asked):
            work.state = State.COMMITTED
            work.times_committed += 1
        if work.state is State.COMMITTED:
            return "COMMITTED"
        self.broken.append(f"{key} is to be committed, and {asked} has it {work}")
        return "COMMIT_FAILED_UNRETRYABLE"

    def roll_back(self, key: BranchKey, asked: int) -> str:
        """The same; empty when the database does not know the branch."""
        work = self._told(key, "rollback")
        if work.state is State.COMMITTED:
            self.broken.append(f"{key} is to be rolled back after it was committed")
        if work.mode is Mode.XA and work.state is not State.OPEN and work.owner != asked:
            return "ROLLED_BACK" if work.state is State.UNDONE else ""
        if self._is_elsewhere(work, asked):
            self.broken.append(f"{key} is to be rolled back by {asked}, and another one has it")
        work.state = State.UNDONE
        return "ROLLED_BACK"

    def status(self, key: BranchKey) -> str:
        """Return what is known of a branch: what a new leader asks for."""
        return {
            State.OPEN: "PREPARED",
            State.COMMITTED: "COMMITTED",
            State.UNDONE: "ROLLED_BACK",
        }.get(self.work[key].state, "UNKNOWN")

    def clean(self, key: BranchKey) -> None:
        """Forget what was kept against late calls."""
        work = self.work[key]
        if work.state is State.OPEN and work.acknowledged:
            self.broken.append(f"{key} is to be forgotten and stands open: {work}")

    def _told(self, key: BranchKey, decision: str) -> Work:
        work = self.work[key]
        if work.told not in ("", decision):
            self.broken.append(f"{key} was told {work.told}, then {decision}")
        work.told = decision
        return work

    def _is_elsewhere(self, work: Work, asked: int) -> bool:
        return work.mode is Mode.LCN and work.owner not in (0, asked)

    # --- the end

    def found_wrong(self, row: Global | None, branches: list[Branch], xid: str) -> str | None:
        """Return what does not fit the end of a transaction."""
        status = None if row is None else row.status
        if status not in (GlobalStatus.COMMITTED, GlobalStatus.COMMIT_FAILED):
            left = (State.OPEN, State.COMMITTED)
            wrong = (key for key, work in self.work.items() if key[0] == xid and work.state in left)
        else:
            failed = status is GlobalStatus.COMMIT_FAILED
            wrong = (
                (xid, branch.branch_id)
                for branch in branches
                if not (failed and _may_have_failed(branch))
                and not self._is_committed((xid, branch.branch_id))
            )
        found = next(wrong, None)
        return None if found is None else f"{found} has {self.work.get(found)}"

    def _is_committed(self, key: BranchKey) -> bool:
        work = self.work.get(key)
        return work is not None and work.state is State.COMMITTED and work.times_committed == 1


def _may_have_failed(branch: Branch) -> bool:
    """Whether its work went with its process, after the decision to commit."""
    return (
        branch.mode is Mode.LCN
        and branch.status is BranchStatus.PHASE_TWO_COMMIT_FAILED_UNRETRYABLE
    )
