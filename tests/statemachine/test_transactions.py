"""Global transactions: begun, joined, decided once, driven to their end, and explained."""

from __future__ import annotations

from statemachine import keys
from statemachine.change_log import read_changes
from statemachine.changes import GlobalChanged
from statemachine.commands import (
    BeginGlobal,
    DecideGlobal,
    LockRows,
    OperateGlobal,
    RegisterBranch,
    RegisterChannel,
    ReportBranch,
    ReportCalls,
    ReportedCall,
    RunGlobal,
    SetTransactionRetention,
    Step,
)
from statemachine.outcomes import (
    Applied,
    BranchRegistered,
    CallsReported,
    ChannelRegistered,
    GlobalAnswered,
    Outcome,
    Pending,
    Position,
    Rejected,
    RejectionCode,
    RowLockHolder,
)
from statemachine.state import MachineState
from statemachine.tickets import get_ticket
from statemachine.timers import TimerKind
from statemachine.transactions.driving import GREATEST_RESULT_BYTES
from statemachine.transactions.due import GREATEST_NOTED
from statemachine.transactions.planning import next_calls
from statemachine.transactions.row_locks import RowLock
from statemachine.transactions.rows import (
    Branch,
    Calls,
    Global,
    RetryRule,
    due_globals,
    get_branches,
    get_global,
    get_timeline,
)
from tests.statemachine.building import Log, code, result

URL = "http://participant/"


def row(key: int, *, exclusive: bool = True) -> RowLock:
    return RowLock("db", "t", (key,), exclusive)


NO_CALLS = Calls()


class Transactions(Log):
    """A log, with the words of managers and of the driver."""

    def begin(self, xid: str = "x", timeout_ms: int = 0) -> Outcome:
        return self.do(BeginGlobal(xid=xid, prefix="n1", name="buy", timeout_ms=timeout_ms))

    def register(
        self,
        *locks: RowLock,
        xid: str = "x",
        mode: str = "AT",
        wait_ms: int = 0,
        calls: Calls = NO_CALLS,
    ) -> Outcome:
        return self.do(
            RegisterBranch(
                xid=xid,
                mode=mode,
                resource_id="db",
                locks=locks,
                wait_ms=wait_ms,
                application_id="app",
                unit_id="",
                session_id=self.session() if mode == "XA" else 0,
                application_data=b"",
                calls=calls,
            )
        )

    def session(self) -> int:
        """Return a channel session, which XA needs."""
        registered = result(
            self.do(
                RegisterChannel(
                    session_id=0,
                    application_id="app",
                    host="h",
                    instance="",
                    resources=("db",),
                    modes=("XA",),
                    clean_batch=1,
                    grace_ms=1_000,
                    node_id="n1",
                    connection=1,
                )
            )
        )
        assert isinstance(registered, ChannelRegistered)
        return registered.session_id

    def branch(
        self,
        *locks: RowLock,
        xid: str = "x",
        mode: str = "AT",
        done: bool = True,
        calls: Calls = NO_CALLS,
    ) -> int:
        registered = result(self.register(*locks, xid=xid, mode=mode, calls=calls))
        assert isinstance(registered, BranchRegistered)
        if done:
            result(self.report(registered.branch_id, xid=xid))
        return registered.branch_id

    def report(self, branch_id: int, status: str = "PHASE_ONE_DONE", xid: str = "x") -> Outcome:
        return self.do(
            ReportBranch(
                xid=xid, branch_id=branch_id, status=status, application_data=None, failure=None
            )
        )

    def commit(self, xid: str = "x", wait_ms: int = 0) -> Outcome:
        return self.do(
            DecideGlobal(xid=xid, commit=True, reason="", wait_ms=wait_ms, reports_expected=True)
        )

    def roll_back(self, xid: str = "x", wait_ms: int = 0) -> Outcome:
        return self.do(
            DecideGlobal(
                xid=xid, commit=False, reason="asked", wait_ms=wait_ms, reports_expected=True
            )
        )

    def saga(self, *steps: Step, xid: str = "x", timeout_ms: int = 0, wait_ms: int = 0,
             program: str = "SAGA", compensate_failed: bool = False,
             forward: bool = False) -> Outcome:  # fmt: skip
        return self.do(
            RunGlobal(
                xid=xid,
                prefix="n1",
                name="trip",
                program=program,
                steps=steps,
                timeout_ms=timeout_ms,
                wait_ms=wait_ms,
                in_order=False,
                compensate_failed=compensate_failed,
                forward_recovery=forward,
            )
        )

    def told(
        self, branch: int | str, verdict: str = "DONE", xid: str = "x", term: int = 1
    ) -> Outcome:
        """Let the driver report what the call that is to be made to a branch came to."""
        call = next(
            call
            for call in next_calls(self.row(xid), self.branches(xid))
            if branch in (call.branch.branch_id, call.branch.name)
        )
        reported = ReportedCall(
            xid=xid,
            branch_id=call.branch.branch_id,
            operation=call.operation,
            verdict=verdict,
            result=b"",
            failure_type="Test",
            failure_message="no stock",
            jitter_permille=0,
        )
        return self.do(ReportCalls(epoch=term, calls=(reported,)))

    def row(self, xid: str = "x") -> Global:
        found = get_global(self.store, xid)
        assert found is not None
        return found

    def branches(self, xid: str = "x") -> list[Branch]:
        return get_branches(self.store, xid)

    def statuses(self, xid: str = "x") -> list[str]:
        return [branch.status.value for branch in self.branches(xid)]

    def calls(self, xid: str = "x") -> list[tuple[int, str]]:
        """Which branches are to be called for what, branches counted from 1."""
        first = self.branches(xid)[0].branch_id - 1
        return [
            (call.branch.branch_id - first, call.operation.value)
            for call in next_calls(self.row(xid), self.branches(xid))
        ]

    def is_due(self, xid: str = "x") -> bool:
        return any(key.endswith(xid.encode()) for key, _ in self.rows(keys.DUE_GLOBAL))

    def settled(self, pending: Outcome) -> Outcome | None:
        assert isinstance(pending, Pending)
        ticket = get_ticket(self.store, pending.ticket)
        assert ticket is not None
        return ticket.outcome


