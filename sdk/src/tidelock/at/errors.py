"""What AT raises.

::

    TidelockError
    ├── RowsLockedError             (a LockConflictError) another transaction has rows of this one
    ├── LockWaitTimeoutError        rows stayed locked for as long as one was ready to wait
    ├── ImageMismatchError          rows changed while they were looked at; run the unit again
    ├── MixedTransactionsError      one local transaction cannot belong to two global ones
    ├── LocalTransactionLostError   the local transaction ended before it was committed
    └── TooManyRowsError            one local transaction changes more rows than can be locked
"""

from __future__ import annotations

from tidelock.client.answers import BranchMode
from tidelock.client.row_keys import LockKeys
from tidelock.errors import LockConflictError, Problem, TidelockError


class RowsLockedError(LockConflictError):
    """Rows of the local transaction are another global transaction's; it was rolled back.

    `holder` says who has the first of them. `resource_id` and `lock_keys` are the rows to wait for.
    """

    def __init__(
        self,
        problem: Problem,
        resource_id: str = "",
        lock_keys: LockKeys | None = None,
        mode: BranchMode = "AT",
    ):
        super().__init__(problem)
        self.mode: BranchMode = mode
        self.resource_id = resource_id
        self.lock_keys: LockKeys = lock_keys or {}

    def __reduce__(self) -> tuple[type[RowsLockedError], tuple[Problem, str, LockKeys, str]]:  # type: ignore[override]  # it has more to take along
        """So that it survives the way from one process to another."""
        return type(self), (self.problem, self.resource_id, self.lock_keys, self.mode)


class LockWaitTimeoutError(TidelockError):
    """Rows were locked by others for as long as the unit was ready to wait."""


class ImageMismatchError(TidelockError):
    """Another session's change slipped in between a statement and its image.

    The local transaction must be rolled back; run again it will see what changed.
    """


class MixedTransactionsError(TidelockError):
    """A local transaction of one global transaction was used under another one, or under none."""


class TooManyRowsError(TidelockError):
    """One local transaction changes more rows than a branch can lock."""


class LocalTransactionLostError(TidelockError):
    """A local transaction ended before its commit, unseen: its work may be lost, or there for good.

    No branch stands for it. Let the global transaction roll back, and look at the rows.
    """
