"""What the handlers of all resources stand on: the cluster, the limits, the making of answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aiohttp import web

from api import requests
from api.cluster import Cluster, Consistency, View
from api.errors import of_rejection
from api.replies import Replies, Reply
from api.settings import ApiSettings
from statemachine.commands import AnyCommand
from statemachine.outcomes import AnyResult, Applied, Position, Rejected, RequestOutcome

REPLAYED: Final = "Idempotency-Replayed: true\r\n"


class Service:
    """One for each node. It holds no state of its own between requests."""

    __slots__ = ("cluster", "replies", "settings")

    def __init__(self, cluster: Cluster, settings: ApiSettings) -> None:
        self.cluster = cluster
        self.settings = settings
        self.replies = Replies(cluster)

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