def step(name: str, *depends_on: int, url: str = URL, limit: int = -1) -> Step:
    return Step(
        name=name,
        calls=Calls(url, "", url),
        payload=b"",
        depends_on=depends_on,
        timeout_ms=0,
        retry=RetryRule(limit=limit),
    )


def refused(outcome: Outcome) -> str:
    assert isinstance(outcome, Rejected)
    return outcome.detail


def status(outcome: Outcome) -> str:
    answered = result(outcome)
    assert isinstance(answered, GlobalAnswered)
    return answered.status


# --- begin


def test_an_xid_is_made_or_given_and_never_used_twice() -> None:
    log = Transactions()
    first, second = (result(log.begin("")) for _ in range(2))
    assert [first, second] == [
        GlobalAnswered(xid="n1:1", status="BEGIN", reason=""),
        GlobalAnswered(xid="n1:2", status="BEGIN", reason=""),
    ]
    assert status(log.begin("mine")) == "BEGIN"
    assert code(log.begin("mine")) is RejectionCode.TRANSACTION_EXISTS
    for unusable in ("", " ", "a b", "ä", "x" * 65, "a/b"):
        if unusable:
            assert code(log.begin(unusable)) is RejectionCode.INVALID_COMMAND


# --- branches and their rows


def test_a_branch_has_its_rows_or_is_not_registered() -> None:
    log = Transactions()
    log.begin("x")
    log.begin("y")
    mine = log.branch(row(1), row(2))
    refused = log.register(row(3), row(2), xid="y")
    assert code(refused) is RejectionCode.LOCK_CONFLICT
    assert isinstance(refused, Rejected)
    assert refused.retryable is True
    assert isinstance(refused.holder, RowLockHolder)
    assert (refused.holder.xid, refused.holder.branch_id) == ("x", mine)
    assert log.branches("y") == []
    assert isinstance(log.register(row(3), xid="y"), Applied)


