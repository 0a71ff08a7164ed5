"""What a client of a cluster raises.

::

    TidelockError
    ├── ClientClosedError            the client was closed
    ├── UnreachableError             no node answered in time; the request was not sent
    ├── OutcomeUnknownError          it may have happened: ask again under the same key
    ├── LockLostError                the lease of a lock is over, or can no longer be trusted
    └── ProblemError                 a node refused; nothing of the request was applied
        ├── InvalidRequestError      400, 413, 422 and alike: another request is needed
        │   ├── ClockSkewTooLargeError
        │   └── IdempotencyKeyReusedError
        ├── AccessDeniedError        401, 403: the token is missing, or does not suffice
        ├── NotFoundError            404
        │   ├── TransactionNotFoundError    `transaction` says how and when it ended, if it was
        │   ├── BranchNotFoundError
        │   ├── SagaDefinitionNotFoundError
        │   └── ExecutionNotFoundError
        ├── ConflictError            409
        │   ├── LockHeldError        `holder` says by whom
        │   ├── FencingTokenStaleError
        │   ├── ProposalRejectedError    `votes` and `reasons` say by whom and why
        │   ├── LockConflictError    `holder` says which transaction has the row, and since when
        │   ├── DeadlockError        the transaction is to be rolled back, so that others go on
        │   ├── TransactionExistsError
        │   ├── TransactionNotActiveError    it was decided: `transaction` says how and why
        │   ├── TransactionDecidedError      likewise, and otherwise than was asked for
        │   ├── BranchFailedError    it cannot be committed, and rolls back
        │   ├── BranchUnfinishedError    a branch has not reported; nothing is decided
        │   ├── BranchNotTriedError
        │   ├── BranchStatusFixedError
        │   ├── ChannelSessionEndedError    the resource manager is to register again
        │   ├── OperationNotPossibleError
        │   └── ServicesNotConfiguredError    the node has no data sources
        ├── CompactedError           410: `oldest` is the position behind which all is kept
        ├── AnswerNotKeptError       410: it was done, its answer can no longer be made
        ├── OverloadedError          429, until the deadline
        ├── UnavailableError         503, until the deadline
        │   └── NoQuorumError
        └── NodeFailureError         500, 507, and answers that are none of a node's

A write ends in one of three ways, never two: it returns, it raises `ProblemError` or
`UnreachableError` (it did not happen), or it raises `OutcomeUnknownError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec


class FieldError(msgspec.Struct, frozen=True):
    """What is wrong with one field."""

    path: str
    message: str


class Holder(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Who has what was asked for: a lock, or a row."""

    owner: str = ""
    """Of a lock, with the three below."""
    mode: str = ""
    fencing_token: int = 0
    expires_at: int = 0
    """Milliseconds since the epoch, for display."""
    xid: str | None = None
    """Of a row, with the rest."""
    branch_id: int | None = None
    resource_id: str | None = None
    table: str | None = None
    key: tuple[int | str | bool | None, ...] = ()
    since: int | None = None
    """Milliseconds since the epoch."""


