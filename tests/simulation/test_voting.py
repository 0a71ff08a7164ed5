"""Schedules of faults in which nodes vote: every vote is one node's own, and nothing stays open."""

from __future__ import annotations

import logging
from collections import Counter

import pytest

from tests.simulation.cluster import SimulatedCluster
from tests.simulation.faults import Faults
from tests.simulation.housekeeping import SimulatedHousekeeping
from tests.simulation.voting import ProposalClients, check_proposals, everything_is_said
from tests.simulation.world import World

SEEDS = range(12)
FAULTS_S = 15.0
HEALED_WITHIN_S = 60.0


def run(seed: int) -> Counter[str]:
    """Run one schedule; return what clients were told. Raises: Violation"""
    logging.disable(logging.CRITICAL)
    world = World(seed)
    cluster = SimulatedCluster(world, world.rng.choice((3, 3, 5)))
    SimulatedHousekeeping(cluster)
    clients = ProposalClients(cluster)
    faults = Faults(cluster, rate_per_s=world.rng.choice((0.2, 0.5, 1.0)))
    clients.start()
    cluster.start_all()
    cluster.wait_for_leader()
    faults.start()
    world.run_until(world.now + FAULTS_S)
    faults.heal_everything()
    world.run_until(world.now + 7.0)
    faults.heal_everything()
    clients.stop()
    cluster.wait_for(
        lambda: len(cluster.engines()) == len(cluster.names) and everything_is_said(cluster),
        HEALED_WITHIN_S,
        "every proposal is decided, and every node has voted",
    )
    check_proposals(cluster, clients)
    return clients.counters


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", SEEDS)
def test_votes_and_decisions_agree_on_all_nodes_whatever_goes_wrong(seed: int) -> None:
    told = run(seed)
    # A run in which nothing is committed, or nothing refused, would prove little.
    assert told["proposals_COMMITTED"] > 0
    assert told["proposals_REJECTED"] > 0
