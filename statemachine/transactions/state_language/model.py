"""What a definition says, once it is read: states, and how one leads to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from statemachine.transactions.state_language.expressions import Node
from statemachine.transactions.state_language.templates import Template

ANY_FAILURE: Final = frozenset({"*", "java.lang.Throwable", "java.lang.Exception"})
"""Names under `Exceptions` that mean every failure."""

REFUSED: Final = "REFUSED"
"""Means every failure of which the participant says that nothing was done."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """A rule of `Retry`."""

    failures: tuple[str, ...]
    """Types of failures; none: all of which nobody knows what was done."""
    interval_ms: int
    greatest_attempts: int
    backoff_permille: int
    """What the interval is multiplied with after each repetition, in thousandths."""


@dataclass(frozen=True, slots=True)
class CatchRule:
    failures: tuple[str, ...]
    next: str


@dataclass(frozen=True, slots=True)
class StatusRule:
    """A row of `Status`: an answer or a failure that means SU, FA or UN."""

    condition: Node | None
    failures: tuple[str, ...]
    status: str


@dataclass(frozen=True, slots=True)
class Loop:
    collection: Node
    parallel: int
    element: str
    index: str
    completion: Node | None
    """None: when all are done."""


@dataclass(frozen=True, slots=True)
class Task:
    """What ServiceTask and SubStateMachine have in common."""

    name: str
    input: Template | None
    output: tuple[tuple[str, Template], ...]
    catches: tuple[CatchRule, ...]
    loop: Loop | None
    compensation: str
    """The state that undoes it; empty: none, or a sub-machine's own compensations."""
    next: str
    """Empty: the machine ends."""


@dataclass(frozen=True, slots=True)
class ServiceTask(Task):
    url: str
    status: tuple[StatusRule, ...]
    retries: tuple[RetryPolicy, ...]
    changes_data: bool
    """`IsForUpdate`: when nobody knows what it did, it may have done something."""
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class SubStateMachine(Task):
    machine: str


@dataclass(frozen=True, slots=True)
class Compensation:
    """A ServiceTask that undoes another one, or CompensateSubMachine (with an empty URL)."""

    name: str
    url: str
    input: Template | None


@dataclass(frozen=True, slots=True)
class Choice:
    name: str
    choices: tuple[tuple[Node, str], ...]
    default: str


@dataclass(frozen=True, slots=True)
class Succeed:
    name: str


@dataclass(frozen=True, slots=True)
class Fail:
    name: str
    error_code: str
    message: str


@dataclass(frozen=True, slots=True)
class CompensationTrigger:
    name: str
    next: str


State = ServiceTask | SubStateMachine | Compensation | Choice | Succeed | Fail | CompensationTrigger


@dataclass(frozen=True, slots=True)
class Definition:
    start: str
    states: Mapping[str, State]
    timeout_ms: int
    recovers_forward: bool

    @property
    def machines(self) -> list[str]:
        """The definitions that this one calls, by name."""
        found = (each.machine for each in self.states.values() if isinstance(each, SubStateMachine))
        return sorted(set(found))
