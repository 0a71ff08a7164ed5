"""Every way in which something can fail has a status, a title and advice."""

from __future__ import annotations

from http import HTTPStatus

import msgspec
import pytest

from api.cluster import MembershipError
from api.errors import KINDS, Problem, of_exception, of_invalid_json
from api.routing import RejoinRefusedError
from statemachine.outcomes import RejectionCode

STATUSES = {400, 404, 405, 408, 409, 410, 413, 415, 417, 422, 426, 429, 431, 500, 503, 507}


@pytest.mark.parametrize("code", RejectionCode)
def test_every_rejection_is_a_problem(code: RejectionCode) -> None:
    assert KINDS[code.value].title


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("REQUEST_EXPIRED", 503),
        ("IDEMPOTENCY_KEY_REUSED", 422),
        ("IDEMPOTENCY_TABLE_FULL", 429),
        ("SESSION_WINDOW_EXCEEDED", 429),
        ("CLOCK_OVERFLOW", 409),
        ("VECTOR_TOO_LARGE", 409),
        ("TOO_MANY_SIBLINGS", 409),
        ("ANSWER_TOO_LARGE", 413),
        ("VERSION_NOT_ACTIVE", 409),
        ("PARTICIPANT_NOT_FOUND", 404),
        ("STORAGE_FULL", 507),
        ("NO_QUORUM", 503),
        ("OUTCOME_UNKNOWN", 503),
    ],
)
def test_a_code_has_one_status(code: str, status: int) -> None:
    assert KINDS[code].status == status


@pytest.mark.parametrize("code", KINDS)
def test_only_what_may_pass_by_itself_is_retryable(code: str) -> None:
    kind = KINDS[code]
    assert kind.status in STATUSES
    assert kind.retryable == (kind.status in (408, 429, 503))
    assert ("Retry-After" in Problem(code, "").headers()) == (kind.status in (429, 503))


@pytest.mark.parametrize("code", KINDS)
def test_a_problem_names_its_type_status_and_code(code: str) -> None:
    body = msgspec.to_builtins(Problem(code, "Something.").body())
    assert body == {
        "type": "urn:problem-type:tidelock:" + code.lower().replace("_", "-"),
        "title": KINDS[code].title,
        "status": KINDS[code].status,
        "detail": "Something.",
        "code": code,
        "retryable": KINDS[code].retryable,
    }
    assert HTTPStatus(body["status"])


def test_an_exception_that_nobody_expects_is_no_problem() -> None:
    assert of_exception(ValueError("whatever")) is None


@pytest.mark.parametrize("raised", [MembershipError, RejoinRefusedError])
def test_a_refusal_keeps_the_code_it_was_raised_with(
    raised: type[MembershipError] | type[RejoinRefusedError],
) -> None:
    unlisted = of_exception(raised("TOO_EARLY", "Wait for it."))
    assert unlisted is not None
    assert (unlisted.status, unlisted.code, unlisted.detail) == (409, "TOO_EARLY", "Wait for it.")
    listed = of_exception(raised("NOT_A_MEMBER", "n9 is not a member."))
    assert listed is not None
    assert listed.status == 404


@pytest.mark.parametrize(
    ("said", "path", "message"),
    [
        ("Expected `int`, got `str` - at `$.timestamp`", "timestamp", "Expected `int`, got `str`"),
        ("Object missing required field `nodeId`", "nodeId", "is required"),
        (
            "Object missing required field `op` - at `$.operations[7]`",
            "operations[7].op",
            "is required",
        ),
        ("Object contains unknown field `x`", "x", "is not a field of this request"),
        (
            "Object contains unknown field `it`s - at `$.y` - at `$.operations[0]`",
            "operations[0].it`s - at `$.y",
            "is not a field of this request",
        ),
        ("Expected `object`, got `array`", "", "Expected `object`, got `array`"),
    ],
)
def test_the_decoder_s_words_become_a_path_and_a_message(
    said: str, path: str, message: str
) -> None:
    (error,) = of_invalid_json(msgspec.ValidationError(said)).errors
    assert (error.path, error.message) == (path, message)
