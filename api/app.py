"""The application: every endpoint behind one thin wrapper, and answers for what has no endpoint."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Final

from aiohttp import hdrs, web

from api import (
    audit,
    batch,
    description,
    executions,
    health,
    hybrid_clock,
    locks,
    messages,
    metrics,
    objects,
    oracle,
    participants,
    proposals,
    recovery,
    rm_channel,
    row_locks,
    saga_definitions,
    sagas,
    sequences,
    space_time,
    synchronisation,
    tcc,
    timestamps,
    topics,
    topology,
    transactions,
    vector_clocks,
    versions,
    watch,
)
from api.channels import Channels, ChannelsCollector
from api.cluster import Cluster
from api.connections import DRAINS, REFUSALS, Drain, Refusals
from api.endpoints import Endpoint
from api.errors import INTERNAL, Problem, of_exception
from api.execution_runs import ExecutionRuns, NoRuns
from api.metrics import Metrics, RouteMetrics
from api.replies import Replies
from api.requests import idempotency_key, refuse_unknown_parameters
from api.routing import RoutingView
from api.service import Service
from api.settings import ApiSettings
from api.waiting import ClientGoneError
from api.watchers import Watchers, WatchersCollector
from statemachine.store import DamagedStateError

CLIENT_GONE_STATUS: Final = 499
"""Under which metrics count a request whose client did not wait for the answer. Never sent."""

_log: Final = logging.getLogger(__name__)

_Serve = Callable[[web.Request], Awaitable[web.StreamResponse]]
_OnDamage = Callable[[DamagedStateError], None]


def build_app(
    cluster: Cluster,
    settings: ApiSettings,
    routing: RoutingView,
    registry: Metrics,
    channels: Channels | None = None,
    runs: ExecutionRuns | None = None,
) -> web.Application:
    """Return the application that serves a node's whole API.

    `channels` are those of the node's resource managers, when somebody else calls them too; `runs`
    is what runs executions on this node, when it has data sources.

    Run it with `api.connections.ApiRunner`, which answers what never reaches a route.
    """
    service = Service(cluster, settings)
    registry.observe_cluster(cluster)
    watchers = Watchers(cluster, settings)
    registry.registry.register(WatchersCollector(watchers))
    channels = Channels(cluster, settings) if channels is None else channels
    runs = NoRuns() if runs is None else runs
    registry.registry.register(ChannelsCollector(channels))
    endpoints = [
        *timestamps.endpoints(service),
        *participants.endpoints(service),
        *hybrid_clock.endpoints(service),
        *oracle.endpoints(service),
        *sequences.endpoints(service),
        *synchronisation.endpoints(service),
        *proposals.endpoints(service),
        *versions.endpoints(service),
        *objects.endpoints(service),
        *vector_clocks.endpoints(service),
        *locks.endpoints(service),
        *transactions.endpoints(service),
        *sagas.endpoints(service),
        *saga_definitions.endpoints(service),
        *tcc.endpoints(service),
        *row_locks.endpoints(service),
        *messages.endpoints(service),
        *topics.endpoints(service),
        *executions.endpoints(service, runs),
        *audit.endpoints(service),
        *recovery.endpoints(service),
        *space_time.endpoints(service),
        *batch.endpoints(service),
        *watch.endpoints(service, watchers),
        *rm_channel.endpoints(service, channels),
        *topology.endpoints(service, routing),
        *health.endpoints(service),
        *metrics.endpoints(service, registry),
    ]
    endpoints += description.endpoints(service, endpoints)
    app = web.Application(client_max_size=settings.greatest_body_bytes)
    app[REFUSALS] = Refusals(
        replies=service.replies, settings=settings, counted=registry.route("*", "*").observe
    )
    drains: list[Drain] = [channels.close]
    app[DRAINS] = drains
    app.on_shutdown.append(_closing(service, watchers))
    _add_routes(app, service.replies, endpoints, registry, cluster.report_damage)
    return app


def _closing(service: Service, watchers: Watchers) -> Callable[[web.Application], Awaitable[None]]:
    """Return what ends the requests that go on and on, before the node waits for all to finish."""

    async def close(_: web.Application) -> None:
        service.waits.stop()
        watchers.close()

    return close


def _add_routes(
    app: web.Application,
    replies: Replies,
    endpoints: Sequence[Endpoint],
    registry: Metrics,
    on_damage: _OnDamage,
) -> None:
    """Add each endpoint, and what answers wrong methods and unknown paths.

    Those are routes like the others, so that no middleware has to wrap every request to catch them.
    """
    expect = _expect(replies)
    methods: dict[str, list[str]] = {}
    for endpoint in endpoints:
        serve = _wrap(endpoint, replies, registry.route(endpoint.path, endpoint.method), on_damage)
        for path in (endpoint.path, *endpoint.aliases):
            app.router.add_route(endpoint.method, path, serve, expect_handler=expect)
            allowed = methods.setdefault(path, [])
            allowed.append(endpoint.method)
            if endpoint.method == "GET":
                app.router.add_route("HEAD", path, serve)
                allowed.append("HEAD")
    for path, allowed in methods.items():
        app.router.add_route(
            "*", path, _answer(replies, _method_not_allowed(allowed), registry.route(path, "*"))
        )
    app.router.add_route("*", "/{unknown:.*}", app[REFUSALS].unrouted)


def _wrap(
    endpoint: Endpoint, replies: Replies, counted: RouteMetrics, on_damage: _OnDamage
) -> _Serve:
    handler = endpoint.handler
    known = endpoint.query_parameters()
    keyed = endpoint.keyed

    async def serve(request: web.Request) -> web.StreamResponse:
        started = perf_counter()
        try:
            if "?" in request.raw_path:
                refuse_unknown_parameters(request, known)
            if keyed:
                idempotency_key(request)
            reply = await handler(request)
        except asyncio.CancelledError:
            raise
        except ClientGoneError:
            counted.observe(CLIENT_GONE_STATUS, perf_counter() - started)
            raise
        except DamagedStateError as error:
            on_damage(error)
            reply = replies.problem(_problem(error, endpoint))
        except Exception as error:
            reply = replies.problem(_problem(error, endpoint))
        counted.observe(reply.status, perf_counter() - started)
        return reply

    return serve


def _problem(error: Exception, endpoint: Endpoint) -> Problem:
    problem = of_exception(error)
    if problem is None:
        _log.error("%s failed", endpoint.operation, exc_info=error)
        return INTERNAL
    return problem


def _answer(replies: Replies, problem: Problem, counted: RouteMetrics) -> _Serve:
    """Return what answers every request with the same problem."""

    async def serve(_: web.Request) -> web.StreamResponse:
        counted.observe(problem.status, 0.0)
        return replies.problem(problem)

    return serve


def _expect(replies: Replies) -> Callable[[web.Request], Awaitable[web.StreamResponse | None]]:
    """Return what answers `Expect`: go on with the body, or a problem."""

    async def go_on(request: web.Request) -> web.StreamResponse | None:
        if request.headers.get(hdrs.EXPECT, "").lower() != "100-continue":
            return replies.problem(
                Problem("EXPECTATION_FAILED", "Only 100-continue can be expected.")
            )
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None

    return go_on


def _method_not_allowed(allowed: Sequence[str]) -> Problem:
    return Problem(
        "METHOD_NOT_ALLOWED", f"This path takes {', '.join(allowed)}.", allow=tuple(allowed)
    )
