"""Sessions of nodes that are gone: the leader gives their resource managers time to come elsewhere.

A node that is recorded as failed loses its sessions by that. This looks at what is left, whatever
was missed: nodes that were removed, that died while they passed for failed already, or together
with the leader. Whoever has been silent to the leader for long holds no channel that it could use.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from node.cluster import EngineCluster
from node.consensus.engine import Engine
from statemachine.commands import DetachChannels
from statemachine.store import DamagedStateError, Reader
from statemachine.transactions.channel_rows import holding_nodes, sessions_of_node

logger = logging.getLogger(__name__)

SILENT_S: Final = 5.0
LOOK_EVERY_S: Final = 1.0
_DETACHED_AT_ONCE: Final = 500
_PROPOSAL_MS: Final = 5_000


class SilentHolders:
    """Which nodes hold sessions and have been silent to this one, while it leads, for long."""

    def __init__(self, engine: Engine, reader: Reader) -> None:
        self._engine = engine
        self._reader = reader
        self._led_since: float | None = None

    def look(self) -> list[DetachChannels]:
        """Return what detaches sessions of such nodes, some at a time; nothing but at a leader."""
        if not self._engine.leader_ready:
            self._led_since = None
            return []
        now = self._engine.now()
        if self._led_since is None:
            self._led_since = now
        since = self._led_since
        holding = holding_nodes(self._reader)
        return [self._detachment(each) for each in holding if self._is_silent(each, since, now)]

    def _is_silent(self, node_id: str, led_since: float, now: float) -> bool:
        engine = self._engine
        if node_id == engine.identity.node_id:
            return False
        # One that was removed may run on and be heard, but nothing is passed on to it any more.
        removed = not engine.contacts.is_member(node_id)
        heard_at = None if removed else engine.contacts.heard_at(node_id)
        return now - max(led_since, led_since if heard_at is None else heard_at) > SILENT_S

    def _detachment(self, node_id: str) -> DetachChannels:
        held = sessions_of_node(self._reader, node_id, _DETACHED_AT_ONCE)
        connections = tuple((each.session_id, each.connection) for each in held)
        return DetachChannels(node_id=node_id, connections=connections)


class LostNodes:
    """Runs on every node and acts on the leader only."""

    def __init__(self, engine: Engine, cluster: EngineCluster, reader: Reader) -> None:
        self._cluster = cluster
        self._holders = SilentHolders(engine, reader)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="lost nodes")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self.look()
            except DamagedStateError as error:
                self._cluster.report_damage(error)
                return
            except Exception as error:
                # Unknown, or no leader any more: the next look tells.
                logger.info("sessions of lost nodes were not detached: %r", error)

    async def look(self) -> None:
        """Detach the sessions of nodes that have been silent for long."""
        for command in self._holders.look():
            await self._cluster.propose_internal((command,), timeout_ms=_PROPOSAL_MS)
            logger.info("sessions of a silent node are detached", extra={"peer": command.node_id})
