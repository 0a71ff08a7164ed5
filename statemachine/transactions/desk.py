"""What all commands of transactions share: finding a transaction, moving it on, ending it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from statemachine.change_log import ChangeLog
from statemachine.changes import GlobalChanged
from statemachine.outcomes import (
    Applied,
    BranchRegistered,
    Outcome,
    Rejected,
    RejectionCode,
    RowsLocked,
)
from statemachine.positions import Position
from statemachine.state import MachineState
from statemachine.tickets import Tickets
from statemachine.transactions import channel_binding, cleaning
from statemachine.transactions.answers import (
    answer_of,
    branch_failed,
    decided_otherwise,
    not_active,
    standing_of,
    takes_no_rows,
)
from statemachine.transactions.deadlocks import Deadlocks
from statemachine.transactions.due import DueNotes
from statemachine.transactions.granting import Granting
from statemachine.transactions.incidents import record_incident
from statemachine.transactions.kept import KeptTransactions
from statemachine.transactions.planning import (
    Operation,
    Program,
    may_have_begun,
    steps_done,
)
from statemachine.transactions.row_locks import RowLock, RowLocks, Wait
from statemachine.transactions.rows import (
    GREATEST_XID_BYTES,
    Branch,
    Failure,
    Global,
    decode_branch,
    get_global,
)
from statemachine.transactions.state_language.definitions import unpin
from statemachine.transactions.state_language.interpreter import Interpreter
from statemachine.transactions.state_language.runs import get_run, stop_run
from statemachine.transactions.statuses import (
    COMMIT_FAMILY,
    ENDED,
    FAILED,
    BranchStatus,
    GlobalStatus,
    Mode,
)
from statemachine.transactions.summaries import get_summary
from statemachine.transactions.transaction import Transaction
from statemachine.transactions.transitions import BranchInput, GlobalInput
from statemachine.write_buffer import WriteBuffer

GREATEST_GLOBALS: Final = 1_000_000
"""How many transactions may be under way at once."""

_XID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")

UNLOCKED_BY_DECISION: Final = frozenset({Mode.AT, Mode.TXC})
"""Their effect can be seen before the decision, so that nothing is left to protect after it."""

XID_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"xid is not 1 to {GREATEST_XID_BYTES} characters of A-Z, a-z, 0-9, '.', '_', ':' and '-'.",
)

XID_TAKEN: Final = Rejected(
    RejectionCode.TRANSACTION_EXISTS,
    "A transaction with this xid was begun before. Use a new xid, or none: one will be made.",
)

ENDED_MEANWHILE: Final = Rejected(
    RejectionCode.TRANSACTION_NOT_FOUND,
    "The transaction ended and was forgotten while the request waited for rows.",
    retryable=False,
)

TOO_MANY: Final = Rejected(
    RejectionCode.TOO_MANY_TRANSACTIONS,
    f"{GREATEST_GLOBALS} transactions are under way. Let some end first.",
)


class Desk:
    """The rows, clocks and tickets that commands work with."""

    def __init__(
        self, state: MachineState, writes: WriteBuffer, log: ChangeLog, tickets: Tickets
    ) -> None:
        self.state = state
        self.writes = writes
        self.log = log
        self.tickets = tickets
        self.due = DueNotes()
        self.locks = RowLocks(state, writes)
        self.deadlocks = Deadlocks(self.locks)
        self.grants = Granting(self.locks, self.deadlocks, self._settle_wait, self.youngest)
        self.channel_revision = 0
        """Counts registrations of resource managers."""
        self._open: dict[str, Transaction | None] = {}
        """Those that commands of the present entry have asked for; None: there is none."""
        self._kept = KeptTransactions()

    def save(self) -> None:
        """Write what the entry changed."""
        for transaction in self._open.values():
            if transaction is not None:
                transaction.save()
                row = transaction.row
                if row.due_ms >= 0:
                    self.due.note(row.xid)
                if row.status not in ENDED:
                    self._kept.keep(transaction)
        self._open.clear()
        self.locks.end_entry()

    def find(self, xid: str) -> Transaction | None:
        if xid in self._open:
            return self._open[xid]
        found = self._open[xid] = self._kept.take(xid) or self._load(xid)
        return found

    def _load(self, xid: str) -> Transaction | None:
        row = get_global(self.writes, xid)
        return None if row is None else Transaction(self.state, self.writes, row, is_new=False)

    def look_at(self, xid: str) -> Transaction | None:
        """Return a transaction to whoever only looks, between two entries."""
        found = self._kept.take(xid) or self._load(xid)
        if found is not None and found.row.status not in ENDED:
            found.load()
            self._kept.keep(found)
        return found

    def close(self, xid: str) -> None:
        """Let go of a transaction that is about to be erased."""
        self._open.pop(xid, None)
        self._kept.take(xid)

    def _is_taken(self, xid: str) -> bool:
        return self.find(xid) is not None or get_summary(self.writes, xid) is not None

    def open(
        self, xid: str, prefix: str, name: str, program: Program, place: int, *, submitted: bool
    ) -> Transaction | Rejected:
        """Begin a transaction under an xid of the client's, or one made of prefix and number."""
        state = self.state
        if xid:
            if _XID.fullmatch(xid) is None:
                return XID_UNUSABLE
            if self._is_taken(xid):
                return XID_TAKEN
        if state.global_count >= GREATEST_GLOBALS:
            return TOO_MANY
        if not xid:
            state.last_global += 1
            xid = f"{prefix}:{state.last_global}"
            if _XID.fullmatch(xid) is None:
                return XID_UNUSABLE
            if self._is_taken(xid):
                return XID_TAKEN
        row = Global(
            xid=xid,
            name=name,
            status=GlobalStatus.BEGIN,
            program=program,
            submitted=submitted,
            begun=Position(state.applied_index, place),
            begun_ms=state.wall_ms,
        )
        transaction = self._open[xid] = Transaction(state, self.writes, row, is_new=True)
        state.global_count += 1
        transaction.happen(place, GlobalStatus.BEGIN, detail=name)
        self.log.note(place, GlobalChanged(xid=xid, status=GlobalStatus.BEGIN, reason=""))
        return transaction

    def register(self, transaction: Transaction, branch: Branch, place: int) -> int:
        """Let a branch take part; return the id that it is given."""
        state = self.state
        state.last_branch += 1
        branch_id = state.last_branch
        branch = msgspec.structs.replace(
            branch,
            branch_id=branch_id,
            registered_ms=state.wall_ms,
            updated_ms=state.wall_ms,
        )
        transaction.add_branches(branch)
        channel_binding.bind(self.writes, transaction.row.xid, branch)
        transaction.happen(place, BranchStatus.REGISTERED, branch_id=branch_id, detail=branch.name)
        return branch_id

    # --- moving on

    def decide(
        self, transaction: Transaction, happens: GlobalInput, reason: str, place: int
    ) -> None:
        """Take the decision and do whatever follows from it at once."""
        transaction.decide(happens, reason, place)
        self._note(transaction, place)
        for branch in transaction.branches:
            if branch.attempts or branch.due_ms:
                # They belong to what it was called for before.
                transaction.change_branch(branch, attempts=0, due_ms=0)
        self._answer_committers(transaction, place)
        committed = transaction.row.status in COMMIT_FAMILY
        if not committed:
            self._leave_out(transaction, place)
            if transaction.row.program == Program.STATE_MACHINE:
                stop_run(self.writes, transaction.row.xid, self.state.wall_ms)
        # Nobody registers any more: what waits for rows waits in vain.
        self.grants.refuse(transaction.row.xid, place, not_active(transaction.row))
        if committed:
            for branch in transaction.branches:
                if branch.mode in UNLOCKED_BY_DECISION:
                    self.release(transaction, branch, place)
        self.advance(transaction, place)
        if transaction.row.status is GlobalStatus.ASYNC_COMMITTING:
            # What is left to do is nothing that its caller has to wait for.
            self._answer_waiting(transaction, place)

    def _answer_committers(self, transaction: Transaction, place: int) -> None:
        """Tell those who waited with their commit what was decided, or let them await the end."""
        row = transaction.row
        if not row.committing:
            return
        transaction.change(committing=())
        tickets = [committer.ticket for committer in row.committing]
        if row.status is not GlobalStatus.ROLLING_BACK:
            transaction.change(waiting=(*row.waiting, *tickets))
            return
        failed = transaction.failed_branch
        refused = (
            decided_otherwise(standing_of(row)) if failed is None else branch_failed(row, failed)
        )
        for ticket in tickets:
            self.tickets.settle(ticket, refused, place)

    def _answer_waiting(self, transaction: Transaction, place: int) -> None:
        """Tell all who wait for the end where the transaction stands."""
        row = transaction.row
        tickets = [*row.waiting, *(committer.ticket for committer in row.committing)]
        if not tickets:
            return
        transaction.change(waiting=(), committing=())
        for ticket in tickets:
            self.tickets.settle(ticket, Applied(answer_of(row)), place)

    def _leave_out(self, transaction: Transaction, place: int) -> None:
        """End the steps that have nothing to undo: never begun, or refused for good."""
        row, branches = transaction.row, transaction.branches
        if row.program == Program.CLIENT:
            return
        done = steps_done(branches)
        for branch in branches:
            never_begun = branch.status is BranchStatus.REGISTERED and not may_have_begun(
                branch, done
            )
            refused = branch.status is BranchStatus.PHASE_ONE_FAILED and not branch.outcome_unknown
            if never_begun or (refused and not row.compensates_failed):
                transaction.advance_branch(branch, BranchInput.WITHDRAW, place)

    def advance(self, transaction: Transaction, place: int) -> None:
        """Do what needs no call, end what is at its end, and say when the driver is to come."""
        while self._step(transaction, place):
            pass
        row = transaction.row
        due_ms = -1 if row.paused else transaction.plan.due_ms
        if due_ms != row.due_ms:
            transaction.change(due_ms=due_ms)

    def _step(self, transaction: Transaction, place: int) -> bool:
        """Do one thing that needs no call; False when there is none."""
        row, plan = transaction.row, transaction.plan
        instant = plan.instant()
        for call in instant:
            self.done(transaction, call.branch, call.operation, place)
        if instant:
            return True
        if row.status is GlobalStatus.BEGIN:
            if row.program == Program.STATE_MACHINE:
                return self._go_on(transaction, place)
            return self._decide_by_itself(transaction, place)
        if not transaction.is_driven:
            return False
        if not plan.left:
            self._end(transaction, GlobalInput.ALL_ENDED, place)
            return True
        if plan.is_idle and plan.refused:
            self._end(transaction, GlobalInput.FAIL, place)
            return True
        return False

    def _go_on(self, transaction: Transaction, place: int) -> bool:
        """Let a saga follow its definition as far as it can without a further call."""
        interpreter = Interpreter(
            self.writes,
            transaction,
            lambda branch: self.register(transaction, branch, place),
            self.state.wall_ms,
        )
        ending = interpreter.go_on()
        if ending is None:
            return False
        if not ending.commit:
            self.decide(transaction, GlobalInput.ROLL_BACK, ending.reason, place)
            return True
        for branch in transaction.branches:
            if branch.status is BranchStatus.PHASE_ONE_FAILED:
                # What was caught has no part in what is committed.
                transaction.advance_branch(branch, BranchInput.WITHDRAW, place)
        transaction.decide(GlobalInput.COMMIT, "", place)
        self._note(transaction, place)
        return True

    def _decide_by_itself(self, transaction: Transaction, place: int) -> bool:
        row = transaction.row
        if row.program == Program.CLIENT or not row.submitted or transaction.plan.working:
            return False
        transaction.decide(GlobalInput.COMMIT, "", place)
        self._note(transaction, place)
        return True

    def done(
        self, transaction: Transaction, branch: Branch, operation: Operation, place: int,
        result: bytes = b"", failure: Failure | None = None,
    ) -> None:  # fmt: skip
        """A branch has done what it was called for. `failure` says what is wrong all the same."""
        match operation:
            case Operation.FORWARD:
                transaction.advance_branch(
                    branch, BranchInput.DONE, place, attempts=0, due_ms=0, result=result,
                    failure=failure,
                )  # fmt: skip
                return
            case Operation.COMMIT:
                happens = BranchInput.COMMITTED
            case Operation.ROLLBACK:
                happens = BranchInput.ROLLED_BACK
        transaction.advance_branch(branch, happens, place, attempts=0, failure=None)
        if operation is Operation.ROLLBACK or branch.mode not in UNLOCKED_BY_DECISION:
            self.release(transaction, branch, place)

    def commit_at_once(self, transaction: Transaction, place: int) -> None:
        """Commit what has ended already: its branches were registered as they are at the end."""
        transaction.decide(GlobalInput.COMMIT, "", place)
        self._note(transaction, place)
        for branch in transaction.branches:
            transaction.happen(place, BranchStatus.PHASE_TWO_COMMITTED, branch_id=branch.branch_id)
        self._end(transaction, GlobalInput.ALL_ENDED, place)

    def stop(self, transaction: Transaction, reason: str, place: int) -> None:
        """End it wherever it stands, with whatever was done and whatever was not."""
        transaction.change(decided_ms=self.state.wall_ms, reason=reason)
        transaction.disarm_deadline()
        self.end_by_operator(transaction, GlobalInput.STOP, place)

    def end_by_operator(self, transaction: Transaction, happens: GlobalInput, place: int) -> None:
        """End what could not end by itself: nothing is called any more, no row stays locked."""
        for branch in transaction.branches:
            self.release(transaction, branch, place)
        self._end(transaction, happens, place)
        self.advance(transaction, place)

    def _end(self, transaction: Transaction, happens: GlobalInput, place: int) -> None:
        transaction.advance(happens, place)
        self._note(transaction, place)
        row = transaction.row
        if row.status in ENDED:
            self.state.global_count -= 1
            channel_binding.unbind(self.writes, row.xid, transaction.branches)
            cleaning.note(self.state, self.writes, transaction)
            if row.program == Program.STATE_MACHINE:
                run = get_run(self.writes, row.xid)
                assert run is not None, "a saga that follows a definition has a run"
                unpin(self.state, self.writes, run.machines)
        if row.status in ENDED | FAILED:
            self._answer_waiting(transaction, place)

    def record_failure(self, transaction: Transaction, branch: Branch, place: int) -> None:
        """Let a failure of a branch be found without knowing the transaction."""
        record_incident(self.state, self.writes, transaction.row.xid, branch, place)

    def _note(self, transaction: Transaction, place: int) -> None:
        row = transaction.row
        self.log.note(place, GlobalChanged(xid=row.xid, status=row.status, reason=row.reason))

    # --- row locks

    def release(self, transaction: Transaction, branch: Branch, place: int) -> None:
        xid = transaction.row.xid
        released = self.locks.release(xid, branch.branch_id)
        if released:
            self.grants.free(released, place)
            self.grants.look_at(xid, place)

    def _settle_wait(
        self, ticket: Position, wait: Wait, refused: Rejected | None, place: int
    ) -> None:
        outcome = self._granted(wait, place) if refused is None else refused
        self.tickets.settle(ticket, outcome, place)

    def _granted(self, wait: Wait, place: int) -> Outcome:
        """Do what waited for rows that are free now, unless it can no longer be done."""
        transaction = self.find(wait.xid)
        registered = decode_branch(wait.registration) if wait.registration else None
        refused = (
            ENDED_MEANWHILE
            if transaction is None
            else self._no_more_wanted(transaction, wait, registered)
        )
        if refused is not None or transaction is None:
            # The rows stay free: who stands behind it in their queues comes next.
            self.grants.free(self.locks.names_of(wait), place)
            return refused or ENDED_MEANWHILE
        if registered is not None:
            return self.register_with_rows(transaction, registered, wait.locks, place)
        branch = transaction.branch(wait.branch_id)
        assert branch is not None, "only a branch that is there waits for more rows"
        return self.lock(transaction, branch, wait.locks, place)

    def _no_more_wanted(
        self, transaction: Transaction, wait: Wait, registered: Branch | None
    ) -> Rejected | None:
        """Return why what waited for rows cannot be done any more."""
        if registered is not None:
            if not takes_branches(transaction.row, registered.mode):
                return not_active(transaction.row)
            return channel_binding.refusal(self.writes, registered)
        branch = transaction.branch(wait.branch_id)
        if branch is not None and branch.status is not BranchStatus.REGISTERED:
            return takes_no_rows(branch)
        return None if transaction.row.status is GlobalStatus.BEGIN else not_active(transaction.row)

    def register_with_rows(
        self, transaction: Transaction, branch: Branch, locks: Sequence[RowLock], place: int
    ) -> Outcome:
        """Let a branch take part, and give it rows that are free."""
        xid = transaction.row.xid
        branch_id = self.register(transaction, branch, place)
        if locks:
            self._take(xid, branch_id, locks, place)
        if transaction.row.status is not GlobalStatus.BEGIN:
            # What is decided is told to it, too.
            self.advance(transaction, place)
        return Applied(BranchRegistered(xid=xid, branch_id=branch_id))

    def lock(
        self, transaction: Transaction, branch: Branch, locks: Sequence[RowLock], place: int
    ) -> Outcome:
        """Give rows that are free to a branch."""
        xid, branch_id = transaction.row.xid, branch.branch_id
        self._take(xid, branch_id, locks, place)
        transaction.tell(place, "LOCKED", branch_id, f"{len(locks)} rows")
        return Applied(RowsLocked(xid=xid, branch_id=branch_id))

    def _take(self, xid: str, branch_id: int, locks: Sequence[RowLock], place: int) -> None:
        if self.locks.take(xid, branch_id, locks, self.state.wall_ms):
            self.grants.look_at(xid, place)

    def youngest(self, xids: Sequence[str]) -> str:
        """Return the one that began last: least is lost with it."""
        begun = [(each.row.begun, xid) for xid in xids if (each := self.find(xid)) is not None]
        return max(begun)[1]


def takes_branches(row: Global, mode: str) -> bool:
    """Tell whether a branch may be added: only while the transaction is undecided, but what can
    only be compensated may come later, too. The branches of what the cluster runs are its steps.
    """
    if row.program != Program.CLIENT:
        return False
    return row.status is GlobalStatus.BEGIN or (mode == Mode.SAGA and row.status not in ENDED)
