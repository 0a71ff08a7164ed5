"""What the leader of a simulated cluster does by itself, as `node.housekeeping` does in a node.

Timers that are due, the tick of an idle cluster, old changes, and sessions of nodes that are gone:
the tasks of a node are made here of the simulated runtime's callbacks; what they propose is the
same.
"""

from __future__ import annotations

from node.delivery.lost_nodes import LOOK_EVERY_S, SilentHolders
from statemachine.change_log import has_old_changes
from statemachine.codec import encode_request
from statemachine.commands import AnyCommand, FireTimers, Request, TrimChanges
from statemachine.timers import due_timers, next_due_ms
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.world import SimulatedRuntime

_EVERY_S = 0.2
_TIMEOUT_S = 5.0
_TICK_AFTER_MS = 1_000
_TRIM_AT_ONCE = 50


class SimulatedHousekeeping:
    """Drives one incarnation of a node after the other, and acts while it leads."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        self.changes_kept: int | None = None
        """How many positions of the change log are kept; None: all."""
        cluster.on_started.append(self._started)

    def _started(self, name: str) -> None:
        _Keeper(self, self._cluster, name).next()


class _Keeper:
    """One incarnation."""

    def __init__(self, shared: SimulatedHousekeeping, cluster: SimulatedCluster, name: str) -> None:
        engine = cluster.nodes[name].engine
        assert engine is not None
        self._shared = shared
        self._engine = engine
        self._runtime = SimulatedRuntime(cluster.world, cluster.nodes[name].process)
        self._holders = SilentHolders(engine, engine.machine_store)
        self._look_at = 0.0
        self._busy = False

    def next(self) -> None:
        self._runtime.call_later(_EVERY_S, self._work)

    def _work(self) -> None:
        self.next()
        silent = self._silent_holder()
        if self._busy or not self._engine.leader_ready:
            return
        command = silent or self._timers() or self._old_changes()
        if command is not None:
            self._busy = True
            self._propose(command)

    def _timers(self) -> AnyCommand | None:
        engine = self._engine
        elapsed_ms = engine.stamps.elapsed_ms()
        due = due_timers(engine.machine_store, elapsed_ms)
        idle = elapsed_ms - engine.machine.elapsed_ms >= _TICK_AFTER_MS
        if due or (idle and next_due_ms(engine.machine_store) is not None):
            return FireTimers(timers=due)
        return None

    def _old_changes(self) -> AnyCommand | None:
        keep = self._shared.changes_kept
        if keep is None or not has_old_changes(self._engine.machine_store, 0, keep):
            return None
        return TrimChanges(before_wall_ms=0, keep=keep, limit=_TRIM_AT_ONCE)

    def _silent_holder(self) -> AnyCommand | None:
        if self._engine.now() < self._look_at:
            return None
        self._look_at = self._engine.now() + LOOK_EVERY_S
        return next(iter(self._holders.look()), None)

    def _propose(self, command: AnyCommand) -> None:
        engine = self._engine
        expires_at_ms = engine.stamps.elapsed_ms() + 2 * int(_TIMEOUT_S * 1000)
        request = encode_request(Request(expires_at_ms, None, (command,)))

        def answered(_: object) -> None:
            self._busy = False

        engine.propose_internal(request, engine.now() + _TIMEOUT_S, answered)
