"""Global transactions, call by call: begun by an application, decided once, carried out for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, Literal, Protocol, Unpack

from tidelock.client.answers import (
    BegunTransaction,
    BranchMode,
    Page,
    Transaction,
    TransactionException,
    TransactionState,
    TransactionStatus,
    TransactionSummary,
)
from tidelock.client.resource import Listing, Reading, Resource, Writing, part

Action = Literal[
    "RETRY_NOW", "STOP_RETRY", "START_RETRY", "FORCE_COMMIT", "FORCE_ROLLBACK", "FORGET"
]
"""What an operator can do about a transaction that does not end by itself."""

_PATH: Final = "/api/v1/transactions"


class AboutTransaction(Protocol):
    """An answer that names its transaction."""

    @property
    def xid(self) -> str:
        """Its name."""


class Transactions(Resource):
    """Transactions. `Client.branches` lets work take part in them; `transaction.changed` of a watch
    tells how they go on.
    """

    async def begin(
        self,
        name: str | None = None,
        *,
        transaction_timeout_ms: int | None = None,
        xid: str | None = None,
        mode: BranchMode | None = None,
        **options: Unpack[Writing],
    ) -> BegunTransaction:
        """Begin a transaction, which is rolled back when nobody decides it in time.

        `transaction_timeout_ms` is a minute unless given, and counts the time in which the cluster
        had a leader. An `xid` is made unless given: up to 64 of `A-Za-z0-9._:-`.

        Raises: TransactionExistsError
        """
        body = {"name": name, "timeoutMs": transaction_timeout_ms, "xid": xid, "mode": mode}

        def is_mine(begun: BegunTransaction) -> bool:
            return xid in (None, begun.xid)

        return await self._post(_PATH, body, BegunTransaction, is_mine, **options)

    async def get(self, xid: str, **options: Unpack[Reading]) -> Transaction:
        """Return everything about a transaction. Raises `TransactionNotFoundError`."""
        return await self._get(path_of(xid), Transaction, **options)

    def list(
        self,
        *,
        status: TransactionStatus | None = None,
        mode: BranchMode | None = None,
        resource_id: str | None = None,
        name: str | None = None,
        since: int | None = None,
        **options: Unpack[Listing],
    ) -> AsyncIterator[TransactionSummary]:
        """Iterate over those that are kept in full, the last one begun first.

        `mode` is what they were begun for, or that of a branch; `since` is when they were begun at
        the earliest, milliseconds since the epoch.
        """
        query = {
            "status": status,
            "mode": mode,
            "resourceId": resource_id,
            "name": name,
            "since": since,
        }
        return self._all(_PATH, Page[TransactionSummary], query, **options)

    def exceptions(self, **options: Unpack[Listing]) -> AsyncIterator[TransactionException]:
        """Iterate over what went wrong in branches, the last first."""
        path = f"{_PATH}/exceptions"
        return self._all(path, Page[TransactionException], {}, **options)

    async def commit(
        self,
        xid: str,
        *,
        wait_ms: int | None = None,
        reason: str | None = None,
        branches_done: Sequence[int] = (),
        **options: Unpack[Writing],
    ) -> TransactionState:
        """Commit once every branch has reported, and await the end.

        It waits up to `wait_ms`, by which the deadline is put off, and as long as `timeout_ms`
        unless given; then it returns where the transaction stands. That is a timeout's status when
        the commit came too late: look at `is_to_commit`. A transaction that ended before answers
        how. The decision stands though this is cancelled. `branches_done` reports branches whose
        phase one is done together with the decision.

        Raises:
            TransactionNotFoundError
            TransactionDecidedError: it was rolled back.
            BranchFailedError: a branch failed, so it is rolled back.
            BranchUnfinishedError: a branch has not reported until the wait was over. It is still
                undecided.
        """
        return await self._decide(xid, "commit", wait_ms, reason, branches_done, **options)

    async def rollback(
        self,
        xid: str,
        *,
        wait_ms: int | None = None,
        reason: str | None = None,
        branches_done: Sequence[int] = (),
        **options: Unpack[Writing],
    ) -> TransactionState:
        """Roll back, and await the end as `commit` does.

        Raises:
            TransactionNotFoundError
            TransactionDecidedError: it was committed.
        """
        return await self._decide(xid, "rollback", wait_ms, reason, branches_done, **options)

    async def operate(
        self, xid: str, action: Action, reason: str, **options: Unpack[Writing]
    ) -> TransactionState:
        """Help a transaction that cannot end by itself, as an operator; `reason` is for the audit.

        Raises:
            TransactionNotFoundError
            OperationNotPossibleError: its status does not allow it.
        """
        body = {"action": action, "reason": reason}
        return await self._state(xid, "operations", body, 0, **options)

    async def _decide(
        self,
        xid: str,
        verb: str,
        wait_ms: int | None,
        reason: str | None,
        branches_done: Sequence[int],
        **options: Unpack[Writing],
    ) -> TransactionState:
        if wait_ms is None:
            wait_ms = options.get("timeout_ms", self._transport.timeout_ms)
        done = list(branches_done) or None
        body = {"waitMs": wait_ms, "reason": reason, "branchesDone": done}
        return await self._state(xid, verb, body, wait_ms, **options)

    async def _state(
        self, xid: str, verb: str, body: dict[str, Any], wait_ms: int, **options: Unpack[Writing]
    ) -> TransactionState:
        path = f"{path_of(xid)}/{verb}"
        return await self._post_waiting(
            path, body, TransactionState, is_of(xid), wait_ms, **options
        )


def is_of(xid: str) -> Callable[[AboutTransaction], bool]:
    """Return the check of an answer that is about this transaction."""
    return lambda answer: answer.xid == xid


def path_of(xid: str) -> str:
    """Return the path of a transaction.

    Raises: ValueError: it is another path; no transaction can have this name.
    """
    if xid == "exceptions":
        raise ValueError("no transaction can be called 'exceptions'")
    return f"{_PATH}/{part(xid)}"
