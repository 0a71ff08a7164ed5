"""Which nodes this one keeps connections to, and at which addresses.

Members, by the membership in force; the nodes of the configuration file, one of which may come to
be admitted; and whoever an operator is adding. Being here says nothing about who votes: that is
the membership's alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from node.consensus.foundation import Foundation
from node.consensus.membership import Configuration


class Peers:
    def __init__(
        self,
        base: Foundation,
        configured: Mapping[str, str],
    ) -> None:
        self.expected = dict(configured)
        """Node id to peer address of the nodes that need not be members."""
        self._membership = base.membership
        self._raft = base.raft
        self._links = base.links
        self._runtime = base.runtime
        self._pulse = base.pulse
        self._notices = base.notices

    def start(self) -> None:
        """Dial. With a membership, `follow` has been called and has done it."""
        if self._membership.in_force is None:
            self._links.set_peers(self.expected)

    def follow(self, configuration: Configuration) -> None:
        """A membership record is in force, or the one before it is again."""
        self._raft.set_peers(
            [member.node_id for member in configuration.voters],
            [member.node_id for member in configuration.learners],
            self._runtime.monotonic(),
        )
        for callback in self._notices.on_configuration:
            callback(configuration)
        self._dial(configuration)

    def expect(self, node_id: str, address: str) -> None:
        """Know a node that is about to be admitted: dial it, and let it dial."""
        self.expected[node_id] = address
        if self._membership.in_force is not None:
            self._dial(self._membership.in_force)

    def _dial(self, configuration: Configuration) -> None:
        addresses = {
            member.node_id: member.peer_address
            for member in (*configuration.voters, *configuration.learners)
            if member.node_id != self._membership.node_id
        }
        self._links.set_peers({**self.expected, **addresses})
        self._pulse.kick()