def test_a_waiting_branch_is_registered_when_its_rows_are_free() -> None:
    log = Transactions()
    log.begin("x")
    log.begin("y")
    log.branch(row(1))
    pending = log.register(row(1), xid="y", wait_ms=10_000)
    assert log.settled(pending) is None
    log.commit("x")
    granted = log.settled(pending)
    assert granted is not None
    assert isinstance(result(granted), BranchRegistered)
    assert log.statuses("y") == ["REGISTERED"]
    assert code(log.register(row(1), xid="x")) is RejectionCode.TRANSACTION_NOT_ACTIVE


def test_a_wait_for_rows_ends_in_time_and_says_who_has_them() -> None:
    log = Transactions()
    log.begin("x")
    log.begin("y")
    log.branch(row(1))
    pending = log.register(row(1), xid="y", wait_ms=1_000)
    log.wait(1_000)
    log.fire_due()
    refused = log.settled(pending)
    assert isinstance(refused, Rejected)
    assert refused.code is RejectionCode.LOCK_CONFLICT
    assert isinstance(refused.holder, RowLockHolder)
    assert log.rows(keys.ROW_LOCK_QUEUE) == []


def test_a_wait_for_a_row_that_is_rolling_back_is_hopeless_without_waiting() -> None:
    log = Transactions()
    log.begin("x")
    log.begin("y")
    log.branch(row(1))
    log.roll_back("x")
    refused = log.register(row(1), xid="y")
    assert isinstance(refused, Rejected)
    assert refused.retryable is False


def test_of_a_deadlock_the_youngest_is_refused() -> None:
    log = Transactions()
    for xid in "xy":
        log.begin(xid)
        log.branch(row(ord(xid)), xid=xid)
    old = log.register(row(ord("y")), xid="x", wait_ms=10_000)
    assert code(log.register(row(ord("x")), xid="y", wait_ms=10_000)) is RejectionCode.DEADLOCK
    assert log.settled(old) is None
    log.roll_back("y")
    log.told(log.branches("y")[0].branch_id, xid="y")
    granted = log.settled(old)
    assert granted is not None
    assert isinstance(result(granted), BranchRegistered)


def test_a_younger_waiter_is_refused_when_an_older_closes_the_cycle() -> None:
    log = Transactions()
    for xid in "xy":
        log.begin(xid)
        log.branch(row(ord(xid)), xid=xid)
    young = log.register(row(ord("x")), xid="y", wait_ms=10_000)
    old = log.register(row(ord("y")), xid="x", wait_ms=10_000)
    refused = log.settled(young)
    assert refused is not None
    assert code(refused) is RejectionCode.DEADLOCK
    assert log.settled(old) is None


def test_nobody_waits_behind_what_the_same_transaction_waits_for() -> None:
    log = Transactions()
    for xid in "xyz":
        log.begin(xid)
    log.branch(row(1))
    reader = log.register(row(1, exclusive=False), xid="z", wait_ms=10_000)
    alone = log.register(row(1), xid="y", wait_ms=10_000)
    behind = log.register(row(1, exclusive=False), xid="y", wait_ms=10_000)
    log.commit("x")
    for pending in (reader, behind):
        granted = log.settled(pending)
        assert granted is not None
        assert isinstance(result(granted), BranchRegistered)
    assert log.settled(alone) is None
    log.roll_back("y")
    refused = log.settled(alone)
    assert refused is not None
    assert code(refused) is RejectionCode.TRANSACTION_NOT_ACTIVE


def test_a_withdrawn_branch_gives_its_rows_back_and_never_counted() -> None:
    log = Transactions()
    log.begin("x")
    log.begin("y")
    branch = log.branch(row(1), done=False)
    log.report(branch, "PHASE_ONE_FAILED")
    log.report(branch, "WITHDRAWN")
    assert isinstance(log.register(row(1), xid="y"), Applied)
    assert status(log.commit()) == "COMMITTED"


def test_reports_are_repeated_without_harm_and_never_taken_back() -> None:
    log = Transactions()
    log.begin()
    branch = log.branch()
    assert isinstance(log.report(branch), Applied)
    assert code(log.report(branch, "PHASE_ONE_FAILED")) is RejectionCode.BRANCH_STATUS_FIXED
    assert code(log.report(99)) is RejectionCode.BRANCH_NOT_FOUND
    assert code(log.report(branch, "nonsense")) is RejectionCode.INVALID_COMMAND
    assert code(log.report(branch, xid="z")) is RejectionCode.TRANSACTION_NOT_FOUND


