"""Who is told of the end of a transaction, in the order in which they registered."""

from __future__ import annotations

import logging
from typing import Final

from services.time_limit import time_limit
from tidelock import Transaction, TransactionHooks
from tidelock.services import JtaStatus, Synchronization

_log: Final = logging.getLogger("services")

_COMMITTED: Final = frozenset({"COMMITTED", "COMMITTING", "COMMIT_RETRYING", "ASYNC_COMMITTING"})
_ROLLED_BACK: Final = frozenset({"ROLLED_BACK", "TIMEOUT_ROLLED_BACK"})


def jta_status_of(status: str) -> JtaStatus:
    """Return what a status of the coordinator is to JTA, once the transaction is decided.

    UNKNOWN is a rollback that has not come to its end: nobody knows yet whether it does.
    """
    if status == "COMMITTED":
        return JtaStatus.COMMITTED
    if status in _COMMITTED:
        return JtaStatus.COMMITTING
    return JtaStatus.ROLLED_BACK if status in _ROLLED_BACK else JtaStatus.UNKNOWN


class Synchronizations(TransactionHooks):
    """Those of one transaction. Give it to the transaction before any branch begins."""

    def __init__(self, limit_ms: int) -> None:
        """Each is interrupted when it takes longer than `limit_ms`."""
        self._limit_ms = limit_ms
        self._registered: list[Synchronization] = []

    def register(self, synchronization: Synchronization) -> None:
        self._registered.append(synchronization)

    def before_commit(self, transaction: Transaction) -> None:
        """The business went well, and nothing is prepared yet: what is raised rolls back."""
        for each in list(self._registered):
            with time_limit(self._limit_ms, "A synchronization"):
                each.before_completion()

    def after_completion(self, transaction: Transaction) -> None:
        """It is decided, or nobody knows."""
        decided = jta_status_of(transaction.status)
        status = JtaStatus.COMMITTED if decided is JtaStatus.COMMITTING else decided
        for each in list(self._registered):
            try:
                with time_limit(self._limit_ms, "A synchronization"):
                    each.after_completion(status)
            except Exception:
                _log.exception("a synchronization of %s failed after its end", transaction.xid)
