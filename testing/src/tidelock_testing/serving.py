"""One node, put together: its interface, its driver, its channels, and what is due by time."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final, Self

from aiohttp import web

from api.app import build_app
from api.channels import Channels
from api.connections import ApiRunner
from api.metrics import Metrics
from api.routing import NodeState, RoutingEntry, RoutingTable
from api.settings import ApiSettings
from node.config import ChannelsConfig, DeliveryConfig
from node.delivery.cleaner import Cleaner
from node.delivery.delivery import Delivery
from node.delivery.destinations import Destinations
from node.delivery.managers import Managers
from node.delivery.relay import OpenChannels, Relay
from statemachine.store import DamagedStateError
from tidelock_testing.faults import Faults
from tidelock_testing.one_node import NODE_ID, OneCluster, OneNode
from tidelock_testing.time_by_hand import AdvancingRuntime

_TIMERS_EVERY_S: Final = 0.05
_CLEAN_EVERY_S: Final = 0.5
_DRAIN_S: Final = 0.1


class Serving:
    """A node that serves, on the loop that started it."""

    def __init__(self, faults: Faults) -> None:
        loop = asyncio.get_running_loop()
        runtime = AdvancingRuntime(loop)
        self.node = node = OneNode(runtime)
        self._runtime = runtime
        self._cluster = cluster = OneCluster(node)
        self._destinations = Destinations(("*", "localhost", "127.0.0.1", "::1"), ())
        config = ChannelsConfig()
        settings = ApiSettings(
            destinations=self._destinations,
            channel_heartbeat_s=config.heartbeat_ms / 1000,
            channel_grace_s=config.grace_ms / 1000,
            channel_drain_s=_DRAIN_S,
            channel_clean_after_s=0,
        )
        channels = Channels(cluster, settings)
        self._relay = Relay(node, runtime, OpenChannels(channels))
        managers = Managers(
            node, runtime, self._relay, call_timeout_s=config.call_timeout_ms / 1000
        )
        self._delivery = Delivery(
            node, runtime, DeliveryConfig(), self._destinations, _fail, channel=managers
        )
        managers.on_wake = self._delivery.driver.wake
        self._cleaner = Cleaner(node, cluster, node.machine_store, self._relay, clean_after_ms=0)
        app = build_app(cluster, settings, _OneHealthyNode(), Metrics(), channels)
        app.middlewares.append(faults.middleware)
        self._runner = ApiRunner(app)
        self._applied = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.url = ""

    @classmethod
    async def start(cls, faults: Faults) -> Self:
        """Return a node that answers at a port of its own."""
        serving = cls(faults)
        await serving._start()
        return serving

    async def _start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}"
        self._cluster.api_address = f"127.0.0.1:{port}"
        self._destinations.set_members([("127.0.0.1", port)])
        self.node.notices.on_applied.append(self._applied.set)
        self._delivery.start()
        self.node.notices.role_changed()
        self._tasks = [asyncio.create_task(self._fire()), asyncio.create_task(self._clean())]

    async def stop(self) -> None:
        """End it as a node ends."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._delivery.close()
        await self._runner.cleanup()
        self._relay.close()

    async def advance(self, ms: int) -> None:
        """Let time pass, and do what is due then."""
        self._runtime.advance(ms)
        self.node.fire_timers()
        self._delivery.driver.wake(())

    async def _fire(self) -> None:
        while True:
            self.node.fire_timers()
            await asyncio.sleep(_TIMERS_EVERY_S)

    async def _clean(self) -> None:
        """Tell resource managers of what is over as soon as it is: tests wait for it."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLEAN_EVERY_S):
                    await self._applied.wait()
            self._applied.clear()
            await self._cleaner.look()
            await self._cleaner.look_for_sweeps()


class _OneHealthyNode:
    """`api.routing.RoutingView`."""

    def table(self) -> RoutingTable:
        entry = RoutingEntry(
            node_id=NODE_ID, in_rotation=True, state=NodeState.HEALTHY, reason="", since_ms=0
        )
        return RoutingTable(nodes=(entry,))

    async def rejoin(self, node_id: str) -> NodeState:
        if node_id != NODE_ID:
            raise LookupError(node_id)
        return NodeState.HEALTHY


def _fail(error: DamagedStateError) -> None:
    raise AssertionError(f"the state is damaged: {error}")
