"""What runs executions, as the HTTP layer sees it. A node implements it; tests may too."""

from __future__ import annotations

from typing import Protocol

from api.errors import Problem
from statemachine.outcomes import Position

NOT_CONFIGURED = (
    "This node has no data sources. Set services.primary.kind, services.primary.user, "
    "services.primary.database and the same of services.secondary in its configuration "
    "(docs/SERVICES.md), or ask a node that has them."
)


class ExecutionRuns(Protocol):
    """The worker of this node."""

    @property
    def lease_ms(self) -> int:
        """How long an execution stays with this node when nothing is heard of it."""

    @property
    def business_types(self) -> tuple[str, ...]:
        """What can be run here."""

    def refusal(self) -> Problem | None:
        """Why nothing can be run here now; None when something can."""

    async def ended(self, execution: Position) -> None:
        """Return once this node has applied the end of an execution."""


class NoRuns:
    """Of a node without data sources."""

    lease_ms = 10_000
    business_types: tuple[str, ...] = ("COMPLEX_ORDER", "BATCH_UPDATE", "DATA_MIGRATION")

    def refusal(self) -> Problem | None:
        return Problem("SERVICES_NOT_CONFIGURED", NOT_CONFIGURED)

    async def ended(self, execution: Position) -> None:
        raise AssertionError("nothing is run here")
