"""DTM's protocol on our transactions: what a gid may be told, and what each type begins with.

    saga       the cluster runs the steps; what failed is compensated, too
    tcc, xa    the client registers branches and decides; phase two takes one after the other
    msg        a two-phase message of our own
    workflow   the client runs it and says how it ended; it is called back until it has

A transaction of our own protocol is seen here, but not changed: its client knows nothing of this.
Refusals carry DTM's words; its gateway adds the marks by which its clients tell them.
"""

from __future__ import annotations

from typing import Final, assert_never

from statemachine import commands
from statemachine.commands import DtmCommand
from statemachine.commands.dtm import (
    AbortDtm,
    DtmTransaction,
    HastenAllDtm,
    PrepareDtm,
    RecordDtmProgress,
    RegisterDtmBranch,
    StopDtm,
    SubmitDtm,
)
from statemachine.keys import GREATEST_NUMBER
from statemachine.outcomes import (
    Applied,
    BranchRegistered,
    DtmHastened,
    Outcome,
    Rejected,
    RejectionCode,
)
from statemachine.transactions import messages
from statemachine.transactions.answers import answer_of
from statemachine.transactions.decisions import await_end
from statemachine.transactions.desk import Desk
from statemachine.transactions.dtm_options import (
    ABORTING,
    FAILED,
    PREPARED,
    SUBMITTED,
    SUCCEED,
    TRANS_TYPES,
    DtmOptions,
    decode_options,
    encode_options,
    merged,
    options_of,
    retry_rule,
    status_of,
    trans_type_of,
)
from statemachine.transactions.dtm_progress import (
    GREATEST_PROGRESSES,
    Progress,
    get_progresses,
    put_progress,
)
from statemachine.transactions.participation import GREATEST_BRANCHES
from statemachine.transactions.planning import Program
from statemachine.transactions.rows import DTM, Branch, Calls, RetryRule, due_globals
from statemachine.transactions.statuses import BRANCH_ENDED, BranchStatus, Mode
from statemachine.transactions.summaries import get_summary
from statemachine.transactions.transaction import Transaction
from statemachine.transactions.transitions import BranchInput, GlobalInput

GREATEST_HASTENED: Final = 1_000
_GREATEST_LOOK: Final = 10_000
"""How many due transactions are looked at for those that may be hastened."""

CALLBACK: Final = "callback"
"""The name of the branch that stands for a workflow's client."""

_PROGRAMS: Final = {
    "saga": Program.SAGA,
    "tcc": Program.CLIENT,
    "xa": Program.CLIENT,
    "msg": Program.MESSAGE,
    "workflow": Program.WORKFLOW,
}
_MODES: Final = {"tcc": Mode.TCC, "xa": Mode.XA}

_TYPE_UNKNOWN: Final = Rejected(
    RejectionCode.INVALID_COMMAND, f"trans_type is none of {', '.join(TRANS_TYPES)}."
)
_STEPS_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"A saga has at most {GREATEST_BRANCHES} steps, each standing only on earlier ones.",
)
_TOO_MANY_BRANCHES: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"The transaction has {GREATEST_BRANCHES} branches already, the most there may be.",
)


def execute(desk: Desk, command: DtmCommand, place: int) -> Outcome:
    match command:
        case commands.PrepareDtm():
            return _prepare(desk, command, place)
        case commands.SubmitDtm():
            return _submit(desk, command, place)
        case commands.AbortDtm():
            return _abort(desk, command, place)
        case commands.StopDtm():
            return _stop(desk, command, place)
        case commands.HastenDtm():
            found = desk.find(command.xid)
            if found is None or found.row.protocol != DTM:
                return _not_there(desk, command.xid)
            _hasten(desk, found, place)
            return Applied(answer_of(found.row))
        case commands.RegisterDtmBranch():
            return _register(desk, command, place)
        case commands.RecordDtmProgress():
            return _record_progress(desk, command, place)
        case commands.HastenAllDtm():
            return _hasten_all(desk, command, place)
        case _:
            assert_never(command)


# --- beginning


def _prepare(desk: Desk, command: PrepareDtm, place: int) -> Outcome:
    wanted = command.transaction
    found = desk.find(wanted.xid)
    if found is None:
        begun = _begin(desk, wanted, place, submitted=False)
        return begun if isinstance(begun, Rejected) else Applied(answer_of(begun.row))
    if command.in_any_status or _status(found) == PREPARED:
        return Applied(answer_of(found.row))
    return _cannot(_status(found), "prepare")


