"""DTM's protocol as an application of its own, to be served on a port of its own.

Its clients know no tokens, so who may ask is told by where it comes from: the networks of
`gateways.dtm.client_networks`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from time import perf_counter
from typing import Final

from aiohttp import web

from api.cluster import Cluster
from api.connections import DRAINS, REFUSALS, Refusals
from api.gateways.dtm_answers import DtmAnswers, DtmError, of_error
from api.gateways.dtm_endpoints import PREFIX, DtmEndpoints
from api.gateways.dtm_json_rpc import DtmJsonRpc
from api.gateways.dtm_service import DtmService
from api.metrics import EXPOSITION, Metrics
from api.replies import Reply
from api.service import Service
from api.settings import ApiSettings
from api.waiting import ClientGoneError
from statemachine.store import DamagedStateError

VERSION: Final = "v1.19.0+tidelock"
"""What is answered to who asks for DTM's version: the one whose protocol is served, so that who
reads it as a version can; what serves it is the build behind the plus of Semantic Versioning."""

CLIENT_GONE_STATUS: Final = 499

Network = IPv4Network | IPv6Network

_Handler = Callable[[web.Request], Awaitable[Reply]]
_Serve = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class DtmRefusals(Refusals):
    """How requests are answered that reach no route: as DTM's clients know it."""

    answers: DtmAnswers

    async def unrouted(self, _: web.BaseRequest) -> web.StreamResponse:
        self.counted(404, 0.0)
        return self.answers.not_found()


def build_dtm_app(
    cluster: Cluster, settings: ApiSettings, networks: Sequence[Network], metrics: Metrics
) -> web.Application:
    """Return the application; run it with `api.connections.ApiRunner`.

    `networks` are where clients may come from.
    """
    service = Service(cluster, settings)
    answers = DtmAnswers(service.replies)
    gateway = DtmService(service)
    guard = _Guard(networks, answers, metrics, cluster)
    app = web.Application(client_max_size=settings.greatest_body_bytes)
    app[REFUSALS] = DtmRefusals(
        replies=service.replies,
        settings=settings,
        counted=metrics.route(f"{PREFIX}/*", "*").observe,
        answers=answers,
    )

    async def close(_: web.Application) -> None:
        service.waits.stop()

    app.on_shutdown.append(close)
    app[DRAINS] = []

    async def ping(_: web.Request) -> Reply:
        return answers.object({"msg": "pong"})

    async def expose(_: web.Request) -> Reply:
        return service.replies.of_bytes(200, EXPOSITION, metrics.exposition())

    rpc = DtmJsonRpc(gateway, service.replies, settings)
    routes: list[tuple[str, str, _Handler]] = [
        ("GET", "/api/ping", ping),
        ("GET", "/api/metrics", expose),
        ("POST", "/api/json-rpc", rpc.serve),
    ]
    endpoints = DtmEndpoints(gateway, answers, settings, VERSION)
    routes += [(method, PREFIX + path, handler) for method, path, handler in endpoints.routes()]
    for method, path, handler in routes:
        app.router.add_route(method, path, guard.serving(method, path, handler))
    app.router.add_route("*", "/{unknown:.*}", app[REFUSALS].unrouted)
    return app


class _Guard:
    """Around every handler: who asks, what goes wrong, and how often."""

    def __init__(
        self,
        networks: Sequence[Network],
        answers: DtmAnswers,
        metrics: Metrics,
        cluster: Cluster,
    ) -> None:
        self._networks = tuple(networks)
        self._answers = answers
        self._metrics = metrics
        self._cluster = cluster
        self._known: dict[str, bool] = {}

    def serving(self, method: str, path: str, handler: _Handler) -> _Serve:
        counted = self._metrics.route(path, method)
        answers = self._answers

        async def serve(request: web.Request) -> web.StreamResponse:
            started = perf_counter()
            try:
                if not self._admits(request.remote or ""):
                    reply = answers.text(403, "clients of this network are not served")
                else:
                    reply = await handler(request)
            except DtmError as error:
                reply = answers.error(error)
            except ClientGoneError:
                counted.observe(CLIENT_GONE_STATUS, perf_counter() - started)
                raise
            except DamagedStateError as error:
                self._cluster.report_damage(error)
                reply = answers.error(of_error(error))
            except Exception as error:
                reply = answers.error(of_error(error))
            counted.observe(reply.status, perf_counter() - started)
            return reply

        return serve

    def _admits(self, remote: str) -> bool:
        known = self._known.get(remote)
        if known is None:
            if len(self._known) >= 10_000:
                self._known.clear()
            known = self._known[remote] = self._is_listed(remote)
        return known

    def _is_listed(self, remote: str) -> bool:
        try:
            address = ip_address(remote.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        listed = any(address in network for network in self._networks)
        if not listed:
            _log.warning("a client of no listed network was refused", extra={"client": remote})
        return listed
