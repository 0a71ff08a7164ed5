"""Who may import whom: the contracts in pyproject.toml hold, and a breach would be noticed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.meta.documents import ROOT

LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


def run(folder: Path, *search_path: Path) -> str:
    """The report on the packages in `folder`; what follows in `search_path` comes first."""
    answer = subprocess.run(
        [LINT_IMPORTS, "--no-cache", "--config", folder / "pyproject.toml"],
        cwd=folder,
        env={"PYTHONPATH": ":".join(map(str, search_path)), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout + answer.stderr


def broken(report: str) -> set[str]:
    assert re.search(r"Contracts: \d+ kept, \d+ broken\.", report), report
    return set(re.findall(r"^(.+) BROKEN", report, re.MULTILINE))


def test_the_contracts_hold() -> None:
    report = run(ROOT, ROOT, ROOT / "sdk" / "src")
    assert not broken(report), report


@pytest.fixture
def empty_house(tmp_path: Path) -> Path:
    """The packages of the repository, empty, with the contracts of the repository."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in [
        "node", "node/consensus", "api", "services", "statemachine", "sdk/src/tidelock",
        "sdk/src/tidelock/clocks", "sdk/src/tidelock/propagation",
    ]:  # fmt: skip
        (tmp_path / package).mkdir(parents=True)
        (tmp_path / package / "__init__.py").touch()
    return tmp_path


def write(house: Path, module: str, text: str) -> None:
    (house / module).write_text(text)


def test_the_contracts_allow_what_they_should(empty_house: Path) -> None:
    write(empty_house, "node/consensus/raft.py", "import pysyncobj")
    write(empty_house, "node/storage.py", "import lmdb\nimport statemachine")
    write(empty_house, "node/main.py", "import api, node.consensus.raft, node.storage, services")
    write(empty_house, "services/worker.py", "import tidelock")
    write(empty_house, "api/app.py", "import statemachine, asyncio")
    write(empty_house, "statemachine/machine.py", "import tidelock.clocks")
    report = run(empty_house, empty_house, empty_house / "sdk" / "src")
    assert broken(report) == set(), report


BREACHES = {
    "Data flows one way": ("api/app.py", "import node"),
    "The services are an application of the SDK": ("services/worker.py", "import statemachine"),
    "Of the SDK, the state machine knows": ("statemachine/machine.py", "import tidelock.client"),
    "The state machine does no I/O": ("statemachine/machine.py", "import time"),
    "Clocks depend on nothing": ("sdk/src/tidelock/clocks/lamport.py", "import random"),
    "PySyncObj is known": ("node/newcomer.py", "import pysyncobj"),
    "LMDB is known": ("node/consensus/snapshots.py", "import lmdb"),
    "The SDK knows of its coordinator": ("sdk/src/tidelock/rm.py", "import tidelock_testing"),
    "In the SDK, modes stand": ("sdk/src/tidelock/errors.py", "import tidelock.client"),
    "Messages, barriers and propagation": ("sdk/src/tidelock/barrier.py", "import tidelock.at"),
    "Of the SDK, a library of others": ("sdk/src/tidelock/propagation/asgi.py", "import httpx"),
}


def test_each_contract_has_a_breach_below() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    names = [contract["name"] for contract in settings["contracts"]]
    assert len(names) == len(BREACHES)
    assert all(any(name.startswith(breach) for breach in BREACHES) for name in names)


@pytest.mark.parametrize("contract", BREACHES)
def test_a_breach_of_a_contract_is_noticed(contract: str, empty_house: Path) -> None:
    for module in ("client", "at", "sql"):
        write(empty_house, f"sdk/src/tidelock/{module}.py", "")
    write(empty_house, *BREACHES[contract])
    report = run(empty_house, empty_house, empty_house / "sdk" / "src")
    (name,) = broken(report)
    assert name.startswith(contract)
