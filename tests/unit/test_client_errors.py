"""Errors of the client: which one a problem is, and that they survive the way between processes."""

from __future__ import annotations

import pickle

import msgspec
import pytest

from api.errors import KINDS, HolderBody, ProblemBody, StandingBody
from tidelock import errors
from tidelock.errors import OutcomeUnknownError, Problem, ProblemError, of_problem


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "MALFORMED_JSON", errors.InvalidRequestError),
        (401, "WHATEVER", errors.AccessDeniedError),
        (403, "WHATEVER", errors.AccessDeniedError),
        (404, "EVENT_NOT_FOUND", errors.NotFoundError),
        (409, "LOCK_HELD", errors.LockHeldError),
        (409, "FENCING_TOKEN_STALE", errors.FencingTokenStaleError),
        (409, "REJECTED", errors.ProposalRejectedError),
        (409, "REQUEST_ABANDONED", errors.ConflictError),
        (404, "TRANSACTION_NOT_FOUND", errors.TransactionNotFoundError),
        (404, "BRANCH_NOT_FOUND", errors.BranchNotFoundError),
        (404, "SAGA_DEFINITION_NOT_FOUND", errors.SagaDefinitionNotFoundError),
        (409, "LOCK_CONFLICT", errors.LockConflictError),
        (409, "DEADLOCK", errors.DeadlockError),
        (409, "TRANSACTION_EXISTS", errors.TransactionExistsError),
        (409, "TRANSACTION_NOT_ACTIVE", errors.TransactionNotActiveError),
        (409, "TRANSACTION_DECIDED", errors.TransactionDecidedError),
        (409, "BRANCH_FAILED", errors.BranchFailedError),
        (409, "BRANCH_UNFINISHED", errors.BranchUnfinishedError),
        (409, "BRANCH_NOT_TRIED", errors.BranchNotTriedError),
        (409, "BRANCH_STATUS_FIXED", errors.BranchStatusFixedError),
        (409, "CHANNEL_SESSION_ENDED", errors.ChannelSessionEndedError),
        (409, "OPERATION_NOT_POSSIBLE", errors.OperationNotPossibleError),
        (429, "TOO_MANY_TRANSACTIONS", errors.OverloadedError),
        (410, "COMPACTED", errors.CompactedError),
        (410, "ANSWER_NOT_KEPT", errors.AnswerNotKeptError),
        (422, "INVALID_FIELD", errors.InvalidRequestError),
        (422, "CLOCK_SKEW_TOO_LARGE", errors.ClockSkewTooLargeError),
        (422, "IDEMPOTENCY_KEY_REUSED", errors.IdempotencyKeyReusedError),
        (429, "OVERLOADED", errors.OverloadedError),
        (500, "INTERNAL_ERROR", errors.NodeFailureError),
        (503, "NO_QUORUM", errors.NoQuorumError),
        (503, "NOT_READY", errors.UnavailableError),
        (507, "STORAGE_FULL", errors.NodeFailureError),
        (404, "NOT_A_NODE", errors.NodeFailureError),
    ],
)
def test_a_problem_is_the_error_of_its_code_or_of_its_status(
    status: int, code: str, kind: type[ProblemError]
) -> None:
    assert type(of_problem(Problem(status=status, code=code))) is kind


def test_every_error_of_a_code_is_of_the_kind_of_its_status() -> None:
    for code, kind in errors._BY_CODE.items():
        if code in KINDS and KINDS[code].status in (404, 409, 422, 503):
            general = type(of_problem(Problem(status=KINDS[code].status, code="WHATEVER")))
            assert issubclass(kind, general), code


def test_every_member_of_a_problem_can_be_read() -> None:
    for served, known in (
        (ProblemBody, Problem),
        (HolderBody, errors.Holder),
        (StandingBody, errors.Standing),
    ):
        left_out = {*served.__struct_encode_fields__} - {*known.__struct_encode_fields__}
        # The URN says no more than the code.
        assert left_out - {"type"} == set(), known


def test_who_holds_a_row_is_told_like_who_holds_a_lock() -> None:
    body = HolderBody(xid="h:1:2", branch_id=3, table="t", key=(1, "a"), since=5)
    answered = ProblemBody(
        type="t", title="t", status=409, detail="d", code="LOCK_CONFLICT", holder=body
    )
    conflict = of_problem(msgspec.json.decode(msgspec.json.encode(answered), type=Problem))
    assert type(conflict) is errors.LockConflictError
    assert conflict.holder is not None
    assert (conflict.holder.xid, conflict.holder.key) == ("h:1:2", (1, "a"))
    assert not conflict.retryable


def test_a_transaction_that_is_not_found_says_whether_it_ever_was() -> None:
    unknown = of_problem(Problem(status=404, code="TRANSACTION_NOT_FOUND"))
    assert isinstance(unknown, errors.TransactionNotFoundError)
    assert (unknown.never_seen, unknown.timed_out) == (True, False)
    standing = errors.Standing(xid="x", status="TIMEOUT_ROLLED_BACK", ended_at=5)
    ended = of_problem(Problem(status=404, code="TRANSACTION_NOT_FOUND", transaction=standing))
    assert isinstance(ended, errors.TransactionNotFoundError)
    assert (ended.never_seen, ended.timed_out) == (False, True)
    assert ended.transaction is not None
    assert ended.transaction.ended_at == 5


def test_errors_survive_the_way_between_processes() -> None:
    unknown = pickle.loads(pickle.dumps(OutcomeUnknownError("lost", "key")))
    assert (str(unknown), unknown.idempotency_key) == ("lost", "key")
    holder = errors.Holder(owner="a", mode="SHARED", fencing_token=1, expires_at=2)
    held = of_problem(Problem(status=409, code="LOCK_HELD", detail="By a.", holder=holder))
    again = pickle.loads(pickle.dumps(held))
    assert type(again) is errors.LockHeldError
    assert again.holder == holder
    assert str(again) == str(held)
