"""What is to be done next for a global transaction: a function of its rows and of nothing else.

The driver calls what this names, apply checks with it what is reported, and a new leader goes on
with it where the old one stopped, since there is nothing else to know.

A transaction of a thousand branches changes some thousand times, a branch at a time. So a plan is
not made anew for each change but told of it, and does what the change brings with it and no more.
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from statemachine.transactions.rows import DTM, Branch, Global
from statemachine.transactions.statuses import (
    BRANCH_ENDED,
    COMMIT_FAMILY,
    DRIVEN,
    BranchStatus,
    GlobalStatus,
    Mode,
)
from statemachine.transactions.trail import Trail


class Program(enum.StrEnum):
    """Who goes on with a transaction until it is decided."""

    CLIENT = "CLIENT"
    """A transaction manager registers branches and decides."""
    SAGA = "SAGA"
    """The cluster calls each step's action; all done decides to commit, one failed to roll back."""
    TCC = "TCC"
    """The cluster calls Try of all; the same decides."""
    MESSAGE = "MESSAGE"
    """The cluster delivers, once it is submitted, until each subscriber has accepted."""
    WORKFLOW = "WORKFLOW"
    """Its client runs it and decides; the cluster calls the client until it has."""
    STATE_MACHINE = "STATE_MACHINE"
    """A saga whose steps follow from a definition, one after the other as it goes on."""


class Operation(enum.StrEnum):
    """What a branch is called for."""

    FORWARD = "FORWARD"
    COMMIT = "COMMIT"
    ROLLBACK = "ROLLBACK"
    QUERY = "QUERY"
    """Whoever prepared a message is asked what became of it; a workflow's client is to go on."""


class Call(msgspec.Struct, frozen=True):
    """A call that is to be made."""

    branch: Branch
    operation: Operation

    @property
    def url(self) -> str | None:
        """Where; empty when there is nothing to call, None over the resource manager's channel."""
        calls = self.branch.calls
        match self.operation:
            case Operation.FORWARD | Operation.QUERY:
                return calls.forward
            case Operation.COMMIT:
                return calls.commit
            case Operation.ROLLBACK:
                return calls.rollback


_ASKED_ABOUT: Final = frozenset({Program.MESSAGE, Program.WORKFLOW})

UNRETRYABLE: Final = frozenset(
    {
        BranchStatus.PHASE_TWO_COMMIT_FAILED_UNRETRYABLE,
        BranchStatus.PHASE_TWO_ROLLBACK_FAILED_UNRETRYABLE,
    }
)

_FORWARD_ENDED: Final = frozenset({BranchStatus.PHASE_ONE_DONE, BranchStatus.WITHDRAWN})


def next_calls(row: Global, branches: Sequence[Branch]) -> list[Call]:
    """Return the calls that may be made now, whenever each is due, in order of registration.

    `branches` are all of the transaction's, in that order.
    """
    return Plan(row, {branch.branch_id: branch for branch in branches}).calls()


def may_have_begun(branch: Branch, done: frozenset[int]) -> bool:
    """Whether a leader may have called a step that is not known to have done anything."""
    return done.issuperset(branch.depends_on)


def steps_done(branches: Iterable[Branch]) -> frozenset[int]:
    """Return the steps that have done their forward call, those undone since included."""
    return frozenset(
        b.branch_id
        for b in branches
        if b.status in (BranchStatus.PHASE_ONE_DONE, BranchStatus.PHASE_TWO_ROLLED_BACK)
    )


class _Rule(enum.Enum):
    """Which branches may be called."""

    NONE = enum.auto()
    ASKED = enum.auto()
    """Whoever is to be asked what became of it."""
    STEPS = enum.auto()
    """A step all of whose predecessors are done."""
    LEFT = enum.auto()
    """All that have not ended, unless they refused for good."""
    LEFT_ALL = enum.auto()
    """Those that refused as well."""
    UNSUPPORTING = enum.auto()
    """A step on which no other stands that has not ended."""
    TRAILING = enum.auto()
    """The last that has not ended, or all of TCC behind the last of another mode: later branches
    first, since what they did may stand on what earlier ones did, but Try's of one transaction
    stand beside each other."""


class _Pick(enum.Enum):
    """How many of them at once."""

    ALL = enum.auto()
    FIRST = enum.auto()
    LAST = enum.auto()


class _Phase(NamedTuple):
    operation: Operation
    rule: _Rule
    pick: _Pick = _Pick.ALL


