"""Answers about the nodes."""

from __future__ import annotations

from tidelock.client.answers.answer import Answer


class Node(Answer, frozen=True, kw_only=True):
    """A node as the asked one knows it."""

    node_id: str
    role: str
    state: str
    api_address: str
    peer_address: str
    match_index: int | None = None
    lag: int | None = None
    last_contact_ms: int | None = None


class Topology(Answer, frozen=True, kw_only=True):
    """The cluster as one node knows it."""

    cluster_id: str | None
    leader: str | None
    term: int
    commit_index: int
    nodes: list[Node]


class Route(Answer, frozen=True, kw_only=True):
    """Whether a node is in rotation, why and since when."""

    node_id: str
    in_rotation: bool
    state: str
    reason: str
    since: int


class Routes(Answer, frozen=True, kw_only=True):
    """The nodes in and out of rotation."""

    nodes: list[Route]


class Transferred(Answer, frozen=True, kw_only=True):
    """Who leads after a transfer."""

    leader: str


class Admitted(Answer, frozen=True, kw_only=True):
    """A node that replicates now, and votes once it has caught up."""

    node_id: str
    peer_address: str
    api_address: str


class Removed(Answer, frozen=True, kw_only=True):
    """A node that no longer belongs to the cluster."""

    node_id: str


class Rejoined(Answer, frozen=True, kw_only=True):
    """A node on its way back into rotation."""

    node_id: str
    state: str


class Health(Answer, frozen=True, kw_only=True):
    """A question of health that was answered with yes; otherwise it raises."""

    status: str
    node_id: str
    leader: str | None
