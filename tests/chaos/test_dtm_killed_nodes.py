"""Nodes are killed with SIGKILL while clients of DTM's protocol repeat what they are not told."""

from __future__ import annotations

import io
import secrets
from collections import Counter
from pathlib import Path

import pytest

from scripts.tidelock_scripts.chaos.run import ChaosOptions, run_chaos
from scripts.tidelock_scripts.terminal import Terminal

SECONDS = 20.0
LONG_SECONDS = 600.0


async def chaos(seconds: float, data_dir: Path) -> Counter[str]:
    seed = secrets.randbelow(1 << 31)
    options = ChaosOptions(
        seconds=seconds, seed=seed, faults=["kill"], data_dir=data_dir, workloads=("dtm",)
    )
    report = await run_chaos(options, Terminal(io.StringIO()))
    findings = "\n".join(report.findings())
    assert report.passed, f"seed {seed}, data in {data_dir}:\n{findings}"
    assert report.faults.total() >= 2
    told: Counter[str] = Counter()
    for done in report.rounds:
        told.update(done.figures("dtm"))
    return told


@pytest.mark.timeout(240)
async def test_whatever_was_accepted_ends_as_a_whole_when_nodes_are_killed(tmp_path: Path) -> None:
    told = await chaos(SECONDS, tmp_path / "cluster")
    # A run in which nothing was committed, undone or repeated would mean little.
    assert min(told[name] for name in ("committed", "rolled_back", "repeated")) > 0


@pytest.mark.long
@pytest.mark.timeout(LONG_SECONDS * 3)
async def test_the_same_holds_for_ten_minutes(tmp_path: Path) -> None:
    await chaos(LONG_SECONDS, tmp_path / "cluster")
