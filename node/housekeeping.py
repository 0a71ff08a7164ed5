"""What the leader does by itself: timers that are due, old events, changes of the rotation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from api.routing import NodeState
from node.cluster import EngineCluster
from node.config import EventsConfig, SyncConfig, TransactionsConfig, WatchConfig
from node.consensus.engine import Engine
from statemachine.change_log import has_old_changes
from statemachine.commands import (
    ActivateVersion,
    AnyCommand,
    ChangeRouting,
    CloseSyncRound,
    FireTimers,
    SetSyncInterval,
    SetTransactionRetention,
    TrimChanges,
    TrimEvents,
)
from statemachine.outcomes import Applied, ChangesTrimmed, EventsTrimmed
from statemachine.store import Reader
from statemachine.sync_rounds import read_reports, should_close, target_of
from statemachine.timers import due_timers, next_due_ms

logger = logging.getLogger(__name__)

_INTERVAL_S: Final = 0.1
_TICK_AFTER_MS: Final = 1_000
"""An idle cluster with timers replicates the time this often, so that a failover forgets little."""
_TRIM_EVERY_S: Final = 10.0
_TRIM_AT_ONCE: Final = 2_000
_LEAST_INTERVAL_S: Final = 0.01
_TIMEOUT_MS: Final = 5_000


class Housekeeping:
    """Runs on every node and acts on the leader only."""

    def __init__(
        self,
        engine: Engine,
        cluster: EngineCluster,
        reader: Reader,
        events: EventsConfig,
        watch: WatchConfig,
        sync: SyncConfig,
        transactions: TransactionsConfig,
    ) -> None:
        self._engine = engine
        self._cluster = cluster
        self._reader = reader
        self._events = events
        self._watch = watch
        self._sync = sync
        self._transactions = transactions
        self._task: asyncio.Task[None] | None = None
        self._routing: dict[str, tuple[NodeState, str]] = {}
        self._sync_looked_at = 0.0
        self._events_trimmed_at = 0.0
        self._changes_trimmed_at = 0.0

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="housekeeping")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def routing_changed(self, node_id: str, state: NodeState, reason: str) -> None:
        """A health check changed its mind; the leader's view is recorded."""
        self._routing[node_id] = (state, reason)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._pause_s())
            if not self._engine.leader_ready:
                self._routing.clear()
                continue
            try:
                await self._activate_version()
                await self._fire_timers()
                await self._record_routing()
                await self._close_sync_round()
                await self._set_transaction_retention()
                await self._trim_events()
                await self._trim_changes()
            except Exception as error:
                # Unknown, overloaded, or no leader any more: the next round tries again.
                logger.info("housekeeping was interrupted: %r", error)

    def _pause_s(self) -> float:
        """Until the next timer is due, within bounds: an earlier one may be armed meanwhile."""
        if not self._engine.leader_ready:
            return _INTERVAL_S
        due_ms = next_due_ms(self._reader)
        if due_ms is None:
            return _INTERVAL_S
        pause_s = (due_ms - self._engine.stamps.elapsed_ms()) / 1000
        return min(max(pause_s, _LEAST_INTERVAL_S), _INTERVAL_S)

    async def _propose(self, *commands: AnyCommand) -> Sequence[object]:
        outcome = await self._cluster.propose_internal(commands, timeout_ms=_TIMEOUT_MS)
        return outcome.outcomes

    async def _activate_version(self) -> None:
        """Switch on what every member can decode, once the last of them has been upgraded."""
        supported = self._engine.version_of_all_members()
        if supported > self._engine.machine.active_version:
            await self._propose(ActivateVersion(version=supported))

    async def _fire_timers(self) -> None:
        elapsed_ms = self._engine.stamps.elapsed_ms()
        due = due_timers(self._reader, elapsed_ms)
        idle = elapsed_ms - self._engine.machine.elapsed_ms >= _TICK_AFTER_MS
        if due or (idle and next_due_ms(self._reader) is not None):
            await self._propose(FireTimers(timers=due))

    async def _record_routing(self) -> None:
        changes, self._routing = self._routing, {}
        if changes:
            await self._propose(
                *(
                    ChangeRouting(node_id=node_id, state=state.value, reason=reason)
                    for node_id, (state, reason) in changes.items()
                )
            )

    async def _close_sync_round(self) -> None:
        """Close the round when somebody is behind."""
        machine, interval_ms = self._engine.machine, self._sync.interval_ms
        if machine.sync_interval_ms != interval_ms:
            await self._propose(SetSyncInterval(interval_ms=interval_ms))
        now = self._engine.now()
        if now - self._sync_looked_at < interval_ms / 1000:
            return
        self._sync_looked_at = now
        reports = read_reports(self._reader)
        if should_close(machine.sync_round, reports, target_of(reports.values())):
            await self._propose(CloseSyncRound(only_if_behind=True))

    async def _set_transaction_retention(self) -> None:
        kept = self._transactions
        wanted = (kept.retention_ms, kept.summary_retention_ms)
        if self._engine.machine.transaction_retention_ms != wanted:
            await self._propose(
                SetTransactionRetention(
                    retention_ms=kept.retention_ms, summary_retention_ms=kept.summary_retention_ms
                )
            )

    async def _trim_events(self) -> None:
        now = self._engine.now()
        if self._events.retention_ms == 0 or now - self._events_trimmed_at < _TRIM_EVERY_S:
            return
        before_ms = self._engine.machine.wall_ms - self._events.retention_ms
        if before_ms > 0:
            (outcome,) = await self._propose(
                TrimEvents(before_wall_ms=before_ms, limit=_TRIM_AT_ONCE)
            )
            result = outcome.result if isinstance(outcome, Applied) else None
            if isinstance(result, EventsTrimmed) and result.more:
                return
        self._events_trimmed_at = now

    async def _trim_changes(self) -> None:
        now = self._engine.now()
        if now - self._changes_trimmed_at < _TRIM_EVERY_S:
            return
        machine = self._engine.machine
        before_ms = machine.wall_ms - self._watch.retention_ms
        if has_old_changes(self._reader, before_ms, self._watch.retention_count):
            command = TrimChanges(
                before_wall_ms=before_ms, keep=self._watch.retention_count, limit=_TRIM_AT_ONCE
            )
            (outcome,) = await self._propose(command)
            result = outcome.result if isinstance(outcome, Applied) else None
            if isinstance(result, ChangesTrimmed) and result.more:
                return
        self._changes_trimmed_at = now
