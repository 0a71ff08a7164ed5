"""What a node knows of its engine and its disk, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from node.consensus.engine import Engine
from node.storage import LmdbStorage


class EngineCollector(Collector):
    """Reads plain attributes when it is scraped; nothing is counted for its sake."""

    def __init__(self, engine: Engine, storage: LmdbStorage) -> None:
        self._engine = engine
        self._storage = storage

    def collect(self) -> Iterator[Metric]:
        events = CounterMetricFamily(
            "tidelock_engine_events",
            "What happened in consensus: elections, snapshots, resubmissions and the like.",
            labels=["event"],
        )
        # The names are the ones that the code counts under: a few dozen, none from outside.
        for name, count in sorted(self._engine.counters.items()):
            events.add_metric([name], count)
        yield events
        for name, help_text, value in self._gauges():
            yield GaugeMetricFamily(name, help_text, value=value)

    def _gauges(self) -> Iterator[tuple[str, str, float]]:
        engine, storage = self._engine, self._storage
        sync_ms, lag_ms = engine.pace.own_ms()
        yield (
            "tidelock_pending_requests",
            "Requests not answered yet.",
            (engine.proposals.pending_count),
        )
        yield (
            "tidelock_journal_bytes",
            "Journal from its base to its end.",
            (engine.journal.size_bytes),
        )
        yield "tidelock_journal_sync_p99_seconds", "Of the last two seconds.", sync_ms / 1000
        yield "tidelock_loop_lag_p99_seconds", "Of the last two seconds.", lag_ms / 1000
        yield "tidelock_state_used_bytes", "Pages of the state in use.", storage.used_bytes
        yield "tidelock_state_fill_ratio", "Of the state's room or the disk's.", storage.fill_ratio
        yield "tidelock_disk_free_bytes", "Where the state is.", storage.disk_free_bytes
        yield "tidelock_stored_events", "Events kept, of all kinds.", engine.machine.event_count
        yield "tidelock_idempotency_keys", "Keys remembered.", engine.machine.idempotency_count
        yield "tidelock_locks", "Locks held, or released just now.", engine.machine.lock_count
        yield "tidelock_lock_waits", "Who waits for a lock.", engine.machine.lock_wait_count
        yield (
            "tidelock_transactions",
            "Global transactions that have not ended.",
            engine.machine.global_count,
        )
        yield "tidelock_row_locks", "Rows that they lock.", engine.machine.row_lock_count
        yield (
            "tidelock_executions",
            "Executions of the XA and JTA services that have not ended.",
            engine.machine.execution_count,
        )
