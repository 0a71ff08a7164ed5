"""One seed is one run: a cluster, a workload, faults, and at the end the truth."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass, field

from tests.simulation.checks import check
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.faults import Faults
from tests.simulation.workload import Workload
from tests.simulation.world import Violation, World

HEALED_WITHIN_S = 60.0
"""Liveness: after the last fault, everybody agrees again within this time."""


@dataclass(slots=True)
class Result:
    seed: int
    violation: str | None
    virtual_s: float
    events: int
    fingerprint: str
    """Of everything that was applied and answered: equal for equal seeds."""
    counters: Counter[str] = field(default_factory=Counter)


def run_seed(seed: int, duration_s: float = 30.0) -> Result:
    """Run one seed. Violations are returned, not raised."""
    logging.disable(logging.CRITICAL)
    world = World(seed)
    count = world.rng.choice((3, 3, 5))
    cluster = SimulatedCluster(world, count)
    workload = Workload(
        cluster, rate_per_s=world.rng.choice((20, 60)), large_events=world.rng.random() < 0.3
    )
    faults = Faults(cluster, rate_per_s=world.rng.choice((0.2, 0.5, 1.0)))
    violation: str | None = None
    try:
        _run(cluster, workload, faults, duration_s)
    except Violation as found:
        violation = str(found)
    counters = Counter(workload.history.counters)
    counters.update({f"fault_{name}": times for name, times in faults.counters.items()})
    for engine in cluster.engines():
        counters.update(engine.counters)
    return Result(
        seed, violation, world.now - 1000.0, world.events, _fingerprint(workload, world), counters
    )


def _run(cluster: SimulatedCluster, workload: Workload, faults: Faults, duration_s: float) -> None:
    world = cluster.world
    cluster.start_all()
    cluster.wait_for_leader()
    workload.start()
    faults.start()
    world.run_until(world.now + duration_s)
    faults.heal_everything()
    # Restarts that the faults had planned may still come; they do no harm to who is up.
    world.run_until(world.now + 7.0)
    faults.heal_everything()
    _check_liveness(cluster, workload)
    workload.running = False
    world.run_until(world.now + 8.0)
    cluster.wait_for(lambda: _converged(cluster), HEALED_WITHIN_S, "all nodes agree")
    for name in cluster.names:
        if not cluster.is_member(name):
            # It was removed, or never admitted, and knows nothing of what came afterwards.
            cluster.kill(name)
    check(cluster, workload.history)


def _check_liveness(cluster: SimulatedCluster, workload: Workload) -> None:
    """New events are acknowledged again."""
    before = workload.history.counters["acknowledged"]
    cluster.wait_for(
        lambda: workload.history.counters["acknowledged"] >= before + 20,
        HEALED_WITHIN_S,
        "new events are acknowledged after everything healed",
    )


def _converged(cluster: SimulatedCluster) -> bool:
    members = [name for name in cluster.names if cluster.is_member(name)]
    engines = [engine for name in members if (engine := cluster.engine(name)) is not None]
    return (
        cluster.leader() is not None
        and len(engines) == len(members)
        and len({engine.raft.last_applied for engine in engines}) == 1
        and all(
            engine.membership.is_voter and not engine.membership.change_pending
            for engine in engines
        )
        and engines[0].raft.commit_index == engines[0].journal.last()[0]
    )


def _fingerprint(workload: Workload, world: World) -> str:
    digest = hashlib.sha256()
    for write in workload.history.writes:
        digest.update(repr((write.data[:16], write.ended_at, write.lamport)).encode())
    for read in workload.history.reads:
        digest.update(repr((read.participant, read.ended_at, read.lamport)).encode())
    for draw in workload.history.draws:
        digest.update(repr((draw.count, draw.ended_at, draw.first)).encode())
    digest.update(repr((world.events, world.now)).encode())
    return digest.hexdigest()[:16]
