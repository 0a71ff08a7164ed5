"""Requests whose command waits for its turn in the cluster.

What a wait came to is never decided here. When the deadline of a request passes, or its node stops,
the end of the wait is proposed like anything else, and what is then applied is the answer: it may
be that the turn came first. A client that goes away and gave its request no idempotency key will
not be heard of again, so what was done for it is undone. One that gave a key comes back for it, at
whichever node, and so its wait goes on.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Coroutine
from typing import Final, TypeVar

from aiohttp import web

from api import requests
from api.carried_requests import CarriedRequest
from api.cluster import (
    Cluster,
    NoQuorumError,
    OutcomeUnknownError,
    OverloadedError,
    StorageFullError,
)
from api.connections import Connection
from statemachine.commands import AnyCommand, CancelWait
from statemachine.outcomes import Applied, Outcome, Position, RequestOutcome

T = TypeVar("T")

CANCEL_TIMEOUT_MS: Final = 1_000
"""How long the client hears nothing beyond its deadline, while the end of its wait is proposed."""

UNDO_TIMEOUT_MS: Final = 30_000
"""How long the node tries to undo what nobody waits for any more: nobody waits for that either."""

_NOT_LEARNT: Final = (
    OutcomeUnknownError,
    NoQuorumError,
    OverloadedError,
    StorageFullError,
    LookupError,
    TimeoutError,
)


class ClientGoneError(ConnectionResetError):
    """The client closed its connection while its request waited; there is nobody to answer."""


class _End(enum.Enum):
    """Why a request no longer waits."""

    SETTLED = enum.auto()
    DEADLINE = enum.auto()
    CLIENT_GONE = enum.auto()
    NODE_STOPS = enum.auto()


class Waits:
    """The requests of a node that wait."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._ending: set[Callable[[_End], None]] = set()
        self._undone: set[asyncio.Future[RequestOutcome]] = set()

    def stop(self) -> None:
        """Answer them now: the node stops."""
        for end in list(self._ending):
            end(_End.NODE_STOPS)

    async def outcome(
        self, request: web.Request, ticket: Position, ends_at: float, undo: AnyCommand | None
    ) -> Outcome:
        """Wait until the ticket's wait has ended, or until `ends_at` in the loop's time.

        `undo` is proposed when the client goes first; None leaves the wait to its retry.

        Raises:
            OutcomeUnknownError
            ClientGoneError
        """
        settled = asyncio.ensure_future(self._cluster.changes.settled(ticket))
        try:
            end = await self._first_end(request, settled, ends_at)
            if end is _End.SETTLED:
                return await settled
            if end is _End.CLIENT_GONE:
                if undo is not None:
                    self.propose_undo(undo)
                raise ClientGoneError("the client has gone while its request waited")
            if end is _End.NODE_STOPS and undo is None:
                # The wait goes on, and the retry finds it at another node.
                raise OutcomeUnknownError
            return await self._cancelled(ticket, settled, undo)
        except LookupError:
            raise OutcomeUnknownError from None
        finally:
            settled.cancel()

    async def until(
        self, request: web.Request, done: Coroutine[object, object, None], ends_at: float
    ) -> bool:
        """Wait until something is done here, or until `ends_at` in the loop's time; whether it is.

        Nothing was proposed for it, so there is nothing to end or to undo.

        Raises:
            ClientGoneError, and what `done` raises.
        """
        doing = asyncio.ensure_future(done)
        try:
            end = await self._first_end(request, doing, ends_at)
            if end is _End.SETTLED:
                await doing
            if end is _End.CLIENT_GONE:
                raise ClientGoneError("the client has gone while its request waited")
            return end is _End.SETTLED
        finally:
            doing.cancel()

    def propose_undo(self, undo: AnyCommand) -> None:
        """Have what a client that has gone was given undone, sooner or later."""
        proposed = asyncio.ensure_future(self._cluster.propose((undo,), timeout_ms=UNDO_TIMEOUT_MS))
        self._undone.add(proposed)
        proposed.add_done_callback(self._forget)

    def _forget(self, proposed: asyncio.Future[RequestOutcome]) -> None:
        self._undone.discard(proposed)
        if not proposed.cancelled():
            # Retrieved: when it failed, leases and deadlines do what it would have done.
            proposed.exception()

    async def _first_end(
        self, request: web.Request, settled: asyncio.Future[T], ends_at: float
    ) -> _End:
        loop = asyncio.get_running_loop()
        first: asyncio.Future[_End] = loop.create_future()

        def end(why: _End) -> None:
            if not first.done():
                first.set_result(why)

        def settle(done: asyncio.Future[T]) -> None:
            if not done.cancelled():
                # Retrieved, for something else may have ended the wait at the same time.
                done.exception()
                end(_End.SETTLED)

        settled.add_done_callback(settle)
        connection = request if isinstance(request, CarriedRequest) else request.protocol
        assert isinstance(connection, Connection | CarriedRequest)
        connection.on_lost = lambda: end(_End.CLIENT_GONE)
        if requests.client_has_gone(request):
            end(_End.CLIENT_GONE)
        deadline = loop.call_at(ends_at, end, _End.DEADLINE)
        self._ending.add(end)
        try:
            return await first
        finally:
            self._ending.discard(end)
            deadline.cancel()
            connection.on_lost = None

    async def _cancelled(
        self, ticket: Position, settled: asyncio.Future[Outcome], undo: AnyCommand | None
    ) -> Outcome:
        """End the wait and return what it came to."""
        try:
            async with asyncio.timeout(2 * CANCEL_TIMEOUT_MS / 1000):
                cancelled = await self._cluster.propose(
                    (CancelWait(ticket=ticket),), timeout_ms=CANCEL_TIMEOUT_MS
                )
                if not isinstance(cancelled.outcomes[0], Applied):
                    raise OutcomeUnknownError
                return await settled
        except _NOT_LEARNT:
            if undo is not None:
                # Its client hears that nobody knows, and has no key to ask again with.
                self.propose_undo(undo)
            raise OutcomeUnknownError from None
