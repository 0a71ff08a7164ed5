"""Changes by operators."""

from __future__ import annotations

from typing import ClassVar

from statemachine.changes.change import Change


class OperatorActed(Change, frozen=True, tag=62):
    """An act of an operator was recorded."""

    kind: ClassVar[str] = "audit.recorded"

    number: int
    principal: str
    action: str
    target: str
    reason: str
    outcome: str
    """DONE, ASKED when it is done elsewhere, or the code under which it was refused."""