class Standing(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Where the transaction stands that a request was about."""

    xid: str
    status: str
    """One of `tidelock.client.answers.TransactionStatus`."""
    reason: str = ""
    """Why it was decided so."""
    ended_at: int | None = None
    """Milliseconds since the epoch; None while something of it is left to do."""
    branch_id: int | None = None
    """The branch that is the reason for the problem, when one is."""

    @property
    def timed_out(self) -> bool:
        """Whether it is, or was, rolled back because nobody decided in time."""
        return self.status.startswith("TIMEOUT_")


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """The members of `application/problem+json` (RFC 9457) as nodes send them."""

    status: int
    code: str
    title: str = ""
    detail: str = ""
    errors: tuple[FieldError, ...] = ()
    holder: Holder | None = None
    transaction: Standing | None = None
    oldest: str | None = None
    votes: Mapping[str, str] | None = None
    reasons: Mapping[str, str] | None = None
    retryable: bool | None = None


class TidelockError(Exception):
    """Everything that a client raises derives from it."""


class ClientClosedError(TidelockError):
    """The client was closed, or is used after its block."""


class UnreachableError(TidelockError):
    """No node could be connected to before the deadline. The request did not happen."""


class OutcomeUnknownError(TidelockError):
    """The deadline passed after the request was sent, and no node said what became of it.

    `idempotency_key` is the key it went under: the same call with `idempotency_key=` happens once.
    None when the request takes no key.
    """

    def __init__(self, message: str, idempotency_key: str | None = None) -> None:
        super().__init__(message)
        self.idempotency_key = idempotency_key

    def __reduce__(self) -> tuple[type[OutcomeUnknownError], tuple[str, str | None]]:
        """So that it survives the way from one process to another."""
        return type(self), (str(self), self.idempotency_key)


class LockLostError(TidelockError):
    """The lease of a lock is over, or its holder can no longer be sure of it."""


class ProblemError(TidelockError):
    """A node refused the request. `problem` is all that it said."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.code} ({problem.status}): {problem.detail}")
        self.problem = problem

    def __reduce__(self) -> tuple[type[ProblemError], tuple[Problem]]:
        """So that it survives the way from one process to another."""
        return type(self), (self.problem,)

    @property
    def code(self) -> str:
        """The reason as one word, such as `LOCK_HELD`."""
        return self.problem.code

    @property
    def detail(self) -> str:
        """The reason as a sentence."""
        return self.problem.detail

    @property
    def status(self) -> int:
        """The status of HTTP."""
        return self.problem.status

    @property
    def errors(self) -> tuple[FieldError, ...]:
        """The fields that are at fault, when some are."""
        return self.problem.errors

    @property
    def holder(self) -> Holder | None:
        """Who has what was asked for, when somebody has it."""
        return self.problem.holder

    @property
    def transaction(self) -> Standing | None:
        """Where the transaction stands that it is about, when it is about one that is known."""
        return self.problem.transaction

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed when it is made again."""
        return self.problem.retryable is True


class InvalidRequestError(ProblemError):
    """The request cannot be done as it is; `errors` names the fields."""


class ClockSkewTooLargeError(InvalidRequestError):
    """A hybrid timestamp is further ahead than the cluster accepts."""


class IdempotencyKeyReusedError(InvalidRequestError):
    """The key belongs to another request."""


class AccessDeniedError(ProblemError):
    """Who asks may not, or did not say who it is: `token=` of the client is missing or wrong."""


class NotFoundError(ProblemError):
    """There is nothing under this name."""


class TransactionNotFoundError(NotFoundError):
    """No transaction has this xid, or no more is kept of it than `transaction` says.

    None: it was never begun, or it ended so long ago that it was forgotten.
    """

    @property
    def never_seen(self) -> bool:
        """Whether nothing at all is known of it."""
        return self.transaction is None

    @property
    def timed_out(self) -> bool:
        """Whether it was rolled back because nobody decided in time."""
        return self.transaction is not None and self.transaction.timed_out


class BranchNotFoundError(NotFoundError):
    """The transaction has no such branch."""


class SagaDefinitionNotFoundError(NotFoundError):
    """No saga definition has this name."""


class ExecutionNotFoundError(NotFoundError):
    """No execution of the XA and JTA services has this id, or it is no longer remembered."""


class ConflictError(ProblemError):
    """The state of the cluster does not allow it."""


class LockHeldError(ConflictError):
    """Somebody else holds the lock, and did until the wait was over."""


class FencingTokenStaleError(ConflictError):
    """The token is not that of a lease which still runs."""


class ProposalRejectedError(ConflictError):
    """A majority did not accept the proposal."""

    @property
    def votes(self) -> Mapping[str, str]:
        """How each node voted."""
        return self.problem.votes or {}

    @property
    def reasons(self) -> Mapping[str, str]:
        """Why nodes voted against it."""
        return self.problem.reasons or {}


class LockConflictError(ConflictError):
    """Another transaction has locked a row, and had until the wait was over: `holder`.

    None: it waits for the row and comes first. When this is not `retryable`, the holder rolls back,
    and whoever holds locks of a database itself must let go of them first, or both wait for ever.
    """


class DeadlockError(ConflictError):
    """Transactions wait for each other's rows, and this one began last.

    Roll it back, and begin another one: the others go on then.
    """


class TransactionExistsError(ConflictError):
    """A transaction was begun with this xid before."""


class TransactionNotActiveError(ConflictError):
    """The transaction is decided and takes nothing more: `transaction` says how, and why."""

    @property
    def timed_out(self) -> bool:
        """Whether it is rolled back because nobody decided in time."""
        return self.transaction is not None and self.transaction.timed_out


class TransactionDecidedError(ConflictError):
    """What should be committed is rolled back, or the other way round: see `transaction`."""


class BranchFailedError(ConflictError):
    """A branch failed, or its session ended, so what should be committed rolls back.

    `transaction` names the branch.
    """


class BranchUnfinishedError(ConflictError):
    """A branch has not reported how its work ended, so nothing was decided yet.

    `transaction` names the branch. Commit again when it has, or roll back.
    """


class BranchNotTriedError(ConflictError):
    """The branch has not entered its Try, so there is nothing to confirm. Ask again later."""


class BranchStatusFixedError(ConflictError):
    """The branch has got so far that this can no longer change."""


class ChannelSessionEndedError(ConflictError):
    """The session of the resource manager's channel has ended, or there never was one."""


