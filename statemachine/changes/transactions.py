"""Changes of global transactions."""

from __future__ import annotations

from typing import ClassVar

from statemachine.changes.change import Change


class GlobalChanged(Change, frozen=True, tag=60):
    """A global transaction began, was decided, or ended."""

    kind: ClassVar[str] = "transaction.changed"

    xid: str
    status: str
    reason: str
