"""Who leaves before an answer says so, in whichever moment."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tidelock.client.access import Access
from tidelock.client.nodes import Nodes
from tidelock.client.transport import Transport
from tidelock.client.waits import await_turn


class Asked:
    """Callers of a request, and how often they left."""

    def __init__(self) -> None:
        nodes = Nodes(["127.0.0.1:1"])
        self.transport = Transport(nodes, Access(), timeout_ms=1, attempt_timeout_ms=1)
        self.left = 0

    def leave(self) -> None:
        self.left += 1


@pytest.fixture
def asked() -> Iterator[Asked]:
    made = Asked()
    yield made
    assert not made.transport.waiting


async def test_who_has_the_answer_has_nothing_to_say(asked: Asked) -> None:
    async def ask() -> int:
        return 7

    assert await await_turn(asked.transport, ask, asked.leave) == 7
    assert asked.left == 0


async def test_who_is_cancelled_while_it_waits_leaves(asked: Asked) -> None:
    waits = asyncio.Event()

    async def ask() -> None:
        waits.set()
        await asyncio.Event().wait()

    waiting = asyncio.create_task(await_turn(asked.transport, ask, asked.leave))
    await waits.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert asked.left == 1


async def test_who_is_cancelled_in_the_moment_of_the_answer_leaves(asked: Asked) -> None:
    async def ask() -> int:
        # Before the caller hears of what is returned here.
        asyncio.get_running_loop().call_soon(waiting.cancel)
        return 7

    waiting = asyncio.create_task(await_turn(asked.transport, ask, asked.leave))
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert asked.left == 1


async def test_who_is_cancelled_before_anything_was_sent_has_nothing_to_say(asked: Asked) -> None:
    async def ask() -> None:
        raise AssertionError

    waiting = asyncio.create_task(await_turn(asked.transport, ask, asked.leave))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert asked.left == 0


async def test_what_is_refused_is_no_leave(asked: Asked) -> None:
    async def ask() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await await_turn(asked.transport, ask, asked.leave)
    assert asked.left == 0
