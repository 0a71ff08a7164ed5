"""Schedules of faults in which transactions are run: each is done, or undone, as a whole."""

from __future__ import annotations

import logging
from collections import Counter

import pytest

from tests.simulation.cluster import SimulatedCluster
from tests.simulation.driving import (
    Participants,
    TransactionClients,
    all_ended,
    check_transactions,
)
from tests.simulation.faults import Faults
from tests.simulation.world import World

SEEDS = range(10)
FAULTS_S = 15.0
HEALED_WITHIN_S = 60.0


def run(seed: int) -> tuple[Counter[str], Counter[str]]:
    """Run one schedule; return how transactions ended and what was called. Raises: Violation"""
    logging.disable(logging.CRITICAL)
    world = World(seed)
    cluster = SimulatedCluster(world, world.rng.choice((3, 3, 5)))
    participants = Participants(world, trouble=world.rng.choice((0.0, 0.2, 0.5)))
    clients = TransactionClients(cluster, participants)
    faults = Faults(cluster, rate_per_s=world.rng.choice((0.2, 0.5, 1.0)))
    clients.start()
    cluster.start_all()
    cluster.wait_for_leader()
    faults.start()
    world.run_until(world.now + FAULTS_S)
    faults.heal_everything()
    world.run_until(world.now + 7.0)
    faults.heal_everything()
    clients.running = False
    participants.healed = True
    cluster.wait_for(
        lambda: all_ended(cluster, clients), HEALED_WITHIN_S, "every transaction has ended"
    )
    # Copies that are still under way find everything over.
    world.run_until(world.now + 7.0)
    return check_transactions(cluster, clients), participants.counters


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_transaction_is_done_or_undone_as_a_whole_whatever_goes_wrong(seed: int) -> None:
    ended, called = run(seed)
    # A run in which nothing is committed, or nothing undone, would prove little.
    assert ended["COMMITTED"] > 0
    assert ended["ROLLED_BACK"] + ended["TIMEOUT_ROLLED_BACK"] > 0
    assert called["undo"] > 0
