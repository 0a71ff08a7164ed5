"""The words for where transactions and branches stand, and how branches take part."""

from __future__ import annotations

from typing import Final, Literal

TransactionStatus = Literal[
    "BEGIN",
    "COMMITTING",
    "COMMIT_RETRYING",
    "ASYNC_COMMITTING",
    "COMMITTED",
    "COMMIT_FAILED",
    "COMMIT_RETRY_TIMEOUT",
    "ROLLING_BACK",
    "ROLLBACK_RETRYING",
    "ROLLED_BACK",
    "ROLLBACK_FAILED",
    "ROLLBACK_RETRY_TIMEOUT",
    "TIMEOUT_ROLLING_BACK",
    "TIMEOUT_ROLLBACK_RETRYING",
    "TIMEOUT_ROLLED_BACK",
    "TIMEOUT_ROLLBACK_FAILED",
    "FINISHED",
]
"""Where a transaction stands. FINISHED: an operator has put aside what could not end."""

BranchStatus = Literal[
    "UNKNOWN",
    "REGISTERED",
    "PHASE_ONE_DONE",
    "PHASE_ONE_FAILED",
    "PHASE_ONE_TIMEOUT",
    "PHASE_TWO_COMMITTED",
    "PHASE_TWO_COMMIT_FAILED_RETRYABLE",
    "PHASE_TWO_COMMIT_FAILED_UNRETRYABLE",
    "PHASE_TWO_ROLLED_BACK",
    "PHASE_TWO_ROLLBACK_FAILED_RETRYABLE",
    "PHASE_TWO_ROLLBACK_FAILED_UNRETRYABLE",
    "PHASE_TWO_COMMIT_NOTA_RETRYABLE",
    "PHASE_TWO_ROLLBACK_NOTA_RETRYABLE",
    "PHASE_ONE_READ_ONLY",
    "WITHDRAWN",
]
"""Where a branch stands."""

BranchMode = Literal["AT", "TCC", "XA", "SAGA", "LCN", "TXC"]
"""How a branch takes part."""

AnyMode = Literal[BranchMode, "MESSAGE"]
"""The same, with the deliveries of messages, which nobody registers."""

TransactionMode = Literal[AnyMode, ""]
"""What a transaction's branches mostly are; empty when nobody said."""

Program = Literal["CLIENT", "SAGA", "TCC", "MESSAGE", "WORKFLOW", "STATE_MACHINE"]
"""Who runs a transaction: CLIENT decides by itself, a WORKFLOW is its client's, too, and called
until it has decided. The others are run by the cluster; a STATE_MACHINE is a saga that follows a
definition."""

COMMIT_FAMILY: Final[frozenset[TransactionStatus]] = frozenset(
    {
        "COMMITTING",
        "COMMIT_RETRYING",
        "ASYNC_COMMITTING",
        "COMMITTED",
        "COMMIT_FAILED",
        "COMMIT_RETRY_TIMEOUT",
    }
)
"""Decided to commit. Nothing leads from here to a rollback, or back."""

TIMEOUT_FAMILY: Final[frozenset[TransactionStatus]] = frozenset(
    {
        "TIMEOUT_ROLLING_BACK",
        "TIMEOUT_ROLLBACK_RETRYING",
        "TIMEOUT_ROLLED_BACK",
        "TIMEOUT_ROLLBACK_FAILED",
    }
)
"""Rolled back because nobody decided in time."""

ENDED: Final[frozenset[TransactionStatus]] = frozenset(
    {"COMMITTED", "ROLLED_BACK", "TIMEOUT_ROLLED_BACK", "FINISHED"}
)
"""Nothing is left to do."""

FAILED: Final[frozenset[TransactionStatus]] = frozenset(
    {
        "COMMIT_FAILED",
        "COMMIT_RETRY_TIMEOUT",
        "ROLLBACK_FAILED",
        "ROLLBACK_RETRY_TIMEOUT",
        "TIMEOUT_ROLLBACK_FAILED",
    }
)
"""Something is left undone, and stays so until an operator acts."""
