"""A cluster node is a participant as well: it reports the clocks of its name, and takes targets.

Those clocks are part of the replicated state, so closing a round has raised them by the time that
this node sees it, and it can acknowledge at once. It reports when its clocks have moved since it
last did: a node under whose name nothing happens says nothing, and counts in no round.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from node.cluster import EngineCluster
from node.consensus.engine import Engine
from statemachine.commands import AcknowledgeSync, AnyCommand, ReportClock
from statemachine.store import DamagedStateError, Reader
from statemachine.sync_rounds import GREATEST_ENTRIES, ROUNDS_KEPT, get_node, list_rounds
from statemachine.timestamps import clock
from statemachine.vectors import vector_clock

logger = logging.getLogger(__name__)

_TIMEOUT_MS: Final = 5_000
_RETRY_S: Final = 0.2


class ClockReporter:
    """What one node has to say to synchronisation rounds. It does no I/O and reads no clock."""

    def __init__(self, node_id: str, reader: Reader) -> None:
        self._node_id = node_id
        self._reader = reader
        self._said: tuple[int, dict[str, int]] = (0, {})

    def acknowledgements(self) -> list[AnyCommand]:
        """Return an acknowledgement of each round in which this node reported for itself."""
        commands: list[AnyCommand] = []
        for number, closed in list_rounds(self._reader, limit=ROUNDS_KEPT):
            if closed.synchronised_ms is not None:
                continue
            node = get_node(self._reader, number, self._node_id)
            if node is not None and node.own and node.acknowledged_ms is None:
                commands.append(AcknowledgeSync(round=number, node_id=self._node_id))
        if commands:
            # What is acknowledged is known to be reached.
            self._said = self._clocks()
        return commands

    def reports(self) -> list[AnyCommand]:
        """Return a report of this node's clocks, when they have moved since the last one."""
        clocks = self._clocks()
        if clocks == self._said:
            return []
        self._said = clocks
        lamport, vector = clocks
        return [ReportClock(node_id=self._node_id, lamport=lamport, vector=vector, own=True)]

    def forget(self) -> None:
        """What was returned last may not have been heard."""
        self._said = (0, {})

    def _clocks(self) -> tuple[int, dict[str, int]]:
        vector = vector_clock(self._reader, self._node_id)
        if len(vector) > GREATEST_ENTRIES:
            # More than a report can hold; the Lamport clock says something on its own.
            vector = {}
        return clock(self._reader, self._node_id), vector


class ClockReports:
    """Runs a node's `ClockReporter`: each interval, and when a round was closed."""

    def __init__(self, engine: Engine, cluster: EngineCluster, reader: Reader) -> None:
        self._engine = engine
        self._cluster = cluster
        self._reporter = ClockReporter(cluster.node_id, reader)
        self._seen_round = 0
        self._closed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._engine.notices.on_applied.append(self._on_applied)
        self._task = asyncio.create_task(self._run(), name="clock reports")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _on_applied(self) -> None:
        number = self._engine.machine.sync_round
        if number != self._seen_round:
            self._seen_round = number
            self._closed.set()

    async def _run(self) -> None:
        while True:
            try:
                if self._closed.is_set():
                    self._closed.clear()
                    await self._say(self._reporter.acknowledgements())
                else:
                    await self._say(self._reporter.reports())
                await self._sleep(self._engine.machine.sync_interval_ms / 1000)
            except DamagedStateError as error:
                self._cluster.report_damage(error)
                return
            except Exception as error:
                # Unknown, or no leader: all of it is found again.
                logger.info("reporting clocks was interrupted: %r", error)
                self._reporter.forget()
                self._closed.set()
                await asyncio.sleep(_RETRY_S)

    async def _say(self, commands: list[AnyCommand]) -> None:
        if commands:
            await self._cluster.propose_internal(commands, timeout_ms=_TIMEOUT_MS)

    async def _sleep(self, pause_s: float) -> None:
        try:
            async with asyncio.timeout(pause_s):
                await self._closed.wait()
        except TimeoutError:
            return