# --- the decision


def test_a_commit_is_driven_to_every_branch_and_waited_for() -> None:
    log = Transactions()
    log.begin()
    log.branch(mode="TCC")
    log.branch(mode="XA")
    pending = log.commit(wait_ms=10_000)
    assert log.calls() == [(1, "COMMIT"), (2, "COMMIT")]
    assert log.is_due()
    log.told(1)
    assert log.settled(pending) is None
    log.told(2)
    assert log.row().status == "COMMITTED"
    settled = log.settled(pending)
    assert settled is not None
    assert status(settled) == "COMMITTED"
    assert not log.is_due()


def test_a_wait_for_the_end_tells_where_it_stands_when_its_time_is_over() -> None:
    log = Transactions()
    log.begin()
    log.branch(mode="TCC")
    pending = log.commit(wait_ms=1_000)
    log.wait(1_000)
    log.fire_due()
    settled = log.settled(pending)
    assert settled is not None
    assert status(settled) == "COMMITTING"
    assert log.row().waiting == ()
    log.told(1)
    assert log.row().status == "COMMITTED"


def test_branches_of_at_are_committed_for_the_caller_at_once() -> None:
    log = Transactions()
    log.begin("x")
    log.begin("y")
    log.branch(row(1))
    assert status(log.commit("x", wait_ms=10_000)) == "ASYNC_COMMITTING"
    assert isinstance(log.register(row(1), xid="y"), Applied), "its rows are free at the decision"
    log.told(1)
    assert log.row("x").status == "COMMITTED"


def test_rows_of_other_modes_are_locked_until_the_branch_has_committed() -> None:
    log = Transactions()
    log.begin("x")
    log.begin("y")
    log.branch(row(1), mode="XA")
    log.commit("x")
    assert code(log.register(row(1), xid="y")) is RejectionCode.LOCK_CONFLICT
    log.told(1)
    assert isinstance(log.register(row(1), xid="y"), Applied)


def test_a_rollback_goes_backwards_and_stops_at_a_branch_that_cannot_yet() -> None:
    log = Transactions()
    log.begin()
    for _ in range(3):
        log.branch()
    log.roll_back()
    assert log.calls() == [(3, "ROLLBACK")]
    log.told(3, "RETRY")
    assert log.row().status == "ROLLBACK_RETRYING"
    assert log.calls() == [(3, "ROLLBACK")]
    log.told(3)
    log.told(2)
    log.told(1)
    assert log.row().status == "ROLLED_BACK"


def test_tries_are_cancelled_side_by_side() -> None:
    log = Transactions()
    log.begin()
    for _ in range(2):
        log.branch(mode="TCC")
    log.roll_back()
    assert log.calls() == [(1, "ROLLBACK"), (2, "ROLLBACK")]


def test_a_failed_branch_turns_the_commit_into_a_rollback() -> None:
    log = Transactions()
    log.begin()
    log.report(log.branch(done=False), "PHASE_ONE_FAILED")
    assert code(log.commit()) is RejectionCode.BRANCH_FAILED
    assert log.row().status == "ROLLING_BACK"


def test_a_branch_that_has_not_reported_keeps_the_commit_back() -> None:
    log = Transactions()
    log.begin()
    branch = log.branch(done=False)
    assert code(log.commit()) is RejectionCode.BRANCH_UNFINISHED
    assert log.row().status == "BEGIN"
    log.report(branch)
    assert status(log.commit()) == "ASYNC_COMMITTING"


def test_a_decision_is_repeated_without_harm_and_never_reversed() -> None:
    log = Transactions()
    log.begin()
    log.branch(mode="XA")
    assert [status(log.commit()) for _ in range(2)] == ["COMMITTING", "COMMITTING"]
    assert code(log.roll_back()) is RejectionCode.TRANSACTION_DECIDED
    log.told(1)
    assert status(log.commit()) == "COMMITTED"
    assert code(log.roll_back()) is RejectionCode.TRANSACTION_DECIDED


