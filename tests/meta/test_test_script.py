"""What scripts/test runs, in which order, and whether its exit status tells the truth."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.meta.documents import ROOT

NEEDED = [
    "bash", "cat", "cksum", "dirname", "flock", "head", "mkdir", "mktemp", "readlink", "rm", "sort",
    "tail",
]  # fmt: skip

PROGRAMS = ["haproxy", "openssl", "redis-server", "nats-server", "rabbitmq-server"]
SERVERS = {"mariadbd": "mariadb-server", "postgres": "postgresql"}
"""Programs by which database servers are noticed, and what installs them."""
CHECKS = ["ruff check .", "ruff format --check .", "mypy ", "lint-imports "]


class Checkout:
    """A checkout whose environment is in place and holds pretended tools."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = folder / "calls"
        for part in ["scripts", "sdk", "testing", ".venv/bin"]:
            (folder / part).mkdir(parents=True)
        for name in ["_bootstrap", "test"]:
            shutil.copy(ROOT / "scripts" / name, folder / "scripts")
        for file in ["uv.lock", "pyproject.toml", "sdk/pyproject.toml", "testing/pyproject.toml"]:
            (folder / file).touch()
        for name in ["ruff", "mypy", "lint-imports", *PROGRAMS, *SERVERS]:
            self.tool(name, "exit 0")
        self.tool("python", "echo '== 3 passed in 0.01s =='")
        self.tool("chromium", "exit 1")
        fingerprint = ". scripts/_bootstrap; _fingerprint >.venv/.made-from"
        subprocess.run(["bash", "-c", fingerprint], cwd=folder, check=True)

    def tool(self, name: str, text: str) -> None:
        file = self.folder / ".venv" / "bin" / name
        file.write_text(f'#!/bin/sh\necho "{name} $*" >>"{self.calls}"\n{text}\n')
        file.chmod(0o755)

    def test(self, *arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run the script, with nothing but the programs in `path` when it is given."""
        return subprocess.run(
            [self.folder / "scripts" / "test", *arguments],
            env=dict(os.environ) if path is None else {"PATH": str(path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "checkout")


def test_it_runs_every_check_and_then_the_quick_tests(checkout: Checkout) -> None:
    done = checkout.test()
    assert (done.returncode, done.stderr) == (0, "")
    assert checkout.called() == [*CHECKS, "python -m pytest -n 2 --dist worksteal -m not long"]


def test_it_ends_with_the_summary_of_pytest(checkout: Checkout) -> None:
    assert checkout.test().stdout.splitlines()[-1] == "== 3 passed in 0.01s =="


def test_long_leaves_no_test_out(checkout: Checkout) -> None:
    checkout.test("--long")
    assert checkout.called()[-1] == "python -m pytest -n 2 --dist worksteal"


def test_other_arguments_go_to_pytest(checkout: Checkout) -> None:
    checkout.test("--long", "tests/unit", "-k", "lamport")
    assert checkout.called()[-1] == "python -m pytest -n 2 --dist worksteal tests/unit -k lamport"


def test_check_runs_no_test_and_takes_no_arguments_for_one(checkout: Checkout) -> None:
    assert checkout.test("--check").returncode == 0
    assert checkout.called() == CHECKS
    assert checkout.test("--check", "tests/unit").returncode == 1
    assert checkout.called() == CHECKS


@pytest.mark.parametrize(
    ("tool", "named"),
    [("mypy", "mypy"), ("lint-imports", "import contracts"), ("python", "tests")],
)
def test_what_fails_is_named_at_the_end_and_the_rest_still_runs(
    checkout: Checkout, tool: str, named: str
) -> None:
    checkout.tool(tool, "exit 3")
    done = checkout.test()
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"tidelock: failed: {named}"
    assert len(checkout.called()) == len(CHECKS) + 1


ABSENT = "no-such-program"


def lack_one(checkout: Checkout, *, apt_get: str) -> None:
    """Let the tests need a program that no machine has, where root runs `apt-get` on Debian."""
    script = checkout.folder / "scripts" / "test"
    text = script.read_text()
    known = f"programs=({' '.join(PROGRAMS)})"
    assert known in text
    script.write_text(text.replace(known, f"programs=({' '.join(PROGRAMS)} {ABSENT})"))
    checkout.tool("id", "echo 0")
    checkout.tool("apt-get", apt_get)


def test_programs_that_tests_run_are_installed_for_a_run_of_everything(checkout: Checkout) -> None:
    lack_one(checkout, apt_get="exit 0")
    assert checkout.test().returncode == 0
    (installed,) = (call for call in checkout.called() if call.startswith("apt-get install"))
    assert installed.split()[-1] == ABSENT
    assert not {*PROGRAMS} & {*installed.split()}


def test_database_servers_are_installed_for_a_run_of_everything(checkout: Checkout) -> None:
    lack_one(checkout, apt_get="exit 0")
    script = checkout.folder / "scripts" / "test"
    text = script.read_text().replace("/usr/lib/postgresql/", "/no-such-folder/")
    for program in SERVERS:
        assert f"command -v {program} " in text
        text = text.replace(f"command -v {program} ", f"command -v {ABSENT} ")
    script.write_text(text)
    assert checkout.test().returncode == 0
    (installed,) = (call for call in checkout.called() if call.startswith("apt-get install"))
    assert set(SERVERS.values()) < {*installed.split()}


def test_nothing_is_installed_for_chosen_tests_or_for_none(checkout: Checkout) -> None:
    lack_one(checkout, apt_get="exit 0")
    checkout.test("tests/unit")
    checkout.test("--check")
    assert not any(call.startswith("apt-get") for call in checkout.called())


def test_what_cannot_be_installed_keeps_no_test_from_running(checkout: Checkout) -> None:
    lack_one(checkout, apt_get="exit 100")
    done = checkout.test()
    assert done.returncode == 0
    assert f"tests that need {ABSENT} will fail" in done.stderr
    assert checkout.called()[-1] == "python -m pytest -n 2 --dist worksteal -m not long"


def test_no_test_found_is_a_failure(checkout: Checkout) -> None:
    checkout.tool("python", "exit 5")
    assert checkout.test("-k", "no such test").returncode == 1


def test_help_needs_no_environment(checkout: Checkout) -> None:
    shutil.rmtree(checkout.folder / ".venv")
    assert checkout.test("--help").returncode == 0
    assert checkout.called() == []


# The browser


class Bare:
    """A machine without a browser, where `id` says who runs the script."""

    def __init__(self, folder: Path, checkout: Checkout, *, root: bool) -> None:
        (checkout.folder / ".venv" / "bin" / "chromium").unlink()
        self.checkout = checkout
        self.path = folder / "bin"
        self.path.mkdir()
        for name in [*NEEDED, "sh"]:
            program = shutil.which(name)
            assert program, f"this test needs {name}"
            (self.path / name).symlink_to(program)
        self._program("id", f'[ "$1" = -u ] && echo {0 if root else 1000} || echo somebody')
        self.has_library("libatomic.so.1")
        self._program("apt-get", f'echo "apt-get $*" >>"{checkout.calls}"')

    def _program(self, name: str, text: str) -> None:
        (self.path / name).write_text(f"#!{self.path}/bash\n{text}\n")
        (self.path / name).chmod(0o755)

    def has_library(self, name: str) -> None:
        self._program("ldconfig", f'[ "$1" = -p ] && echo "\t{name} (libc6,x86-64) => /lib/{name}"')

    def test(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.checkout.test(*arguments, path=self.path)

    @property
    def installed(self) -> list[str]:
        return [call for call in self.checkout.called() if "install" in call]


@pytest.mark.parametrize(
    "arguments", [(), ("--long",), ("tests/integration/test_docs_page.py",), ("-m", "browser")]
)
def test_root_gets_the_browser_that_is_missing(
    tmp_path: Path, checkout: Checkout, arguments: tuple[str, ...]
) -> None:
    machine = Bare(tmp_path, checkout, root=True)
    assert machine.test(*arguments).returncode == 0
    assert machine.installed == ["apt-get install --yes --no-install-recommends chromium"]
    assert checkout.called()[-1].startswith("python -m pytest"), "and then the tests run"


@pytest.mark.parametrize(
    "arguments", [("--check",), ("tests/unit", "-k", "lamport"), ("-m", "not long and not browser")]
)
def test_who_needs_no_browser_gets_none(
    tmp_path: Path, checkout: Checkout, arguments: tuple[str, ...]
) -> None:
    machine = Bare(tmp_path, checkout, root=True)
    done = machine.test(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert machine.installed == []


def test_others_are_told_how_to_get_one_and_the_tests_run(
    tmp_path: Path, checkout: Checkout
) -> None:
    machine = Bare(tmp_path, checkout, root=False)
    done = machine.test()
    assert done.returncode == 0
    assert "apt-get install chromium" in done.stderr
    assert "-m 'not long and not browser'" in done.stderr
    assert machine.installed == []
    assert checkout.called()[-1].startswith("python -m pytest")


def test_where_a_browser_is_nothing_is_installed(tmp_path: Path, checkout: Checkout) -> None:
    machine = Bare(tmp_path, checkout, root=True)
    (machine.path / "google-chrome").symlink_to(machine.path / "apt-get")
    assert machine.test().stderr == ""
    assert machine.installed == []


def test_what_drives_the_browser_gets_the_library_that_it_lacks(
    tmp_path: Path, checkout: Checkout
) -> None:
    machine = Bare(tmp_path, checkout, root=True)
    machine.has_library("libatomic.so.10")
    (machine.path / "google-chrome").symlink_to(machine.path / "apt-get")
    assert machine.test().returncode == 0
    assert machine.installed == ["apt-get install --yes --no-install-recommends libatomic1"]
