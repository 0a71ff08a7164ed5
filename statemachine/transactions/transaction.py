"""One global transaction while commands of an entry work on it.

It is changed here and written when the entry ends; so a transaction that begins and ends within one
entry costs one row and not one for each of its steps. After that it stands here as it does in the
state, and the commands of later entries may go on with it (`kept`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from statemachine import keys, timers
from statemachine.hybrid_clock import next_timestamp
from statemachine.positions import Position
from statemachine.state import MachineState
from statemachine.timers import TimerKind
from statemachine.transactions.planning import Plan
from statemachine.transactions.rows import (
    Branch,
    Failure,
    Global,
    Happening,
    append_happenings,
    get_branches,
    last_happenings,
    put_branch,
    put_global,
)
from statemachine.transactions.statuses import (
    DRIVEN,
    ENDED,
    BranchStatus,
    GlobalStatus,
)
from statemachine.transactions.transitions import (
    BranchInput,
    GlobalInput,
    after,
    branch_after,
)
from statemachine.write_buffer import WriteBuffer

GREATEST_DETAIL: Final = 1_000
"""Characters of a detail or message that are kept."""

GREATEST_TOLD: Final = 5_000
"""Lines of a timeline that tell of locked rows; further ones are left out."""

_WEIGHT_OF_BRANCH: Final = 3_000
"""Of one without a payload or the like: its fields, and its part in the plan."""

_REFUSED: Final = {
    BranchStatus.PHASE_TWO_COMMIT_FAILED_UNRETRYABLE: (
        BranchStatus.PHASE_TWO_COMMIT_FAILED_RETRYABLE
    ),
    BranchStatus.PHASE_TWO_ROLLBACK_FAILED_UNRETRYABLE: (
        BranchStatus.PHASE_TWO_ROLLBACK_FAILED_RETRYABLE
    ),
}


class Transaction:
    """A row with its branches, and what becomes of them."""

    __slots__ = (
        "_branches",
        "_changed",
        "_due_key",
        "_happened",
        "_is_new",
        "_last_lines",
        "_plan",
        "_saved",
        "_state",
        "_writes",
        "row",
        "weight",
    )

    def __init__(
        self, state: MachineState, writes: WriteBuffer, row: Global, *, is_new: bool
    ) -> None:
        self._state = state
        self._writes = writes
        self.row = row
        self._is_new = is_new
        self._saved = None if is_new else row
        self._branches: dict[int, Branch] | None = {} if is_new else None
        self._changed: dict[int, None] = {}
        self._happened: list[Happening] = []
        self._last_lines: list[Happening] | None = [] if is_new else None
        self._due_key = _due_key(row)
        self._plan: Plan | None = None
        self.weight = 0
        """About how many bytes its branches take, as far as they are known here."""

    @property
    def branches(self) -> list[Branch]:
        """In the order of registration."""
        return list(self._loaded().values())

    def load(self) -> None:
        """Read its branches, if they were not."""
        self._loaded()

    def _loaded(self) -> dict[int, Branch]:
        if self._branches is None:
            found = get_branches(self._writes, self.row.xid)
            self._branches = {branch.branch_id: branch for branch in found}
            self.weight = sum(map(_weight, found))
        return self._branches

    def branch(self, branch_id: int) -> Branch | None:
        return self._loaded().get(branch_id)

    @property
    def plan(self) -> Plan:
        """What may be called, and how far it is. It changes with the transaction."""
        plan = self._plan
        if plan is None or not plan.fits(self.row):
            plan = self._plan = Plan(self.row, self._loaded())
        return plan

    # --- changing

    def change(self, **fields: object) -> None:
        """Each time makes a new row: what changes together is named together."""
        self.row = msgspec.structs.replace(self.row, **fields)

    def add_branches(self, *branches: Branch) -> None:
        for branch in branches:
            self._put(None, branch)
        self.change(branches=self.row.branches + len(branches))

    def change_branch(self, branch: Branch, **fields: object) -> Branch:
        changed = msgspec.structs.replace(branch, updated_ms=self._state.wall_ms, **fields)
        self._put(self._loaded()[branch.branch_id], changed)
        return changed

    def _put(self, before: Branch | None, branch: Branch) -> None:
        self._loaded()[branch.branch_id] = branch
        self._changed[branch.branch_id] = None
        self.weight += _weight(branch) - (0 if before is None else _weight(before))
        if self._plan is not None and not self._plan.change(before, branch):
            self._plan = None

    def happen(self, place: int, event: str, *, branch_id: int = 0, detail: str = "") -> None:
        """Add a line to the timeline, with a tick of the replicated clocks."""
        state = self._state
        state.hlc = hlc = next_timestamp(state)
        state.coordinator_lamport = lamport = state.coordinator_lamport + 1
        index = Position(state.applied_index, place)
        self._happened.append(
            Happening(index, hlc, lamport, event, branch_id, detail[:GREATEST_DETAIL])
        )

    def tell(self, place: int, event: str, branch_id: int, detail: str) -> None:
        """Add a line of which there may be any number, while there are not too many."""
        if self.row.happenings + len(self._happened) < GREATEST_TOLD:
            self.happen(place, event, branch_id=branch_id, detail=detail)

    def decide(self, happens: GlobalInput, reason: str, place: int) -> None:
        """Take a decision; the transaction must be undecided."""
        self.advance(
            happens,
            place,
            detail=reason,
            decided_ms=self._state.wall_ms,
            reason=reason[:GREATEST_DETAIL],
        )
        self.disarm_deadline()

    def advance(
        self, happens: GlobalInput, place: int, *, detail: str = "", **fields: object
    ) -> None:
        """Go on to the status that the table names; there must be one."""
        status = after(self.row.status, happens)
        assert status is not None, f"{self.row.status} cannot {happens}"
        if status is not self.row.status:
            fields["status"] = status
            self.happen(place, status.value, detail=detail)
        if status in ENDED:
            fields["ended_ms"] = self._state.wall_ms
            fields["over_ms"] = self._state.elapsed_ms
        self.change(**fields)
        if status in ENDED:
            expires_at_ms = self._state.elapsed_ms + self._state.retention_ms
            timers.arm(
                self._writes,
                expires_at_ms,
                TimerKind.GLOBAL_RETENTION,
                self.row.xid.encode(),
            )

    def resume(self, place: int) -> None:
        """Go on with what had been given up; branches that refused are asked again."""
        for branch in self.branches:
            if branch.status in _REFUSED:
                self.change_branch(branch, status=_REFUSED[branch.status])
        self.advance(GlobalInput.RESUME, place)

    def advance_branch(
        self,
        branch: Branch,
        happens: BranchInput,
        place: int,
        *,
        detail: str = "",
        **fields: object,
    ) -> Branch:
        """The same of a branch."""
        status = branch_after(branch.status, happens)
        assert status is not None, f"{branch.status} cannot {happens}"
        if status is not branch.status:
            self.happen(place, status.value, branch_id=branch.branch_id, detail=detail)
        return self.change_branch(branch, status=status, **fields)

    def failure(self, kind: str, message: str) -> Failure:
        return Failure(kind[:100], message[:GREATEST_DETAIL], self._state.wall_ms)

    @property
    def happened(self) -> int:
        """How many lines its timeline has by now."""
        return self.row.happenings + len(self._happened)

    @property
    def is_driven(self) -> bool:
        return self.row.status in DRIVEN

    @property
    def failed_branch(self) -> Branch | None:
        for branch in self._loaded().values():
            if branch.status is BranchStatus.PHASE_ONE_FAILED:
                return branch
        return None

    # --- timers

    def arm_deadline(self, timeout_ms: int) -> None:
        deadline_ms = self._state.elapsed_ms + timeout_ms
        self.change(deadline_ms=deadline_ms)
        timers.arm(self._writes, deadline_ms, TimerKind.GLOBAL_TIMEOUT, self.row.xid.encode())

    def disarm_deadline(self) -> None:
        """It is decided, or over."""
        if self.row.deadline_ms:
            timers.disarm(
                self._writes,
                self.row.deadline_ms,
                TimerKind.GLOBAL_TIMEOUT,
                self.row.xid.encode(),
            )

    # --- writing

    def save(self) -> None:
        """Write what changed since it was loaded."""
        writes, xid = self._writes, self.row.xid
        branches = self._loaded() if self._changed else {}
        for branch_id in self._changed:
            put_branch(writes, xid, branches[branch_id])
        self._changed.clear()
        if self._happened:
            count = self.row.happenings
            last = self._last_lines
            if last is None:
                last = last_happenings(writes, xid, count)
            self._last_lines = append_happenings(writes, xid, count, last, self._happened)
            self.change(happenings=count + len(self._happened))
            self._happened.clear()
        due_key = _due_key(self.row)
        if due_key != self._due_key:
            if self._due_key is not None:
                writes.delete(self._due_key)
            if due_key is not None:
                writes.put(due_key, b"")
            self._due_key = due_key
        if self._is_new:
            begun = self.row.begun
            writes.put(keys.BEGUN + keys.pack_event(begun.entry, begun.place), xid.encode())
            self._is_new = False
        if self.row is not self._saved:
            put_global(writes, self.row)
            self._saved = self.row


def _weight(branch: Branch) -> int:
    return (
        _WEIGHT_OF_BRANCH + len(branch.payload) + len(branch.result) + len(branch.application_data)
    )


def _due_key(row: Global) -> bytes | None:
    """Where the driver finds it; None when there is nothing to do for it."""
    if row.due_ms < 0 or row.status is GlobalStatus.FINISHED:
        return None
    return keys.DUE_GLOBAL + keys.pack_number(row.due_ms) + row.xid.encode()
