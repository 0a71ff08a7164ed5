"""Protocols of other systems, served by this node on ports of their own."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from ipaddress import ip_network

from aiohttp import web

from api.cluster import Cluster
from api.connections import ApiRunner
from api.gateways.dtm import build_dtm_app
from api.metrics import Metrics
from api.settings import ApiSettings
from node.config import Config
from node.delivery.destinations import HostPort

logger = logging.getLogger(__name__)


async def serve_dtm(
    config: Config, cluster: Cluster, settings: ApiSettings, metrics: Metrics
) -> list[web.AppRunner]:
    """Serve DTM's protocol when it is wanted; return what is to be cleaned up.

    Raises:
        OSError: its address cannot be used.
    """
    gateway = config.gateways_dtm
    if not gateway.enabled:
        return []
    networks = [ip_network(text) for text in gateway.client_networks]
    runner = ApiRunner(build_dtm_app(cluster, settings, networks, metrics))
    await runner.setup()
    address = gateway.address
    await web.TCPSite(runner, address.host, address.port, backlog=1024).start()
    logger.info("serves DTM's protocol", extra={"at": str(address)})
    return [runner]


def gateway_addresses(config: Config, hosts: Iterable[str]) -> list[HostPort]:
    """Return where gateways are reached on nodes of these hosts, as far as is known."""
    gateway = config.gateways_dtm
    if not gateway.enabled:
        return []
    listed = (text.rpartition(":") for text in gateway.cluster_addresses)
    return [
        (gateway.address.host, gateway.address.port),
        *((host, gateway.address.port) for host in hosts),
        *((host.removeprefix("[").removesuffix("]"), int(port)) for host, _, port in listed),
    ]
