"""Metrics for Prometheus, in a registry of their own.

Requests are counted in plain numbers on the loop's thread, a fraction of a microsecond each, and
become samples when somebody asks. Labels are bounded: route templates, methods, statuses, nodes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from api.cluster import Cluster
from api.endpoints import Endpoint
from api.replies import Reply
from api.service import Service

BOUNDS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
"""Upper bounds of the buckets of request durations."""

EXPOSITION: Final = "text/plain; version=0.0.4; charset=utf-8"


class Durations:
    """How long the requests of one route, method and status took."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def observe(self, duration_s: float) -> None:
        self.counts[bisect_left(BOUNDS_S, duration_s)] += 1
        self.sum_s += duration_s

    def buckets(self) -> list[tuple[str, float]]:
        """Return cumulative counts with their bounds, as the exposition wants them."""
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), self.counts, strict=True):
            total += count
            buckets.append((bound, total))
        return buckets


class RouteMetrics:
    """The durations of one route and method; statuses are found without labels being made."""

    __slots__ = ("_by_status", "method", "route")

    def __init__(self, route: str, method: str) -> None:
        self.route = route
        self.method = method
        self._by_status: dict[int, Durations] = {}

    def observe(self, status: int, duration_s: float) -> None:
        durations = self._by_status.get(status)
        if durations is None:
            durations = self._by_status[status] = Durations()
        durations.observe(duration_s)

    def by_status(self) -> list[tuple[int, Durations]]:
        return sorted(self._by_status.items())


class Metrics:
    """The registry of a node. Others register collectors of their own in it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._routes: list[RouteMetrics] = []
        self.registry.register(_RequestCollector(self._routes))
        ProcessCollector(registry=self.registry)

    def route(self, route: str, method: str) -> RouteMetrics:
        """Return where the requests of a route are counted."""
        metrics = RouteMetrics(route, method)
        self._routes.append(metrics)
        return metrics

    def observe_cluster(self, cluster: Cluster) -> None:
        """Show what the node knows of its cluster."""
        self.registry.register(_ClusterCollector(cluster))

    def exposition(self) -> bytes:
        return generate_latest(self.registry)


class _RequestCollector(Collector):
    def __init__(self, routes: list[RouteMetrics]) -> None:
        self._routes = routes

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(
            "tidelock_http_request_duration_seconds",
            "Time from the first look at a request to its answer.",
            labels=("route", "method", "status"),
        )
        for route in self._routes:
            for status, durations in route.by_status():
                labels = (route.route, route.method, str(status))
                family.add_metric(labels, durations.buckets(), durations.sum_s)
        yield family


class _ClusterCollector(Collector):
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def collect(self) -> Iterator[Metric]:
        status = self._cluster.status()
        yield _gauge("term", "The current term.", status.term)
        yield _gauge("commit_index", "The last entry known to be committed.", status.commit_index)
        yield _gauge("applied_index", "The last entry applied.", status.applied_index)
        yield _gauge("leader", "1 on the node that leads.", int(status.leader == status.node_id))
        yield _gauge("has_leader", "1 while a leader is known.", int(status.leader is not None))
        yield _gauge("caught_up", "1 while applied is close behind.", int(status.caught_up))
        yield _gauge("voters", "Members that vote.", len(status.voters))
        if status.quorum_confirmed_ms is not None:
            yield _gauge(
                "quorum_age_seconds",
                "Time since a quorum last confirmed the leader.",
                status.quorum_confirmed_ms / 1000,
            )
        match = _family("match_index", "The last entry a member is known to hold.")
        contact = _family("contact_age_seconds", "Time since a member was last heard from.")
        for node in status.nodes:
            if node.match_index is not None:
                match.add_metric((node.node_id,), node.match_index)
            if node.last_contact_ms is not None:
                contact.add_metric((node.node_id,), node.last_contact_ms / 1000)
        yield match
        yield contact


def _gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"tidelock_raft_{name}", documentation, value=value)


def _family(name: str, documentation: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"tidelock_raft_{name}", documentation, labels=("node",))


def endpoints(service: Service, metrics: Metrics) -> list[Endpoint]:
    async def expose(_: web.Request) -> Reply:
        return service.replies.of_bytes(200, EXPOSITION, metrics.exposition())

    return [
        Endpoint(
            method="GET",
            path="/metrics",
            operation="getMetrics",
            summary="Metrics for Prometheus",
            tag="metrics",
            handler=expose,
            answer=None,
            media_type="text/plain",
        )
    ]
