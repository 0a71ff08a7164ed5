"""What global transactions raise.

::

    TidelockError
    ├── TransactionError                   `xid` says of which, `status` where it stands
    │   ├── TransactionRequiredError       MANDATORY, and there is no transaction
    │   ├── TransactionNotAllowedError     NEVER, and there is one
    │   ├── RollbackOnlyError              a participant tells its launcher elsewhere to roll back
    │   ├── TransactionRolledBackError     the block went well, and all of it was rolled back
    │   │   └── TransactionTimedOutError   because its time was over
    │   ├── CommitFailedError              decided to commit; a branch cannot: see to it
    │   └── RollbackFailedError            decided to roll back; a branch cannot: see to it
    ├── OutcomeUnknownError
    │   └── TransactionOutcomeUnknownError    nobody said what became of `xid`
    └── ProblemError                       (of `tidelock.errors`)
        └── ConflictError
            ├── LockConflictError          `holder` says which transaction has the row, since when
            ├── DeadlockError              roll back, and begin another one
            ├── TransactionNotActiveError  it was decided before this branch could be registered
            ├── BranchFailedError          the `__cause__` of a TransactionRolledBackError
            └── BranchUnfinishedError      likewise: a branch never reported

What the block itself raises comes out of it as it is, once the transaction is rolled back. Only
`CommitFailedError`, `RollbackFailedError` and their like take its place, with it as `__cause__`:
a transaction is never reported as rolled back when it is not.
"""

from __future__ import annotations

from tidelock.errors import OutcomeUnknownError, TidelockError


class TransactionError(TidelockError):
    """Something is wrong with a global transaction."""

    def __init__(self, message: str, xid: str = "", status: str = "") -> None:
        super().__init__(message)
        self.xid = xid
        """The transaction; empty when there is none."""
        self.status = status
        """Where it stands, a `TransactionStatus`; empty when that is not known."""

    def __reduce__(self) -> tuple[type[TransactionError], tuple[str, str, str]]:
        """So that it survives the way from one process to another."""
        return type(self), (str(self), self.xid, self.status)


class TransactionRequiredError(TransactionError):
    """A block with MANDATORY was entered outside of a transaction. Nothing was done."""


class TransactionNotAllowedError(TransactionError):
    """A block with NEVER was entered within a transaction. Nothing was done."""


class RollbackOnlyError(TransactionError):
    """A participant called `set_rollback_only`; the launcher is another process, and hears of it by
    this exception: let it come through.
    """


class TransactionRolledBackError(TransactionError):
    """The launcher's block went well, but the transaction is rolled back.

    A branch had failed, a participant had asked for it, or an operator. `__cause__` may say more.
    """


class TransactionTimedOutError(TransactionRolledBackError):
    """It was not decided within its timeout, and is rolled back."""


class CommitFailedError(TransactionError):
    """It is decided to commit, which stands; but a branch says that it never will.

    It stays visible with its locks until an operator acts: docs/TRANSACTIONS.md, "Operators".
    """


class RollbackFailedError(TransactionError):
    """It is decided to roll back, which stands; but a branch could not be undone.

    As when rows were changed by somebody else meanwhile. It stays visible with its locks until an
    operator acts. Also raised when what should be rolled back was committed by somebody else.
    """


class TransactionOutcomeUnknownError(OutcomeUnknownError):
    """A commit was sent, and until the deadline nobody said what became of it.

    The cluster knows: `client.transactions.get(xid)`. It was committed, or it is rolled back when
    its timeout is over.
    """

    def __init__(self, message: str, xid: str) -> None:
        super().__init__(message)
        self.xid = xid

    def __reduce__(self) -> tuple[type[OutcomeUnknownError], tuple[str, str | None]]:
        """So that it survives the way from one process to another."""
        return type(self), (str(self), self.xid)
