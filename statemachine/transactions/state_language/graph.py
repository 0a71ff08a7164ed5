"""Whether the states of a definition fit together: each leads somewhere, none round and round."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from statemachine.transactions.state_language.fields import Faults
from statemachine.transactions.state_language.model import (
    Choice,
    Compensation,
    CompensationTrigger,
    Definition,
    Fail,
    ServiceTask,
    State,
    SubStateMachine,
    Succeed,
)

_UNDOES: Final = "undoes another state; nothing else leads there"


def check_graph(definition: Definition, faults: Faults) -> None:
    states = definition.states
    _check(definition, definition.start, "StartState", faults)
    for name, state in states.items():
        for path, following in _followers(state):
            _check(definition, following, f"States.{name}.{path}", faults)
        if isinstance(state, CompensationTrigger) and not isinstance(
            states.get(state.next), Fail | Succeed | None
        ):
            faults.report(
                f"States.{name}.Next",
                "must be a Fail or Succeed: the decision to undo everything is final",
            )
        if isinstance(state, ServiceTask | SubStateMachine):
            _check_compensation(definition, state, faults)
    _check_choices(definition, faults)


def _followers(state: State) -> Iterator[tuple[str, str]]:
    """Name the states that may follow, each with where it is named."""
    match state:
        case ServiceTask() | SubStateMachine():
            for at, rule in enumerate(state.catches):
                yield f"Catch[{at}].Next", rule.next
            if state.next:
                yield "Next", state.next
        case Choice():
            for at, (_, following) in enumerate(state.choices):
                yield f"Choices[{at}].Next", following
            if state.default:
                yield "Default", state.default
        case CompensationTrigger():
            if state.next:
                yield "Next", state.next
        case Compensation() | Succeed() | Fail():
            return


def _check(definition: Definition, name: str, path: str, faults: Faults) -> None:
    state = definition.states.get(name)
    if state is None:
        faults.report(path, f"names {name!r}, and there is no such state")
    elif isinstance(state, Compensation):
        faults.report(path, f"names {name!r}, which {_UNDOES}")


def _check_compensation(
    definition: Definition, task: ServiceTask | SubStateMachine, faults: Faults
) -> None:
    if not task.compensation:
        return
    path = f"States.{task.name}.CompensateState"
    undoing = definition.states.get(task.compensation)
    is_service = isinstance(task, ServiceTask)
    if undoing is None:
        faults.report(path, f"names {task.compensation!r}, and there is no such state")
    elif not isinstance(undoing, Compensation) or bool(undoing.url) is not is_service:
        wanted = "a ServiceTask" if is_service else "a CompensateSubMachine"
        faults.report(path, f"names {task.compensation!r}, which is not {wanted}")


def _check_choices(definition: Definition, faults: Faults) -> None:
    """Report Choices that lead back to themselves: nothing would change between two rounds."""
    leads = {
        name: [
            following
            for _, following in _followers(state)
            if isinstance(definition.states.get(following), Choice)
        ]
        for name, state in definition.states.items()
        if isinstance(state, Choice)
    }
    left = dict(leads)
    while ended := [name for name, to in left.items() if not any(each in left for each in to)]:
        for name in ended:
            del left[name]
    for name in left:
        faults.report(
            f"States.{name}", "leads back to itself through Choices alone, and would never end"
        )