def _submit(desk: Desk, command: SubmitDtm, place: int) -> Outcome:
    wanted = command.transaction
    found = desk.find(wanted.xid)
    if found is None:
        if wanted.trans_type == "workflow":
            return _not_there(desk, wanted.xid)
        begun = _begin(desk, wanted, place, submitted=True)
        if isinstance(begun, Rejected):
            return begun
        return await_end(desk, begun, command.wait_ms, place)
    status = _status(found)
    if found.row.protocol != DTM or status not in (PREPARED, SUBMITTED):
        return _cannot(status, "sumbmit")
    if status == PREPARED:
        asked = _decoded(wanted.options)
        if asked is None:
            return _options_unusable()
        found.change(options=encode_options(merged(options_of(found.row), asked)))
        refused = _go(desk, found, command, place)
        if refused is not None:
            return refused
    return await_end(desk, found, command.wait_ms, place)


def _go(desk: Desk, found: Transaction, command: SubmitDtm, place: int) -> Rejected | None:
    """Let what is prepared go on."""
    match found.row.program:
        case Program.MESSAGE:
            messages.submit(desk, found, place)
        case Program.WORKFLOW:
            return _end_workflow(desk, found, command, place)
        case Program.CLIENT:
            desk.decide(found, GlobalInput.COMMIT, "", place)
        case _:
            found.change(submitted=True)
            found.happen(place, "SUBMITTED")
            if command.transaction.timeout_ms > 0:
                found.arm_deadline(command.transaction.timeout_ms)
            desk.advance(found, place)
    return None


def _end_workflow(
    desk: Desk, found: Transaction, command: SubmitDtm, place: int
) -> Rejected | None:
    if command.ended_as not in (SUCCEED, FAILED):
        return Rejected(
            RejectionCode.INVALID_COMMAND,
            f"req_extra.status of a workflow's submission is {SUCCEED} or {FAILED}.",
        )
    for branch in found.branches:
        if branch.status is BranchStatus.REGISTERED:
            found.advance_branch(branch, BranchInput.WITHDRAW, place, due_ms=0)
    succeeded = command.ended_as == SUCCEED
    decision = GlobalInput.COMMIT if succeeded else GlobalInput.ROLL_BACK
    desk.decide(found, decision, command.reason, place)
    return None


def _begin(
    desk: Desk, wanted: DtmTransaction, place: int, *, submitted: bool
) -> Transaction | Rejected:
    program = _PROGRAMS.get(wanted.trans_type)
    if program is None:
        return _TYPE_UNKNOWN
    options = _decoded(wanted.options)
    if options is None:
        return _options_unusable()
    refused = _steps_refused(wanted)
    if refused is not None:
        return refused
    runs = submitted and program is Program.SAGA
    opened = desk.open(wanted.xid, "", wanted.name, program, place, submitted=runs)
    if isinstance(opened, Rejected):
        return _ended_long_ago(desk, wanted.xid, "sumbmit" if submitted else "prepare") or opened
    opened.change(
        protocol=DTM,
        options=wanted.options,
        mode=_MODES.get(wanted.trans_type, ""),
        in_order=program is Program.CLIENT,
        compensates_failed=True,
    )
    match program:
        case Program.SAGA if submitted and needs_no_call(wanted):
            _run_at_once(desk, opened, wanted, place)
        case Program.SAGA:
            _add_steps(desk, opened, wanted, place)
            if submitted and wanted.timeout_ms > 0:
                opened.arm_deadline(wanted.timeout_ms)
            desk.advance(opened, place)
        case Program.MESSAGE:
            _begin_message(desk, opened, wanted, options, place, submitted=submitted)
        case Program.WORKFLOW:
            _begin_workflow(desk, opened, options, place)
        case _ if submitted:
            desk.decide(opened, GlobalInput.COMMIT, "", place)
        case _:
            opened.arm_deadline(max(wanted.timeout_ms, 1))
    return opened


def _steps_refused(wanted: DtmTransaction) -> Rejected | None:
    if wanted.trans_type == "msg":
        fits = messages.count_deliveries(wanted.steps) <= messages.GREATEST_DELIVERIES
        return None if fits else messages.STEPS_UNUSABLE
    usable = len(wanted.steps) <= GREATEST_BRANCHES and all(
        0 <= at < number for number, step in enumerate(wanted.steps) for at in step.depends_on
    )
    return None if usable else _STEPS_UNUSABLE


def _add_steps(desk: Desk, opened: Transaction, wanted: DtmTransaction, place: int) -> None:
    ids: list[int] = []
    for step in wanted.steps:
        branch = _branch(
            step.name,
            Mode.SAGA,
            step.calls,
            payload=step.payload,
            depends_on=tuple([ids[at] for at in step.depends_on]),
            retry=step.retry,
        )
        ids.append(desk.register(opened, branch, place))


