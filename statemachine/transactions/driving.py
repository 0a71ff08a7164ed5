"""What the cluster runs by itself, and what becomes of the calls that its driver makes."""

from __future__ import annotations

from typing import Final

import msgspec

from statemachine.commands.channels import RecordBranchAnswer
from statemachine.commands.transactions import ReportCalls, ReportedCall, RunGlobal, Step
from statemachine.outcomes import Applied, CallsReported, Outcome, Rejected, RejectionCode
from statemachine.transactions import cleaning, messages
from statemachine.transactions.decisions import await_end
from statemachine.transactions.desk import Desk
from statemachine.transactions.participation import GREATEST_BRANCHES, not_found
from statemachine.transactions.planning import Call, Operation, Program
from statemachine.transactions.rows import DTM, Branch
from statemachine.transactions.state_language.judging import Judge
from statemachine.transactions.statuses import BranchStatus, Mode
from statemachine.transactions.transaction import Transaction
from statemachine.transactions.transitions import BranchInput, GlobalInput

GREATEST_RESULT_BYTES: Final = 64 << 10
"""Of what a step answers; more is not kept."""

_MODE_OF: Final = {
    Program.SAGA: Mode.SAGA,
    Program.TCC: Mode.TCC,
    Program.MESSAGE: Mode.MESSAGE,
}

_RETRIED: Final = {
    (Operation.COMMIT, "RETRY"): BranchInput.COMMIT_RETRY,
    (Operation.COMMIT, "ONGOING"): BranchInput.COMMIT_RETRY,
    (Operation.COMMIT, "NOTA"): BranchInput.COMMIT_NOTA,
    (Operation.ROLLBACK, "RETRY"): BranchInput.ROLLBACK_RETRY,
    (Operation.ROLLBACK, "ONGOING"): BranchInput.ROLLBACK_RETRY,
    (Operation.ROLLBACK, "NOTA"): BranchInput.ROLLBACK_NOTA,
}

_REFUSED: Final = {
    Operation.COMMIT: BranchInput.COMMIT_REFUSED,
    Operation.ROLLBACK: BranchInput.ROLLBACK_REFUSED,
}

_EPOCH_OLD: Final = Rejected(
    RejectionCode.EPOCH_STALE,
    "Another node has led since these calls were made; it makes them again.",
)
_STEPS_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"A transaction has 1 to {GREATEST_BRANCHES} steps, each standing only on earlier ones.",
)
_PROGRAM_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND, f"program is none of {', '.join(sorted(_MODE_OF))}."
)


def run(desk: Desk, command: RunGlobal, place: int) -> Outcome:
    """Begin a transaction of known steps, and do at once what needs no call."""
    steps = command.steps
    if not 0 < len(steps) <= GREATEST_BRANCHES or any(
        not 0 <= at < number for number, step in enumerate(steps) for at in step.depends_on
    ):
        return _STEPS_UNUSABLE
    if command.program not in _MODE_OF:
        return _PROGRAM_UNUSABLE
    program = Program(command.program)
    opened = desk.open(command.xid, command.prefix, command.name, program, place, submitted=True)
    if isinstance(opened, Rejected):
        return opened
    opened.change(
        in_order=command.in_order,
        compensates_failed=command.compensate_failed,
        recovers_forward=command.forward_recovery,
    )
    if command.timeout_ms > 0:
        opened.arm_deadline(command.timeout_ms)
    ids: list[int] = []
    for step in steps:
        ids.append(desk.register(opened, _branch_of(step, _MODE_OF[program], ids), place))
    desk.advance(opened, place)
    return await_end(desk, opened, command.wait_ms, place)


def _branch_of(step: Step, mode: Mode, ids: list[int]) -> Branch:
    return Branch(
        branch_id=0,
        name=step.name,
        mode=mode,
        status=BranchStatus.REGISTERED,
        resource_id="",
        application_id="",
        unit_id="",
        session_id=0,
        application_data=b"",
        calls=step.calls,
        payload=step.payload,
        depends_on=tuple(ids[at] for at in step.depends_on),
        timeout_ms=step.timeout_ms,
        retry=step.retry,
    )


def take_results(desk: Desk, command: ReportCalls, place: int) -> Outcome:
    """Take note of what calls came to. One that is not to be made now is late or repeated."""
    if command.epoch != desk.state.applied_term:
        return _EPOCH_OLD
    taken = 0
    for reported in command.calls:
        transaction = desk.find(reported.xid)
        if transaction is None:
            continue
        call = transaction.plan.call(reported.branch_id, reported.operation)
        if call is None or _is_counted(call.branch, reported):
            continue
        _take(desk, transaction, call, reported, place)
        desk.advance(transaction, place)
        taken += 1
    return Applied(CallsReported(taken=taken))


def _is_counted(branch: Branch, reported: ReportedCall) -> bool:
    """Tell whether a call that did not succeed was reported before."""
    definite = reported.verdict in ("DONE", "FAILED")
    return not definite and reported.attempts not in (-1, branch.attempts)


def take_answer(desk: Desk, command: RecordBranchAnswer, place: int) -> Outcome:
    """Take note of what a branch's resource manager answered when recovery asked it."""
    if command.epoch != desk.state.applied_term:
        return _EPOCH_OLD
    transaction = desk.find(command.xid)
    if transaction is None:
        return not_found(desk, command.xid)
    return cleaning.record_answer(transaction, command, place)


