"""Processes die where tests want it, and every such place is listed."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import tidelock
from tidelock import crash_points
from tidelock.crash_points import POINTS, VARIABLE, reached, watched

PROGRAM = """
from tidelock.crash_points import reached
for number in range(4):
    print(number, flush=True)
    reached("rm.before-call")
    reached("rm.after-call")
"""


def run(setting: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, VARIABLE: setting},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(("setting", "printed"), [("", "0"), (":1", "0"), (":3", "0 1 2")])
def test_a_process_is_killed_when_it_comes_there_for_the_nth_time(
    setting: str, printed: str
) -> None:
    ended = run(f"rm.after-call{setting}")
    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout.split() == printed.split()
    assert ended.stderr == "killed at rm.after-call\n"


@pytest.mark.parametrize("setting", ["rm.nowhere", "rm.after-call:0", "rm.after-call:x", ""])
def test_a_process_says_that_there_is_no_such_point(setting: str) -> None:
    ended = run(setting)
    assert ended.returncode == 1
    assert "ValueError" in ended.stderr


def test_who_watches_is_told_of_every_point_and_may_raise_there() -> None:
    seen: list[str] = []
    with watched(seen.append):
        reached("rm.before-call")
        reached("rm.after-call")
    reached("rm.after-answer")
    assert seen == ["rm.before-call", "rm.after-call"]

    def fail(name: str) -> None:
        raise ConnectionError(name)

    with watched(fail), pytest.raises(ConnectionError, match="before-call"):
        reached("rm.before-call")


def test_every_point_in_the_code_is_listed_and_every_listed_one_is_in_the_code() -> None:
    found: set[str] = set()
    for source in Path(str(resources.files(tidelock))).rglob("*.py"):
        if source == Path(crash_points.__file__):
            continue
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            named = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            if named and node.func.id == "reached":  # type: ignore[attr-defined]
                (name,) = node.args  # type: ignore[attr-defined]
                assert isinstance(name, ast.Constant), f"{source}:{name.lineno}: write the name out"
                found.add(str(name.value))
    assert found == POINTS.keys()
