"""The statuses of global transactions and branches, and the modes of branches.

Each status has a code of Seata (`GlobalStatus` 1 to 17 and `BranchStatus` 0 to 13 of its protocol),
one to one, so that its clients can be told the same. A branch that was withdrawn does not exist for
them.
"""

from __future__ import annotations

import enum
from typing import Final


class Mode(enum.StrEnum):
    """How a branch takes part."""

    AT = "AT"
    TCC = "TCC"
    SAGA = "SAGA"
    XA = "XA"
    LCN = "LCN"
    TXC = "TXC"
    MESSAGE = "MESSAGE"


class GlobalStatus(enum.StrEnum):
    """Where a global transaction stands."""

    BEGIN = "BEGIN"
    """Undecided. A saga that runs forward and a message that is delivered are in it, too."""
    COMMITTING = "COMMITTING"
    COMMIT_RETRYING = "COMMIT_RETRYING"
    ASYNC_COMMITTING = "ASYNC_COMMITTING"
    """Committed for the caller: nothing that is left to do can be seen or fail."""
    COMMITTED = "COMMITTED"
    COMMIT_FAILED = "COMMIT_FAILED"
    COMMIT_RETRY_TIMEOUT = "COMMIT_RETRY_TIMEOUT"
    ROLLING_BACK = "ROLLING_BACK"
    ROLLBACK_RETRYING = "ROLLBACK_RETRYING"
    ROLLED_BACK = "ROLLED_BACK"
    ROLLBACK_FAILED = "ROLLBACK_FAILED"
    ROLLBACK_RETRY_TIMEOUT = "ROLLBACK_RETRY_TIMEOUT"
    TIMEOUT_ROLLING_BACK = "TIMEOUT_ROLLING_BACK"
    TIMEOUT_ROLLBACK_RETRYING = "TIMEOUT_ROLLBACK_RETRYING"
    TIMEOUT_ROLLED_BACK = "TIMEOUT_ROLLED_BACK"
    TIMEOUT_ROLLBACK_FAILED = "TIMEOUT_ROLLBACK_FAILED"
    FINISHED = "FINISHED"
    """An operator has put it aside: what it left undone is known to be so."""


class BranchStatus(enum.StrEnum):
    """Where a branch stands."""

    UNKNOWN = "UNKNOWN"
    REGISTERED = "REGISTERED"
    PHASE_ONE_DONE = "PHASE_ONE_DONE"
    PHASE_ONE_FAILED = "PHASE_ONE_FAILED"
    PHASE_ONE_TIMEOUT = "PHASE_ONE_TIMEOUT"
    PHASE_TWO_COMMITTED = "PHASE_TWO_COMMITTED"
    PHASE_TWO_COMMIT_FAILED_RETRYABLE = "PHASE_TWO_COMMIT_FAILED_RETRYABLE"
    PHASE_TWO_COMMIT_FAILED_UNRETRYABLE = "PHASE_TWO_COMMIT_FAILED_UNRETRYABLE"
    PHASE_TWO_ROLLED_BACK = "PHASE_TWO_ROLLED_BACK"
    PHASE_TWO_ROLLBACK_FAILED_RETRYABLE = "PHASE_TWO_ROLLBACK_FAILED_RETRYABLE"
    PHASE_TWO_ROLLBACK_FAILED_UNRETRYABLE = "PHASE_TWO_ROLLBACK_FAILED_UNRETRYABLE"
    PHASE_TWO_COMMIT_NOTA_RETRYABLE = "PHASE_TWO_COMMIT_NOTA_RETRYABLE"
    """The database does not know the XA branch while its owner may live."""
    PHASE_TWO_ROLLBACK_NOTA_RETRYABLE = "PHASE_TWO_ROLLBACK_NOTA_RETRYABLE"
    PHASE_ONE_READ_ONLY = "PHASE_ONE_READ_ONLY"
    """It changed nothing and is left out of phase two."""
    WITHDRAWN = "WITHDRAWN"
    """Its unit was run again as another branch; this one never counted."""


GLOBAL_CODES: Final[dict[GlobalStatus, int]] = {
    GlobalStatus.BEGIN: 1,
    GlobalStatus.COMMITTING: 2,
    GlobalStatus.COMMIT_RETRYING: 3,
    GlobalStatus.ROLLING_BACK: 4,
    GlobalStatus.ROLLBACK_RETRYING: 5,
    GlobalStatus.TIMEOUT_ROLLING_BACK: 6,
    GlobalStatus.TIMEOUT_ROLLBACK_RETRYING: 7,
    GlobalStatus.ASYNC_COMMITTING: 8,
    GlobalStatus.COMMITTED: 9,
    GlobalStatus.COMMIT_FAILED: 10,
    GlobalStatus.ROLLED_BACK: 11,
    GlobalStatus.ROLLBACK_FAILED: 12,
    GlobalStatus.TIMEOUT_ROLLED_BACK: 13,
    GlobalStatus.TIMEOUT_ROLLBACK_FAILED: 14,
    GlobalStatus.FINISHED: 15,
    GlobalStatus.COMMIT_RETRY_TIMEOUT: 16,
    GlobalStatus.ROLLBACK_RETRY_TIMEOUT: 17,
}
"""Seata's codes; 0 is a transaction that is not known."""

BRANCH_CODES: Final[dict[BranchStatus, int]] = {
    status: code
    for code, status in enumerate(status for status in BranchStatus if status != "WITHDRAWN")
}
"""Seata's codes."""

COMMIT_FAMILY: Final = frozenset(
    {
        GlobalStatus.COMMITTING,
        GlobalStatus.COMMIT_RETRYING,
        GlobalStatus.ASYNC_COMMITTING,
        GlobalStatus.COMMITTED,
        GlobalStatus.COMMIT_FAILED,
        GlobalStatus.COMMIT_RETRY_TIMEOUT,
    }
)
"""Decided to commit. Nothing leads from here to the rollback family, or back."""

ROLLBACK_FAMILY: Final = (
    frozenset(GlobalStatus)
    - COMMIT_FAMILY
    - {
        GlobalStatus.BEGIN,
        GlobalStatus.FINISHED,
    }
)

DRIVEN: Final = frozenset(
    {
        GlobalStatus.COMMITTING,
        GlobalStatus.COMMIT_RETRYING,
        GlobalStatus.ASYNC_COMMITTING,
        GlobalStatus.ROLLING_BACK,
        GlobalStatus.ROLLBACK_RETRYING,
        GlobalStatus.TIMEOUT_ROLLING_BACK,
        GlobalStatus.TIMEOUT_ROLLBACK_RETRYING,
    }
)
"""Decided, and branches are still to be told."""

ENDED: Final = frozenset(
    {
        GlobalStatus.COMMITTED,
        GlobalStatus.ROLLED_BACK,
        GlobalStatus.TIMEOUT_ROLLED_BACK,
        GlobalStatus.FINISHED,
    }
)
"""Nothing is left to do. What has failed is not in it: it stays until an operator acts."""

FAILED: Final = frozenset(GlobalStatus) - DRIVEN - ENDED - {GlobalStatus.BEGIN}
"""Nothing is done any more by itself, and something is left undone."""

BRANCH_ENDED: Final = frozenset(
    {
        BranchStatus.PHASE_TWO_COMMITTED,
        BranchStatus.PHASE_TWO_ROLLED_BACK,
        BranchStatus.PHASE_ONE_READ_ONLY,
        BranchStatus.WITHDRAWN,
    }
)
"""No call will be made to the branch."""
