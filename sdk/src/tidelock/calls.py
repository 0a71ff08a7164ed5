"""How code reaches the coordinator: the same coroutines, blocking or awaiting.

::

    async def register(calls: Calls) -> int:
        registered = await calls(lambda client: client.branches.register(...))
        return registered.branch_id

    drive(register(application.blocking))          # in a thread
    await register(application.awaiting)           # in a task of any event loop

The requests themselves are made in the application's own thread (`BlockingClient`), so that they
share connections, and go on while the caller's loop is busy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from tidelock.client import BlockingClient, Client

T = TypeVar("T")

Work = Callable[[Client], Coroutine[Any, Any, T]]
"""A call of the contract, as `lambda client: client.transactions.begin()`."""


class Calls(Protocol):
    """Does calls of the contract for coroutines."""

    async def __call__(self, work: Work[T]) -> T:
        """Return what the call returns.

        Raises: what the call raises, and ClientClosedError.
        """
        ...


class Blocking:
    """Blocks the thread until the call is done: never waits, so `drive` can run what uses it."""

    def __init__(self, client: BlockingClient) -> None:
        self._client = client

    async def __call__(self, work: Work[T]) -> T:
        return self._client.run(work)


class Awaiting:
    """Lets other tasks of the caller's loop run. A cancelled caller cancels the call."""

    def __init__(self, client: BlockingClient) -> None:
        self._client = client

    async def __call__(self, work: Work[T]) -> T:
        return await asyncio.wrap_future(self._client.submit(work))
