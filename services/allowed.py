"""What clients may have changed: patterns of the configuration, with `*` for anything."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase


def is_allowed(patterns: Sequence[str], *parts: str) -> bool:
    """Tell whether a pattern has as many parts, and each of them fits: `primary.stock.*`."""
    return any(_fits(pattern.split("."), parts) for pattern in patterns)


def _fits(pattern: Sequence[str], parts: Sequence[str]) -> bool:
    return len(pattern) == len(parts) and all(
        fnmatchcase(part, each) for each, part in zip(pattern, parts, strict=True)
    )
