from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from node.state_copy import CopyCancelledError
from node.storage import DATA_FILE, LmdbStorage, StorageError, open_copy, verify_copy
from statemachine import keys
from statemachine.state import MachineState, encode_state, load_state
from statemachine.store import DamagedStateError

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[LmdbStorage]:
    storage = LmdbStorage.open(tmp_path / "state")
    yield storage
    storage.close()


def write_entry(store: LmdbStorage, index: int, rows: dict[bytes, bytes]) -> None:
    for key, value in rows.items():
        store.put(key, value)
    store.put(keys.META, encode_state(MachineState(applied_index=index)))
    store.end_entry()


def fill(store: LmdbStorage) -> None:
    """Write entry 1: 6 MB, enough for the copy to be paced, three rows to a page."""
    write_entry(store, 1, {b"E%06d" % i: bytes(1300) for i in range(4500)})


def wait_until_begun(part: Path) -> None:
    deadline = time.monotonic() + 10
    while not (part.exists() and part.stat().st_size):
        assert time.monotonic() < deadline, "the copy did not begin"
        time.sleep(0.001)


# Copies.


def test_a_copy_is_the_state_when_it_was_asked_for(storage: LmdbStorage, tmp_path: Path) -> None:
    write_entry(storage, 5, {b"a": b"1", b"b": b"2"})
    copy = storage.start_copy(tmp_path / "copy").result()
    assert storage.durable_index == 5

    assert copy.path == tmp_path / "copy"
    assert copy.applied_index == 5
    content = copy.path.read_bytes()
    assert (copy.size_bytes, copy.sha256) == (len(content), hashlib.sha256(content).digest())
    with open_copy(copy.path) as reader:
        assert load_state(reader).applied_index == 5
        assert reader.get(b"a") == b"1"
        assert reader.get(b"c") is None
        assert reader.scan(b"a", b"c", limit=9, reverse=True) == [(b"b", b"2"), (b"a", b"1")]
    assert verify_copy(copy.path) == 3
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["copy"]


def test_entries_and_checkpoints_go_on_beside_a_copy(tmp_path: Path) -> None:
    storage = LmdbStorage.open(
        tmp_path / "state", copy_bytes_per_s=20_000_000, checkpoint_interval_ms=0
    )
    fill(storage)
    future = storage.start_copy(tmp_path / "copy")
    wait_until_begun(tmp_path / "copy.part")
    index = 1
    while not future.done():
        index += 1
        write_entry(storage, index, {b"E%06d" % (index % 4500): b"overwritten"})
        assert storage.checkpoint()
        assert storage.copy_in_progress or future.done()
    assert index > 3
    copy = future.result()

    assert copy.applied_index == 1
    with open_copy(copy.path) as reader:
        rows = reader.scan(b"E", b"F", limit=10_000)
    assert rows == [(b"E%06d" % i, bytes(1300)) for i in range(4500)]
    assert storage.get(b"E%06d" % (index % 4500)) == b"overwritten"
    storage.close()


def test_the_map_is_left_alone_beside_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.storage._MIN_ROOM_BYTES", 1 << 20)
    storage = LmdbStorage.open(tmp_path / "state", copy_bytes_per_s=20_000_000)
    fill(storage)
    future = storage.start_copy(tmp_path / "copy")
    wait_until_begun(tmp_path / "copy.part")
    during = storage.map_bytes
    assert during == 64 << 30
    index = 1
    while not future.done():
        index += 1
        write_entry(storage, index, {b"F%d" % index: bytes(100_000)})
        storage.checkpoint(force=True)
        assert storage.map_bytes == during
    assert future.result().applied_index == 1
    storage.close()


def test_there_is_one_copy_at_a_time(tmp_path: Path) -> None:
    storage = LmdbStorage.open(tmp_path / "state", copy_bytes_per_s=20_000_000)
    fill(storage)
    first = storage.start_copy(tmp_path / "first")
    with pytest.raises(StorageError, match="already"):
        storage.start_copy(tmp_path / "second")
    first.result()
    storage.start_copy(tmp_path / "second").result()
    storage.close()


def test_closing_cancels_a_copy_and_leaves_no_part_of_it(tmp_path: Path) -> None:
    storage = LmdbStorage.open(tmp_path / "state", copy_bytes_per_s=1_000)
    fill(storage)
    future = storage.start_copy(tmp_path / "copy")
    wait_until_begun(tmp_path / "copy.part")
    began = time.monotonic()
    storage.close()
    assert time.monotonic() - began < 30
    with pytest.raises(CopyCancelledError):
        future.result(timeout=0)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_copy_that_cannot_be_written_leaves_the_state_in_use(
    storage: LmdbStorage, tmp_path: Path
) -> None:
    write_entry(storage, 1, {b"a": b"1"})
    future = storage.start_copy(tmp_path / "nowhere" / "copy")
    with pytest.raises(FileNotFoundError):
        future.result()
    assert storage.get(b"a") == b"1"
    write_entry(storage, 2, {b"a": b"2"})
    assert storage.start_copy(tmp_path / "copy").result().applied_index == 2


def test_a_copy_with_a_damaged_row_is_found_out(storage: LmdbStorage, tmp_path: Path) -> None:
    write_entry(storage, 1, {b"E%d" % i: b"value-%d" % i for i in range(50)})
    copy = storage.start_copy(tmp_path / "copy").result()
    content = copy.path.read_bytes()
    copy.path.write_bytes(content.replace(b"value-33", b"value-34"))
    with pytest.raises(DamagedStateError):
        verify_copy(copy.path)


# Installation.


@pytest.fixture
def copy_of_another_node(tmp_path: Path) -> Path:
    other = LmdbStorage.open(tmp_path / "other")
    write_entry(other, 9, {b"a": b"new", b"n": b"new"})
    other.start_copy(tmp_path / "copy").result()
    other.close()
    return tmp_path / "copy"