def test_what_nobody_decides_in_time_is_rolled_back() -> None:
    log = Transactions()
    log.begin(timeout_ms=1_000)
    log.branch()
    log.wait(1_000)
    log.fire_due()
    assert log.row().status == "TIMEOUT_ROLLING_BACK"
    assert status(log.commit()) == "TIMEOUT_ROLLING_BACK"
    log.told(1)
    assert log.row().status == "TIMEOUT_ROLLED_BACK"


def test_a_commit_after_the_timeout_rolls_back_though_the_timer_was_late() -> None:
    log = Transactions()
    log.begin(timeout_ms=1_000)
    log.wait(1_000)
    assert status(log.commit()) == "TIMEOUT_ROLLED_BACK"


def test_a_decided_transaction_does_not_time_out() -> None:
    log = Transactions()
    log.begin(timeout_ms=1_000)
    log.branch(mode="XA")
    log.commit()
    log.wait(1_000)
    log.fire_due()
    assert log.row().status == "COMMITTING"


# --- what the driver reports


def test_a_call_that_did_not_succeed_is_made_again_after_a_growing_pause() -> None:
    log = Transactions()
    log.begin()
    log.branch(mode="XA")
    log.commit()
    pauses = []
    for _ in range(8):
        log.told(1, "RETRY")
        pauses.append(log.branches()[0].due_ms - log.elapsed_ms)
    assert pauses == [500, 1_000, 2_000, 4_000, 8_000, 16_000, 20_000, 20_000]
    log.told(1, "ONGOING")
    assert log.branches()[0].attempts == 8


def test_reports_of_an_old_leader_and_of_calls_that_nobody_wants_change_nothing() -> None:
    log = Transactions()
    log.begin()
    log.branch(mode="XA")
    log.branch(mode="XA")
    log.commit()
    assert code(log.told(1, term=7)) is RejectionCode.EPOCH_STALE
    assert result(log.told(1)) == CallsReported(taken=1)
    late = ReportedCall(
        xid="x",
        branch_id=1,
        operation="COMMIT",
        verdict="FAILED",
        result=b"",
        failure_type="",
        failure_message="",
        jitter_permille=0,
    )
    for reported in (late, ReportedCall("x", 2, "ROLLBACK", "DONE", b"", "", "", 0)):
        assert result(log.do(ReportCalls(epoch=1, calls=(reported,)))) == CallsReported(taken=0)
    assert log.statuses() == ["PHASE_TWO_COMMITTED", "PHASE_ONE_DONE"]


def test_a_branch_that_never_will_leaves_the_transaction_failed_and_operable() -> None:
    log = Transactions()
    log.begin("x")
    log.begin("y")
    log.branch(row(1), mode="XA")
    log.branch(mode="XA")
    log.roll_back()
    log.told(2)
    log.told(1, "FAILED")
    assert log.row().status == "ROLLBACK_FAILED"
    assert code(log.register(row(1), xid="y")) is RejectionCode.LOCK_CONFLICT
    act = OperateGlobal(xid="x", action="RETRY_NOW", reason="mended", principal="ops")
    assert status(log.do(act)) == "ROLLBACK_RETRYING"
    log.told(1, "FAILED")
    wrong = OperateGlobal(xid="x", action="FORCE_COMMIT", reason="", principal="ops")
    assert code(log.do(wrong)) is RejectionCode.OPERATION_NOT_POSSIBLE
    force = OperateGlobal(xid="x", action="FORCE_ROLLBACK", reason="by hand", principal="ops")
    assert status(log.do(force)) == "ROLLED_BACK"
    assert isinstance(log.register(row(1), xid="y"), Applied)


def test_stopped_retries_go_on_when_an_operator_wants() -> None:
    log = Transactions()
    log.begin()
    log.branch(mode="XA")
    log.commit()
    log.do(OperateGlobal(xid="x", action="STOP_RETRY", reason="", principal="ops"))
    assert not log.is_due()
    log.do(OperateGlobal(xid="x", action="START_RETRY", reason="", principal="ops"))
    assert log.is_due()


# --- what the cluster runs itself


