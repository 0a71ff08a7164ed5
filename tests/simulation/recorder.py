"""What every entry changed, noted when a first node applies it: what watchers should be told."""

from __future__ import annotations

from node.consensus.engine import Engine
from statemachine.change_log import Recorded, read_changes
from statemachine.keys import GREATEST_PLACE
from statemachine.positions import Position
from tests.simulation.cluster import SimulatedCluster

_ALL = 1_000_000


class Recorder:
    """The change log of a run, from its beginning, whatever is trimmed."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self.log: list[Recorded] = []
        cluster.on_first_applied.append(self._applied)

    def _applied(self, engine: Engine, index: int) -> None:
        # Nothing stands behind this entry yet, so there are no pages here.
        after = Position(index - 1, GREATEST_PLACE)
        self.log += read_changes(engine.machine_store, after, limit=_ALL)
