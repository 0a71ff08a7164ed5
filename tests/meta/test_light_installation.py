"""`pip install tidelock` brings aiohttp and msgspec, and everything that needs no more works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.meta.documents import ROOT


def required(distribution: str) -> list[str]:
    """Return what a distribution brings without any extra."""
    return [
        re.split(r"[^\w.-]", line, maxsplit=1)[0].lower().replace("_", "-")
        for line in metadata.requires(distribution) or ()
        if "extra ==" not in line
    ]


def brought(distribution: str) -> set[str]:
    """Return a distribution with all that comes with it on this machine."""
    found: set[str] = set()
    waiting = [distribution]
    while waiting:
        name = waiting.pop()
        try:
            needs = required(name)
        except metadata.PackageNotFoundError:
            continue  # for other versions of Python
        if name not in found:
            found.add(name)
            waiting += needs
    return found


def test_it_brings_aiohttp_and_msgspec_only() -> None:
    assert sorted(required("tidelock")) == ["aiohttp", "msgspec"]


ALONE = """
import sys

# None says that there is no such module, to `import` and to `find_spec`.
sys.modules.update(dict.fromkeys(sys.argv[1:]))

import tidelock
import tidelock.client
import tidelock.clocks
import tidelock.rm.resource

loaded = []
for name in tidelock.__all__:
    try:
        loaded.append(getattr(tidelock, name))
    except ImportError as error:
        print(name, error)
print(tidelock.undo_log_ddl("sqlite").split()[0], len(tidelock.__all__) - len(loaded))
for module in ("xa", "propagation.httpx_client", "sql.drivers.proxies", "testing"):
    try:
        __import__(f"tidelock.{module}")
    except ImportError as error:
        print(module, error)
"""


def test_public_names_load_without_any_extra_or_say_which() -> None:
    """What must not be there is everything else that is installed here."""
    here = brought("tidelock")
    absent = [
        package
        for package, owners in metadata.packages_distributions().items()
        if not {owner.lower().replace("_", "-") for owner in owners} & here
    ]
    assert {"sqlglot", "wrapt", "click", "sqlalchemy"} <= set(absent)
    done = subprocess.run(
        [sys.executable, "-c", ALONE, "tidelock_testing", *absent],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    *refused, made, xa, httpx, proxies, testing = done.stdout.splitlines()
    assert made == f"CREATE {len(refused)}"
    # They only need more when they are given a connection.
    assert {line.split()[0] for line in refused} == set()
    extras = {xa: "sql", httpx: "httpx", proxies: "sql", testing: "testing"}
    extras |= dict.fromkeys(refused, "sql")
    for line, extra in extras.items():
        assert line.endswith(f'pip install "tidelock[{extra}]"'), line


# From a wheel, as users get it

SERVICE = """
from collections.abc import Coroutine
from typing import Any, assert_type

import tidelock


@tidelock.global_transaction
def plain(sku: str, *, count: int = 1) -> float:
    return float(count)


@tidelock.global_transaction(name="purchase", timeout_ms=1_000)
async def awaited(sku: str) -> bytes:
    return sku.encode()


@tidelock.local_transaction
def unit(number: int) -> str:
    return str(number)


async def use() -> None:
    assert_type(plain("a", count=2), float)
    assert_type(await assert_type(awaited("a"), Coroutine[Any, Any, bytes]), bytes)
    assert_type(unit(1), str)
    with tidelock.transaction() as transaction:
        assert_type(transaction.xid, str)
"""
MISTAKES = """
import tidelock


@tidelock.global_transaction
def plain(sku: str) -> float:
    return 1.0


plain(1)
wrong: str = plain("a")
tidelock.nothing_of_this_name
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment in which the wheel was installed, and nothing else."""
    found = subprocess.run(
        ["bash", "-c", ". scripts/_bootstrap && _find_uv"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        pytest.skip("there is no uv to build a wheel with; scripts/test installs it")
    uv, folder = found.stdout.strip(), tmp_path_factory.mktemp("installed")
    python = folder / "env" / "bin" / "python"
    commands: tuple[list[str | Path], ...] = (
        ["build", "--quiet", "--wheel", "--out-dir", folder, ROOT / "sdk"],
        ["venv", "--quiet", "--python", sys.executable, folder / "env"],
        ["pip", "install", "--quiet", "--python", python],
    )
    for command in commands:
        wheels = sorted(folder.glob("*.whl")) if command[0] == "pip" else []
        subprocess.run([uv, *command, *wheels], check=True, env={**os.environ, "VIRTUAL_ENV": ""})
    return python


@pytest.mark.long
def test_a_fresh_environment_has_what_the_wheel_names_and_no_more(installed: Path) -> None:
    code = "from importlib.metadata import distributions as d; print(*sorted(x.name for x in d()))"
    said = subprocess.run([installed, "-c", code], capture_output=True, text=True, check=True)
    there = {name.lower().replace("_", "-") for name in said.stdout.split()}
    assert {"tidelock", "aiohttp", "msgspec"} <= there <= brought("tidelock")


@pytest.mark.long
def test_the_command_of_a_fresh_environment_says_which_extra_to_install(installed: Path) -> None:
    said = subprocess.run(
        [installed.with_name("tidelock"), "undo-log", "ddl", "--dialect", "mysql"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 1
    assert said.stderr.strip().endswith('pip install "tidelock[cli]"')


@pytest.mark.long
def test_a_type_checker_sees_the_signatures_of_the_wheel(installed: Path, tmp_path: Path) -> None:
    def checked(source: str) -> tuple[int, str]:
        (tmp_path / "service.py").write_text(source)
        done = subprocess.run(
            [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull,
             "--python-executable", installed, "--cache-dir", tmp_path / "cache", "service.py"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    status, said = checked(SERVICE)
    assert status == 0, said
    status, said = checked(MISTAKES)
    assert status == 1, said
    for code in ("arg-type", "assignment", "attr-defined"):
        assert f"[{code}]" in said, said
