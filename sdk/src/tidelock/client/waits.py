"""Requests that wait at a node for their turn, and callers who leave before it comes.

Such a request goes under an idempotency key, so its wait outlives the connection: the next attempt,
at whichever node, goes on with it. Who leaves for good says so, or the wait would go on to its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tidelock.client.transport import Transport
from tidelock.errors import ClientClosedError

T = TypeVar("T")


async def await_turn(
    transport: Transport, ask: Callable[[], Awaitable[T]], leave: Callable[[], None]
) -> T:
    """Return what `ask` does. When this is cancelled, or the client closed, `leave` is called.

    Not so when nothing was sent yet.

    Raises:
        ClientClosedError: the client was closed meanwhile.
        What `ask` does.
    """

    async def asked() -> T:
        try:
            return await ask()
        except asyncio.CancelledError:
            leave()
            raise

    # A task of its own, so that closing the client can end it and knows when it has ended.
    asking = asyncio.create_task(asked())
    transport.waiting.add(asking)
    asking.add_done_callback(transport.waiting.discard)
    try:
        return await asking
    except asyncio.CancelledError:
        if asking.done() and not asking.cancelled() and asking.exception() is None:
            # The answer and the cancellation came at the same time.
            leave()
        me = asyncio.current_task()
        if transport.closing and me is not None and not me.cancelling():
            raise ClientClosedError("the client was closed before the answer") from None
        raise