def test_a_saga_of_empty_steps_ends_within_its_own_entry() -> None:
    log = Transactions()
    empty = [step("one", url=""), step("two", 0, url="")]
    assert status(log.saga(*empty, wait_ms=1_000)) == "COMMITTED"
    assert log.row().branches == 2
    assert not log.is_due()
    assert log.machine.applied_index == 1


def test_a_saga_goes_forward_step_by_step() -> None:
    log = Transactions()
    pending = log.saga(step("a"), step("b", 0), step("c", 0), step("d", 1, 2), wait_ms=10_000)
    assert log.calls() == [(1, "FORWARD")]
    log.told("a")
    assert log.calls() == [(2, "FORWARD"), (3, "FORWARD")]
    log.told("c")
    assert log.calls() == [(2, "FORWARD")]
    log.told("b")
    assert log.calls() == [(4, "FORWARD")]
    log.told("d")
    settled = log.settled(pending)
    assert settled is not None
    assert status(settled) == "COMMITTED"


def test_a_refused_step_rolls_back_what_was_done_and_not_itself() -> None:
    log = Transactions()
    log.saga(step("a"), step("b", 0), step("c", 1))
    log.told("a")
    log.told("b", "FAILED")
    assert log.row().status == "ROLLING_BACK"
    assert log.row().reason == "step b failed: no stock"
    assert log.statuses() == ["PHASE_ONE_DONE", "WITHDRAWN", "WITHDRAWN"]
    assert log.calls() == [(1, "ROLLBACK")]
    log.told("a")
    assert log.row().status == "ROLLED_BACK"


def test_a_refused_step_is_compensated_where_that_is_the_custom() -> None:
    log = Transactions()
    log.saga(step("a"), step("b", 0), compensate_failed=True)
    log.told("a")
    log.told("b", "FAILED")
    assert log.calls() == [(2, "ROLLBACK")]


def test_a_step_of_unknown_outcome_is_compensated() -> None:
    log = Transactions()
    log.saga(step("a"), step("b"), step("c", 1, limit=0))
    log.told("b")
    log.told("c", "RETRY")
    assert log.row().status == "ROLLING_BACK"
    # Of "a" nobody knows whether it was called, and of "c" what it did: both may have had effects.
    assert log.calls() == [(1, "ROLLBACK"), (3, "ROLLBACK")]
    log.told("c")
    assert log.calls() == [(1, "ROLLBACK"), (2, "ROLLBACK")]


def test_a_saga_that_recovers_forward_never_rolls_back() -> None:
    log = Transactions()
    log.saga(step("a", limit=0), forward=True)
    log.told("a", "FAILED")
    log.told("a", "RETRY")
    assert log.row().status == "BEGIN"
    log.told("a")
    assert log.row().status == "COMMITTED"


def test_a_saga_times_out_where_it_was_asked_to() -> None:
    log = Transactions()
    log.saga(step("a"), timeout_ms=1_000)
    log.wait(1_000)
    log.fire_due()
    assert log.row().status == "TIMEOUT_ROLLING_BACK"
    assert log.calls() == [(1, "ROLLBACK")]


def test_steps_that_stand_on_later_ones_or_are_none_are_refused() -> None:
    log = Transactions()
    for steps in ([], [step("a", 0)], [step("a", 1), step("b")], [step("a", -1)]):
        assert code(log.saga(*steps)) is RejectionCode.INVALID_COMMAND
    assert get_global(log.store, "x") is None


# --- what can be read back


def test_a_timeline_tells_in_causal_order_what_happened() -> None:
    log = Transactions()
    log.begin()
    log.branch(mode="XA")
    log.commit()
    log.told(1)
    lines = get_timeline(log.store, "x")
    assert [(line.event, line.branch_id) for line in lines] == [
        ("BEGIN", 0),
        ("REGISTERED", 1),
        ("PHASE_ONE_DONE", 1),
        ("COMMITTING", 0),
        ("PHASE_TWO_COMMITTED", 1),
        ("COMMITTED", 0),
    ]
    for field in ("index", "hlc", "lamport"):
        stamps = [getattr(line, field) for line in lines]
        assert stamps == sorted(stamps)
    assert len({line.hlc for line in lines}) == len(lines)


