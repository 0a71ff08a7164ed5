"""What is under way to the cluster is brought to its end, also when its task is cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final, Protocol, TypeVar

T = TypeVar("T")

GRACE_S: Final = 5.0
"""How long a cancelled task goes on waiting."""

_log: Final = logging.getLogger("tidelock.transaction")
_abandoned: Final[set[asyncio.Future[Any]]] = set()


class Protect(Protocol):
    """Runs a step of a transaction."""

    async def __call__(self, step: Coroutine[Any, Any, T]) -> T:
        """Return what the step returns."""
        ...


async def unprotected(step: Coroutine[Any, Any, T]) -> T:
    """Run a step of a blocking caller: only its own thread can interrupt it."""
    return await step


async def shielded(step: Coroutine[Any, Any, T]) -> T:
    """Run a step to its end.

    A cancellation is raised when it has ended, or after `GRACE_S` when that is sooner; then it goes
    on by itself.

    Raises:
        asyncio.CancelledError: the task was cancelled meanwhile. What the step raised is logged.
    """
    task = asyncio.ensure_future(step)
    cancelled: asyncio.CancelledError | None = None
    loop = asyncio.get_running_loop()
    ends_at: float | None = None
    while not task.done():
        try:
            left_s = None if ends_at is None else ends_at - loop.time()
            if left_s is not None and left_s <= 0:
                break
            await asyncio.wait([task], timeout=left_s)
        except asyncio.CancelledError as error:
            cancelled = error
            ends_at = ends_at or loop.time() + GRACE_S
    if cancelled is None:
        return task.result()
    if task.done():
        _note(task)
    else:
        _abandoned.add(task)
        task.add_done_callback(_abandoned.discard)
        task.add_done_callback(_note)
    raise cancelled


def _note(task: asyncio.Future[Any]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.warning("a step of a cancelled transaction failed", exc_info=task.exception())
