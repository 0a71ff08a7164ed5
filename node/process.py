"""One node, put together: the only place that knows all rooms of the house."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import NoReturn, Protocol

from aiohttp import web

from api.app import build_app
from api.channels import Channels
from api.connections import ApiRunner
from api.metrics import Metrics
from api.settings import ApiSettings
from node.clock_reports import ClockReports
from node.cluster import EngineCluster
from node.config import Address, Config
from node.consensus.disk import DirectoryLock, FileDisk, lock_directory
from node.consensus.engine import Engine
from node.consensus.foundation import Identity
from node.consensus.journal import JournalSettings
from node.consensus.journal_format import JournalDamagedError
from node.consensus.membership import Configuration
from node.consensus.runtime import AsyncioRuntime
from node.consensus.settings import EngineSettings
from node.consensus.tcp_links import TcpLinks
from node.data_directory import DataDirectory
from node.delivery.connected_managers import ConnectedManagers
from node.delivery.delivery import Delivery, DeliveryCollector
from node.delivery.destinations import Destinations, HostPort
from node.failure_detector import Comparison, Verdict
from node.gateways import gateway_addresses, serve_dtm
from node.health import HealthMonitor, HttpProbe
from node.housekeeping import Housekeeping
from node.metrics import EngineCollector
from node.physical_clock import PhysicalClock
from node.scrub import Scrub
from node.services.host import ServicesHost
from node.state_files import StateFiles
from node.voting import Voting
from statemachine.store import DamagedStateError

logger = logging.getLogger(__name__)

_GC_THRESHOLDS = (20_000, 50, 100)
"""Requests make few cycles; the usual thresholds would look for them hundreds of times a second."""


Companion = Callable[[EngineCluster], Coroutine[None, None, None]]
"""Runs beside the API on the node's loop, for as long as the node serves."""


class _Work(Protocol):
    """What a node does by itself while it serves."""

    def start(self) -> None: ...

    async def close(self) -> None: ...


