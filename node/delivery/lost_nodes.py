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
_LOOK_EVERY_S: Final = 1.0
_DETACHED_AT_ONCE: Final = 500
_PROPOSAL_MS: Final = 5_000


class LostNodes:
    """Runs on every node and acts on the leader only."""

    def __init__(self, engine: Engine, cluster: EngineCluster, reader: Reader) -> None:
        self._engine = engine
        self._cluster = cluster
        self._reader = reader
        self._led_since: float | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="lost nodes")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
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
        if not self._engine.leader_ready:
            self._led_since = None
            return
        now = self._engine.now()
        if self._led_since is None:
            self._led_since = now
        for node_id in holding_nodes(self._reader):
            if self._is_silent(node_id, now):
                await self._detach(node_id)

    def _is_silent(self, node_id: str, now: float) -> bool:
        engine = self._engine
        if node_id == engine.identity.node_id:
            return False
        heard_at = engine.contacts.heard_at(node_id)
        began = self._led_since if self._led_since is not None else now
        return now - max(began, began if heard_at is None else heard_at) > SILENT_S

    async def _detach(self, node_id: str) -> None:
        held = sessions_of_node(self._reader, node_id, _DETACHED_AT_ONCE)
        connections = tuple((each.session_id, each.connection) for each in held)
        command = DetachChannels(node_id=node_id, connections=connections)
        await self._cluster.propose_internal((command,), timeout_ms=_PROPOSAL_MS)
        logger.info("sessions of a silent node are detached", extra={"peer": node_id})
