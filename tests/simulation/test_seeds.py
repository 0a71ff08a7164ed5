"""Two hundred schedules of faults, and that each can be replayed."""

from __future__ import annotations

import pytest

from tests.simulation.run import run_seed

SEEDS = range(200)
_SEEDS_A_TEST = 10


@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", SEEDS[::_SEEDS_A_TEST])
def test_no_schedule_of_faults_breaks_a_promise(first: int) -> None:
    results = [run_seed(seed) for seed in range(first, first + _SEEDS_A_TEST)]
    violations = [
        f"scripts/simulate --seeds {result.seed}: {result.violation}"
        for result in results
        if result.violation is not None
    ]
    assert violations == []
    assert all(result.counters["acknowledged"] > 0 for result in results)


def test_a_seed_replays_exactly() -> None:
    first, again = run_seed(7), run_seed(7)
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != run_seed(8).fingerprint
