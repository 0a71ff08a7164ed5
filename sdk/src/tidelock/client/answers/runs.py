"""Answers about transactions that the cluster runs: TCC and sagas, and what sagas follow."""

from __future__ import annotations

from typing import Any, Literal

from tidelock.client.answers.answer import Answer
from tidelock.client.answers.statuses import BranchStatus
from tidelock.client.answers.transactions import BranchFailure, TransactionState

StateStatus = Literal["RU", "SU", "FA", "UN"]
"""Seata's words for what became of a state: it runs, it succeeded, nothing of it was done, or it
may have done something, and is undone when the saga is rolled back."""


class StepState(Answer, frozen=True, kw_only=True):
    """A step, and where it stands."""

    name: str
    branch_id: int
    status: BranchStatus
    """REGISTERED until its action is done, then PHASE_ONE_DONE; at the end PHASE_TWO_COMMITTED, or
    PHASE_TWO_ROLLED_BACK when it was undone. WITHDRAWN: there was nothing to undo."""
    attempts: int
    """How often the present call did not succeed."""
    result: Any = None  # whatever its action answered
    error: BranchFailure | None = None
    """What went wrong last."""


class Run(TransactionState, frozen=True, kw_only=True):
    """A transaction that the cluster runs, step by step."""

    steps: list[StepState]
    """In the order of their registration; none when its retention is over."""


class StateError(Answer, frozen=True, kw_only=True):
    """What went wrong in a state."""

    type: str
    message: str


class SagaState(Answer, frozen=True, kw_only=True):
    """A state of its definition that a saga came to."""

    name: str
    """With the states above it, when it is a sub-machine's: `Ship/Pack`."""
    type: str
    status: StateStatus
    began_at: int
    """Milliseconds since the epoch, as the next."""
    ended_at: int | None = None
    branch_ids: list[int]
    """The calls that it made, which are among the steps."""
    error: StateError | None = None


class FollowedDefinition(Answer, frozen=True, kw_only=True):
    """What a saga follows."""

    name: str
    version: int


class Saga(Run, frozen=True, kw_only=True):
    """A saga; the rest is None unless it follows a definition."""

    definition: FollowedDefinition | None = None
    states: list[SagaState] | None = None
    """In the order in which it came to them."""
    variables: Any = None  # as the definition's own states have made them so far


class SagaDefinitionChange(Answer, frozen=True, kw_only=True):
    """What sagas that begin from now on follow."""

    name: str
    version: int
    changed: bool
    """False when it had been so before."""


class SagaDefinitionDeletion(Answer, frozen=True, kw_only=True):
    """A definition that no further saga follows."""

    name: str
    deleted: bool
    """False when there was none."""


class SagaDefinitionVersion(Answer, frozen=True, kw_only=True):
    """A version that is kept."""

    version: int
    created_at: int
    """Milliseconds since the epoch."""
    running: int
    """How many sagas that have not ended follow it."""


class SagaDefinition(Answer, frozen=True, kw_only=True):
    """The newest version, and what is kept of older ones."""

    name: str
    version: int
    definition: dict[str, Any]  # in the state language
    versions: list[SagaDefinitionVersion]
    """Those that sagas still follow, and the newest."""


class SagaDefinitionSummary(Answer, frozen=True, kw_only=True):
    """A definition in a list."""

    name: str
    version: int