_NOTHING: Final = _Phase(Operation.FORWARD, _Rule.NONE)
_ASK: Final = _Phase(Operation.QUERY, _Rule.ASKED)
_GO_FORWARD: Final = _Phase(Operation.FORWARD, _Rule.STEPS)
_COMMIT: Final = _Phase(Operation.COMMIT, _Rule.LEFT)


def _phase_of(row: Global) -> _Phase:
    """Return what is to be done with a transaction where it stands."""
    if row.status is GlobalStatus.BEGIN:
        if row.submitted:
            return _NOTHING if row.program == Program.CLIENT else _GO_FORWARD
        return _ASK if row.program in _ASKED_ABOUT else _NOTHING
    if row.status not in DRIVEN:
        return _NOTHING
    if row.status in COMMIT_FAMILY:
        if not row.in_order:
            return _COMMIT
        last_first = _in_order_of_dtm(row, Mode.TCC)
        return _COMMIT._replace(pick=_Pick.LAST if last_first else _Pick.FIRST)
    return _rollback_of(row)


def _rollback_of(row: Global) -> _Phase:
    if row.in_order and _in_order_of_dtm(row, Mode.XA):
        return _Phase(Operation.ROLLBACK, _Rule.LEFT_ALL, _Pick.FIRST)
    if row.program == Program.STATE_MACHINE:
        return _Phase(Operation.ROLLBACK, _Rule.LEFT, _Pick.LAST)
    rule = _Rule.TRAILING if row.program == Program.CLIENT else _Rule.UNSUPPORTING
    return _Phase(Operation.ROLLBACK, rule, _Pick.LAST if row.in_order else _Pick.ALL)


def _in_order_of_dtm(row: Global, mode: Mode) -> bool:
    """DTM's TCC goes backwards both ways, its XA forwards both ways."""
    return row.protocol == DTM and row.mode == mode