class Process:
    """Starts in the order of the rooms, ends in the reverse."""

    def __init__(
        self, config: Config, *, bootstrap: bool, companion: Companion | None = None
    ) -> None:
        self._config = config
        self._bootstrap = bootstrap
        self._companion = companion
        self._destinations = Destinations(config.delivery.allowed_hosts, own_addresses(config))
        self._lock: DirectoryLock
        self._data: DataDirectory

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            DirectoryLockedError, DataDirectoryError, OSError: it cannot start.
        """
        config = self._config
        loop = asyncio.get_running_loop()
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        self._lock = lock_directory(config.node.data_dir, f"node {config.node.id}")
        self._data = DataDirectory.open(config.node.data_dir, config.node.id)
        storage = self._open_state(loop)
        disk = FileDisk(self._data.journal, loop.call_soon_threadsafe)
        clock = PhysicalClock(max_skew_ms=config.clock.max_skew_ms)
        engine, links = self._open_engine(loop, storage, disk, clock)
        cluster = EngineCluster(engine, storage, loop)
        cluster.on_damage = self._rebuild_damaged
        probe = HttpProbe()
        housekeeping = Housekeeping(
            engine,
            cluster,
            storage,
            config.events,
            config.watch,
            config.sync,
            config.transactions,
        )
        monitor = HealthMonitor(
            node_id=config.node.id,
            settings=config.health,
            probe=probe,
            compare=lambda node_id: _compare(engine, node_id),
            on_change=housekeeping.routing_changed,
        )
        runtime = AsyncioRuntime(loop)
        managers = ConnectedManagers(
            engine, cluster, storage, runtime, self._api_settings(), config.channels
        )
        delivery = Delivery(
            engine,
            runtime,
            config.delivery,
            self._destinations,
            self._rebuild_damaged,
            channel=managers.calls,
        )
        managers.calls.on_wake = delivery.driver.wake
        work: list[_Work] = [
            monitor,
            housekeeping,
            delivery,
            managers,
            Voting(engine, cluster, storage),
            ClockReports(engine, cluster, storage),
            Scrub(storage, self._rebuild_damaged),
        ]
        runs = ServicesHost.of(engine, cluster, storage, config)
        engine.notices.on_configuration.append(
            lambda record: self._members_changed(monitor, record)
        )
        # Before it can be asked: without its membership a node passes for an empty one.
        engine.start()
        await links.listen(config.node.peer_address.host, config.node.peer_address.port)
        metrics = Metrics()
        metrics.registry.register(EngineCollector(engine, storage))
        metrics.registry.register(DeliveryCollector(delivery))
        served = [await self._serve_api(cluster, monitor, metrics, managers.channels, runs)]
        served += await serve_dtm(config, cluster, managers.channels.settings, metrics)
        for each in [*work, *runs]:
            each.start()
        companion = asyncio.create_task(self._companion(cluster)) if self._companion else None
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        logger.info("serves", extra={"api": str(config.node.api_address)})
        await stopping.wait()
        logger.info("stops")
        if companion is not None:
            companion.cancel()
            await asyncio.gather(companion, return_exceptions=True)
        for each in reversed([*work, *runs]):
            await each.close()
        await probe.close()
        for runner in reversed(served):
            await runner.cleanup()
        managers.stop()
        engine.stop()
        disk.close()
        storage.close()
        self._lock.release()

    # --- opening

    def _open_state(self, loop: asyncio.AbstractEventLoop) -> StateFiles:
        settings = self._config.storage
        try:
            storage = StateFiles.open(
                self._data.state,
                map_size_bytes=settings.map_initial_bytes,
                max_map_size_bytes=settings.map_max_bytes,
                checkpoint_interval_ms=settings.checkpoint_interval_ms,
            )
        except DamagedStateError as error:
            self._rebuild(f"the state is damaged: {error}")
        storage.loop = loop
        return storage

    def _open_engine(
        self,
        loop: asyncio.AbstractEventLoop,
        storage: StateFiles,
        disk: FileDisk,
        clock: PhysicalClock,
    ) -> tuple[Engine, TcpLinks]:
        config = self._config
        overrides = config.cluster.dial_overrides
        links = TcpLinks(loop, {node_id: str(address) for node_id, address in overrides.items()})
        try:
            engine = Engine(
                Identity(
                    node_id=config.node.id,
                    disk_uuid=self._data.disk_uuid,
                    peer_address=str(config.node.advertise_peer_address),
                    api_address=str(config.node.advertise_api_address),
                ),
                {
                    node.id: str(node.peer)
                    for node in config.cluster.nodes
                    if node.id != config.node.id
                },
                AsyncioRuntime(loop, clock.bounded_wall_ms),
                disk,
                storage,
                links,
                engine_settings(config),
                JournalSettings(segment_bytes=config.storage.journal_segment_bytes),
                bootstrap=self._bootstrap,
            )
        except JournalDamagedError as error:
            self._rebuild(f"the journal is damaged: {error}")
        engine.notices.on_diverged = lambda: self._rebuild("the state differs from the majority's")
        engine.notices.on_regressed = lambda: self._rebuild(
            "the disk lost what it had acknowledged"
        )
        engine.notices.on_clock_sample = lambda peer, wall_ms, trip_ms: clock.observe(
            peer, offset_ms=wall_ms + trip_ms // 2 - clock.wall_ms(), round_trip_ms=trip_ms
        )
        return engine, links

    def _api_settings(self) -> ApiSettings:
        http, watch, channels = self._config.http, self._config.watch, self._config.channels
        return ApiSettings(
            greatest_body_bytes=http.max_body_bytes,
            greatest_header_bytes=http.max_header_bytes,
            greatest_headers=http.max_headers,
            idempotency_ttl_ms=http.idempotency_ttl_ms,
            max_skew_ms=self._config.clock.max_skew_ms,
            default_timeout_ms=http.default_timeout_ms,
            greatest_timeout_ms=http.max_timeout_ms,
            greatest_watchers=watch.max_watchers,
            watch_heartbeat_s=watch.heartbeat_ms / 1000,
            watch_leaderless_s=watch.leaderless_ms / 1000,
            greatest_channels=channels.max_channels,
            channel_heartbeat_s=channels.heartbeat_ms / 1000,
            channel_leaderless_s=channels.leaderless_ms / 1000,
            channel_grace_s=channels.grace_ms / 1000,
            channel_clean_after_s=channels.clean_after_ms / 1000,
            destinations=self._destinations,
        )

    async def _serve_api(
        self,
        cluster: EngineCluster,
        monitor: HealthMonitor,
        metrics: Metrics,
        channels: Channels,
        runs: list[ServicesHost],
    ) -> web.AppRunner:
        runner = ApiRunner(build_app(cluster, channels.settings, monitor, metrics, channels, *runs))
        await runner.setup()
        address = self._config.node.api_address
        await web.TCPSite(runner, address.host, address.port, backlog=1024).start()
        return runner

    def _members_changed(self, monitor: HealthMonitor, record: Configuration) -> None:
        members = (*record.voters, *record.learners)
        reached = [text for each in members for text in (each.api_address, each.peer_address)]
        own = [
            (host.removeprefix("[").removesuffix("]"), int(port))
            for host, _, port in (text.rpartition(":") for text in reached)
            if port.isascii() and port.isdigit()
        ]
        own += gateway_addresses(self._config, [host for host, _ in own])
        self._destinations.set_members(own)
        overrides = self._config.cluster.api_dial_overrides
        monitor.set_members(
            {
                member.node_id: str(overrides.get(member.node_id, member.api_address))
                for member in members
            }
        )

    # --- starting over

    def _rebuild_damaged(self, error: DamagedStateError) -> NoReturn:
        self._rebuild(f"the state is damaged: {error}")

    def _rebuild(self, why: str) -> NoReturn:
        """Put the data aside and run again with an empty disk, to be rebuilt from the others."""
        logger.critical("%s; this node starts over with an empty disk", why)
        kept = self._data.put_aside()
        logger.critical("what was there is kept in %s", kept)
        logging.shutdown()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - this program


def own_addresses(config: Config) -> list[HostPort]:
    """Return where this cluster is reached, by whatever way: no branch is called there."""
    node, cluster = config.node, config.cluster
    own = [
        host_and_port(address)
        for address in (
            node.api_address,
            node.peer_address,
            node.advertise_api_address,
            node.advertise_peer_address,
            *(address for each in cluster.nodes for address in (each.api, each.peer)),
            *cluster.dial_overrides.values(),
            *cluster.api_dial_overrides.values(),
        )
    ]
    return own + gateway_addresses(config, [host for host, _ in own])


def host_and_port(address: Address) -> HostPort:
    return address.host, address.port


def engine_settings(config: Config) -> EngineSettings:
    """The engine's settings, in its own units."""
    raft, storage = config.raft, config.storage
    return EngineSettings(
        heartbeat_s=raft.heartbeat_ms / 1000,
        election_timeout_min_s=raft.election_timeout_min_ms / 1000,
        election_timeout_max_s=raft.election_timeout_max_ms / 1000,
        leader_fallback_s=raft.leader_fallback_ms / 1000,
        max_pending_requests=raft.max_pending_requests,
        max_pending_bytes=raft.max_pending_bytes,
        max_unit_bytes=raft.max_entry_bytes - 4096,
        journal_retain_bytes=storage.journal_retain_bytes,
        journal_compact_bytes=storage.journal_compact_bytes,
        auto_replace=config.cluster.auto_replace,
        max_fill_ratio=storage.full_percent / 100,
    )


async def _compare(engine: Engine, node_id: str) -> Comparison:
    """Compare a returning node's digest with this node's, at one index."""
    future: asyncio.Future[Comparison] = asyncio.get_running_loop().create_future()

    def done(same: bool | None, index: int) -> None:
        if future.done():
            return
        if same is None:
            detail = f"{engine.identity.node_id} does not know its own digest at index {index}"
            future.set_result(Comparison(Verdict.UNKNOWN, detail))
        elif same:
            detail = f"its digest equals {engine.identity.node_id}'s at index {index}"
            future.set_result(Comparison(Verdict.SAME, detail))
        else:
            detail = f"its digest differs from {engine.identity.node_id}'s at index {index}"
            future.set_result(Comparison(Verdict.DIFFERENT, detail))

    engine.compare_digest(node_id, done)
    return await future
