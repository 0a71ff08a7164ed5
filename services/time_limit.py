"""The end of business that goes on and on: an exception that is raised in its thread from outside.

Statements give up by themselves. Python that loops does not, and no thread can be ended; but the
interpreter can be asked to raise something in it, which happens before its next instruction. What
waits in a system call does not see it. That ends with the whole worker, so that the execution and
its thread are free again, at the price of what else runs there.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import threading
from collections.abc import Iterator
from typing import Final

from tidelock.services import BusinessError

_log: Final = logging.getLogger("services")

PATIENCE_S: Final = 30.0
"""How long business may take to heed it."""

_AGAIN_S: Final = 5.0
"""After which it is raised once more: what was raised may have been swallowed."""


class _OverdueError(BaseException):
    """Not what `except Exception` catches."""


@contextlib.contextmanager
def time_limit(limit_ms: int, what: str) -> Iterator[None]:
    """Interrupt what takes longer in this thread.

    Raises: BusinessError: it did.
    """
    watch = _Watch(threading.get_ident(), limit_ms / 1000, what)
    watch.thread.start()
    try:
        try:
            yield
        finally:
            watch.end()
    except _OverdueError:
        # Which may have come in the middle of that.
        watch.end()
        raise BusinessError(
            f"{what} took longer than {limit_ms} ms (services.business.transaction_timeout_ms), "
            "and was interrupted."
        ) from None


class _Watch:
    def __init__(self, ident: int, limit_s: float, what: str) -> None:
        self._ident = ctypes.c_ulong(ident)
        self._limit_s = limit_s
        self._what = what
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self.thread = threading.Thread(target=self._run, name="time limit", daemon=True)

    def _run(self) -> None:
        if self._ended.wait(self._limit_s):
            return
        for _ in range(int(PATIENCE_S / _AGAIN_S)):
            self._interrupt()
            if self._ended.wait(_AGAIN_S):
                return
        _log.critical("%s cannot be interrupted, so the worker ends", self._what)
        os._exit(1)

    def _interrupt(self) -> None:
        with self._lock:
            if not self._ended.is_set():
                _raise_in(self._ident, ctypes.py_object(_OverdueError))

    def end(self) -> None:
        """Interrupt no more, nor later what was not seen yet."""
        with self._lock:
            self._ended.set()
            _raise_in(self._ident, None)


_raise_in: Final = ctypes.pythonapi.PyThreadState_SetAsyncExc