def test_a_long_timeline_is_kept_whole() -> None:
    log = Transactions()
    log.begin()
    for _ in range(40):
        log.branch(mode="XA")
    lines = get_timeline(log.store, "x")
    assert len(lines) == 81
    assert [line.lamport for line in lines] == list(range(1, 82))


def test_watchers_are_told_of_the_begin_the_decision_and_the_end() -> None:
    log = Transactions()
    log.begin()
    log.branch(mode="XA")
    log.commit()
    log.told(1)
    seen = [
        (change.xid, change.status)
        for recorded in read_changes(log.store, Position(0, 0), limit=100)
        for change in recorded.changes
        if isinstance(change, GlobalChanged)
    ]
    assert seen == [("x", "BEGIN"), ("x", "COMMITTING"), ("x", "COMMITTED")]


def test_an_ended_transaction_is_forgotten_after_its_retention_and_leaves_nothing() -> None:
    log = Transactions()
    log.begin()
    log.branch(row(1), mode="XA")
    log.commit()
    log.told(1)
    log.wait(MachineState().retention_ms - 1)
    log.fire_due()
    assert log.row().status == "COMMITTED"
    log.wait(1)
    log.fire_due()
    assert left_of(log) == [keys.SUMMARY]
    log.wait(MachineState().summary_retention_ms)
    log.fire_due()
    assert left_of(log) == []
    assert status(log.begin()) == "BEGIN"


def left_of(log: Transactions) -> list[bytes]:
    """What is left of transactions: no resource manager, nor what it is still to be told."""
    prefixes = [key[:2] for key, _ in log.rows(b"X")]
    return [each for each in prefixes if each not in (keys.CHANNEL, keys.CHANNEL_INDEX)]


def test_what_did_not_succeed_counts_once_however_often_it_is_reported() -> None:
    log = Transactions()
    log.saga(step("a"))
    first = ReportedCall("x", 1, "FORWARD", "RETRY", b"", "TIMEOUT", "no answer", 0, attempts=0)
    assert result(log.do(ReportCalls(epoch=1, calls=(first, first)))) == CallsReported(taken=1)
    assert result(log.do(ReportCalls(epoch=1, calls=(first,)))) == CallsReported(taken=0)
    assert log.branches()[0].attempts == 1


def test_a_decision_is_carried_out_at_once_though_a_step_was_to_wait() -> None:
    log = Transactions()
    log.saga(step("a"), timeout_ms=100)
    log.told("a", "RETRY")
    assert log.branches()[0].due_ms > 0
    log.wait(100)
    log.fire_due()
    assert log.row().status == "TIMEOUT_ROLLING_BACK"
    assert (log.row().due_ms, log.branches()[0].attempts) == (0, 0)


def test_a_result_that_is_too_large_is_left_out_and_said_to_be() -> None:
    log = Transactions()
    log.saga(step("a"), step("b", 0))
    large = b'"' + b"x" * GREATEST_RESULT_BYTES + b'"'
    done = ReportedCall("x", 1, "FORWARD", "DONE", large, "", "", 0)
    result(log.do(ReportCalls(epoch=1, calls=(done,))))
    branch = log.branches()[0]
    assert (branch.status, branch.result) == ("PHASE_ONE_DONE", b"")
    assert branch.failure is not None
    assert branch.failure.type == "RESULT_TOO_LARGE"


def test_a_verdict_that_nobody_knows_changes_nothing() -> None:
    log = Transactions()
    log.begin()
    log.branch(mode="XA")
    log.commit()
    odd = ReportedCall("x", 1, "COMMIT", "PERHAPS", b"", "", "", 0)
    log.do(ReportCalls(epoch=1, calls=(odd,)))
    assert log.statuses() == ["PHASE_ONE_DONE"]


def test_the_index_of_what_is_due_is_read_on_from_where_one_was() -> None:
    log = Transactions()
    for xid in ("b", "a", "c"):
        log.saga(step("s"), xid=xid)
    log.told("s", "RETRY", xid="a")
    due_ms = log.row("a").due_ms
    assert due_globals(log.store, (0, ""), 0, limit=10) == [(0, "b"), (0, "c")]
    assert due_globals(log.store, (0, "b"), due_ms, limit=10) == [(0, "c"), (due_ms, "a")]
    assert due_globals(log.store, (0, "b"), due_ms, limit=1) == [(0, "c")]
    assert due_globals(log.store, (due_ms, "a"), due_ms, limit=10) == []


