"""Processes that the scripts start, known by more than a number.

A pid alone may belong to somebody else by the time we use it. `ProcessIdentity` adds the boot and
the moment of start, and signals go through a pidfd that was checked after it was opened, so that
nothing else is ever hit.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import msgspec

_STATE_FIELD = 0
_PROCESSOR_FIELDS = (11, 12)
_THREADS_FIELD = 17
_START_FIELD = 19


class ProcessIdentity(msgspec.Struct, frozen=True):
    """One process of one boot of this machine."""

    pid: int
    start_ticks: int
    """Clock ticks between the boot and the start of the process."""
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> Self:
        """Raises ProcessLookupError when there is no such process."""
        return cls(pid, int(_stat_fields(pid)[_START_FIELD]), _boot_id())

    def state(self) -> str | None:
        """Return the kernel's letter for its state (`R`, `S`, `T` stopped …), None when gone.

        A zombie is gone, as it only waits for its parent to notice, but not before its last thread
        is: until then its files and ports are in use.
        """
        try:
            fields = _stat_fields(self.pid)
        except ProcessLookupError:
            return None
        ours = int(fields[_START_FIELD]) == self.start_ticks and _boot_id() == self.boot_id
        state = fields[_STATE_FIELD]
        over = state in "ZX" and int(fields[_THREADS_FIELD]) <= 1
        return state if ours and not over else None

    def processor_s(self) -> float:
        """Return how much processor time it has used; 0 when it is gone."""
        try:
            fields = _stat_fields(self.pid)
        except ProcessLookupError:
            return 0.0
        user, system = (int(fields[at]) for at in _PROCESSOR_FIELDS)
        return (user + system) / os.sysconf("SC_CLK_TCK")

    def send(self, number: signal.Signals) -> bool:
        """Send a signal; return False when the process is gone."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            # The handle holds one process, whatever becomes of the number: check it, then use it.
            if self.state() is None:
                return False
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
        return True

    def wait_until_gone(self, timeout_s: float) -> bool:
        """Return whether it ended in time. A child of this process is reaped on the way."""
        ends_at = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, os.WNOHANG)
            if self.state() is None:
                return True
            if time.monotonic() >= ends_at:
                return False
            time.sleep(0.005)


def processor_s_of_all(pids: Iterable[int]) -> float:
    """Return how much processor time processes and those that they have started have used.

    What has ended and was not waited for is left out.
    """
    found = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            user, system = (int(_stat_fields(pid)[at]) for at in _PROCESSOR_FIELDS)
            found += (user + system) / os.sysconf("SC_CLK_TCK")
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                found += processor_s_of_all(map(int, children.read_text().split()))
    return found


def anonymous_memory_bytes(pid: int) -> int:
    """Return RssAnon: memory that no file backs, such as LMDB's map would."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"process {pid} has no memory")


def listening_process(port: int) -> str | None:
    """Describe who listens on a local TCP port, when /proc lets us see it."""
    inodes = _listening_inodes(port)
    for descriptor in Path("/proc").glob("[0-9]*/fd/*") if inodes else ():
        with contextlib.suppress(OSError):
            target = os.readlink(descriptor)
            if target.startswith("socket:[") and target[8:-1] in inodes:
                pid = descriptor.parts[2]
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                return f"pid {pid}: {b' '.join(words).decode(errors='replace').strip()[:100]}"
    return None


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(fields[9])
    return inodes


def _stat_fields(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat behind the name, which may hold anything."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(f"there is no process {pid}") from None
    return text.rpartition(")")[2].split()


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
