"""Real files: order, durability, and errors that are never lost."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from node.consensus.disk import DirectoryLockedError, FileDisk, lock_directory


@pytest.fixture
def posted() -> list[Callable[[], None]]:
    """What the writer thread asked the loop to run."""
    return []


@pytest.fixture
def disk(tmp_path: Path, posted: list[Callable[[], None]]) -> Iterator[FileDisk]:
    disk = FileDisk(tmp_path / "journal", posted.append)
    yield disk
    disk.close()


async def test_an_append_is_reported_on_the_loop_after_it_is_in_the_file(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    disk = FileDisk(tmp_path, loop.call_soon_threadsafe)
    done: asyncio.Future[OSError | None] = loop.create_future()
    disk.append("a", b"one", done.set_result)
    assert not done.done()
    assert await asyncio.wait_for(done, 10) is None
    assert disk.read("a") == b"one"
    disk.close()


def test_appends_are_carried_out_in_the_order_of_the_calls(
    disk: FileDisk, posted: list[Callable[[], None]]
) -> None:
    order: list[int] = []

    def report(number: int, _error: OSError | None) -> None:
        order.append(number)

    for number in range(20):
        disk.append("a", bytes([number]), partial(report, number))
    disk.append_now("a", b"\xff")
    for call in posted:
        call()
    assert disk.read("a") == bytes(range(20)) + b"\xff"
    assert order == list(range(20))


def test_who_waits_writes_in_its_own_thread_while_the_other_has_nothing_to_do(
    disk: FileDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    may_write = threading.Event()
    write = os.write

    def record(descriptor: int, data: bytes) -> int:
        threads.append(threading.get_ident())
        assert may_write.wait(10)
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", record)
    own = threading.get_ident()
    may_write.set()
    disk.append_now("a", b"0")
    assert threads == [own]
    quick = [disk.quick]
    may_write.clear()
    disk.append("a", b"1", lambda _error: None)
    quick.append(disk.quick)
    assert quick == [True, False]
    threading.Timer(0.01, may_write.set).start()
    disk.append_now("a", b"2")
    assert own not in threads[1:]
    assert disk.read("a") == b"012"


def test_a_disk_that_is_slow_is_not_waited_for(
    disk: FileDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter((0.0, 0.1, *[0.1] * 10))
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    disk.append_now("a", b"x")
    assert not disk.quick


def test_parts_of_a_file_can_be_read_and_its_end_cuts_the_answer_short(disk: FileDisk) -> None:
    disk.append_now("a", b"0123456789")
    assert disk.read_at("a", 3, 4) == b"3456"
    assert disk.read_at("a", 8, 4) == b"89"
    assert disk.size("a") == 10


def test_names_lists_files_only(disk: FileDisk, tmp_path: Path) -> None:
    disk.append_now("b", b"")
    disk.append_now("a", b"")
    (tmp_path / "journal" / "folder").mkdir()
    assert disk.names() == ["a", "b"]


def test_data_is_synced_before_the_report_and_so_is_the_directory_when_a_file_is_new(
    disk: FileDisk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    synced: list[str] = []
    write = os.write

    def record(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)

    def record_write(descriptor: int, data: bytes) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DSYNC:
            record(descriptor)
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", record_write)
    monkeypatch.setattr(os, "fsync", record)
    disk.append_now("a", b"one")
    assert synced == ["a", "journal"]
    disk.append_now("a", b"two")
    assert synced == ["a", "journal", "a"]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_failed_sync_is_reported_and_the_disk_stays_failed(
    disk: FileDisk,
    posted: list[Callable[[], None]],
    monkeypatch: pytest.MonkeyPatch,
    code: int,
) -> None:
    write = os.write

    def refuse(descriptor: int, data: bytes) -> int:
        write(descriptor, data)
        raise OSError(code, "injected")

    errors: list[OSError | None] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", refuse)
        disk.append("a", b"one", errors.append)
        with pytest.raises(OSError, match="injected"):
            disk.append_now("a", b"two")
    disk.append("a", b"three", errors.append)
    with pytest.raises(OSError, match="injected"):
        disk.append_now("a", b"four")
    for call in posted:
        call()
    assert [error and error.errno for error in errors] == [code, code]
    assert disk.read("a") == b"one"


def test_a_short_write_is_an_error(disk: FileDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:-1]))
    with pytest.raises(OSError, match="short write: 2 of 3 bytes"):
        disk.append_now("a", b"one")


def test_a_removed_file_is_gone_and_a_new_one_may_have_its_name(disk: FileDisk) -> None:
    disk.append_now("a", b"old")
    assert disk.read("a") == b"old"
    disk.remove("a")
    disk.append_now("a", b"new")
    assert disk.read("a") == b"new"


def test_a_failed_removal_fails_the_disk(disk: FileDisk) -> None:
    disk.remove("absent")
    with pytest.raises(FileNotFoundError):
        disk.append_now("a", b"one")


def test_a_file_can_be_cut_and_continued(disk: FileDisk) -> None:
    disk.append_now("a", b"0123456789")
    disk.truncate("a", 4)
    disk.append_now("a", b"x")
    assert disk.read("a") == b"0123x"


def test_rewriting_stores_the_same_bytes_again_and_syncs_file_and_directory(
    disk: FileDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.append_now("a", b"0123456789")
    written: list[tuple[bytes, int]] = []
    synced: list[str] = []
    pwrite = os.pwrite

    def record_write(descriptor: int, data: bytes, offset: int) -> int:
        written.append((data, offset))
        return pwrite(descriptor, data, offset)

    def record_sync(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)

    monkeypatch.setattr(os, "pwrite", record_write)
    monkeypatch.setattr(os, "fsync", record_sync)
    disk.rewrite("a", 6)
    assert written == [(b"6789", 6)]
    assert synced == ["a", "journal"]
    assert disk.read("a") == b"0123456789"


def test_files_written_before_are_not_kept_open(disk: FileDisk) -> None:
    disk.append_now("first", b"x")
    before = len(os.listdir("/proc/self/fd"))
    for number in range(20):
        disk.append_now(f"file-{number}", b"x")
    assert len(os.listdir("/proc/self/fd")) == before


def test_closing_finishes_what_was_submitted(tmp_path: Path) -> None:
    disk = FileDisk(tmp_path, lambda call: None)
    for _ in range(50):
        disk.append("a", b"x" * 1000, lambda _error: None)
    disk.close()
    assert (tmp_path / "a").stat().st_size == 50_000


def test_a_loop_that_is_gone_does_not_stop_the_writer(tmp_path: Path) -> None:
    def closed(_call: Callable[[], None]) -> None:
        raise RuntimeError("Event loop is closed")

    disk = FileDisk(tmp_path, closed)
    disk.append("a", b"one", lambda _error: None)
    disk.append_now("a", b"two")
    assert disk.read("a") == b"onetwo"
    disk.close()


def test_a_locked_directory_is_refused_with_the_name_of_its_holder(tmp_path: Path) -> None:
    lock_directory(tmp_path / "data", "a node with a much longer name").release()
    lock = lock_directory(tmp_path / "data", "node n1")
    with pytest.raises(DirectoryLockedError, match=rf"in use by node n1 \(pid {os.getpid()}\);"):
        lock_directory(tmp_path / "data", "node n2")
    lock.release()
    lock.release()
    lock_directory(tmp_path / "data", "node n2").release()
