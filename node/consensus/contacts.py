"""Who talks to this node: hellos, whom it admits, and when each was last heard."""

from __future__ import annotations

import logging

from node.consensus.foundation import Foundation
from node.consensus.messages import PROTOCOL_VERSION, Frame, Hello, Kind, RefusalReason
from node.consensus.peers import Peers
from node.consensus.replication import Replication
from statemachine.gates import SUPPORTED_VERSION

logger = logging.getLogger(__name__)


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
        self._contacts: dict[str, Hello] = {}
        """What each peer said last."""
        self._heard_at: dict[str, float] = {}
        self._refusals: dict[str, RefusalReason] = {}

    def hello(self, peer: str) -> Frame:
        hello = Hello(
            protocol_version=PROTOCOL_VERSION,
            cluster_id=self._membership.cluster_id,
            node_id=self._identity.node_id,
            disk_uuid=self._identity.disk_uuid,
            session=self._session,
            to=peer,
            peer_address=self._identity.peer_address,
            api_address=self._identity.api_address,
            state_version=SUPPORTED_VERSION,
            new=not self._membership.was_member,
        )
        return (int(Kind.HELLO), *hello)

    def admit(self, frame: Frame) -> RefusalReason | None:
        """Judge a hello; None admits the peer."""
        hello = Hello(*frame[1:])
        reason = self._reason_to_refuse(hello)
        if reason is not None:
            return reason
        self._forget_strangers()
        before = self._contacts.get(hello.node_id)
        if before is not None and before.disk_uuid != hello.disk_uuid:
            self._replication.forget(hello.node_id)
        self._contacts[hello.node_id] = hello
        self.heard(hello.node_id)
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

    def _reason_to_refuse(self, hello: Hello) -> RefusalReason | None:
        membership = self._membership
        own_cluster = membership.cluster_id
        if hello.protocol_version != PROTOCOL_VERSION:
            return RefusalReason.PROTOCOL_VERSION
        if hello.cluster_id not in (None, own_cluster) and own_cluster is not None:
            return RefusalReason.WRONG_CLUSTER
        if hello.to != self._identity.node_id:
            return RefusalReason.WRONG_NODE
        if hello.node_id == self._identity.node_id:
            return RefusalReason.UNKNOWN_NODE
        in_force = membership.is_pair(hello.node_id, hello.disk_uuid)
        if in_force and self._replication.progress(hello.node_id).regressed:
            return RefusalReason.REGRESSED
        settled = membership.in_force is not None and not membership.change_pending
        if not hello.new and not in_force and settled and self._raft.is_leader:
            return RefusalReason.REMOVED
        if membership.names(hello.node_id) or self._peers.expects(hello.node_id):
            return None
        # A member may have been added without this node having heard of it. Nothing that it says
        # counts by that, but it must be able to ask for a vote; or it leads, and this node is new.
        if hello.cluster_id is not None and self._peers.introduce(
            hello.node_id, hello.peer_address
        ):
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

    def get(self, peer: str) -> Hello | None:
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
