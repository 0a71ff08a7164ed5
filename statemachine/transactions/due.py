"""What the driver of this node should look at: a hint beside the state, and no part of it.

Each entry may give the driver something to do. To find it in the index of what is due, the driver
would have to pass over everything that it is already busy with; so it is told. Nobody has to ask:
what is not asked for in time is forgotten, and the next one to ask looks at the index instead.
"""

from __future__ import annotations

from typing import Final

GREATEST_NOTED: Final = 20_000


class DueNotes:
    """The transactions that entries changed and left with something to do."""

    __slots__ = ("_noted", "_overlooked")

    def __init__(self) -> None:
        self._noted: dict[str, None] = {}
        self._overlooked = True
        """Something may be due that was never noted, or is noted no more."""

    def note(self, xid: str) -> None:
        if len(self._noted) >= GREATEST_NOTED:
            self._noted.clear()
            self._overlooked = True
        self._noted[xid] = None

    def take(self) -> list[str] | None:
        """Return what was noted since the last time; None when only the index tells."""
        overlooked, self._overlooked = self._overlooked, False
        noted, self._noted = self._noted, {}
        return None if overlooked else list(noted)

    def __bool__(self) -> bool:
        return bool(self._noted) or self._overlooked
