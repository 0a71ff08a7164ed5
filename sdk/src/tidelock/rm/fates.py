"""Asking the cluster, over the channel, what became of branches for which something is kept.

Answers belong to the connection on which was asked: with it, the question is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from tidelock.errors import TidelockError
from tidelock.rm.connection import ChannelClosedError, Connection
from tidelock.rm.messages import GREATEST_FATES, AskFates, FatesTold, GuardedBranch
from tidelock.rm.resource import Fate

ANSWER_WITHIN_S: Final = 15.0
"""A node that cannot tell says so sooner."""


class FatesUnknownError(TidelockError):
    """No node told what became of branches: there is no channel, or it broke. Ask again later."""


class Fates:
    """Questions under way. All is on one loop."""

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._cluster_id = ""
        self._number = 0
        self._asked: dict[int, asyncio.Future[tuple[Fate, ...]]] = {}

    def welcomed(self, connection: Connection, cluster_id: str) -> None:
        """A node holds the channel: it can be asked."""
        self._connection, self._cluster_id = connection, cluster_id

    def lost(self) -> None:
        """The connection is gone."""
        self._connection = None
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(FatesUnknownError("the channel was lost before the answer"))
        self._asked.clear()

    def told(self, told: FatesTold) -> None:
        """A node answers."""
        asked = self._asked.pop(told.request_id, None)
        if asked is not None and not asked.done():
            asked.set_result(told.branches)

    async def of(self, cluster_id: str, branches: Sequence[tuple[str, int]]) -> list[Fate]:
        """Return what became of branches of a cluster, in their order.

        Raises:
            FatesUnknownError
        """
        found: list[Fate] = []
        for at in range(0, len(branches), GREATEST_FATES):
            part = branches[at : at + GREATEST_FATES]
            fates = await self._ask(cluster_id, part)
            if [(each.xid, each.branch_id) for each in fates] != list(part):
                raise FatesUnknownError("the node answers what it was not asked")
            found += fates
        return found

    async def _ask(self, cluster_id: str, branches: Sequence[tuple[str, int]]) -> Sequence[Fate]:
        connection = self._connection
        if connection is None:
            raise FatesUnknownError("no node holds the channel")
        if cluster_id != self._cluster_id:
            # Small numbers of its branches would look like old ones of this cluster.
            raise FatesUnknownError(
                f"the branches are of cluster {cluster_id}, and this is {self._cluster_id}"
            )
        self._number += 1
        number = self._number
        asked: asyncio.Future[tuple[Fate, ...]] = asyncio.get_running_loop().create_future()
        self._asked[number] = asked
        named = tuple(GuardedBranch(xid=xid, branch_id=branch) for xid, branch in branches)
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                await connection.say(AskFates(request_id=number, branches=named))
                return await asked
        except ChannelClosedError as error:
            raise FatesUnknownError(f"the channel broke: {error}") from None
        except TimeoutError:
            raise FatesUnknownError(f"no answer came within {ANSWER_WITHIN_S:g} s") from None
        finally:
            self._asked.pop(number, None)
