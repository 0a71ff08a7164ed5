"""How the scripts set a machine up. PATH holds pretended programs and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.meta.documents import ROOT

EVERYWHERE = [
    "bash", "cat", "chmod", "cksum", "dirname", "flock", "head", "ln", "mkdir", "mktemp",
    "readlink", "rm", "sort", "tail", "touch",
]  # fmt: skip

MADE_FROM = ["uv.lock", "pyproject.toml", "sdk/pyproject.toml", "testing/pyproject.toml"]


class Machine:
    """A checkout with the real set-up script, and a PATH with pretended programs."""

    def __init__(self, folder: Path) -> None:
        self.checkout = folder / "checkout"
        self.path = folder / "bin"
        self.calls = folder / "calls"
        for part in ["scripts", "sdk", "testing"]:
            (self.checkout / part).mkdir(parents=True)
        self.path.mkdir()
        shutil.copy(ROOT / "scripts" / "_bootstrap", self.checkout / "scripts")
        for file in MADE_FROM:
            (self.checkout / file).write_text(f"# {file}\n")
        for name in EVERYWHERE:
            program = shutil.which(name)
            assert program, f"this test needs {name}"
            (self.path / name).symlink_to(program)
        self.become("root")

    def program(self, name: str, text: str) -> None:
        """Put a program on PATH that notes its call and then runs `text`."""
        file = self.path / name
        file.write_text(f'#!{self.path}/bash\necho "{name} $*" >>"{self.calls}"\n{text}\n')
        file.chmod(0o755)

    def become(self, user: str) -> None:
        number = 0 if user == "root" else 1000
        self.program("id", f'[ "$1" = -u ] && echo {number} || echo {user}')

    def has_python(self) -> None:
        (self.path / "python3").symlink_to(sys.executable)

    def has_uv(self, version: str = "0.99.0", *, sync: str | None = None) -> None:
        """A uv whose `sync` makes an environment, unless told otherwise."""
        python = self.checkout / ".venv" / "bin" / "python"
        makes = f'mkdir -p "{python.parent}" && ln -sf "{sys.executable}" "{python}"'
        self.program(
            "uv", f'[ "$1" = --version ] && echo "uv {version} (abc 2026-01-01)" && exit\n'
            f"{makes if sync is None else sync}",
        )  # fmt: skip

    def run(self, script: str = "bootstrap") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.path / "bash", "-euo", "pipefail", "-c", f". scripts/_bootstrap; {script}"],
            cwd=self.checkout,
            env={"PATH": str(self.path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def calls_of(self, name: str) -> list[str]:
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [line.partition(" ")[2] for line in lines if line.startswith(f"{name} ")]

    def syncs(self) -> list[str]:
        return [call for call in self.calls_of("uv") if call.startswith("sync")]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_environment_is_made_from_the_lock_file(machine: Machine) -> None:
    machine.has_python()
    machine.has_uv()
    done = machine.run('bootstrap; echo "$TIDELOCK_ROOT $TIDELOCK_PYTHON"')
    assert done.returncode == 0, done.stderr
    checkout = machine.checkout
    assert done.stdout == f"{checkout} {checkout}/.venv/bin/python\n"
    (sync,) = machine.syncs()
    assert sync == f"sync --project {checkout} --frozen --python {machine.path}/python3"


def test_the_second_time_it_says_nothing_and_calls_nothing(machine: Machine) -> None:
    machine.has_python()
    machine.has_uv()
    machine.run()
    machine.calls.unlink()
    again = machine.run()
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert not machine.calls.exists()


@pytest.mark.parametrize("file", MADE_FROM)
def test_a_changed_dependency_makes_the_environment_anew(machine: Machine, file: str) -> None:
    machine.has_python()
    machine.has_uv()
    machine.run()
    (machine.checkout / file).write_text("# changed\n")
    machine.run()
    assert len(machine.syncs()) == 2
    # The interpreter stays the environment's own, so that uv need not start from nothing.
    assert machine.syncs()[1].endswith(f"--python {machine.checkout}/.venv/bin/python")


def test_a_failed_sync_ends_the_script_shows_why_and_is_tried_again(machine: Machine) -> None:
    machine.has_python()
    machine.has_uv(sync="echo the index is down; exit 2")
    failed = machine.run("bootstrap; echo went on")
    assert failed.returncode == 1
    assert "went on" not in failed.stdout
    assert "the index is down" in failed.stderr
    machine.has_uv()
    assert machine.run().returncode == 0


def test_without_python_an_ordinary_user_is_told_what_to_install(machine: Machine) -> None:
    machine.become("alice")
    machine.program("apt-get", "exit 0")
    told = machine.run()
    assert told.returncode == 1
    assert "no Python 3.11 or later on PATH" in told.stderr
    assert "apt-get install python3 python3-venv" in told.stderr
    assert machine.calls_of("apt-get") == []


def test_without_python_root_on_debian_gets_it_installed(machine: Machine) -> None:
    machine.has_uv()
    machine.program(
        "apt-get", f'[ "$1" = update ] || ln -s "{sys.executable}" "{machine.path}/python3"'
    )
    done = machine.run()
    assert done.returncode == 0, done.stderr
    assert machine.calls_of("apt-get") == [
        "update",
        "install --yes --no-install-recommends python3 python3-venv",
    ]


def test_what_apt_get_could_not_do_is_shown(machine: Machine) -> None:
    machine.program("apt-get", "echo no such mirror; exit 100")
    failed = machine.run()
    assert failed.returncode == 1
    assert "no such mirror" in failed.stderr
    assert "apt-get could not install: python3 python3-venv" in failed.stderr


def test_on_a_system_without_apt_get_the_packages_are_named(machine: Machine) -> None:
    failed = machine.run()
    assert failed.returncode == 1
    assert "what Debian packages as: python3 python3-venv" in failed.stderr


@pytest.mark.parametrize(
    ("version", "found"), [((3, 10, 9), False), ((3, 11, 0), True), ((3, 13, 1), True)]
)
def test_a_python_that_is_too_old_is_none(
    machine: Machine, version: tuple[int, int, int], found: bool
) -> None:
    pretend = f"import sys; sys.version_info = {version}; exec(sys.argv[1])"
    machine.program("python3", f'exec "{sys.executable}" -c "{pretend}" "$2"')
    assert (machine.run("_find_python").returncode == 0) is found


@pytest.mark.parametrize(
    ("version", "found"),
    [("0.7.22", False), ("0.8.0", True), ("0.10.1", True), ("0.13.8", True), ("1.0.0", True)],
)
def test_a_uv_that_is_too_old_is_none(machine: Machine, version: str, found: bool) -> None:
    machine.has_uv(version)
    assert (machine.run("_find_uv").returncode == 0) is found


def test_without_uv_one_is_installed_into_the_checkout(machine: Machine) -> None:
    """The pretended Python answers for pip: it puts a uv where `--target` says."""
    machine.has_uv()
    (machine.path / "uv").rename(machine.path.parent / "uv-to-install")
    target = machine.checkout / ".uv"
    machine.program(
        "python3",
        f"""case "$*" in
            *ensurepip*) exit 1 ;;
            *"pip install"*) mkdir -p "{target}/bin"
                ln -s "{machine.path.parent}/uv-to-install" "{target}/bin/uv" ;;
        esac""",
    )
    done = machine.run()
    assert done.returncode == 0, done.stderr
    assert len(machine.syncs()) == 1
    (install,) = [call for call in machine.calls_of("python3") if "pip install" in call]
    assert f"--target {target} --upgrade uv==" in install


def test_two_scripts_at_once_make_one_environment(machine: Machine) -> None:
    machine.has_python()
    machine.has_uv()
    done = machine.run("bootstrap & first=$!; bootstrap & second=$!; wait $first; wait $second")
    assert done.returncode == 0, done.stderr
    assert len(machine.syncs()) == 1


def test_the_lock_file_is_what_uv_makes_of_the_projects() -> None:
    """One that was edited by hand, or forgotten, installs something else than what is asked for."""
    script = """
        . scripts/_bootstrap; _prepare_surroundings
        uv="$(_find_uv)" || exit 77
        exec "$uv" lock --check --offline --python "$TIDELOCK_PYTHON"
    """
    checked = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if checked.returncode == 77:
        pytest.skip("uv, which made the environment, is gone")
    assert checked.returncode == 0, f"run `uv lock` and commit what it writes: {checked.stderr}"
