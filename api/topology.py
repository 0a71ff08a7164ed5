"""The cluster itself: who belongs to it, who leads, who is in rotation, and what operators do."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, Final, TypeVar

import msgspec
from aiohttp import web

from api import json_text, requests
from api.cluster import ClusterStatus, Member, NodeStatus, StorageFullError
from api.endpoints import BODY_ERRORS, MEMBERSHIP_ERRORS, Endpoint, Parameter
from api.errors import Problem
from api.replies import Reply
from api.routing import NodeState, RoutingView
from api.service import Service
from api.shapes import END, Answer, Body, Name, NodeId
from statemachine.commands import RecordAction

_log: Final = logging.getLogger(__name__)


class Node(Answer, frozen=True, kw_only=True):
    """A member as the answering node knows it."""

    node_id: NodeId
    role: str
    state: NodeState
    api_address: str
    peer_address: str
    match_index: int | None
    """The last entry that it is known to hold; only the leader knows it."""
    lag: int | None
    """Committed entries that it is not known to hold yet."""
    last_contact_ms: int | None
    """Milliseconds since the answering node last heard from it; null when it never did."""


class Topology(Answer, frozen=True, kw_only=True):
    """The cluster as the answering node knows it."""

    cluster_id: str | None
    leader: NodeId | None
    term: int
    commit_index: int
    nodes: list[Node]


class Route(Answer, frozen=True, kw_only=True):
    node_id: NodeId
    in_rotation: bool
    state: NodeState
    reason: str
    since: int
    """When it entered this state, milliseconds since the epoch."""


class Routes(Answer, frozen=True, kw_only=True):
    """Every member of the cluster, in order of node id."""

    nodes: list[Route]


_LABEL: Final = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_PORT: Final = (
    "(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
)

Address = Annotated[
    str,
    msgspec.Meta(
        max_length=260,
        description="`host:port`, an IPv6 address in brackets.",
        pattern=rf"^(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]{{2,45}}\]):{_PORT}{END}",
    ),
]


class MemberBody(Body, frozen=True, kw_only=True):
    """A node with an empty disk that is to be admitted."""

    node_id: Annotated[Name, msgspec.Meta(examples=["n4"])]
    peer_address: Address
    api_address: Address


class Admitted(Answer, frozen=True, kw_only=True):
    """A node that replicates now and becomes a voter once it has caught up."""

    node_id: NodeId
    peer_address: str
    api_address: str


class Removed(Answer, frozen=True, kw_only=True):
    node_id: NodeId


class TransferBody(Body, frozen=True, kw_only=True):
    """Who is to lead."""

    target: Annotated[Name, msgspec.Meta(examples=["n2"])] | None = None
    """The most advanced voter when it is left out."""


class Transferred(Answer, frozen=True, kw_only=True):
    leader: NodeId


class RejoinBody(Body, frozen=True, kw_only=True):
    """Who is to come back into rotation."""

    node_id: Annotated[Name, msgspec.Meta(examples=["n2"])] | None = None
    """The serving node when it is left out."""


class Rejoined(Answer, frozen=True, kw_only=True):
    node_id: NodeId
    state: NodeState


OptionalT = TypeVar("OptionalT", bound=Body)


class Topologies:
    """The handlers of `/api/v1/cluster`. What they read, the node knows by heart."""

    def __init__(self, service: Service, routing: RoutingView) -> None:
        self._service = service
        self._routing = routing
        self._members = msgspec.json.Decoder(MemberBody)
        self._transfers = msgspec.json.Decoder(TransferBody)
        self._rejoins = msgspec.json.Decoder(RejoinBody)

    async def show(self, _: web.Request) -> Reply:
        status = self._service.cluster.status()
        states = {entry.node_id: entry.state for entry in self._routing.table().nodes}
        topology = Topology(
            cluster_id=status.cluster_id,
            leader=status.leader,
            term=status.term,
            commit_index=status.commit_index,
            nodes=[_node(node, status, states) for node in status.nodes],
        )
        return self._service.replies.success(200, topology)

    async def show_routing(self, _: web.Request) -> Reply:
        routes = [
            Route(
                node_id=entry.node_id,
                in_rotation=entry.in_rotation,
                state=entry.state,
                reason=entry.reason,
                since=entry.since_ms,
            )
            for entry in self._routing.table().nodes
        ]
        return self._service.replies.success(200, Routes(nodes=routes))

    async def add_member(self, request: web.Request) -> Reply:
        service = self._service
        body = await requests.read_json(request, service.settings)
        asked = json_text.decode(body, self._members)
        member = Member(
            node_id=requests.name("nodeId", asked.node_id),
            peer_address=asked.peer_address,
            api_address=asked.api_address,
        )
        left_ms = await self._record(request, "ADD_MEMBER", member.node_id)
        await service.cluster.add_member(member, timeout_ms=left_ms)
        admitted = Admitted(
            node_id=member.node_id,
            peer_address=member.peer_address,
            api_address=member.api_address,
        )
        return service.replies.success(201, admitted)

    async def remove_member(self, request: web.Request) -> Reply:
        service = self._service
        await requests.read_body(request, service.settings)
        node_id = requests.path_name(request, "nodeId")
        left_ms = await self._record(request, "REMOVE_MEMBER", node_id)
        await service.cluster.remove_member(node_id, timeout_ms=left_ms)
        return service.replies.success(200, Removed(node_id=node_id))

    async def transfer(self, request: web.Request) -> Reply:
        service = self._service
        asked = await self._optional(request, self._transfers, TransferBody())
        target = None if asked.target is None else requests.name("target", asked.target)
        left_ms = await self._record(request, "TRANSFER_LEADERSHIP", target or "")
        leader = await service.cluster.transfer_leadership(target, timeout_ms=left_ms)
        return service.replies.success(200, Transferred(leader=leader))

    async def rejoin(self, request: web.Request) -> Reply:
        service = self._service
        asked = await self._optional(request, self._rejoins, RejoinBody())
        node_id = service.cluster.node_id
        if asked.node_id is not None:
            node_id = requests.name("nodeId", asked.node_id)
        try:
            state = await self._routing.rejoin(node_id)
        except LookupError:
            raise Problem("NOT_A_MEMBER", f"{node_id!r} is not a member of the cluster.") from None
        return service.replies.success(200, Rejoined(node_id=node_id, state=state))

    async def _record(self, request: web.Request, action: str, target: str) -> int:
        """Have the audit log say what is about to be done; return how much time is left for it.

        A cluster that is full takes no record, and may need just this to get room again.
        """
        service = self._service
        clock = asyncio.get_running_loop().time
        ends_at = clock() + requests.timeout_ms(request, service.settings) / 1000
        command = RecordAction(
            principal=requests.PRINCIPAL, action=action, target=target, reason=""
        )
        try:
            await service.cluster.propose(
                (command,), timeout_ms=requests.timeout_ms(request, service.settings)
            )
        except StorageFullError:
            _log.warning("%s of %r is not in the audit log: the cluster is full", action, target)
        return max(1, round((ends_at - clock()) * 1000))

    async def _optional(
        self, request: web.Request, decoder: msgspec.json.Decoder[OptionalT], absent: OptionalT
    ) -> OptionalT:
        """Return the body, or `absent` when there is none."""
        body = await requests.read_optional_json(request, self._service.settings)
        return json_text.decode(body, decoder) if body else absent


def _node(node: NodeStatus, status: ClusterStatus, states: dict[str, NodeState]) -> Node:
    match_index = node.match_index
    lag = None if match_index is None else max(status.commit_index - match_index, 0)
    return Node(
        node_id=node.node_id,
        role=node.role,
        state=states.get(node.node_id, NodeState.HEALTHY),
        api_address=node.api_address,
        peer_address=node.peer_address,
        match_index=match_index,
        lag=lag,
        last_contact_ms=node.last_contact_ms,
    )


def endpoints(service: Service, routing: RoutingView) -> list[Endpoint]:
    topologies = Topologies(service, routing)
    path = "/api/v1/cluster"
    tag = "cluster"
    return [
        Endpoint(
            method="GET",
            path=path,
            operation="getCluster",
            summary="The cluster as this node knows it",
            tag=tag,
            handler=topologies.show,
            answer=Topology,
        ),
        Endpoint(
            method="GET",
            path=f"{path}/routing",
            operation="getRouting",
            summary="The nodes in and out of rotation, why and since when",
            tag=tag,
            handler=topologies.show_routing,
            answer=Routes,
        ),
        Endpoint(
            method="POST",
            path=f"{path}/members",
            operation="addMember",
            summary="Admit a node with an empty disk",
            tag=tag,
            handler=topologies.add_member,
            body=MemberBody,
            answer=Admitted,
            status=201,
            errors=(*BODY_ERRORS, *MEMBERSHIP_ERRORS, "ALREADY_MEMBER", "NOT_EMPTY"),
            keyed=True,
            timed=True,
        ),
        Endpoint(
            method="DELETE",
            path=f"{path}/members/{{nodeId}}",
            operation="removeMember",
            summary="Remove a node from the cluster",
            tag=tag,
            handler=topologies.remove_member,
            answer=Removed,
            parameters=(
                Parameter(name="nodeId", type=Name, description="The member.", example="n4"),
            ),
            errors=(
                *MEMBERSHIP_ERRORS,
                "LAST_VOTER",
                "REQUEST_TOO_LARGE",
                "BODY_TIMEOUT",
            ),
            keyed=True,
            timed=True,
        ),
        Endpoint(
            method="POST",
            path=f"{path}/leader/transfer",
            operation="transferLeadership",
            summary="Hand leadership to another voter",
            tag=tag,
            handler=topologies.transfer,
            body=TransferBody,
            body_required=False,
            answer=Transferred,
            errors=(
                *BODY_ERRORS,
                *MEMBERSHIP_ERRORS,
                "LAST_VOTER",
                "NOT_A_VOTER",
                "TRANSFER_FAILED",
            ),
            keyed=True,
            timed=True,
        ),
        Endpoint(
            method="POST",
            path=f"{path}/rejoin",
            operation="rejoin",
            summary="Bring a node that failed back into rotation",
            tag=tag,
            handler=topologies.rejoin,
            body=RejoinBody,
            body_required=False,
            answer=Rejoined,
            errors=(*BODY_ERRORS, "NOT_A_MEMBER", "REJOIN_REFUSED"),
            keyed=True,
        ),
    ]
