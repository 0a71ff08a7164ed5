"""Schedules of faults in which transactions are run: each is done, or undone, as a whole."""

from __future__ import annotations

import pytest

from tests.simulation.run import run_seed

SEEDS = range(3_000, 3_008)
FAULTS_S = 15.0


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_transaction_is_done_or_undone_as_a_whole_whatever_goes_wrong(seed: int) -> None:
    result = run_seed(seed, FAULTS_S, ("transactions", "bank"))
    assert result.violation is None
    # A run in which nothing is committed, or nothing undone, would prove little.
    told = result.counters
    assert told["transactions_COMMITTED"] > 0
    assert told["transactions_ROLLED_BACK"] + told["transactions_TIMEOUT_ROLLED_BACK"] > 0
    assert told["bank_locked"] > 0
    assert told["bank_undone"] > 0


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", range(3_100, 3_104))
def test_every_branch_ends_as_its_transaction_whatever_becomes_of_managers_and_services(
    seed: int,
) -> None:
    result = run_seed(seed, FAULTS_S, ("managers", "definitions"))
    assert result.violation is None
    told = result.counters
    assert told["managers_COMMITTED"] > 0
    assert told["managers_ROLLED_BACK"] + told["managers_TIMEOUT_ROLLED_BACK"] > 0
    assert told["managers_resumed"] > 0
    assert told["managers_clean"] > 0
    assert told["definitions_COMMITTED"] > 0
    assert told["definitions_ROLLED_BACK"] > 0
