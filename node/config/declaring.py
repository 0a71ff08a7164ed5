"""How a setting is declared: with a default, by a rule that others give, or to be given.

What is said here of a setting, its bounds and its meaning, is what the reader, the sample and the
documents take it from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final, TypeVar

Value = TypeVar("Value")

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30
TIB: Final = 1 << 40

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS

GREATEST_CLUSTER: Final = 15
"""More voters than this only slow a cluster down."""

MAP_GRANULARITY_BYTES: Final = 64 * KIB
"""Every page size that LMDB runs on divides it."""


def setting(
    default: Value, meaning: str, *, minimum: int | None = None, maximum: int | None = None
) -> Value:
    """Declare a setting with a default. `meaning` is its text in the documents."""
    metadata = {"meaning": meaning, "minimum": minimum, "maximum": maximum}
    declared: Any
    if isinstance(default, Mapping):  # not hashable, so dataclasses want a factory
        declared = dataclasses.field(default_factory=lambda: default, metadata=metadata)
    else:
        declared = dataclasses.field(default=default, metadata=metadata)
    return declared  # type: ignore[no-any-return]  # a dataclass field stands for its value


def derived(rule: str, meaning: str) -> Any:
    """Declare a setting that, when left out, follows from others by `rule`."""
    return dataclasses.field(metadata={"meaning": meaning, "rule": rule})


def required(meaning: str) -> Any:
    """Declare a setting that must be given."""
    return dataclasses.field(metadata={"meaning": meaning})