def needs_no_call(wanted: DtmTransaction) -> bool:
    """Whether a saga succeeds as it is submitted, one step after the other or all at once."""
    if wanted.timeout_ms or not wanted.steps:
        return False
    in_turn = all(step.depends_on == (at - 1,) for at, step in enumerate(wanted.steps) if at)
    return all(step.calls.forward == "" for step in wanted.steps) and (
        in_turn or not any(step.depends_on for step in wanted.steps)
    )


def _run_at_once(desk: Desk, opened: Transaction, wanted: DtmTransaction, place: int) -> None:
    """Do what `Desk.advance` would come to, without going through each state of each step."""
    state = desk.state
    first = state.last_branch + 1
    branches = [
        _branch(
            step.name,
            Mode.SAGA,
            step.calls,
            payload=step.payload,
            depends_on=(first + step.depends_on[0],) if step.depends_on else (),
            retry=step.retry,
            status=BranchStatus.PHASE_TWO_COMMITTED,
            branch_id=branch_id,
            at_ms=state.wall_ms,
        )
        for branch_id, step in enumerate(wanted.steps, first)
    ]
    opened.add_branches(*branches)
    for branch in branches:
        opened.happen(
            place, BranchStatus.REGISTERED, branch_id=branch.branch_id, detail=branch.name
        )
    state.last_branch += len(wanted.steps)
    for branch_id in range(first, state.last_branch + 1):
        opened.happen(place, BranchStatus.PHASE_ONE_DONE, branch_id=branch_id)
    desk.commit_at_once(opened, place)


def _begin_message(
    desk: Desk, opened: Transaction, wanted: DtmTransaction, options: DtmOptions, place: int,
    *, submitted: bool,
) -> None:  # fmt: skip
    undelivered = messages.Undelivered(
        wanted.steps, wanted.delay_ms, in_turn=not options.concurrent
    )
    if submitted:
        messages.deliver(desk, opened, undelivered, place)
    else:
        messages.keep(
            desk, opened, undelivered, place,
            query=options.query_prepared,
            query_after_ms=wanted.timeout_ms,
            retry=retry_rule(options),
        )  # fmt: skip


def _begin_workflow(desk: Desk, opened: Transaction, options: DtmOptions, place: int) -> None:
    rule = retry_rule(options)
    callback = _branch(
        CALLBACK,
        Mode.SAGA,
        Calls(forward=options.query_prepared, commit="", rollback=""),
        retry=rule,
        due_ms=desk.state.elapsed_ms + rule.interval_ms,
    )
    desk.register(opened, callback, place)
    desk.advance(opened, place)


# --- branches


def _register(desk: Desk, command: RegisterDtmBranch, place: int) -> Outcome:
    found = desk.find(command.xid)
    if found is None or found.row.protocol != DTM or _status(found) != PREPARED:
        return _not_prepared()
    row = found.row
    if row.program != Program.CLIENT:
        return Rejected(
            RejectionCode.INVALID_COMMAND,
            f"a {trans_type_of(row)} takes no branches of tcc or xa.",
        )
    if row.branches >= GREATEST_BRANCHES:
        return _TOO_MANY_BRANCHES
    if any(branch.name == command.branch_id for branch in found.branches):
        return _repeated(command.branch_id)
    branch = _branch(
        command.branch_id,
        Mode(row.mode),
        Calls(commit=command.commit, rollback=command.rollback),
        payload=command.payload,
        retry=retry_rule(options_of(row)),
    )
    branch_id = desk.register(found, branch, place)
    return Applied(BranchRegistered(xid=row.xid, branch_id=branch_id))


def _record_progress(desk: Desk, command: RecordDtmProgress, place: int) -> Outcome:
    found = desk.find(command.xid)
    if found is None or found.row.protocol != DTM or _status(found) != PREPARED:
        return _not_prepared()
    if found.row.program != Program.WORKFLOW:
        return Rejected(
            RejectionCode.INVALID_COMMAND, f"a {trans_type_of(found.row)} keeps no progress."
        )
    known = get_progresses(desk.writes, command.xid)
    if any((each.branch_id, each.op) == (command.branch_id, command.op) for each in known):
        return _repeated(command.branch_id)
    if len(known) >= GREATEST_PROGRESSES:
        return _TOO_MANY_BRANCHES
    state = desk.state
    progress = Progress(command.branch_id, command.op, command.status, command.data, state.wall_ms)
    put_progress(desk.writes, command.xid, len(known), progress)
    found.happen(place, "PROGRESS", detail=f"{command.branch_id} {command.op} {command.status}")
    return Applied(BranchRegistered(xid=command.xid, branch_id=0))


