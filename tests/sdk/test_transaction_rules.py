"""What exceptions and statuses mean to a transaction."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from tidelock.client.answers.statuses import COMMIT_FAMILY, TIMEOUT_FAMILY
from tidelock.errors import (
    BranchUnfinishedError,
    OutcomeUnknownError,
    Problem,
    TidelockError,
    TransactionNotFoundError,
)
from tidelock.transaction import errors
from tidelock.transaction.ending import Standing, end
from tidelock.transaction.rollback_rules import RollbackRules
from tidelock.transaction.verdicts import after_commit, after_rollback, is_committed


class LateError(LookupError):
    """More specific than its base."""


@pytest.mark.parametrize(
    ("rollback_for", "no_rollback_for", "error", "rolls_back"),
    [
        ((), (), LookupError(), True),
        ((), LookupError, LookupError(), False),
        ((), LookupError, LateError(), False),
        (LateError, LookupError, LateError(), True),
        (LookupError, LateError, LateError(), False),
        (LookupError, LateError, KeyError(), True),
        ((), Exception, KeyError(), False),
        (KeyError, Exception, KeyError(), True),
        ((), Exception, asyncio.CancelledError(), True),
        ((), Exception, KeyboardInterrupt(), True),
        ((), KeyError, ExceptionGroup("", [KeyError(), KeyError()]), False),
        ((), KeyError, ExceptionGroup("", [KeyError(), ValueError()]), True),
        (KeyError, Exception, ExceptionGroup("", [ValueError(), KeyError()]), True),
        ((), Exception, ExceptionGroup("", [ValueError()]), False),
        ((), ExceptionGroup, ExceptionGroup("", [ValueError()]), False),
    ],
)
def test_the_most_specific_rule_wins(
    rollback_for: Any, no_rollback_for: Any, error: BaseException, rolls_back: bool
) -> None:
    assert RollbackRules(rollback_for, no_rollback_for).roll_back(error) is rolls_back


def test_rules_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="KeyError: named in"):
        RollbackRules([KeyError, ValueError], [KeyError])
    wrong: Any = [KeyboardInterrupt]
    with pytest.raises(TypeError, match=r"rollback_for: .* no class of exceptions"):
        RollbackRules(wrong)
    with pytest.raises(TypeError, match="no_rollback_for"):
        RollbackRules((), [wrong[0]()])


STATUSES: dict[str, tuple[type[TidelockError] | None, type[TidelockError] | None]] = {
    "COMMITTING": (None, errors.RollbackFailedError),
    "COMMIT_RETRYING": (None, errors.RollbackFailedError),
    "ASYNC_COMMITTING": (None, errors.RollbackFailedError),
    "COMMITTED": (None, errors.RollbackFailedError),
    "COMMIT_FAILED": (errors.CommitFailedError, errors.RollbackFailedError),
    "COMMIT_RETRY_TIMEOUT": (errors.CommitFailedError, errors.RollbackFailedError),
    "ROLLING_BACK": (errors.TransactionRolledBackError, None),
    "ROLLBACK_RETRYING": (errors.TransactionRolledBackError, None),
    "ROLLED_BACK": (errors.TransactionRolledBackError, None),
    "ROLLBACK_FAILED": (errors.RollbackFailedError, errors.RollbackFailedError),
    "ROLLBACK_RETRY_TIMEOUT": (errors.RollbackFailedError, errors.RollbackFailedError),
    "TIMEOUT_ROLLING_BACK": (errors.TransactionTimedOutError, None),
    "TIMEOUT_ROLLBACK_RETRYING": (errors.TransactionTimedOutError, None),
    "TIMEOUT_ROLLED_BACK": (errors.TransactionTimedOutError, None),
    "TIMEOUT_ROLLBACK_FAILED": (errors.RollbackFailedError, errors.RollbackFailedError),
    "FINISHED": (errors.CommitFailedError, None),
}
"""By status: what is raised to who asked for a commit, and for a rollback."""


@pytest.mark.parametrize("status", STATUSES)
def test_a_commit_is_never_reported_as_a_rollback_nor_the_other_way_round(status: str) -> None:
    for judge, expected in zip((after_commit, after_rollback), STATUSES[status], strict=True):
        if expected is None:
            judge("h:1:1", Standing(status, "somebody did"))
            continue
        with pytest.raises(errors.TransactionError, match=status) as caught:
            judge("h:1:1", Standing(status, "somebody did"))
        assert type(caught.value) is expected
        assert (caught.value.xid, caught.value.status) == ("h:1:1", status)


def test_every_status_is_judged() -> None:
    assert set(STATUSES) >= COMMIT_FAMILY | TIMEOUT_FAMILY
    for status in STATUSES:
        committed = is_committed(status)
        assert committed is (None if status == "FINISHED" else status in COMMIT_FAMILY)


class Deciding:
    """A client whose cluster answers as the test wants."""

    def __init__(self, *answers: Exception | str) -> None:
        self.transactions = self
        self._answers = list(answers)
        self.asked: list[dict[str, object]] = []

    async def commit(self, xid: str, **options: object) -> Any:
        self.asked.append(options)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return Standing(answer, "")

    rollback = commit


def problem(kind: type[Any], **more: Any) -> Any:
    return kind(Problem(status=409, code="X", detail="why", **more))


async def test_an_unknown_outcome_is_asked_for_until_it_is_known() -> None:
    client: Any = Deciding(OutcomeUnknownError("lost"), OutcomeUnknownError("lost"), "COMMITTED")
    standing = await end(client, "x", commit=True, budget_ms=5_000, wait_ms=70)
    assert standing.status == "COMMITTED"
    assert [options["wait_ms"] for options in client.asked] == [70, 70, 70]


async def test_an_outcome_that_stays_unknown_names_the_transaction() -> None:
    client: Any = Deciding(OutcomeUnknownError("lost"))
    with pytest.raises(errors.TransactionOutcomeUnknownError, match="x in time") as caught:
        await end(client, "x", commit=True, budget_ms=120, wait_ms=0)
    assert caught.value.xid == "x"
    assert isinstance(caught.value.__cause__, OutcomeUnknownError)


async def test_a_branch_that_may_still_report_is_waited_for_until_the_time_is_over() -> None:
    client: Any = Deciding(problem(BranchUnfinishedError), "COMMITTED")
    assert (await end(client, "x", commit=True, budget_ms=5_000, wait_ms=0)).status == "COMMITTED"
    client = Deciding(problem(BranchUnfinishedError))
    with pytest.raises(BranchUnfinishedError):
        await end(client, "x", commit=True, budget_ms=100, wait_ms=0)


async def test_what_was_forgotten_is_unknown() -> None:
    client: Any = Deciding(problem(TransactionNotFoundError))
    with pytest.raises(errors.TransactionOutcomeUnknownError, match="not known any more"):
        await end(client, "x", commit=True, budget_ms=5_000, wait_ms=0)


@pytest.mark.parametrize(
    "error",
    [
        errors.TransactionTimedOutError("m", "h:1:1", "TIMEOUT_ROLLED_BACK"),
        errors.RollbackOnlyError("m", "h:1:1"),
        errors.TransactionOutcomeUnknownError("m", "h:1:1"),
    ],
)
def test_errors_survive_the_way_to_another_process(error: Any) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.xid) == (type(error), "m", "h:1:1")
    assert getattr(again, "status", "") == getattr(error, "status", "")


def test_the_errors_are_drawn_in_their_module() -> None:
    assert errors.__doc__
    for name, error in vars(errors).items():
        if isinstance(error, type) and issubclass(error, TidelockError):
            assert f" {name}" in errors.__doc__ or name == "TidelockError", name
