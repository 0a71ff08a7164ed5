"""Steps that the cluster runs, as clients write them: a row, a heap, or a graph by `dependsOn`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from api import requests
from api.branches import Url, checked_url
from api.errors import refuse_field, refuse_size
from api.service import Service
from api.shapes import PRINTABLE, Body
from statemachine.commands import Step
from statemachine.transactions.participation import GREATEST_BRANCHES
from statemachine.transactions.references import FeedError, references_in, step_of
from statemachine.transactions.rows import Calls, RetryRule

GREATEST_PAYLOAD_BYTES: Final = 64 * 1024
GREATEST_NAME_LENGTH: Final = 64
GREATEST_CALL_MS: Final = 600_000
GREATEST_INTERVAL_MS: Final = 3_600_000

StepName = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=GREATEST_NAME_LENGTH,
        description="Unique among the steps; without dots, which part it from a path in `$ref`.",
        extra_json_schema={"pattern": PRINTABLE.replace("[^", "[^.", 1)},
        examples=["reserve"],
    ),
]

Payload = Annotated[
    Raw,
    msgspec.Meta(
        description=f"Any JSON, at most {GREATEST_PAYLOAD_BYTES} bytes as sent: the body of each "
        "call.",
        examples=[{"sku": "a-1", "count": 2}],
    ),
]

CallMs = Annotated[
    int,
    msgspec.Meta(ge=1, le=GREATEST_CALL_MS, description="How long one call may take."),
]


class RetryBody(Body, frozen=True, kw_only=True):
    """How a call that did not succeed is repeated."""

    limit: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] | None = None
    """How often; left out: until it succeeds."""
    interval_ms: Annotated[int, msgspec.Meta(ge=1, le=GREATEST_INTERVAL_MS)] = 500
    """Before the first repetition; it doubles with each, up to 20 s."""


class StepBody(Body, frozen=True, kw_only=True):
    """A step: what is done, and how it is undone."""

    name: StepName
    action: Url
    compensation: Url = ""
    """Empty: there is nothing to undo."""
    payload: Payload | UnsetType = UNSET
    """`{"$ref": "step.path"}` in it stands for what an earlier step answered."""
    depends_on: Annotated[list[StepName], msgspec.Meta(max_length=GREATEST_BRANCHES)] | None = None
    """The steps that must be done before it."""
    timeout_ms: CallMs | None = None
    retry: RetryBody = RetryBody()


def retry_rule(asked: RetryBody) -> RetryRule:
    usual = RetryRule()
    return RetryRule(
        limit=-1 if asked.limit is None else asked.limit,
        interval_ms=asked.interval_ms,
        greatest_interval_ms=max(usual.greatest_interval_ms, asked.interval_ms),
    )


def payload(path: str, raw: Raw | UnsetType) -> bytes:
    """Return the client's text, empty when there is none."""
    if raw is UNSET:
        return b""
    data = bytes(raw)
    if len(data) > GREATEST_PAYLOAD_BYTES:
        refuse_size(path, len(data), GREATEST_PAYLOAD_BYTES)
    return data


def commands_of(
    service: Service, steps: Sequence[StepBody], *, concurrent: bool
) -> tuple[Step, ...]:
    """Return the steps in an order in which each comes after those it depends on.

    Raises:
        Problem
    """
    depends_on = _dependencies(steps, concurrent=concurrent)
    order = _order(steps, depends_on)
    place = {number: at for at, number in enumerate(order)}
    before: dict[int, frozenset[int]] = {}
    commands: list[Step] = []
    for number in order:
        step = steps[number]
        path = f"steps[{number}]"
        before[number] = frozenset(depends_on[number]).union(
            *(before[each] for each in depends_on[number])
        )
        data = payload(f"{path}.payload", step.payload)
        _check_references(f"{path}.payload", data, {steps[each].name for each in before[number]})
        commands.append(
            Step(
                name=step.name,
                calls=Calls(
                    forward=checked_url(service, f"{path}.action", step.action),
                    commit="",
                    rollback=checked_url(service, f"{path}.compensation", step.compensation),
                ),
                payload=data,
                depends_on=tuple(sorted(place[each] for each in depends_on[number])),
                timeout_ms=step.timeout_ms or 0,
                retry=retry_rule(step.retry),
            )
        )
    return tuple(commands)


def _dependencies(steps: Sequence[StepBody], *, concurrent: bool) -> list[list[int]]:
    """Return for each step the numbers of those that it depends on."""
    numbers: dict[str, int] = {}
    for number, step in enumerate(steps):
        path = f"steps[{number}].name"
        requests.name(path, step.name, GREATEST_NAME_LENGTH * 4)
        if "." in step.name:
            refuse_field(path, "must not have a dot in it")
        if numbers.setdefault(step.name, number) != number:
            refuse_field(path, f"is the name of steps[{numbers[step.name]}], too")
    if all(step.depends_on is None for step in steps):
        row = [[number - 1] if number else [] for number in range(len(steps))]
        return [[] for _ in steps] if concurrent else row
    found: list[list[int]] = []
    for number, step in enumerate(steps):
        for at, name in enumerate(step.depends_on or ()):
            if name not in numbers:
                refuse_field(f"steps[{number}].dependsOn[{at}]", "is the name of no step")
        found.append(list(dict.fromkeys(numbers[name] for name in step.depends_on or ())))
    return found


def _order(steps: Sequence[StepBody], depends_on: Sequence[Sequence[int]]) -> list[int]:
    """Return the numbers of the steps, each after those it depends on, else as they were sent."""
    order: list[int] = []
    done: set[int] = set()
    left = list(range(len(steps)))
    while left:
        ready = [number for number in left if done.issuperset(depends_on[number])]
        if not ready:
            _refuse_cycle(steps, depends_on, left)
        order += ready
        done.update(ready)
        left = [number for number in left if number not in done]
    return order


def _refuse_cycle(
    steps: Sequence[StepBody], depends_on: Sequence[Sequence[int]], left: Sequence[int]
) -> None:
    path = [left[0]]
    while path.count(path[-1]) == 1:
        path.append(next(each for each in depends_on[path[-1]] if each in left))
    cycle = path[path.index(path[-1]) :]
    refuse_field(
        f"steps[{cycle[0]}].dependsOn",
        "leads back to itself: " + " needs ".join(steps[number].name for number in cycle)[:200],
    )


def _check_references(path: str, data: bytes, before: set[str]) -> None:
    try:
        references = references_in(data)
    except FeedError as error:
        refuse_field(path, str(error))
    for reference in references:
        name = step_of(reference)
        if name not in before:
            refuse_field(
                path, f"$ref {reference[:100]!r}: {name[:100]!r} is no step that is done before it"
            )
