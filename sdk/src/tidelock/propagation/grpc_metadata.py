"""What the interceptors of gRPC have in common: metadata, and where a channel leads."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from tidelock.propagation.headers import NAMED, Find

Metadata = list[tuple[str, str | bytes]]

_TARGET: Final = re.compile(
    r"(?:(?:dns:(?://[^/]*/)?|ipv4:|ipv6:))?(\[[^\[\]]+\]|[^:/\[\]]+)(?::(\d{1,5}))?",
    re.IGNORECASE,
)
_TAKEN_OFF: Final = frozenset(name.lower() for name in NAMED)

DEFAULT_PORT: Final = 443
"""Where a target without a port leads."""


def place_of(target: str) -> tuple[str, int]:
    """Return host and port of a channel's target.

    Raises:
        ValueError: the target names not one host, so nobody can say who would be told.
    """
    matched = _TARGET.fullmatch(target)
    if matched is None:
        raise ValueError(
            f"{target!r} names not one host: a transaction is carried to targets such as "
            '"orders.internal:50051" or "dns:///orders.internal:50051"'
        )
    return matched[1], int(matched[2] or DEFAULT_PORT)


def finder(metadata: Iterable[tuple[str, str | bytes]] | None) -> Find:
    """Return how values of metadata are found by the name of a header."""
    pairs = list(metadata or ())

    def find(name: str) -> list[str]:
        wanted = name.lower()
        return [
            value if isinstance(value, str) else value.decode("latin-1")
            for key, value in pairs
            if key.lower() == wanted
        ]

    return find


def with_headers(
    metadata: Iterable[tuple[str, str | bytes]] | None, headers: Iterable[tuple[str, str]]
) -> Metadata:
    """Return metadata with headers in the place of those that it had."""
    kept = [(key, value) for key, value in metadata or () if key.lower() not in _TAKEN_OFF]
    return [*kept, *((name.lower(), value) for name, value in headers)]
