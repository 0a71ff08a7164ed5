"""How the resource manager of a process stands: for a health check, and for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple


@dataclass(frozen=True, kw_only=True)
class Health:
    """One look. Counters begin at 0 with the process, and again in a child."""

    connected: bool = False
    """A node holds the channel of this process, and has welcomed it."""
    session_id: int | None = None
    """The session, also while its connection is made anew."""
    node: str | None = None
    """The node that holds the channel."""
    resources: int = 0
    """How many are attached."""
    waiting: int = 0
    """Calls of the coordinator that wait for their turn."""
    running: int = 0
    """Calls under way."""
    oldest_ms: int = 0
    """How long the oldest of both is here already."""
    results: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Answers given, by what was asked and what was answered."""
    repeated: int = 0
    """Calls that came again while they were under way, and share an answer."""
    stale: int = 0
    """Calls of a leader after which a newer one had called."""
    refused: int = 0
    """Calls that were not gone into: too many, no such resource, the process ends."""
    errors: int = 0
    """Exceptions of resources."""
    connections: int = 0
    """Connections on which a node welcomed this process."""
    sessions_lost: int = 0
    worker_threads: int = 0
    worker_jobs_waiting: int = 0
    last_failure: str = ""
    """Why the last connection ended, or came to nothing."""

    def numbers(self) -> dict[str, float]:
        """Return everything that is a number, by the name of its metric."""
        shown = {metric.name: metric.value(self) for metric in _METRICS}
        for (asked, answered), count in sorted(self.results.items()):
            shown[f'{_RESULTS}{{call="{asked}",status="{answered}"}}'] = count
        return shown

    def prometheus(self) -> str:
        """Return the same in Prometheus's text format (version 0.0.4)."""
        numbers = self.numbers()
        lines = []
        for metric in _METRICS:
            lines += _head(metric.name, metric.kind, metric.text)
            lines.append(f"{metric.name} {numbers.pop(metric.name)}")
        lines += _head(_RESULTS, "counter", "Answers given to the coordinator.")
        lines += [f"{name} {count}" for name, count in numbers.items()]
        return "\n".join(lines) + "\n"


class _Metric(NamedTuple):
    name: str
    kind: str
    text: str
    value: Callable[[Health], float]


_RESULTS: Final = "tidelock_rm_results_total"

_METRICS: Final = (
    _Metric(
        "tidelock_rm_connected",
        "gauge",
        "1 while a node holds the channel of this process.",
        lambda health: int(health.connected),
    ),
    _Metric(
        "tidelock_rm_resources",
        "gauge",
        "Resources that are attached.",
        lambda health: health.resources,
    ),
    _Metric(
        "tidelock_rm_calls_waiting",
        "gauge",
        "Calls of the coordinator that wait for their turn.",
        lambda health: health.waiting,
    ),
    _Metric(
        "tidelock_rm_calls_running",
        "gauge",
        "Calls of the coordinator that are under way.",
        lambda health: health.running,
    ),
    _Metric(
        "tidelock_rm_oldest_call_seconds",
        "gauge",
        "Age of the oldest call that waits or is under way.",
        lambda health: health.oldest_ms / 1000,
    ),
    _Metric(
        "tidelock_rm_repeated_calls_total",
        "counter",
        "Calls that came again while they were under way.",
        lambda health: health.repeated,
    ),
    _Metric(
        "tidelock_rm_stale_calls_total",
        "counter",
        "Calls of a leader after which a newer one had called.",
        lambda health: health.stale,
    ),
    _Metric(
        "tidelock_rm_refused_calls_total",
        "counter",
        "Calls that were answered without being gone into.",
        lambda health: health.refused,
    ),
    _Metric(
        "tidelock_rm_errors_total",
        "counter",
        "Exceptions of resources.",
        lambda health: health.errors,
    ),
    _Metric(
        "tidelock_rm_connections_total",
        "counter",
        "Connections on which a node welcomed this process.",
        lambda health: health.connections,
    ),
    _Metric(
        "tidelock_rm_sessions_lost_total",
        "counter",
        "Sessions that ended though the process did not.",
        lambda health: health.sessions_lost,
    ),
    _Metric(
        "tidelock_worker_threads",
        "gauge",
        "Threads for what blocks.",
        lambda health: health.worker_threads,
    ),
    _Metric(
        "tidelock_worker_jobs_waiting",
        "gauge",
        "Jobs that wait for such a thread.",
        lambda health: health.worker_jobs_waiting,
    ),
)


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
