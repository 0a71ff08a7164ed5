"""What takes part in a run beside events and the oracle, each with checks of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from scripts.tidelock_scripts.chaos.checkers import Violation as Finding
from tests.simulation.world import Violation


class Clients(Protocol):
    """Some clients of a simulated cluster, which begin before it is started."""

    counters: Counter[str]
    """What they did and were told; the names begin with what they are clients of."""

    def start(self) -> None:
        """Begin to work."""

    def stop(self) -> None:
        """Begin nothing more."""

    def at_rest(self) -> bool:
        """Tell whether nothing is under way any more, in any node."""

    def check(self) -> None:
        """Raises: Violation: what they saw, and what the nodes hold now, is not as promised."""

    def seen(self) -> Iterable[object]:
        """Return what a replay must show again."""


def require_none(findings: list[Finding]) -> None:
    """Raises: Violation"""
    if findings:
        first = findings[0]
        raise Violation(f"{first.rule}: {first.detail} ({len(findings)} findings)")