class Plan:
    """What may be called of one transaction, and how far it is.

    It looks at `branches` and does not change them; whoever does tells it with `change`.
    """

    __slots__ = (
        "_branches",
        "_dependents",
        "_instant",
        "_phase",
        "_queue",
        "_ready",
        "_trail",
        "_waits_for",
        "left",
        "refused",
        "working",
    )

    def __init__(self, row: Global, branches: Mapping[int, Branch]) -> None:
        self._branches = branches
        self._phase = _phase_of(row)
        self.left = 0
        """How many branches have not ended."""
        self.refused = 0
        """How many of these refused for good."""
        self.working = 0
        """How many steps have neither done their forward call nor been withdrawn."""
        self._ready: dict[int, Call] = {}
        self._instant: dict[int, Call] = {}
        """Those of them that need no call: there is nothing at the other end."""
        self._queue: list[tuple[int, int]] = []
        """A heap of what is ready, in the order in which it is picked; and of what was."""
        self._waits_for: dict[int, int] = {}
        """By branch: how many others must do something before it is called."""
        self._dependents: dict[int, list[int]] = {}
        rule = self._phase.rule
        self._trail = Trail(branches if rule is _Rule.TRAILING else {})
        for branch in branches.values():
            self._count(branch, 1)
            if rule is _Rule.STEPS:
                self._await_steps(branch)
            elif rule is _Rule.UNSUPPORTING and branch.status not in BRANCH_ENDED:
                self._stand_on(branch, 1)
        if rule is _Rule.TRAILING:
            self._lengthen_trail()
        elif rule is not _Rule.NONE:
            for branch in branches.values():
                self._place(branch)

    def fits(self, row: Global) -> bool:
        """Whether the transaction is where it was when the plan was made."""
        return self._phase == _phase_of(row)

    # --- what it says

    def calls(self) -> list[Call]:
        """Return the calls that may be made now, in order of registration."""
        if self._phase.pick is not _Pick.ALL:
            first = self._first()
            return [] if first is None else [first]
        return [self._ready[branch_id] for branch_id in sorted(self._ready)]

    def instant(self) -> list[Call]:
        """Return those of them that are done without being made."""
        if self._phase.pick is not _Pick.ALL:
            return [call for call in self.calls() if call.url == ""]
        return [self._instant[branch_id] for branch_id in sorted(self._instant)]

    def call(self, branch_id: int, operation: str) -> Call | None:
        """Return the call of a branch, when it may be made."""
        found = self._first() if self._phase.pick is not _Pick.ALL else self._ready.get(branch_id)
        if found is None or (found.branch.branch_id, found.operation) != (branch_id, operation):
            return None
        return found

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to call."""
        return not self._ready

    @property
    def due_ms(self) -> int:
        """When the first of the calls is due, in elapsed time; -1 when there is none."""
        first = self._first()
        return -1 if first is None else first.branch.due_ms

    def _first(self) -> Call | None:
        """Return the call to be made first: by its time, or by the order of the branches."""
        queue, ready = self._queue, self._ready
        while queue:
            rank, branch_id = queue[0]
            call = ready.get(branch_id)
            if call is not None and self._rank(call.branch) == rank:
                return call
            heapq.heappop(queue)
        return None

    def _rank(self, branch: Branch) -> int:
        pick = self._phase.pick
        if pick is _Pick.ALL:
            return branch.due_ms
        return branch.branch_id if pick is _Pick.FIRST else -branch.branch_id

    # --- what it is told

    def change(self, before: Branch | None, branch: Branch) -> bool:
        """Take note of a branch that has become another; without `before` it is a new one.

        Returns:
            Whether the plan still holds: after the decision a new branch makes another one of it.
        """
        rule = self._phase.rule
        if before is None and rule not in (_Rule.NONE, _Rule.ASKED, _Rule.STEPS):
            return False
        if before is not None:
            self._count(before, -1)
        self._count(branch, 1)
        if rule is _Rule.STEPS:
            if before is None:
                self._await_steps(branch)
            else:
                self._tell_dependents(before, branch)
        elif before is not None and rule is _Rule.UNSUPPORTING:
            if before.status not in BRANCH_ENDED and branch.status in BRANCH_ENDED:
                self._stand_on(branch, -1)
        elif before is not None and rule is _Rule.TRAILING:
            self._trail.change(before, branch)
            self._lengthen_trail()
        if rule is not _Rule.NONE:
            self._place(branch)
        return True

    def _count(self, branch: Branch, one: int) -> None:
        if branch.status not in BRANCH_ENDED:
            self.left += one
            if branch.status in UNRETRYABLE:
                self.refused += one
        if branch.status not in _FORWARD_ENDED:
            self.working += one

    def _await_steps(self, branch: Branch) -> None:
        missing = 0
        for other in branch.depends_on:
            self._dependents.setdefault(other, []).append(branch.branch_id)
            missing += not self._is_done(other)
        self._waits_for[branch.branch_id] = missing

    def _is_done(self, branch_id: int) -> bool:
        branch = self._branches.get(branch_id)
        return branch is not None and branch.status is BranchStatus.PHASE_ONE_DONE

    def _tell_dependents(self, before: Branch, branch: Branch) -> None:
        now_done = branch.status is BranchStatus.PHASE_ONE_DONE
        if now_done == (before.status is BranchStatus.PHASE_ONE_DONE):
            return
        for other in self._dependents.get(branch.branch_id, ()):
            self._waits_for[other] += -1 if now_done else 1
            self._place(self._branches[other])

    def _stand_on(self, branch: Branch, one: int) -> None:
        for other in branch.depends_on:
            count = self._waits_for.get(other, 0) + one
            self._waits_for[other] = count
            if one < 0 and count == 0 and other in self._branches:
                self._place(self._branches[other])

    def _lengthen_trail(self) -> None:
        for branch in self._trail.lengthen():
            self._place(branch)

    def _place(self, branch: Branch) -> None:
        """Decide anew whether a branch may be called."""
        branch_id = branch.branch_id
        if not self._may_be_called(branch):
            self._ready.pop(branch_id, None)
            self._instant.pop(branch_id, None)
            return
        call = Call(branch, self._phase.operation)
        self._ready[branch_id] = call
        if call.url == "":
            self._instant[branch_id] = call
        heapq.heappush(self._queue, (self._rank(branch), branch_id))
        if len(self._queue) > 64 + 4 * len(self._ready):
            self._queue = [(self._rank(each.branch), at) for at, each in self._ready.items()]
            heapq.heapify(self._queue)

    def _may_be_called(self, branch: Branch) -> bool:
        status, rule = branch.status, self._phase.rule
        if rule is _Rule.ASKED:
            return status is BranchStatus.REGISTERED and bool(branch.calls.forward)
        if rule is _Rule.STEPS:
            return status is BranchStatus.REGISTERED and not self._waits_for[branch.branch_id]
        if status in BRANCH_ENDED or (status in UNRETRYABLE and rule is not _Rule.LEFT_ALL):
            return False
        if rule is _Rule.UNSUPPORTING:
            return not self._waits_for.get(branch.branch_id)
        return rule is not _Rule.TRAILING or self._trail.reaches(branch)
