"""Which nodes this one keeps connections to, and at which addresses.

Members, by the membership in force; the nodes of the configuration file, one of which may come to
be admitted; whom an operator is adding; and a few who came by themselves. Being here says nothing
about who votes: that is the membership's alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from node.consensus.foundation import Foundation
from node.consensus.membership import Configuration

MOST_INTRODUCED: Final = 8
"""How many nodes that nobody here has heard of may introduce themselves."""

_MOST_ID_CHARACTERS: Final = 128
_MOST_ADDRESS_CHARACTERS: Final = 300


class Peers:
    def __init__(self, base: Foundation, configured: Mapping[str, str]) -> None:
        """`configured`: node id to peer address of the configuration file, this node left out."""
        self.configured = dict(configured)
        self._expected: dict[str, str] = {}
        self._introduced: dict[str, str] = {}
        """Of this cluster, by their own account, and in no record that came here."""
        self._membership = base.membership
        self._raft = base.raft
        self._links = base.links
        self._runtime = base.runtime
        self._pulse = base.pulse
        self._notices = base.notices

    def start(self) -> None:
        """Dial. With a membership, `follow` has been called and has done it."""
        if self._membership.in_force is None:
            self._dial()

    def follow(self, configuration: Configuration) -> None:
        """A membership record is in force, or the one before it is again."""
        self._raft.set_peers(
            [member.node_id for member in configuration.voters],
            [member.node_id for member in configuration.learners],
            self._runtime.monotonic(),
        )
        for callback in self._notices.on_configuration:
            callback(configuration)
        for node_id in [each for each in self._introduced if configuration.member(each)]:
            del self._introduced[node_id]
        self._dial()

    # --- who is no member

    def expects(self, node_id: str) -> bool:
        """Whether a node may introduce itself with whatever disk, and of no cluster."""
        return node_id in self.configured or node_id in self._expected

    def knows(self, node_id: str) -> bool:
        """Whether it is kept in contact with, member or not."""
        return self.expects(node_id) or node_id in self._introduced

    def expect(self, node_id: str, address: str) -> None:
        """A node is about to be admitted: dial it, and let it dial."""
        self._expected = {node_id: address}
        self._dial()

    def expect_nobody(self) -> None:
        """It was admitted, and is known by that, or it was not."""
        self._expected = {}
        self._dial()

    def introduce(self, node_id: str, address: str) -> bool:
        """Know a node of this cluster, by its own account; False when there are too many such."""
        if len(node_id) > _MOST_ID_CHARACTERS or len(address) > _MOST_ADDRESS_CHARACTERS:
            return False
        if node_id not in self._introduced and len(self._introduced) >= MOST_INTRODUCED:
            gone = [each for each in self._introduced if not self._links.is_connected(each)]
            if not gone:
                return False
            del self._introduced[gone[0]]
        if self._introduced.get(node_id) != address:
            self._introduced[node_id] = address
            self._dial()
        return True

    def _dial(self) -> None:
        configuration = self._membership.in_force
        members = (*configuration.voters, *configuration.learners) if configuration else ()
        self._links.set_peers(
            {
                **self._introduced,
                **self.configured,
                **self._expected,
                **{
                    member.node_id: member.peer_address
                    for member in members
                    if member.node_id != self._membership.node_id
                },
            }
        )
        self._pulse.kick()
