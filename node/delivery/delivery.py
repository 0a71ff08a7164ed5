"""The driver on a node: with HTTP, the operator's settings, and metrics."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from node.config import DeliveryConfig
from node.consensus.runtime import Runtime
from node.delivery.alerts import Alerts
from node.delivery.calls import Answer, CallStyle, Cancel, Channel, Verdict
from node.delivery.destinations import Destinations
from node.delivery.driver import Driver, DriverLimits
from node.delivery.dtm import DtmStyle
from node.delivery.http import HttpSender
from node.delivery.leader import Leader
from node.delivery.native import NativeStyle
from statemachine.store import DamagedStateError
from statemachine.transactions.planning import Operation
from statemachine.transactions.references import resolve
from statemachine.transactions.rows import DTM, Branch, Global

NATIVE = ""
"""The protocol of transactions that were begun by our own API."""


class Delivery:
    """Runs on every node and calls on the leader only."""

    def __init__(
        self,
        engine: Leader,
        runtime: Runtime,
        config: DeliveryConfig,
        destinations: Destinations,
        on_damage: Callable[[DamagedStateError], object],
        *,
        channel: Channel | None = None,
        styles: Mapping[str, CallStyle] | None = None,
    ) -> None:
        """`styles` are those of further protocols, by `Global.protocol`.

        Raises:
            OSError: a file of the configuration cannot be used.
        """
        self._sender = HttpSender(
            destinations,
            timeout_ms=config.timeout_ms,
            context=ssl.create_default_context(cafile=config.ca_file) if config.ca_file else None,
            key=read_key(config.signature_key_file) if config.signature_key_file else b"",
        )
        self.alerts = Alerts(self._sender, config.alert_url)
        self.driver = Driver(
            engine,
            runtime,
            self._sender,
            channel or NobodyConnected(runtime),
            {NATIVE: NativeStyle(resolve), DTM: DtmStyle(), **(styles or {})},
            DriverLimits(calls=config.max_calls, calls_per_host=config.max_calls_per_host),
            self.alerts,
            on_damage,
        )

    def start(self) -> None:
        self.driver.start()

    async def close(self) -> None:
        self.driver.stop()
        await self._sender.close()


class NobodyConnected:
    """`Channel` of a node to which no resource manager can connect."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def send(
        self,
        row: Global,
        branch: Branch,
        operation: Operation,
        epoch: int,
        on_answer: Callable[[Answer], None],
    ) -> Cancel:
        message = f"no resource manager of {branch.resource_id} is connected"
        answer = Answer(Verdict.RETRY, failure_type="NOT_CONNECTED", failure_message=message)
        return self._runtime.call_later(0.0, lambda: on_answer(answer)).cancel


def read_key(path: Path) -> bytes:
    """Return the key in a file, without the line's end behind it. Raises: OSError"""
    return path.read_bytes().strip()


class DeliveryCollector(Collector):
    """Reads plain attributes when it is scraped."""

    def __init__(self, delivery: Delivery) -> None:
        self._driver = delivery.driver
        self._alerts = delivery.alerts

    def collect(self) -> Iterator[Metric]:
        driver = self._driver
        counters = driver.counters
        yield GaugeMetricFamily(
            "tidelock_branch_calls_in_flight",
            "Calls to branches under way, or whose results are.",
            value=driver.in_flight,
        )
        yield GaugeMetricFamily(
            "tidelock_due_transactions",
            "Transactions that wait at this leader for a call to be made.",
            value=driver.backlog,
        )
        calls = CounterMetricFamily(
            "tidelock_branch_calls",
            "Calls to branches, by what for and what they came to.",
            labels=["operation", "result"],
        )
        for (operation, verdict), count in sorted(counters.calls.items()):
            calls.add_metric([operation, verdict], count)
        yield calls
        failures = CounterMetricFamily(
            "tidelock_branch_call_failures",
            "Calls to branches that were refused or will be repeated, by what went wrong.",
            labels=["why"],
        )
        for why, count in sorted(counters.failures.items()):
            failures.add_metric([why], count)
        yield failures
        yield HistogramMetricFamily(
            "tidelock_branch_call_duration_seconds",
            "How long calls to branches took.",
            buckets=counters.durations.cumulative,
            sum_value=counters.durations.sum_s,
        )
        alerts = CounterMetricFamily(
            "tidelock_alerts", "Alerts of branches that fail again and again.", labels=["result"]
        )
        for result, count in sorted(self._alerts.counters.items()):
            alerts.add_metric([result], count)
        yield alerts
