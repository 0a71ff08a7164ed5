"""Who talks to this node: hellos, whom it admits, and when each was last heard."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from node.consensus.foundation import Foundation
from node.consensus.messages import PROTOCOL_VERSION, Frame, Kind, RefusalReason
from node.consensus.peers import Peers
from node.consensus.replication import Replication
from statemachine.gates import SUPPORTED_VERSION

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Contact:
    """What a peer said in its last hello."""

    disk_uuid: bytes
    api_address: str
    state_version: int
    """The newest version of the state machine that it can run."""
    blank: bool
    """It knows of no cluster."""
    new: bool
    """Its disk was never a member: it may be admitted."""


class Contacts:
    def __init__(
        self,
        base: Foundation,
        replication: Replication,
        peers: Peers,
    ) -> None:
        self._identity = base.identity
        self._session = base.session
        self._membership = base.membership
        self._replication = replication
        self._peers = peers
        self._raft = base.raft
        self._runtime = base.runtime
        self._notices = base.notices
        self._contacts: dict[str, Contact] = {}
        self._heard_at: dict[str, float] = {}
        self._refusals: dict[str, RefusalReason] = {}

    def hello(self) -> Frame:
        return (
            int(Kind.HELLO),
            PROTOCOL_VERSION,
            self._membership.cluster_id,
            self._identity.node_id,
            self._identity.disk_uuid,
            self._session,
            self._identity.peer_address,
            self._identity.api_address,
            SUPPORTED_VERSION,
            not self._membership.was_member,
        )

    def admit(self, hello: Frame) -> RefusalReason | None:
        """Judge a hello; None admits the peer."""
        _, _, cluster_id, node_id, disk_uuid, _, _, api_address, state_version, new = hello
        reason = self._reason_to_refuse(hello)
        if reason is not None:
            return reason
        self._forget_strangers()
        before = self._contacts.get(node_id)
        if before is not None and before.disk_uuid != disk_uuid:
            self._replication.forget(node_id)
        self._contacts[node_id] = Contact(
            disk_uuid, api_address, state_version, blank=cluster_id is None, new=new
        )
        self.heard(node_id)
        return None

    def _forget_strangers(self) -> None:
        """Keep nothing of nodes that are kept in contact with no more."""
        kept = self._membership.names
        for stranger in [
            each for each in self._contacts if not kept(each) and not self._peers.knows(each)
        ]:
            del self._contacts[stranger]
            self._heard_at.pop(stranger, None)
            self._replication.drop(stranger)

    def _reason_to_refuse(self, hello: Frame) -> RefusalReason | None:
        _, version, cluster_id, node_id, disk_uuid, _, peer_address, _, _, new = hello
        membership = self._membership
        if version != PROTOCOL_VERSION:
            return RefusalReason.PROTOCOL_VERSION
        own_cluster = membership.cluster_id
        if cluster_id is not None and own_cluster is not None and cluster_id != own_cluster:
            return RefusalReason.WRONG_CLUSTER
        if node_id == self._identity.node_id:
            return RefusalReason.UNKNOWN_NODE
        in_force = membership.is_pair(node_id, disk_uuid)
        if in_force and self._replication.progress(node_id).regressed:
            return RefusalReason.REGRESSED
        settled = membership.in_force is not None and not membership.change_pending
        if not new and not in_force and settled and self._raft.is_leader:
            return RefusalReason.REMOVED
        if membership.names(node_id) or self._peers.expects(node_id):
            return None
        # A member may have been added without this node having heard of it. Nothing that it says
        # counts by that, but it must be able to ask for a vote.
        same_cluster = cluster_id is not None and cluster_id == own_cluster
        if same_cluster and self._peers.introduce(node_id, peer_address):
            return None
        return RefusalReason.UNKNOWN_NODE

    def refused(self, peer: str, reason: RefusalReason) -> None:
        """A peer does not admit this node. Repeated refusals are not worth a line each."""
        if self._refusals.get(peer) is not reason:
            self._refusals[peer] = reason
            logger.warning("peer %s does not admit this node: %s", peer, reason)
        if reason is RefusalReason.REGRESSED:
            self._notices.on_regressed()

    def heard(self, peer: str) -> None:
        self._heard_at[peer] = self._runtime.monotonic()

    def heard_at(self, peer: str) -> float | None:
        """When anything last came from the peer, in monotonic seconds."""
        return self._heard_at.get(peer)

    def get(self, peer: str) -> Contact | None:
        return self._contacts.get(peer)

    def oldest_state_version(self) -> int:
        """The newest version of the state machine that every member can run; 0 when unknown."""
        versions = [SUPPORTED_VERSION]
        for peer in self._membership.other_members:
            contact = self._contacts.get(peer)
            versions.append(contact.state_version if contact is not None else 0)
        return min(versions)

    def is_member(self, peer: str) -> bool:
        """Whether the peer, with the disk that it has now, is in the configuration in force."""
        contact = self._contacts.get(peer)
        return contact is not None and self._membership.is_pair(peer, contact.disk_uuid)
