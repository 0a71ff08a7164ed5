"""A coordinator's log, and the few words in which tests speak of transactions."""

from __future__ import annotations

from statemachine import keys
from statemachine.commands import (
    BeginGlobal,
    DecideGlobal,
    RegisterBranch,
    RegisterChannel,
    ReportBranch,
    ReportCalls,
    ReportedCall,
    RunGlobal,
    Step,
)
from statemachine.outcomes import (
    BranchRegistered,
    ChannelRegistered,
    GlobalAnswered,
    Outcome,
    Pending,
    Rejected,
)
from statemachine.tickets import get_ticket
from statemachine.transactions.planning import next_calls
from statemachine.transactions.row_locks import RowLock
from statemachine.transactions.rows import (
    Branch,
    Calls,
    Global,
    RetryRule,
    get_branches,
    get_global,
)
from tests.statemachine.building import Log, result

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

    def commit(self, xid: str = "x", wait_ms: int = 0, done: tuple[int, ...] = ()) -> Outcome:
        return self.do(
            DecideGlobal(
                xid=xid,
                commit=True,
                reason="",
                wait_ms=wait_ms,
                reports_expected=True,
                branches_done=done,
            )
        )

    def roll_back(self, xid: str = "x", wait_ms: int = 0, done: tuple[int, ...] = ()) -> Outcome:
        return self.do(
            DecideGlobal(
                xid=xid,
                commit=False,
                reason="asked",
                wait_ms=wait_ms,
                reports_expected=True,
                branches_done=done,
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
