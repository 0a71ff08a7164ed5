"""Schedules of faults in which nodes vote: every vote is one node's own, and nothing stays open."""

from __future__ import annotations

import logging
from collections import Counter

import pytest

from node.consensus.admission import REMOVE
from statemachine.stored_proposals import owed_ballots
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


def test_a_voter_that_was_removed_is_not_waited_for() -> None:
    """Seeds 101, 299, 347 and 611 waited for it. What it did not say stays PENDING."""
    world = World(1)
    cluster = SimulatedCluster(world, 4)
    SimulatedHousekeeping(cluster)
    clients = ProposalClients(cluster)
    cluster.start_all()
    leader = cluster.wait_for_leader()
    gone = next(name for name in cluster.names if name != leader.identity.node_id)
    cluster.kill(gone)
    clients.start()
    world.run_until(world.now + 3.0)
    clients.stop()
    leader = cluster.wait_for_leader()
    cluster.run_as(
        leader.identity.node_id,
        lambda: leader.admission.ask(REMOVE, gone, leader.now() + 5.0, lambda *_: None, gone, gone),
    )
    cluster.wait_for(
        lambda: not cluster.is_member(gone) and everything_is_said(cluster),
        HEALED_WITHIN_S,
        "every proposal is decided without the one who was removed",
    )
    assert owed_ballots(leader.machine_store, gone, limit=1)
    check_proposals(cluster, clients)
