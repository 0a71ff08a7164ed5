"""The wheel of the coordinator for tests holds the server's rooms, and takes nobody's names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from testing.private_rooms import ROOMS, copy, rewritten
from tests.meta.documents import ROOT

PROGRAM = """
import sys

import api

assert api.MINE
import tidelock
from tidelock.testing import Coordinator

with Coordinator() as coordinator, coordinator.application() as application:
    with tidelock.transaction(application=application) as transaction:
        pass
    print(transaction.status)
others = sorted({"node", "api", "statemachine"} & set(sys.modules))
print(others, sys.modules["tidelock_testing._rooms.api.app"].__name__)
"""


def test_a_service_with_a_package_of_the_same_name_runs_a_coordinator(tmp_path: Path) -> None:
    installed, service = tmp_path / "installed", tmp_path / "service"
    (service / "api").mkdir(parents=True)
    (service / "api" / "__init__.py").write_text("MINE = True\n")
    copy(ROOT, ROOT / "testing" / "src" / "tidelock_testing", installed)
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=service,
        env={**os.environ, "PYTHONPATH": f"{service}{os.pathsep}{installed}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["COMMITTED", "['api'] tidelock_testing._rooms.api.app"]


def test_imports_of_rooms_are_changed_and_nothing_else() -> None:
    source = (
        "from api.app import (\n    build_app,\n)\nimport json\n"
        "from tidelock_testing.faults import Faults\nname = 'from api.app import x'\n"
    )
    assert rewritten(source) == source.replace(
        "from api.app import (", "from tidelock_testing._rooms.api.app import (", 1
    )


@pytest.mark.parametrize("room", ROOMS)
def test_an_import_that_binds_the_room_itself_is_refused(room: str) -> None:
    with pytest.raises(ValueError, match="line 2"):
        rewritten(f"import json\nimport {room}.x\n")