def _take(
    desk: Desk, transaction: Transaction, call: Call, reported: ReportedCall, place: int
) -> None:
    if call.operation is Operation.QUERY:
        _answered(desk, transaction, call, reported, place)
    elif call.operation is Operation.FORWARD and transaction.row.program == Program.STATE_MACHINE:
        _state_answered(desk, transaction, call, reported, place)
    elif reported.verdict == "DONE":
        _done(desk, transaction, call, reported, place)
    elif call.operation is Operation.FORWARD:
        _forward_failed(desk, transaction, call, reported, place)
    elif reported.verdict == "FAILED":
        failure = transaction.failure(reported.failure_type, reported.failure_message)
        branch = transaction.advance_branch(
            call.branch, _REFUSED[call.operation], place, detail=failure.message, failure=failure
        )
        desk.record_failure(transaction, branch, place)
    elif (happens := _RETRIED.get((call.operation, reported.verdict))) is not None:
        branch = transaction.advance_branch(call.branch, happens, place)
        _call_again(desk, transaction, branch, reported)
        transaction.advance(GlobalInput.RETRY, place)


def _done(
    desk: Desk, transaction: Transaction, call: Call, reported: ReportedCall, place: int
) -> None:
    """It is done, whatever its answer: a result that cannot be kept is left out, and said to be."""
    kind, message, result = reported.failure_type, reported.failure_message, reported.result
    if len(result) > GREATEST_RESULT_BYTES:
        kind, message, result = "RESULT_TOO_LARGE", f"it has {len(result)} bytes", b""
    failure = transaction.failure(kind, message) if kind else None
    desk.done(transaction, call.branch, call.operation, place, result, failure)


def _answered(
    desk: Desk, transaction: Transaction, call: Call, reported: ReportedCall, place: int
) -> None:
    """Who prepared a message was asked: it is submitted, given up, or asked for again.

    A workflow's client decides by itself, and is called until it has.
    """
    is_message = transaction.row.program == Program.MESSAGE
    match reported.verdict:
        case "DONE" if is_message:
            messages.submit(desk, transaction, place)
        case "FAILED" if is_message:
            reason = f"its sender gave it up: {reported.failure_message}"
            messages.abort(desk, transaction, reason, place)
        case "ONGOING" if transaction.row.protocol == DTM:
            # The interval begins anew, as DTM's clients expect.
            asked = transaction.change_branch(call.branch, attempts=0)
            _call_again(desk, transaction, asked, reported)
        case _:
            _call_again(desk, transaction, call.branch, reported)


def _forward_failed(
    desk: Desk, transaction: Transaction, call: Call, reported: ReportedCall, place: int
) -> None:
    """A step refused, or nobody knows: roll back when it is to be given up, else call again."""
    row, branch = transaction.row, call.branch
    definite = reported.verdict == "FAILED"
    exhausted = reported.verdict == "RETRY" and 0 <= branch.retry.limit <= branch.attempts
    if row.program == Program.MESSAGE or row.recovers_forward or not (definite or exhausted):
        _call_again(desk, transaction, branch, reported)
        return
    failure = transaction.failure(reported.failure_type, reported.failure_message)
    if definite:
        branch = transaction.advance_branch(
            branch, BranchInput.FAILED, place, detail=failure.message, failure=failure
        )
    else:
        branch = transaction.change_branch(branch, failure=failure)
    desk.record_failure(transaction, branch, place)
    step = branch.name or str(branch.branch_id)
    desk.decide(transaction, GlobalInput.ROLL_BACK, f"step {step} failed: {failure.message}", place)


def _state_answered(
    desk: Desk, transaction: Transaction, call: Call, reported: ReportedCall, place: int
) -> None:
    """A state of a definition was called: what follows is what its rules make of the answer."""
    branch = call.branch
    judge = Judge(desk.writes, transaction.row.xid, branch)
    match reported.verdict:
        case "DONE":
            judgement = judge.done(reported.result)
        case "FAILED" | "RETRY":
            judgement = judge.failed(
                reported.failure_type[:100],
                reported.failure_message,
                refused=reported.verdict == "FAILED",
            )
        case _:
            _call_again(desk, transaction, branch, reported)
            return
    if judgement.status == "SU":
        if reported.verdict != "DONE":
            reported = msgspec.structs.replace(reported, failure_type="", failure_message="")
        _done(desk, transaction, call, reported, place)
        return
    failure = transaction.failure(judgement.failure_type, judgement.failure_message)
    repetition_ms = judge.repetition_ms(judgement)
    if repetition_ms is not None:
        transaction.change_branch(
            branch,
            attempts=branch.attempts + 1,
            due_ms=desk.state.elapsed_ms + repetition_ms,
            failure=failure,
        )
        return
    if transaction.row.recovers_forward and not judge.is_caught(judgement):
        _call_again(desk, transaction, branch, reported)
        return
    judge.give_up(judgement)
    branch = transaction.advance_branch(
        branch, BranchInput.FAILED, place, detail=failure.message, failure=failure,
        outcome_unknown=not judgement.definite,
    )  # fmt: skip
    desk.record_failure(transaction, branch, place)


def _call_again(
    desk: Desk, transaction: Transaction, branch: Branch, reported: ReportedCall
) -> None:
    """Name the time of the next call: the interval doubles, but not while work goes on."""
    ongoing = reported.verdict == "ONGOING"
    attempts = branch.attempts if ongoing else branch.attempts + 1
    rule = branch.retry
    interval_ms = min(rule.interval_ms << min(branch.attempts, 20), rule.greatest_interval_ms)
    left_out_ms = interval_ms * max(0, min(reported.jitter_permille, 1_000)) // 1_000
    transaction.change_branch(
        branch,
        attempts=attempts,
        due_ms=desk.state.elapsed_ms + interval_ms - left_out_ms,
        failure=None
        if ongoing
        else transaction.failure(reported.failure_type, reported.failure_message),
    )
