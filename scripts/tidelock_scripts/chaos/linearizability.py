"""Is a history linearizable? The search of Wing and Gong with Lowe's memory of visited states.

J. M. Wing, C. Gong, *Testing and Verifying Concurrent Objects* (1993); G. Lowe, *Testing for
Linearizability* (2017). The search looks for an order of the operations that respects real time
and that a sequential model could have produced. It lifts one operation after another out of a
linked list of calls and returns, and steps back when a return is met whose operation has not been
lifted. A history is split by key first: objects are linearizable together exactly when each is
alone.

The problem is NP-complete, so both the length of a key's history and the number of steps are
bounded. *Undecided* is a verdict of its own, to be treated as a failure.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Action = TypeVar("Action")
Action_contra = TypeVar("Action_contra", contravariant=True)
State = TypeVar("State", bound=Hashable)

MAX_OPERATIONS = 1_000
MAX_STEPS = 2_000_000


@dataclass(frozen=True, slots=True)
class Operation(Generic[Action]):
    """One call on one object, with what came of it inside `action`."""

    key: str
    begun_ns: int
    ended_ns: int | None
    """None when no answer came: it may have happened at any time since, or never."""
    action: Action


class Model(Protocol[Action_contra, State]):
    """A sequential object."""

    @property
    def initial(self) -> State: ...

    def step(self, state: State, action: Action_contra) -> State | None:
        """Return the state after `action`, or None when its answer is impossible in `state`."""


class Verdict(enum.Enum):
    LINEARIZABLE = "linearizable"
    VIOLATED = "violated"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class KeyVerdict:
    key: str
    verdict: Verdict
    operations: int
    steps: int
    reason: str


def check_history(
    history: Iterable[Operation[Action]],
    model: Model[Action, State],
    *,
    max_operations: int = MAX_OPERATIONS,
    max_steps: int = MAX_STEPS,
) -> list[KeyVerdict]:
    """Return a verdict for each key, in the order of keys."""
    by_key: dict[str, list[Operation[Action]]] = defaultdict(list)
    for operation in history:
        by_key[operation.key].append(operation)
    verdicts = []
    for key in sorted(by_key):
        operations = by_key[key]
        if len(operations) > max_operations:
            reason = f"{len(operations)} operations are more than {max_operations}"
            verdicts.append(KeyVerdict(key, Verdict.UNDECIDED, len(operations), 0, reason))
            continue
        verdict, steps, reason = _Search(operations, model).run(max_steps)
        verdicts.append(KeyVerdict(key, verdict, len(operations), steps, reason))
    return verdicts


class _Search(Generic[Action, State]):
    """One depth-first search.

    The calls and returns stand in a doubly linked list in the order of time, closed to a ring by
    its head, the place behind the last event.
    """

    def __init__(
        self, operations: Sequence[Operation[Action]], model: Model[Action, State]
    ) -> None:
        self._operations = operations
        self._model = model
        # At one and the same instant a call sorts before a return: those two are concurrent.
        events: list[tuple[int, int, int]] = []
        for number, operation in enumerate(operations):
            events.append((operation.begun_ns, 0, number))
            if operation.ended_ns is not None:
                events.append((operation.ended_ns, 1, number))
        events.sort()
        size = len(events)
        self._head = size
        self._operation_at = [number for _, _, number in events]
        self._is_return = [bool(kind) for _, kind, _ in events]
        self._next = [*range(1, size + 1), 0]
        self._previous = [size, *range(size)]
        self._call_of = [0] * len(operations)
        self._return_of: list[int | None] = [None] * len(operations)
        for place, (_, kind, number) in enumerate(events):
            if kind:
                self._return_of[number] = place
            else:
                self._call_of[number] = place

    def run(self, max_steps: int) -> tuple[Verdict, int, str]:
        # While an operation with an answer is left, its return is in the list: a walk from the
        # head meets a return before it could come round to the head again.
        unanswered = sum(place is not None for place in self._return_of)
        state = self._model.initial
        lifted = 0
        visited: set[tuple[int, State]] = {(lifted, state)}
        path: list[tuple[int, State, int]] = []
        deepest, blocking = -1, ""
        place = self._next[self._head]
        steps = 0
        while unanswered:
            steps += 1
            if steps > max_steps:
                return Verdict.UNDECIDED, steps, f"no verdict after {max_steps} steps"
            number = self._operation_at[place]
            if self._is_return[place]:
                if len(path) > deepest:
                    deepest = len(path)
                    blocking = f"nothing explains {self._operations[number]} in state {state!r}"
                if not path:
                    return Verdict.VIOLATED, steps, blocking
                number, state, lifted = path.pop()
                self._put_back(number)
                unanswered += self._return_of[number] is not None
                place = self._next[self._call_of[number]]
                continue
            after = self._model.step(state, self._operations[number].action)
            mask = lifted | 1 << number
            if after is None or (mask, after) in visited:
                place = self._next[place]
                continue
            visited.add((mask, after))
            path.append((number, state, lifted))
            state, lifted = after, mask
            self._lift(number)
            unanswered -= self._return_of[number] is not None
            place = self._next[self._head]
        return Verdict.LINEARIZABLE, steps, ""

    def _lift(self, number: int) -> None:
        for place in (self._call_of[number], self._return_of[number]):
            if place is not None:
                before, behind = self._previous[place], self._next[place]
                self._next[before] = behind
                self._previous[behind] = before

    def _put_back(self, number: int) -> None:
        for place in (self._return_of[number], self._call_of[number]):
            if place is not None:
                before, behind = self._previous[place], self._next[place]
                self._next[before] = place
                self._previous[behind] = place
