"""Real nodes, real faults, for half a minute. Longer runs: `scripts/chaos --minutes N`."""

from __future__ import annotations

import io
import secrets
from pathlib import Path

import pytest

from scripts.tidelock_scripts.chaos.nemesis import FAULTS
from scripts.tidelock_scripts.chaos.run import ChaosOptions, ChaosReport, run_chaos
from scripts.tidelock_scripts.terminal import Terminal

SECONDS = 30.0
LONG_SECONDS = 600.0
LEAST = (
    ("events", "acknowledged", 100),
    ("oracle", "acknowledged", 30),
    ("locks", "granted", 20),
    ("sequences", "acknowledged", 50),
    ("vectors", "stored", 50),
    ("objects", "acknowledged", 30),
    ("proposals", "COMMITTED", 5),
    ("watch", "changes told", 1_000),
    ("transactions", "committed", 20),
    ("bank", "committed", 5),
    ("dtm", "committed", 10),
)
"""A run in which a workload does less would mean little."""


async def chaos(seconds: float, data_dir: Path) -> ChaosReport:
    # A new seed each time: what is known to pass needs no repeating. A failure names its seed.
    seed = secrets.randbelow(1 << 31)
    options = ChaosOptions(seconds=seconds, seed=seed, faults=list(FAULTS), data_dir=data_dir)
    report = await run_chaos(options, Terminal(io.StringIO()))
    findings = "\n".join(report.findings())
    assert report.passed, f"seed {seed}, data in {data_dir}:\n{findings}"
    return report


@pytest.mark.timeout(240)
async def test_nothing_that_clients_of_any_kind_were_told_is_broken_under_faults(
    tmp_path: Path,
) -> None:
    report = await chaos(SECONDS, tmp_path / "cluster")
    # A run without faults or without load would pass as well, and mean nothing.
    assert report.faults.total() >= 3
    (only,) = report.rounds
    assert [name for name, what, least in LEAST if only.figures(name)[what] < least] == []
    assert not (tmp_path / "cluster").exists(), "a run that passed leaves nothing behind"


@pytest.mark.long
@pytest.mark.timeout(LONG_SECONDS * 3)
async def test_the_same_holds_for_ten_minutes(tmp_path: Path) -> None:
    report = await chaos(LONG_SECONDS, tmp_path / "cluster")
    every = {name for group in FAULTS.values() for name in group}
    assert set(report.faults) == every