def test_an_installed_copy_is_the_state(
    storage: LmdbStorage, tmp_path: Path, copy_of_another_node: Path
) -> None:
    write_entry(storage, 3, {b"a": b"old", b"o": b"old"})
    storage.checkpoint(force=True)
    storage.put(b"b", b"never finished")

    assert storage.install(copy_of_another_node) == 9

    assert storage.durable_index == 9
    assert storage.scan(b"a", b"z", limit=9) == [(b"a", b"new"), (b"n", b"new")]
    assert not copy_of_another_node.exists()
    write_entry(storage, 10, {b"a": b"newer"})
    assert storage.checkpoint(force=True)
    storage.close()
    again = LmdbStorage.open(tmp_path / "state")
    assert (again.durable_index, again.get(b"a"), again.get(b"o")) == (10, b"newer", None)
    again.close()


@pytest.mark.parametrize("kept_bytes", [0, 100, 4096, 9000, -1])
def test_a_copy_that_was_cut_off_is_refused_and_the_state_stays(
    storage: LmdbStorage, copy_of_another_node: Path, kept_bytes: int
) -> None:
    write_entry(storage, 3, {b"a": b"old"})
    content = copy_of_another_node.read_bytes()
    copy_of_another_node.write_bytes(content[:kept_bytes])
    with pytest.raises((DamagedStateError, StorageError)):
        storage.install(copy_of_another_node)
    assert storage.get(b"a") == b"old"
    write_entry(storage, 4, {})
    assert storage.checkpoint(force=True)


def test_a_missing_copy_is_refused_and_the_state_stays(
    storage: LmdbStorage, tmp_path: Path
) -> None:
    write_entry(storage, 3, {b"a": b"old"})
    with pytest.raises(StorageError, match="No such file"):
        storage.install(tmp_path / "missing")
    assert storage.get(b"a") == b"old"


def test_installing_cancels_the_copy_in_progress(
    tmp_path: Path, copy_of_another_node: Path
) -> None:
    storage = LmdbStorage.open(tmp_path / "state", copy_bytes_per_s=1_000)
    fill(storage)
    future = storage.start_copy(tmp_path / "mine")
    wait_until_begun(tmp_path / "mine.part")
    assert storage.install(copy_of_another_node) == 9
    with pytest.raises((CopyCancelledError, CancelledError)):
        future.result(timeout=0)
    assert storage.start_copy(tmp_path / "mine").result().applied_index == 9
    storage.close()


def test_a_damaged_state_can_be_replaced(
    storage: LmdbStorage, tmp_path: Path, copy_of_another_node: Path
) -> None:
    write_entry(storage, 3, {b"a": b"precious"})
    storage.checkpoint(force=True)
    path = tmp_path / "state" / DATA_FILE
    with path.open("r+b") as file:
        content = file.read()
        file.seek(content.find(b"precious"))
        file.write(b"worthless"[:8])
    with pytest.raises(DamagedStateError):
        storage.get(b"a")
    assert storage.install(copy_of_another_node) == 9
    assert storage.get(b"a") == b"new"


def test_wiping_forgets_everything_for_good(storage: LmdbStorage, tmp_path: Path) -> None:
    write_entry(storage, 3, {b"a": b"old"})
    storage.checkpoint(force=True)
    storage.wipe()
    assert storage.durable_index == 0
    assert storage.scan(b"", b"\xff", limit=9) == []
    write_entry(storage, 1, {b"a": b"young"})
    storage.checkpoint(force=True)
    storage.close()
    again = LmdbStorage.open(tmp_path / "state")
    assert (again.durable_index, again.get(b"a")) == (1, b"young")
    again.close()


# A process that is killed at each system call of the installation.

INSTALL_AND_DIE = """
import os, signal, sys
from pathlib import Path
from node.storage import LmdbStorage

state, copy, fatal_step = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
storage = LmdbStorage.open(state)
steps = 0

def die_before(owner, name):
    real = getattr(owner, name)
    def step(*arguments, **options):
        global steps
        if steps == fatal_step:
            os.kill(os.getpid(), signal.SIGKILL)
        steps += 1
        return real(*arguments, **options)
    setattr(owner, name, step)

die_before(os, "fsync")
die_before(Path, "replace")
die_before(Path, "unlink")
die_before(Path, "mkdir")
storage.install(copy)
os.kill(os.getpid(), signal.SIGKILL)
"""

INSTALL_STEPS = 7
"""Sync the file, rename it, sync both directories, remove the lock, and two steps of opening."""


@pytest.mark.parametrize("fatal_step", range(INSTALL_STEPS + 1))
def test_a_kill_during_installation_leaves_the_old_state_or_the_new_one(
    storage: LmdbStorage, tmp_path: Path, copy_of_another_node: Path, fatal_step: int
) -> None:
    write_entry(storage, 3, {b"a": b"old", b"o": b"old"})
    storage.checkpoint(force=True)
    storage.close()

    child = subprocess.run(
        [
            sys.executable,
            "-c",
            INSTALL_AND_DIE,
            tmp_path / "state",
            copy_of_another_node,
            str(fatal_step),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == -9, child.stderr

    again = LmdbStorage.open(tmp_path / "state")
    renamed = fatal_step >= 2
    assert copy_of_another_node.exists() != renamed
    assert again.durable_index == (9 if renamed else 3)
    assert again.scan(b"a", b"z", limit=9) == (
        [(b"a", b"new"), (b"n", b"new")] if renamed else [(b"a", b"old"), (b"o", b"old")]
    )
    write_entry(again, 20, {b"a": b"goes on"})
    assert again.checkpoint(force=True)
    again.close()
