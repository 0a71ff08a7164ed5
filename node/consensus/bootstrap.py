"""How a cluster begins: once every node of the configuration file is there with an empty disk.

The node that was told to, and has the first id, draws the cluster id, writes the first membership
record and hands it to the others.
"""

from __future__ import annotations

import logging
from typing import Final

from node.consensus.contacts import Contacts
from node.consensus.foundation import Foundation
from node.consensus.membership import (
    Configuration,
    MemberRecord,
    configuration_command,
    decode_configuration,
    first_configuration,
)
from node.consensus.messages import Frame, Kind
from node.consensus.peers import Peers

logger = logging.getLogger(__name__)

_FIRST_RECORD_INDEX: Final = 2
"""The first record stands behind the entry with which every log begins, in term 0, on each node
alike; so no election is needed to agree on it."""


class Bootstrap:
    def __init__(
        self,
        base: Foundation,
        contacts: Contacts,
        peers: Peers,
        *,
        wanted: bool,
    ) -> None:
        """`wanted`: this node was told to create the cluster."""
        self._identity = base.identity
        self._membership = base.membership
        self._journal = base.journal
        self._links = base.links
        self._contacts = contacts
        self._peers = peers
        self._runtime = base.runtime
        self._pulse = base.pulse
        self._wanted = wanted
        self._to_announce: set[str] = set()

    def feed(self) -> None:
        if self._membership.in_force is None:
            self._try_to_create()
        else:
            self._announce()

    # --- the founder

    def _try_to_create(self) -> None:
        """The first node by id creates it, so that no two clusters arise when all were told to."""
        own = self._identity
        founders = self._peers.configured
        if not self._wanted or min(founders, default="~") < own.node_id:
            return
        members = [
            MemberRecord(own.node_id, own.disk_uuid, own.peer_address, own.api_address),
        ]
        for node_id, address in sorted(founders.items()):
            contact = self._contacts.get(node_id)
            if contact is None or not self._links.is_connected(node_id):
                return
            if contact.cluster_id is not None:
                logger.error("%s belongs to a cluster already: not bootstrapping", node_id)
                self._wanted = False
                return
            members.append(MemberRecord(node_id, contact.disk_uuid, address, contact.api_address))
        cluster_id = self._runtime.random_bytes(16)
        self._adopt(first_configuration(cluster_id, members))
        self._to_announce = set(founders)
        logger.info("created the cluster", extra={"cluster_id": cluster_id.hex()})

    def _announce(self) -> None:
        """Tell the founders, once our own record is durable."""
        if not self._to_announce or self._journal.durable_index < _FIRST_RECORD_INDEX:
            return
        if self._membership.in_force is None or not self._is_first_in_force:
            # A later record is no first one: whoever missed that gets the log.
            self._to_announce.clear()
            return
        record = self._membership.in_force.encode()
        for peer in sorted(self._to_announce):
            if self._links.send(peer, (int(Kind.BOOTSTRAP), record)):
                self._to_announce.discard(peer)

    @property
    def _is_first_in_force(self) -> bool:
        return list(self._journal.configuration_indexes) == [_FIRST_RECORD_INDEX]

    def on_contact(self, peer: str) -> None:
        """A connection is up, or a hello came: of a founder that was not reached, perhaps."""
        contact = self._contacts.get(peer)
        if (
            contact is not None
            and contact.cluster_id is None
            and self._is_first_in_force
            and self._membership.is_pair(peer, contact.disk_uuid)
        ):
            self._to_announce.add(peer)
            self._pulse.kick()

    # --- the others

    def on_announced(self, peer: str, frame: Frame) -> None:
        if self._membership.in_force is not None:
            return
        try:
            configuration = decode_configuration(frame[1])
        except ValueError:
            logger.error("%s sent a malformed first configuration", peer)
            return
        own = configuration.member(self._identity.node_id)
        if own is None:
            logger.error(
                "%s sent a first configuration without this node; compare cluster.nodes of both",
                peer,
            )
            return
        if own.disk_uuid != self._identity.disk_uuid:
            # The sender connected before it heard that the disk is another. It learns so from this
            # node's hello, and the leader admits the new one.
            logger.info("%s sent the first configuration to a disk that is gone", peer)
            return
        self._adopt(configuration)

    def _adopt(self, configuration: Configuration) -> None:
        if self._journal.last() != (1, 0):
            raise AssertionError("only an empty log takes a first configuration")
        self._wanted = False
        self._journal.add(configuration_command(configuration), _FIRST_RECORD_INDEX, 0)
        self._pulse.kick()
