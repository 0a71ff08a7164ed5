"""Saga definitions, built in Python: what the cluster follows, in Seata's state language.

docs/SAGA_DEFINITIONS.md of the repository says what each state does. Here they follow each other in
the order in which they are added, and a task brings along the state that undoes it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Self

import msgspec

from tidelock.client.runs import SagaStep

END: Final = ""
"""As `next`: the machine ends behind this state, whatever is added after it."""

StepStatus = Literal["SU", "FA", "UN"]

_COMPENSATION: Final = "-compensation"


class _Rule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The base of parts of a state."""


class Repeat(_Rule, frozen=True, rename="pascal"):
    """How often a task is tried again after failures of some types."""

    max_attempts: int
    exceptions: Sequence[str] = ()
    """Types of failures; none: every one of which nobody knows what was done."""
    interval_s: float = msgspec.field(default=1, name="IntervalSeconds")
    backoff_rate: float = 1


class Loop(_Rule, frozen=True, rename="pascal"):
    """A task that is done once for each element."""

    collection: str
    """An expression for an array, as `$.[items]`."""
    element: str = msgspec.field(default="loopElement", name="ElementVariableName")
    index: str = msgspec.field(default="loopCounter", name="ElementIndexName")
    parallel: int = 1
    """How many calls are under way at once."""
    until: str = msgspec.field(default="", name="CompletionCondition")
    """An expression that ends the loop early."""


