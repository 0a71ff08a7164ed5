"""What takes part in a run beside events and the oracle, each with checks of its own."""

from __future__ import annotations

import abc
from collections import Counter
from collections.abc import Iterable
from typing import ClassVar, Protocol

from scripts.tidelock_scripts.chaos.checkers import Violation as Finding
from tests.simulation.calls import Callers
from tests.simulation.cluster import SimulatedCluster
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


class SteadyClients(abc.ABC):
    """Clients that begin something new every now and then, until they are stopped."""

    rate_per_s: ClassVar[float]
    """How often, in the mean."""

    def __init__(self, cluster: SimulatedCluster, callers: Callers) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._callers = callers
        self._running = False
        self.counters: Counter[str] = Counter()

    def start(self) -> None:
        self._running = True
        self._next()

    def stop(self) -> None:
        self._running = False

    def _next(self) -> None:
        if self._running:
            self._begin()
            self._world.at(self._world.rng.expovariate(self.rate_per_s), self._next)

    @abc.abstractmethod
    def _begin(self) -> None:
        """Begin the next thing."""


def require_none(findings: list[Finding]) -> None:
    """Raises: Violation"""
    if findings:
        first = findings[0]
        raise Violation(f"{first.rule}: {first.detail} ({len(findings)} findings)")
