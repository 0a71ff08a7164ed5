"""What may be called follows from the rows alone, and costs no more than what has changed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statemachine.commands import ReportCalls, ReportedCall, Step
from statemachine.machine import Machine
from statemachine.memory_store import MemoryStore
from statemachine.outcomes import CallsReported
from statemachine.positions import Position
from statemachine.transactions import kept
from statemachine.transactions.planning import UNRETRYABLE, Call, Operation, Plan, Program
from statemachine.transactions.rows import DTM, Branch, Calls, Global, RetryRule
from statemachine.transactions.statuses import (
    BRANCH_ENDED,
    COMMIT_FAMILY,
    DRIVEN,
    BranchStatus,
    GlobalStatus,
    Mode,
)
from tests.statemachine.building import result
from tests.statemachine.transacting import Transactions, step

URL = "http://127.0.0.1:9000/x"

# --- the same, said without regard to what it costs


def expected_calls(row: Global, branches: Sequence[Branch]) -> list[tuple[int, Operation]]:
    if row.status is GlobalStatus.BEGIN:
        return expected_forward(row, branches)
    if row.status not in DRIVEN:
        return []
    left = [each for each in branches if each.status not in BRANCH_ENDED]
    dtm = row.protocol == DTM
    if row.status in COMMIT_FAMILY:
        may_be = [b.branch_id for b in left if b.status not in UNRETRYABLE]
        if row.in_order:
            may_be = may_be[-1:] if dtm and row.mode == Mode.TCC else may_be[:1]
        return [(each, Operation.COMMIT) for each in may_be]
    if row.in_order and dtm and row.mode == Mode.XA:
        return [(each.branch_id, Operation.ROLLBACK) for each in left[:1]]
    if row.program == Program.STATE_MACHINE:
        may_be = [b.branch_id for b in left if b.status not in UNRETRYABLE][-1:]
        return [(each, Operation.ROLLBACK) for each in may_be]
    may_be = [
        branch.branch_id
        for at, branch in enumerate(left)
        if branch.status not in UNRETRYABLE
        and not any(stands_on(row, later, branch) for later in left[at + 1 :])
    ]
    return [(each, Operation.ROLLBACK) for each in (may_be[-1:] if row.in_order else may_be)]


def expected_forward(row: Global, branches: Sequence[Branch]) -> list[tuple[int, Operation]]:
    registered = [each for each in branches if each.status is BranchStatus.REGISTERED]
    if row.program in (Program.MESSAGE, Program.WORKFLOW) and not row.submitted:
        return [(b.branch_id, Operation.QUERY) for b in registered if b.calls.forward]
    if not row.submitted or row.program == Program.CLIENT:
        return []
    done = {b.branch_id for b in branches if b.status is BranchStatus.PHASE_ONE_DONE}
    return [(b.branch_id, Operation.FORWARD) for b in registered if done.issuperset(b.depends_on)]


def stands_on(row: Global, later: Branch, earlier: Branch) -> bool:
    if row.program != Program.CLIENT:
        return earlier.branch_id in later.depends_on
    return not later.mode is earlier.mode is Mode.TCC


# --- any transaction, and anything that may happen to it

STATUSES = st.sampled_from(sorted(BranchStatus))
CALLS = st.builds(Calls, *[st.sampled_from([URL, "", None])] * 3)


@st.composite
def rows(draw: st.DrawFn) -> Global:
    return Global(
        xid="x",
        name="",
        status=draw(st.sampled_from(sorted(DRIVEN | {GlobalStatus.BEGIN, GlobalStatus.COMMITTED}))),
        program=draw(st.sampled_from(sorted(Program))),
        submitted=draw(st.booleans()),
        begun=Position(1, 0),
        begun_ms=0,
        in_order=draw(st.booleans()),
        protocol=draw(st.sampled_from(["", DTM])),
        mode=draw(st.sampled_from(["", Mode.TCC, Mode.XA])),
    )


@st.composite
def branches_of_any_kind(draw: st.DrawFn) -> list[Branch]:
    mostly = draw(st.sampled_from([Mode.TCC, Mode.SAGA]))
    branches = []
    for branch_id in range(1, 1 + draw(st.integers(0, 6))):
        earlier = st.sets(st.integers(1, branch_id - 1), max_size=2) if branch_id > 1 else None
        branches.append(
            Branch(
                branch_id=branch_id,
                name="",
                mode=draw(st.sampled_from([mostly, mostly, Mode.AT])),
                status=draw(STATUSES),
                resource_id="",
                application_id="",
                unit_id="",
                session_id=0,
                application_data=b"",
                calls=draw(CALLS),
                payload=b"",
                depends_on=tuple(sorted(draw(earlier))) if earlier is not None else (),
                timeout_ms=0,
                retry=RetryRule(),
                due_ms=draw(st.integers(0, 3)),
            )
        )
    return branches


def assert_plans(plan: Plan, row: Global, branches: Sequence[Branch]) -> None:
    by_id = {branch.branch_id: branch for branch in branches}
    expected = [Call(by_id[number], what) for number, what in expected_calls(row, branches)]
    assert plan.calls() == expected
    assert plan.is_idle == (not expected)
    assert plan.due_ms == min((call.branch.due_ms for call in expected), default=-1)
    assert plan.instant() == [call for call in expected if call.url == ""]
    for branch in branches:
        for operation in Operation:
            call = Call(branch, operation)
            found = plan.call(branch.branch_id, operation)
            assert found == (call if call in expected else None)
    assert plan.left == sum(each.status not in BRANCH_ENDED for each in branches)
    assert plan.refused == sum(each.status in UNRETRYABLE for each in branches)


@settings(max_examples=300, deadline=None)
@given(
    row=rows(),
    branches=branches_of_any_kind(),
    changes=st.lists(st.tuples(st.integers(0, 5), STATUSES, st.integers(0, 3)), max_size=8),
    added=branches_of_any_kind(),
)
def test_a_plan_that_is_told_of_changes_is_the_one_that_would_be_made_anew(
    row: Global,
    branches: list[Branch],
    changes: list[tuple[int, BranchStatus, int]],
    added: list[Branch],
) -> None:
    by_id = {branch.branch_id: branch for branch in branches}
    plan = Plan(row, by_id)
    assert_plans(plan, row, branches)
    for at, status, due_ms in changes:
        if at >= len(branches) or branches[at].status in BRANCH_ENDED:
            continue
        before = branches[at]
        branches[at] = msgspec.structs.replace(before, status=status, due_ms=due_ms)
        by_id[before.branch_id] = branches[at]
        assert plan.change(before, branches[at])
        assert_plans(plan, row, branches)
    for branch in added[:1]:
        last = msgspec.structs.replace(branch, branch_id=len(branches) + 1)
        branches.append(last)
        by_id[last.branch_id] = last
        assert_plans(plan if plan.change(None, last) else Plan(row, by_id), row, branches)


def test_what_is_called_again_and_again_takes_no_more_room() -> None:
    log = Transactions()
    log.saga(step("a"))
    found = log.machine.transaction("x")
    assert found is not None
    plan, branch = found.plan, found.branches[0]
    for due_ms in range(10_000):
        plan.change(branch, branch := msgspec.structs.replace(branch, due_ms=-due_ms))
    assert sys.getsizeof(plan._queue) < 4_096


# --- what it costs


class CountingStore(MemoryStore):
    """Counts the rows that are read."""

    reads = 0

    def get(self, key: bytes) -> bytes | None:
        self.reads += 1
        return super().get(key)

    def scan(
        self, start: bytes, stop: bytes, *, limit: int, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        found = super().scan(start, stop, limit=limit, reverse=reverse)
        self.reads += 1 + len(found)
        return found


def lines_run(act: Callable[[], None]) -> int:
    """Return how many lines of the state machine are run: a measure that no load changes."""
    count = 0

    def in_a_frame(_: FrameType, event: str, __: Any) -> Any:
        nonlocal count
        count += event == "line"
        return in_a_frame

    def trace(frame: FrameType, _: str, __: Any) -> Any:
        ours = "statemachine/transactions" in frame.f_code.co_filename
        return in_a_frame if ours else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return count


class Counted(Transactions):
    """A log whose reads are counted, and that looks up nothing itself."""

    def __init__(self) -> None:
        super().__init__()
        self.store = self.counting = CountingStore()
        self.machine = Machine(self.store)

    def tell(self, branch_id: int, operation: Operation, verdict: str = "DONE") -> None:
        reported = ReportedCall(
            xid="x", branch_id=branch_id, operation=operation, verdict=verdict, result=b"",
            failure_type="Test", failure_message="no stock", jitter_permille=0,
        )  # fmt: skip
        taken = result(self.do(ReportCalls(epoch=1, calls=(reported,))))
        assert taken == CallsReported(taken=1)

    def forward_and_back(self, steps: list[Step], program: str) -> None:
        """Do everything but the last step, which fails; then undo it."""
        self.saga(*steps, program=program)
        asked = [number for number, each in enumerate(steps, 1) if each.calls.forward]
        for branch_id in asked[:-1]:
            self.tell(branch_id, Operation.FORWARD)
        self.tell(asked[-1], Operation.FORWARD, "FAILED")
        for branch_id in reversed(asked[:-1]):
            self.tell(branch_id, Operation.ROLLBACK)

    def registered_and_rolled_back(self, count: int) -> None:
        self.begin()
        ids = [self.branch(mode="AT") for _ in range(count)]
        self.roll_back()
        for branch_id in reversed(ids):
            self.tell(branch_id, Operation.ROLLBACK)


def in_turn(count: int) -> list[Step]:
    return [step(str(at), *range(max(at - 1, 0), at)) for at in range(count)]


def side_by_side(count: int) -> list[Step]:
    return [step(str(at)) for at in range(count)]


def in_layers(count: int) -> list[Step]:
    """Each stands on the two of the layer before."""
    return [step(str(at), *range(max(at // 2 * 2 - 2, 0), at // 2 * 2)) for at in range(count)]


def without_calls(count: int) -> list[Step]:
    """All but the last are done as soon as they may be, and undone likewise."""
    *others, last = in_turn(count)
    return [*(msgspec.structs.replace(each, calls=Calls("", "", "")) for each in others), last]


@pytest.mark.parametrize("shape", [in_turn, side_by_side, in_layers, without_calls])
@pytest.mark.parametrize("program", ["SAGA", "TCC"])
def test_what_a_saga_costs_grows_as_its_steps_do(
    shape: Callable[[int], list[Step]], program: str
) -> None:
    assert_grows_as_its_branches_do(lambda log, count: log.forward_and_back(shape(count), program))


def test_what_a_transaction_of_branches_costs_grows_as_they_do() -> None:
    assert_grows_as_its_branches_do(Counted.registered_and_rolled_back)


def assert_grows_as_its_branches_do(act: Callable[[Counted, int], None]) -> None:
    """Four times as many may cost five times as much; with each looking at all it were sixteen."""
    costs = []
    for count in (50, 200):
        log = Counted()
        lines = lines_run(partial(act, log, count))
        assert log.row().status is GlobalStatus.ROLLED_BACK
        costs.append((log.counting.reads, lines))
    (reads, lines), (more_reads, more_lines) = costs
    assert more_reads < 5 * reads
    assert more_lines < 5 * lines


# --- transactions that are kept between entries


def test_what_is_kept_weighs_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Transactions()
    monkeypatch.setattr(kept, "GREATEST_WEIGHT", 20_000)
    table = kept.KeptTransactions()
    for number in range(20):
        log.saga(step("a"), xid=f"x{number}")
        found = log.machine.transaction(f"x{number}")
        assert found is not None
        table.keep(found)
    still = [number for number in range(20) if table.take(f"x{number}") is not None]
    assert still == list(range(16, 20))
    assert table.take("x19") is None


def test_a_node_that_kept_nothing_comes_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    digests = []
    for weight in (kept.GREATEST_WEIGHT, 0):
        monkeypatch.setattr(kept, "GREATEST_WEIGHT", weight)
        log = Counted()
        log.forward_and_back(in_layers(20), "SAGA")
        digests.append(log.machine.digest)
    assert digests[0] == digests[1]