class SagaDefinition:
    """A definition as it is built, state by state::

        purchase = (
            SagaDefinition("purchase", timeout_ms=60_000)
            .task("take", take, input={"sku": "$.[sku]"}, output={"taken": "$.taken"})
            .choice("dear", {"[price] > [budget]": "refuse"}, default="pay")
            .task("pay", pay, input={"amount": "$.[price]"}, next=END)
            .fail("refuse", "TOO_DEAR")
        )

    Each state leads to the one that is added next unless it says otherwise; the first one is where
    it starts. Nothing is checked here that the cluster checks: it lists all that is wrong at once.
    """

    def __init__(
        self,
        name: str,
        *,
        timeout_ms: int | None = None,
        forward: bool = False,
        comment: str = "",
    ) -> None:
        """`forward`: what fails and is caught nowhere is repeated for ever, and nothing undone."""
        self.name: Final = name
        self._head: dict[str, Any] = {
            "Comment": comment or None,
            "TimeoutMs": timeout_ms,
            "RecoverStrategy": "Forward" if forward else None,
        }
        self._states: dict[str, dict[str, Any]] = {}
        self._undoing: dict[str, dict[str, Any]] = {}
        self._open: str | None = None
        """The state that leads to the next one that is added."""

    def task(
        self,
        name: str,
        step: SagaStep | str,
        *,
        input: Mapping[str, Any] | None = None,
        output: Mapping[str, str] | None = None,
        compensation: SagaStep | str | None = None,
        undo_input: Mapping[str, Any] | None = None,
        status: Mapping[str, StepStatus] | None = None,
        retry: Sequence[Repeat] = (),
        catch: Mapping[str, str] | None = None,
        loop: Loop | None = None,
        changes: bool | None = None,
        timeout_ms: int | None = None,
        next: str | None = None,
    ) -> Self:
        """Call a service: a URL, or a step of `SagaService.steps`, which knows what undoes it.

        Args:
            input: the body of the call; texts that begin with `$.` are expressions.
            output: variables that its answer gives.
            compensation: the URL that undoes it, unless the step has one.
            undo_input: the body of that call; that of the task unless given.
            status: what answers mean, by expressions on them.
            retry, loop: see `Repeat`, `Loop`.
            catch: for types of failures, by which state it goes on; `*` is every one.
            changes: whether it may have changed something when nobody knows what became of it.
            next: the state that follows; `END`: none.

        Raises:
            ValueError: the name is taken.
        """
        called = _step(name, step)
        undone_by = called.compensation
        if compensation is not None:
            undone_by = _step(name, compensation).action
        state = {
            "Type": "ServiceTask",
            "ServiceUrl": called.action,
            "Input": _body(called.payload if input is None else input),
            "Output": dict(output) if output else None,
            "Status": dict(status) if status else None,
            "Retry": [msgspec.to_builtins(each) for each in retry] or None,
            "Catch": _catches(catch),
            "Loop": None if loop is None else msgspec.to_builtins(loop),
            "IsForUpdate": changes,
            "TimeoutMs": timeout_ms or called.timeout_ms,
        }
        if undone_by:
            undoing = f"{name}{_COMPENSATION}"
            state["CompensateState"] = undoing
            self._undoing[undoing] = _told(
                {"Type": "ServiceTask", "ServiceUrl": undone_by, "Input": _body(undo_input)}
            )
        return self._add(name, state, next)

    def choice(self, name: str, choices: Mapping[str, str], *, default: str | None = None) -> Self:
        """Go on by the first expression that is true, else by `default`; without one it fails.

        Raises:
            ValueError: the name is taken.
        """
        taken = [{"Expression": when, "Next": then} for when, then in choices.items()]
        return self._add(name, {"Type": "Choice", "Choices": taken, "Default": default}, END)

    def sub_machine(
        self,
        name: str,
        definition: str,
        *,
        input: Mapping[str, Any] | None = None,
        output: Mapping[str, str] | None = None,
        catch: Mapping[str, str] | None = None,
        loop: Loop | None = None,
        next: str | None = None,
    ) -> Self:
        """Follow another definition within the same saga; `input` are its variables.

        Raises:
            ValueError: the name is taken.
        """
        state = {
            "Type": "SubStateMachine",
            "StateMachineName": definition,
            "Input": _body(input),
            "Output": dict(output) if output else None,
            "Catch": _catches(catch),
            "Loop": None if loop is None else msgspec.to_builtins(loop),
        }
        return self._add(name, state, next)

    def undo(self, name: str, *, next: str | None = END) -> Self:
        """Undo all that was done; `next` may be a `fail`, which says why.

        Raises:
            ValueError: the name is taken.
        """
        return self._add(name, {"Type": "CompensationTrigger"}, next)

    def fail(self, name: str, code: str, message: str = "") -> Self:
        """End with a failure, which undoes all that was done. Raises: ValueError: as above."""
        state = {"Type": "Fail", "ErrorCode": code, "Message": message or None}
        return self._add(name, state, END)

    def succeed(self, name: str) -> Self:
        """End well. Raises: ValueError: the name is taken."""
        return self._add(name, {"Type": "Succeed"}, END)

    def as_json(self) -> dict[str, Any]:
        """Return it in the state language.

        Raises:
            ValueError: it has no states.
        """
        if not self._states:
            raise ValueError(f"{self.name} has no states")
        head = {**self._head, "StartState": next(iter(self._states))}
        return copy.deepcopy(_told({**head, "States": {**self._states, **self._undoing}}))

    def _add(self, name: str, state: dict[str, Any], following: str | None) -> Self:
        if name in self._states or name in self._undoing:
            raise ValueError(f"{self.name} has a state {name!r} already")
        if self._open is not None:
            self._states[self._open]["Next"] = name
        self._open = name if following is None else None
        self._states[name] = _told({**state, "Next": following or None})
        return self


def _step(name: str, step: SagaStep | str) -> SagaStep:
    return step if isinstance(step, SagaStep) else SagaStep(name=name, action=step)


def _told(members: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is said of a state."""
    return {name: value for name, value in members.items() if value is not None}


def _body(value: Any) -> list[Any] | None:
    """Return a body as the one parameter of a service."""
    return None if value is None else [value]


def _catches(catch: Mapping[str, str] | None) -> list[dict[str, Any]] | None:
    return [{"Exceptions": [kind], "Next": then} for kind, then in (catch or {}).items()] or None