class OperationNotPossibleError(ConflictError):
    """What an operator wants is not possible while the transaction stands where it does."""


class ServicesNotConfiguredError(ConflictError):
    """The node has no data sources: `detail` says which settings it wants."""


class CompactedError(ProblemError):
    """What should be watched begins before what is kept."""

    @property
    def oldest(self) -> str | None:
        """The position behind which everything is still kept."""
        return self.problem.oldest


class AnswerNotKeptError(ProblemError):
    """The request was done under this key before; its answer can no longer be made."""


class OverloadedError(ProblemError):
    """Nodes had too much to do until the deadline."""


class UnavailableError(ProblemError):
    """No node could serve until the deadline."""


class NoQuorumError(UnavailableError):
    """No majority of the nodes confirmed a leader until the deadline."""


class NodeFailureError(ProblemError):
    """A node failed, has no room, or something else than a node answered."""


_BY_CODE: Final[dict[str, type[ProblemError]]] = {
    "ANSWER_NOT_KEPT": AnswerNotKeptError,
    "BRANCH_FAILED": BranchFailedError,
    "BRANCH_NOT_FOUND": BranchNotFoundError,
    "BRANCH_NOT_TRIED": BranchNotTriedError,
    "BRANCH_STATUS_FIXED": BranchStatusFixedError,
    "BRANCH_UNFINISHED": BranchUnfinishedError,
    "CHANNEL_SESSION_ENDED": ChannelSessionEndedError,
    "CLOCK_SKEW_TOO_LARGE": ClockSkewTooLargeError,
    "COMPACTED": CompactedError,
    "DEADLOCK": DeadlockError,
    "EXECUTION_NOT_FOUND": ExecutionNotFoundError,
    "FENCING_TOKEN_STALE": FencingTokenStaleError,
    "IDEMPOTENCY_KEY_REUSED": IdempotencyKeyReusedError,
    "LOCK_CONFLICT": LockConflictError,
    "LOCK_HELD": LockHeldError,
    "NOT_A_NODE": NodeFailureError,
    "NO_LEADER": NoQuorumError,
    "NO_QUORUM": NoQuorumError,
    "OPERATION_NOT_POSSIBLE": OperationNotPossibleError,
    "REJECTED": ProposalRejectedError,
    "SAGA_DEFINITION_NOT_FOUND": SagaDefinitionNotFoundError,
    "SERVICES_NOT_CONFIGURED": ServicesNotConfiguredError,
    "TRANSACTION_DECIDED": TransactionDecidedError,
    "TRANSACTION_EXISTS": TransactionExistsError,
    "TRANSACTION_NOT_ACTIVE": TransactionNotActiveError,
    "TRANSACTION_NOT_FOUND": TransactionNotFoundError,
}

_BY_STATUS: Final[dict[int, type[ProblemError]]] = {
    401: AccessDeniedError,
    403: AccessDeniedError,
    404: NotFoundError,
    409: ConflictError,
    429: OverloadedError,
    503: UnavailableError,
}


def of_problem(problem: Problem) -> ProblemError:
    """Return the exception that a problem is: by its code, else by its status."""
    kind = _BY_CODE.get(problem.code) or _BY_STATUS.get(problem.status)
    if kind is None:
        kind = InvalidRequestError if 400 <= problem.status < 500 else NodeFailureError
    return kind(problem)
