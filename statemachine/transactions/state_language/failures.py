"""Which failures a rule of a definition means."""

from __future__ import annotations

from collections.abc import Sequence

from statemachine.transactions.state_language.model import (
    ANY_FAILURE,
    REFUSED,
    CatchRule,
    RetryPolicy,
)


def is_meant(names: Sequence[str], failure_type: str, *, refused: bool) -> bool:
    """Whether one of the names under `Exceptions` means a failure.

    `refused`: its participant says that nothing was done. A name may end in `*`.
    """
    return any(_means(name, failure_type, refused=refused) for name in names)


def _means(name: str, failure_type: str, *, refused: bool) -> bool:
    if name in ANY_FAILURE or name == failure_type:
        return True
    if name.endswith("*"):
        return failure_type.startswith(name[:-1])
    return name == REFUSED and refused


def catcher(rules: Sequence[CatchRule], failure_type: str, *, refused: bool) -> CatchRule | None:
    """Return the first rule that means a failure."""
    for rule in rules:
        if is_meant(rule.failures, failure_type, refused=refused):
            return rule
    return None


def retry_rule(rules: Sequence[RetryPolicy], failure_type: str, *, refused: bool) -> int | None:
    """Return the place of the first rule that means a failure, None when there is none.

    A rule without names means what nobody knows the outcome of, as time-outs.
    """
    for place, rule in enumerate(rules):
        if rule.failures:
            if is_meant(rule.failures, failure_type, refused=refused):
                return place
        elif not refused:
            return place
    return None
