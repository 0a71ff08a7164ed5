"""The client's words for statuses and modes are those of the cluster."""

from __future__ import annotations

from decimal import Decimal
from typing import get_args

import pytest

from api import branches as api_branches
from api import row_keys as api_row_keys
from api import sagas as api_sagas
from api import transactions as api_transactions
from statemachine.transactions import fence, planning, recovery, statuses
from tidelock.client import branches, messages, runs, transactions
from tidelock.client.answers import (
    AnyMode,
    BranchMode,
    BranchStatus,
    DeliveryStatus,
    FenceVerdict,
    Program,
    RecoveryDecision,
    RowLockMode,
    StateStatus,
    TransactionMode,
    TransactionState,
    TransactionStatus,
)
from tidelock.client.answers import statuses as words
from tidelock.client.row_keys import RowsToLock, rows_of
from tidelock.client.transport import encode


@pytest.mark.parametrize(
    ("known", "served"),
    [
        (TransactionStatus, statuses.GlobalStatus),
        (BranchStatus, statuses.BranchStatus),
        (AnyMode, statuses.Mode),
        (BranchMode, api_branches.BranchMode),
        (TransactionMode, ["", *statuses.Mode]),
        (Program, planning.Program),
        (DeliveryStatus, ["PREPARED", *statuses.BranchStatus]),
        (FenceVerdict, fence.Verdict),
        (RowLockMode, api_row_keys.LockMode),
        (StateStatus, api_sagas.StateStatus),
        (RecoveryDecision, recovery.Decision),
        (transactions.Action, api_transactions.Action),
        (branches.ReportStatus, api_branches.ReportStatus),
        (branches.FenceStep, fence.Step),
        (branches.FencePhase, fence.Phase),
        (runs.SagaRecovery, api_sagas.Recovery),
    ],
)
def test_the_words_are_those_of_the_cluster(known: object, served: list[str]) -> None:
    assert {*get_args(known)} == {*map(str, served)}


def test_what_the_statuses_mean_is_what_they_mean_to_the_cluster() -> None:
    assert statuses.COMMIT_FAMILY == words.COMMIT_FAMILY
    assert statuses.ENDED == words.ENDED
    assert statuses.FAILED == words.FAILED
    for status in get_args(TransactionStatus):
        state = TransactionState(xid="x", status=status, reason="")
        assert state.timed_out == status.startswith("TIMEOUT_")
        assert state.is_to_commit == (status in statuses.COMMIT_FAMILY)
        assert state.has_ended == (status in statuses.ENDED)
        assert state.has_failed == (status in statuses.FAILED)


def test_rows_are_sent_by_the_parts_of_their_keys() -> None:
    locks = [RowsToLock({"u": [(None, True)]}, "SHARED")]
    body = rows_of({"t": [[1, "1"]]}, "EXCLUSIVE", locks)
    assert encode(body) == (
        b'{"lockKeys":{"t":[[1,"1"]]},"lockMode":"EXCLUSIVE",'
        b'"locks":[{"lockKeys":{"u":[[null,true]]},"lockMode":"SHARED"}]}'
    )
    assert encode(rows_of(None, None, ())) == b"{}"


@pytest.mark.parametrize("part", [1.0, float("nan"), Decimal(1), b"1", (1,)])
def test_a_key_that_two_clients_might_spell_differently_is_refused(part: object) -> None:
    keys = {"t": [[1, part]]}
    with pytest.raises(TypeError, match="key of t"):
        rows_of(keys, None, ())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="key of t"):
        rows_of(None, None, [RowsToLock(keys)])  # type: ignore[arg-type]


def test_a_row_is_no_text() -> None:
    with pytest.raises(TypeError, match=r"\['abc'\]"):
        rows_of({"t": ["abc"]}, None, ())


def test_what_is_no_number_is_refused_in_a_part_of_a_body_too() -> None:
    with pytest.raises(ValueError, match="nan"):
        encode({"steps": [messages.MessageStep(topic="t", payload={"n": [float("nan")]})]})
