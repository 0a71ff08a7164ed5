"""Money that AT moves between MariaDB and PostgreSQL is all there, whichever leaders have died.

Longer runs, and one run again: `scripts/bank --minutes N --seed S`.
"""

from __future__ import annotations

import io
import secrets
from pathlib import Path

import pytest

from scripts.tidelock_scripts.accounts.bank import BankOptions, BankReport, run_bank
from scripts.tidelock_scripts.accounts.ledger import ACCOUNTS, OPENED_WITH
from scripts.tidelock_scripts.terminal import Terminal

pytestmark = pytest.mark.databases

SECONDS = 24.0
KILL_EVERY_S = 8.0
LONG_SECONDS = 600.0
LEAST_COMMITTED = 20
"""A run in which less happens would mean little."""


async def bank(seconds: float, kill_every_s: float, data_dir: Path) -> BankReport:
    seed = secrets.randbelow(1 << 31)
    options = BankOptions(seconds=seconds, seed=seed, data_dir=data_dir, kill_every_s=kill_every_s)
    said = io.StringIO()
    report = await run_bank(options, Terminal(said))
    findings = "\n".join(report.findings)
    assert report.passed, f"seed {seed}, data in {data_dir}:\n{findings}\n{said.getvalue()}"
    assert report.total == ACCOUNTS * OPENED_WITH
    assert report.ended["COMMITTED"] >= LEAST_COMMITTED, said.getvalue()
    assert report.ended["ROLLED_BACK"] > 0, "some changed their minds"
    assert not data_dir.exists(), "a run that passed leaves nothing behind"
    return report


@pytest.mark.timeout(300)
async def test_the_sum_is_exact_and_nothing_is_left_when_leaders_die(tmp_path: Path) -> None:
    report = await bank(SECONDS, KILL_EVERY_S, tmp_path / "bank")
    assert report.kills >= 1


@pytest.mark.long
@pytest.mark.timeout(LONG_SECONDS * 2)
async def test_the_same_holds_for_ten_minutes(tmp_path: Path) -> None:
    report = await bank(LONG_SECONDS, 20.0, tmp_path / "bank")
    assert report.kills >= 10
