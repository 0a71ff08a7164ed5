"""Telling the cluster how a transaction ends, until it has said what came of it.

Deciding again what was decided changes nothing and is answered with how it was decided, so a
request that may have got lost is simply sent again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Final

from tidelock.client import Client
from tidelock.client.answers import TransactionState
from tidelock.errors import (
    BranchUnfinishedError,
    ConflictError,
    NodeFailureError,
    OutcomeUnknownError,
    OverloadedError,
    ProblemError,
    TransactionNotFoundError,
    UnavailableError,
    UnreachableError,
)
from tidelock.transaction.errors import TransactionOutcomeUnknownError

_CALL_MS: Final = 5_000
"""How long one call may take, its wait left out."""
_LEAST_PAUSE_S: Final = 0.05
_GREATEST_PAUSE_S: Final = 1.0

_AGAIN: Final = (
    OutcomeUnknownError,
    UnreachableError,
    UnavailableError,
    OverloadedError,
    NodeFailureError,
)
"""What says nothing of the transaction."""


class Standing:
    """How a transaction is decided, as far as the cluster has said."""

    def __init__(self, status: str, reason: str, problem: ProblemError | None = None) -> None:
        self.status = status
        self.reason = reason
        self.problem = problem
        """The refusal by which it was said, or by which it came to that."""


async def end(
    client: Client,
    xid: str,
    *,
    commit: bool,
    budget_ms: int,
    wait_ms: int,
    reason: str = "",
    branches_done: Sequence[int] = (),
) -> Standing:
    """Have a transaction committed or rolled back, and return where it stands then.

    It is tried for `budget_ms`, and at least once. Branches that follow the decision are waited for
    up to `wait_ms`; the status says whether they all have. `branches_done` are reported with it.

    Raises:
        TransactionOutcomeUnknownError: nobody said anything in time.
        BranchUnfinishedError: of a commit: nothing is decided, and there is no time left.
    """
    transactions = client.transactions
    decide = transactions.commit if commit else transactions.rollback
    ends_at = time.monotonic() + budget_ms / 1000
    pause_s = _LEAST_PAUSE_S
    unfinished: BranchUnfinishedError | None = None
    while True:
        left_ms = max(0, int((ends_at - time.monotonic()) * 1000))
        try:
            state: TransactionState = await decide(
                xid,
                wait_ms=min(wait_ms, left_ms),
                reason=reason or None,
                branches_done=branches_done,
                timeout_ms=max(1, min(_CALL_MS, left_ms)),
            )
        except BranchUnfinishedError as error:
            unfinished = error
            if left_ms <= wait_ms:
                raise
        except (ConflictError, TransactionNotFoundError) as error:
            return _decided_before(xid, error)
        except _AGAIN as error:
            last: Exception = error
            if time.monotonic() + pause_s >= ends_at:
                raise _unknown(xid, commit=commit, last=last) from last
        else:
            return Standing(state.status, state.reason, unfinished)
        await asyncio.sleep(random.uniform(pause_s / 2, pause_s))  # noqa: S311 - no secret
        pause_s = min(2 * pause_s, _GREATEST_PAUSE_S)


def _decided_before(xid: str, error: ProblemError) -> Standing:
    """Return how it was decided. Raises: TransactionOutcomeUnknownError: nobody knows any more."""
    if error.transaction is None:
        raise TransactionOutcomeUnknownError(
            f"what became of transaction {xid} is not known any more: {error.detail}", xid
        ) from error
    return Standing(error.transaction.status, error.transaction.reason, error)


def _unknown(xid: str, *, commit: bool, last: Exception) -> TransactionOutcomeUnknownError:
    verb = "commit" if commit else "roll back"
    otherwise = "; unless it did, it is rolled back at its timeout" if commit else ""
    return TransactionOutcomeUnknownError(
        f"nobody confirmed the request to {verb} transaction {xid} in time{otherwise}: {last}", xid
    )
