"""Where a command stands in the log: the name of what it did."""

from __future__ import annotations

import msgspec


class Position(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, order=True
):
    """Where a command stands in the log: the Raft entry and the place within it, from 0."""

    entry: int
    place: int

    def __str__(self) -> str:
        return f"{self.entry}.{self.place}"
