"""Errors of the client: which one a problem is, and that they survive the way between processes."""

from __future__ import annotations

import pickle

import msgspec
import pytest

from api.errors import HolderBody, ProblemBody
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


def test_every_member_of_a_problem_can_be_read() -> None:
    for served, known in ((ProblemBody, Problem), (HolderBody, errors.Holder)):
        left_out = {*served.__struct_encode_fields__} - {*known.__struct_encode_fields__}
        # The URN says no more than the code.
        assert left_out - {"type"} == set(), known


def test_who_holds_a_row_is_told_like_who_holds_a_lock() -> None:
    body = HolderBody(xid="h:1:2", branch_id=3, table="t", key=(1, "a"), since=5)
    answered = ProblemBody(
        type="t", title="t", status=409, detail="d", code="LOCK_CONFLICT", holder=body
    )
    conflict = of_problem(msgspec.json.decode(msgspec.json.encode(answered), type=Problem))
    assert type(conflict) is errors.ConflictError
    assert conflict.holder is not None
    assert (conflict.holder.xid, conflict.holder.key) == ("h:1:2", (1, "a"))


def test_errors_survive_the_way_between_processes() -> None:
    unknown = pickle.loads(pickle.dumps(OutcomeUnknownError("lost", "key")))
    assert (str(unknown), unknown.idempotency_key) == ("lost", "key")
    holder = errors.Holder(owner="a", mode="SHARED", fencing_token=1, expires_at=2)
    held = of_problem(Problem(status=409, code="LOCK_HELD", detail="By a.", holder=holder))
    again = pickle.loads(pickle.dumps(held))
    assert type(again) is errors.LockHeldError
    assert again.holder == holder
    assert str(again) == str(held)
