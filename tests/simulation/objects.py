"""Clients of versioned objects: each writes with what it has read, which may be old.

Every write is tried until it is known, so that the writes of each state can be told.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from scripts.tidelock_scripts.chaos.object_checks import (
    Context,
    Dot,
    ObjectCall,
    as_context,
    check_objects,
)
from statemachine.commands import WriteObject
from statemachine.objects import StoredObject, get_object
from statemachine.outcomes import ObjectWritten
from tests.simulation.calls import TIMEOUT_S, Call, Callers, nanoseconds
from tests.simulation.clients import SteadyClients, require_none
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.world import Violation

WRITERS = ("a", "b", "c", "d")
KEYS = ("cart", "profile")


class ObjectClients(SteadyClients):
    """`tests.simulation.clients.Clients` of versioned objects."""

    rate_per_s = 5.0

    def __init__(self, cluster: SimulatedCluster, callers: Callers) -> None:
        super().__init__(cluster, callers)
        self._numbers = itertools.count()
        self._known: dict[tuple[str, str], Context] = {}
        """What each writer has read of each object."""
        self._writes: list[Call] = []
        self._answers: list[ObjectCall] = []

    def _begin(self) -> None:
        rng = self._world.rng
        writer, key = rng.choice(WRITERS), rng.choice(KEYS)
        if rng.random() < 0.5:
            self._write(writer, key)
        else:
            self._read(writer, key)

    def _write(self, writer: str, key: str) -> None:
        value = b'"%d"' % next(self._numbers)
        read = self._known.get((writer, key), ())
        command = WriteObject(key=key, node_id=writer, value=value, context=dict(read))

        def ended(call: Call) -> None:
            result = call.result
            self.counters["objects_written" if result else "objects_refused"] += 1
            if not isinstance(result, ObjectWritten):
                return
            assert call.ended_ns is not None
            context = as_context(result.context)
            siblings = {(each.node_id, each.count): each.value for each in result.siblings}
            self._answers.append(
                ObjectCall(
                    key, call.begun_ns, call.ended_ns, context, siblings, writer, value, read
                )
            )
            self.counters["objects_siblings"] += len(siblings) > 1
            self._learn(writer, key, context)

        self._writes.append(self._callers.call(command, ended, keyed=True))

    def _read(self, writer: str, key: str) -> None:
        via = self._world.rng.choice(self._cluster.names)
        engine = self._cluster.engine(via)
        if engine is None:
            return
        begun_ns = nanoseconds(self._world.now)

        def ready(error: Exception | None) -> None:
            if error is not None:
                return
            found = get_object(engine.machine_store, key)
            context, siblings = _told(found)
            now_ns = nanoseconds(self._world.now)
            self._answers.append(ObjectCall(key, begun_ns, now_ns, context, siblings))
            self.counters["objects_read"] += 1
            self._learn(writer, key, context)

        self._cluster.run_as(via, lambda: engine.read(engine.now() + TIMEOUT_S, ready))

    def _learn(self, writer: str, key: str, context: Context) -> None:
        """Remember what was read, most of the time: who forgets it writes beside the others."""
        if self._world.rng.random() < 0.8:
            self._known[writer, key] = context

    # --- the end

    def at_rest(self) -> bool:
        return not any(call.ended_at is None for call in self._writes)

    def check(self) -> None:
        now_ns = nanoseconds(self._world.now)
        ends = [
            (key, engine.identity.node_id, _told(get_object(engine.machine_store, key)))
            for engine in self._cluster.members()
            for key in KEYS
        ]
        for key, node_id, (context, siblings) in ends:
            if (context, siblings) != next(told for other, _, told in ends if other == key):
                raise Violation(f"nodes differ about {key}: {node_id} has {siblings}")
            self._answers.append(ObjectCall(key, now_ns, now_ns, context, siblings))
        require_none(check_objects(self._answers))

    def seen(self) -> Iterable[object]:
        return [(call.key, call.context, sorted(call.siblings)) for call in self._answers]


def _told(found: StoredObject) -> tuple[Context, dict[Dot, bytes]]:
    siblings = {(each.node_id, each.count): each.value for each in found.siblings}
    return as_context(found.context), siblings