def _repeated(branch_id: str) -> Rejected:
    return Rejected(
        RejectionCode.INVALID_COMMAND, f"branch {branch_id} was registered for the same before."
    )


def _branch(
    name: str,
    mode: Mode,
    calls: Calls,
    *,
    retry: RetryRule,
    payload: bytes = b"",
    depends_on: tuple[int, ...] = (),
    due_ms: int = 0,
    status: BranchStatus = BranchStatus.REGISTERED,
    branch_id: int = 0,
    at_ms: int = 0,
) -> Branch:
    return Branch(
        branch_id=branch_id,
        name=name,
        mode=mode,
        status=status,
        resource_id="",
        application_id="",
        unit_id="",
        session_id=0,
        application_data=b"",
        calls=calls,
        payload=payload,
        depends_on=depends_on,
        timeout_ms=0,
        retry=retry,
        due_ms=due_ms,
        registered_ms=at_ms,
        updated_ms=at_ms,
    )


# --- ending


def _abort(desk: Desk, command: AbortDtm, place: int) -> Outcome:
    found = desk.find(command.xid)
    if found is None:
        return _not_there(desk, command.xid)
    row, status = found.row, _status(found)
    kind = trans_type_of(row)
    if row.protocol == DTM and status == PREPARED and kind == "msg":
        messages.abort(desk, found, command.reason, place)
    elif row.protocol == DTM and status == PREPARED and kind in _MODES:
        desk.decide(found, GlobalInput.ROLL_BACK, command.reason, place)
    elif not (row.protocol == DTM and status == ABORTING and kind in _MODES):
        return Rejected(
            RejectionCode.TRANSACTION_DECIDED,
            f"trans type: '{kind}' current status '{status}', cannot abort.",
        )
    return Applied(answer_of(found.row))


def _stop(desk: Desk, command: StopDtm, place: int) -> Outcome:
    found = desk.find(command.xid)
    if found is None:
        return _not_there(desk, command.xid)
    row, status = found.row, _status(found)
    if row.protocol != DTM or status in (SUCCEED, FAILED):
        return _cannot(status, "be stopped")
    if row.program == Program.MESSAGE and not row.submitted:
        messages.discard(desk.writes, row.xid)
    desk.stop(found, "stopped by force", place)
    return Applied(answer_of(found.row))


# --- haste


def _hasten(desk: Desk, found: Transaction, place: int) -> None:
    for branch in found.branches:
        if branch.status not in BRANCH_ENDED and branch.due_ms:
            found.change_branch(branch, due_ms=0, attempts=0)
    desk.advance(found, place)


def _hasten_all(desk: Desk, command: HastenAllDtm, place: int) -> Outcome:
    limit = max(0, min(command.limit, GREATEST_HASTENED))
    later_ms = desk.state.elapsed_ms + max(0, command.later_than_ms)
    if later_ms >= GREATEST_NUMBER - 1:
        return Applied(DtmHastened(count=0, more=False))
    later = due_globals(desk.writes, (later_ms, ""), GREATEST_NUMBER - 1, limit=_GREATEST_LOOK)
    count = 0
    for _, xid in later:
        found = desk.find(xid)
        if found is None or found.row.protocol != DTM or found.row.due_ms <= later_ms:
            continue
        if count == limit:
            return Applied(DtmHastened(count=count, more=True))
        _hasten(desk, found, place)
        count += 1
    return Applied(DtmHastened(count=count, more=len(later) == _GREATEST_LOOK))


# --- refusals


def _status(found: Transaction) -> str:
    return status_of(found.row.status, submitted=found.row.submitted)


def _cannot(status: str, what: str) -> Rejected:
    return Rejected(RejectionCode.TRANSACTION_DECIDED, f"current status '{status}', cannot {what}.")


def _ended_long_ago(desk: Desk, xid: str, what: str) -> Rejected | None:
    summary = get_summary(desk.writes, xid)
    return None if summary is None else _cannot(status_of(summary.status, submitted=True), what)


def _not_there(desk: Desk, xid: str) -> Rejected:
    return _ended_long_ago(desk, xid, "be changed") or Rejected(
        RejectionCode.TRANSACTION_NOT_FOUND, "no transaction of this gid is known."
    )


def _not_prepared() -> Rejected:
    return Rejected(RejectionCode.TRANSACTION_NOT_ACTIVE, "the transaction is not prepared.")


def _decoded(options: bytes) -> DtmOptions | None:
    try:
        return decode_options(options)
    except ValueError:
        return None


def _options_unusable() -> Rejected:
    return Rejected(RejectionCode.INVALID_COMMAND, "The options cannot be read.")