def test_a_driver_is_told_of_what_entries_left_it_to_do() -> None:
    log = Transactions()
    notes = log.machine.due_transactions
    assert notes.take() is None  # at first only the index tells
    assert notes.take() == []
    log.saga(step("s"))
    log.begin("y")
    assert notes.take() == ["x"]
    log.told("s")
    assert not notes
    for number in range(GREATEST_NOTED + 1):
        notes.note(str(number))
    assert notes.take() is None
    assert notes.take() == []


def test_of_what_is_no_longer_kept_it_is_known_how_it_ended() -> None:
    log = Transactions()
    assert "never begun" in refused(log.roll_back())
    log.begin()
    log.roll_back()
    ended_ms = log.wall_ms
    log.wait(MachineState().retention_ms)
    log.fire_due()
    for late in (log.register(), log.report(1)):
        assert code(late) is RejectionCode.TRANSACTION_NOT_FOUND
        assert f"ended as ROLLED_BACK at {ended_ms} ms since the epoch (asked)" in refused(late)
    assert status(log.roll_back()) == "ROLLED_BACK"
    assert code(log.commit()) is RejectionCode.TRANSACTION_DECIDED
    assert code(log.begin()) is RejectionCode.TRANSACTION_EXISTS


def test_leaders_say_how_long_what_ends_from_then_on_is_kept() -> None:
    log = Transactions()
    log.do(SetTransactionRetention(retention_ms=10, summary_retention_ms=0))
    assert log.machine.transaction_retention_ms == (10, 0)
    unusable = SetTransactionRetention(retention_ms=-1, summary_retention_ms=0)
    assert code(log.do(unusable)) is RejectionCode.INVALID_COMMAND
    log.begin()
    log.roll_back()
    log.wait(10)
    log.fire_due()
    assert [key[:2] for key, _ in log.rows(b"X")] == [keys.SUMMARY]
    kinds = [keys.timer_of(key)[1] for key, _ in log.rows(keys.TIMER)]
    assert TimerKind.GLOBAL_SUMMARY_EXPIRY not in kinds


def test_a_compensation_that_is_registered_after_the_decision_is_called_for() -> None:
    log = Transactions()
    log.begin()
    log.branch(mode="TCC")
    log.roll_back()
    log.told(1, "RETRY")
    log.register(mode="SAGA")
    assert log.calls() == [(2, "ROLLBACK")]
    assert log.row().due_ms == 0


def test_rows_for_a_compensation_come_too_late_when_its_transaction_has_ended() -> None:
    log = Transactions()
    log.do(SetTransactionRetention(retention_ms=0, summary_retention_ms=0))
    log.begin("x")
    log.begin("y")
    log.branch(row(1), xid="y")
    branch = log.branch(mode="TCC")
    log.roll_back()
    waiting = log.register(row(1), mode="SAGA", wait_ms=60_000)
    log.told(branch)
    log.fire_due()
    log.commit("y")
    late = log.settled(waiting)
    assert late is not None
    assert code(late) is RejectionCode.TRANSACTION_NOT_FOUND
    assert log.rows(keys.ROW_LOCK) == []


def test_how_a_step_ends_is_learnt_from_its_call_alone() -> None:
    log = Transactions()
    log.saga(step("a"))
    assert code(log.report(1)) is RejectionCode.BRANCH_STATUS_FIXED
    rows = LockRows(xid="x", branch_id=1, locks=(row(1),), wait_ms=0)
    assert code(log.do(rows)) is RejectionCode.BRANCH_STATUS_FIXED
    assert code(log.register(mode="SAGA")) is RejectionCode.TRANSACTION_NOT_ACTIVE
    assert log.statuses() == ["REGISTERED"]


def test_a_program_that_the_cluster_does_not_run_is_refused() -> None:
    log = Transactions()
    for program in ("CLIENT", "WORKFLOW", ""):
        assert code(log.saga(step("a"), program=program)) is RejectionCode.INVALID_COMMAND
