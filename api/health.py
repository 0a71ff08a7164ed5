"""Health: what load balancers, orchestrators and peers ask. Cheap, and never behind the state."""

from __future__ import annotations

from aiohttp import web

from api.cluster import ClusterStatus
from api.endpoints import Endpoint
from api.errors import Problem
from api.replies import Reply
from api.service import Service
from api.shapes import Answer, NodeId


class Health(Answer, frozen=True, kw_only=True):
    """A question of health that was answered with yes."""

    status: str
    node_id: NodeId
    leader: NodeId | None


def unready_because(status: ClusterStatus, quorum_fresh_ms: int) -> str | None:
    """Return why the node cannot serve, or None when it can."""
    if status.leader is None:
        return "No leader is known to this node."
    confirmed_ms = status.quorum_confirmed_ms
    if confirmed_ms is None:
        return f"No quorum has confirmed the leader {status.leader} yet."
    if confirmed_ms > quorum_fresh_ms:
        return (
            f"A quorum last confirmed the leader {status.leader}, and it heard this node, "
            f"{confirmed_ms} ms ago."
        )
    if not status.caught_up:
        return (
            f"This node applied entry {status.applied_index} and is still far behind the leader "
            f"{status.leader}."
        )
    return None


class Healths:
    """The handlers of `/health`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def live(self, _: web.Request) -> Reply:
        cluster = self._service.cluster
        health = Health(status="live", node_id=cluster.node_id, leader=cluster.status().leader)
        return self._service.replies.success(200, health)

    async def ready(self, _: web.Request) -> Reply:
        status = self._service.cluster.status()
        reason = unready_because(status, self._service.settings.quorum_fresh_ms)
        if reason is not None:
            raise Problem("NOT_READY", reason)
        health = Health(status="ready", node_id=status.node_id, leader=status.leader)
        return self._service.replies.success(200, health)

    async def leader(self, _: web.Request) -> Reply:
        status = self._service.cluster.status()
        if status.leader != status.node_id:
            known = "no leader is known" if status.leader is None else f"{status.leader} leads"
            raise Problem("NOT_LEADER", f"This node does not lead: {known}.")
        confirmed_ms = status.quorum_confirmed_ms
        if confirmed_ms is None or confirmed_ms > self._service.settings.quorum_fresh_ms:
            raise Problem("NOT_LEADER", "This node leads, but no quorum confirmed it lately.")
        health = Health(status="leader", node_id=status.node_id, leader=status.leader)
        return self._service.replies.success(200, health)


def endpoints(service: Service) -> list[Endpoint]:
    healths = Healths(service)
    tag = "health"
    return [
        Endpoint(
            method="GET",
            path="/health/live",
            operation="isLive",
            summary="Whether the process answers",
            tag=tag,
            handler=healths.live,
            answer=Health,
        ),
        Endpoint(
            method="GET",
            path="/health/ready",
            operation="isReady",
            summary="Whether the node can serve",
            tag=tag,
            handler=healths.ready,
            answer=Health,
            errors=("NOT_READY",),
        ),
        Endpoint(
            method="GET",
            path="/health/leader",
            operation="isLeader",
            summary="Whether the node leads and a quorum confirmed it lately",
            tag=tag,
            handler=healths.leader,
            answer=Health,
            errors=("NOT_LEADER",),
        ),
    ]
