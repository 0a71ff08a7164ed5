"""Every script can be run as it is and says how it is used."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.meta.documents import ROOT

# A leading underscore marks what is read by scripts, not run; an ending, what other programs read.
scripts = sorted(
    path
    for path in (ROOT / "scripts").iterdir()
    if path.is_file() and not path.suffix and not path.name.startswith(("_", "."))
)


def name_of(path: Path) -> str:
    return path.name


def test_there_are_scripts() -> None:
    assert "test" in {script.name for script in scripts}


@pytest.mark.parametrize("script", scripts, ids=name_of)
def test_a_script_is_executable_and_names_its_interpreter(script: Path) -> None:
    assert os.access(script, os.X_OK), f"chmod +x scripts/{script.name}"
    assert script.read_bytes().startswith(b"#!/usr/bin/env ")


@pytest.mark.parametrize("script", scripts, ids=name_of)
def test_a_script_says_how_it_is_used_from_any_folder(script: Path, tmp_path: Path) -> None:
    answer = subprocess.run(
        [script, "--help"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith(("Usage: ", "usage: "))
    assert script.name in answer.stdout
