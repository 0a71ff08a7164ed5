"""What the handlers of all resources stand on: the cluster, the limits, the making of answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from aiohttp import web

from api import requests
from api.cluster import Cluster, Consistency, View
from api.errors import of_rejection
from api.replies import Replies, Reply
from api.settings import ApiSettings
from api.waiting import ClientGoneError, Waits
from statemachine.commands import AnyCommand
from statemachine.outcomes import (
    AnyResult,
    Applied,
    Pending,
    Position,
    Rejected,
    RequestOutcome,
)

REPLAYED: Final = "Idempotency-Replayed: true\r\n"


class Service:
    """One for each node. Of its own, it only knows which requests wait."""

    __slots__ = ("cluster", "replies", "settings", "waits")

    def __init__(self, cluster: Cluster, settings: ApiSettings) -> None:
        self.cluster = cluster
        self.settings = settings
        self.replies = Replies(cluster)
        self.waits = Waits(cluster)

    async def propose(
        self, request: web.Request, body: bytes, commands: Sequence[AnyCommand]
    ) -> RequestOutcome:
        """Replicate the commands under the request's deadline and idempotency key.

        Raises:
            Problem: a header is invalid.
            Exceptions of `Cluster.propose`.
        """
        return await self.cluster.propose(
            commands,
            timeout_ms=requests.timeout_ms(request, self.settings),
            idempotency=requests.idempotency(request, body, self.settings),
        )

    async def propose_waiting(
        self,
        request: web.Request,
        body: bytes,
        command: AnyCommand,
        *,
        wait_ms: int,
        undo: Callable[[Position], AnyCommand],
    ) -> RequestOutcome:
        """Replicate a command that may wait `wait_ms` for its turn, and wait with it.

        The request's deadline is the one that it names, or else the default and `wait_ms` together.
        When it passes, the wait is cancelled and the outcome is what is applied then. When the
        client goes first and gave no idempotency key, `undo` of the command's position is proposed,
        whether it still waits or was just done.

        Raises:
            Problem: a header is invalid.
            ClientGoneError: nobody waits for the outcome any more.
            Exceptions of `Cluster.propose`.
        """
        settings = self.settings
        deadline_ms = requests.waiting_timeout_ms(request, settings, wait_ms)
        ends_at = asyncio.get_running_loop().time() + deadline_ms / 1000
        key = requests.idempotency(request, body, settings)
        outcome = await self.cluster.propose(
            (command,), timeout_ms=requests.timeout_ms(request, settings), idempotency=key
        )
        undone = undo(outcome.position) if key is None else None
        (only,) = outcome.outcomes
        if isinstance(only, Pending):
            only = await self.waits.outcome(request, only.ticket, ends_at, undone)
            # The wait ended after the command: the answer reflects a later position.
            position = self.cluster.applied_position()
            outcome = RequestOutcome(position, outcome.replayed, (only,))
        if undone is not None and requests.client_has_gone(request):
            if isinstance(only, Applied):
                self.waits.propose_undo(undone)
            raise ClientGoneError("the client has gone before it was answered")
        return outcome

    async def view(self, request: web.Request) -> View:
        """Return a state to read, as fresh as the request wants it.

        Raises:
            Problem: a header or parameter is invalid.
            NoQuorumError
        """
        return await self.cluster.read(
            requests.consistency(request), timeout_ms=requests.timeout_ms(request, self.settings)
        )

    async def own_view(self) -> View:
        """Return this node's own state: whatever was proposed here and answered is applied to it.

        For answers that are made of the state. There is nothing to wait for.
        """
        return await self.cluster.read(
            Consistency.LOCAL, timeout_ms=self.settings.default_timeout_ms
        )

    def written(
        self, status: int, answer: object, outcome: RequestOutcome, position: Position
    ) -> Reply:
        """Return the answer of a write that stands at `position`."""
        reply = self.replies.success(status, answer, position)
        if outcome.replayed:
            reply.add_header(REPLAYED)
        return reply


def applied(outcome: RequestOutcome) -> AnyResult:
    """Return the result of a request of one command.

    Raises:
        Problem: the command was rejected.
    """
    only = outcome.outcomes[0]
    if isinstance(only, Rejected):
        raise of_rejection(only, outcome)
    assert isinstance(only, Applied), "a command that may wait is proposed by `propose_waiting`"
    return only.result
