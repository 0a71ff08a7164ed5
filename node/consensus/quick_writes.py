"""Whether the disk is so quick that the loop had better wait for it than be told by a thread.

A hand-over to the writer thread and back wakes two threads and moves the interpreter's lock twice,
which takes longer, and much more processor time, than a good disk takes to store a few hundred
bytes. A slow disk must not stop the loop, though. So what waiting costs is measured, and one that
became slow is given to the thread, and tried again now and then.

A write also seems slow when other processes keep the processors busy. That says nothing of the
disk, and the loop would have had to wait as well; so it is not counted.
"""

from __future__ import annotations

import os
import threading
from typing import Final

GREATEST_WAIT_S: Final = 0.0005
"""Of the disk, in the mean of the last writes."""

_WEIGHT: Final = 1 / 32
"""Of the newest write in the mean: one of 15 ms is too many, one of 10 ms is borne."""

_GREATEST_TRIED_S: Final = 0.02
"""A disk that kept the thread waiting for longer is not tried yet."""

REST_S: Final = 1.0


class QuickWrites:
    """All times are in seconds; `now` is on a monotonic clock."""

    def __init__(self) -> None:
        self._mean_s = 0.0
        self._rests_until = float("-inf")

    def expected(self, now: float) -> bool:
        """Whether the loop may wait for the next write."""
        return now >= self._rests_until

    def waited(self, now: float, disk_s: float) -> None:
        """The loop waited for a write which kept the disk busy for so long."""
        self._mean_s += (disk_s - self._mean_s) * _WEIGHT
        if self._mean_s > GREATEST_WAIT_S:
            # The next one that the loop waits for decides whether it rests again.
            self._mean_s = GREATEST_WAIT_S * 0.9
            self._rests_until = now + REST_S

    def handed_over(self, now: float, took_s: float) -> None:
        """The thread made a write, which took so long with whatever it waited for."""
        if took_s > _GREATEST_TRIED_S:
            self._rests_until = now + REST_S


class _OfThread(threading.local):
    def __init__(self) -> None:
        try:
            self.descriptor = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.descriptor = -1


_of_thread = _OfThread()


def processor_wait_s() -> float:
    """How long the calling thread has waited for a processor so far; 0 where nobody counts."""
    if _of_thread.descriptor < 0:
        return 0.0
    return int(os.pread(_of_thread.descriptor, 64, 0).split()[1]) / 1e9
