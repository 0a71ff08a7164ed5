"""What nodes tell each other with every quorum round: that they follow, and how they are.

The leader asks; a follower answers with how full and how fast it is and what time it has.
"""

from __future__ import annotations

from node.consensus.contacts import Contacts
from node.consensus.foundation import Foundation
from node.consensus.messages import Frame, Kind
from node.consensus.pace import Pace
from node.consensus.reads import Reads
from node.consensus.stamps import Stamps


class Rounds:
    def __init__(
        self,
        base: Foundation,
        contacts: Contacts,
        reads: Reads,
        stamps: Stamps,
        pace: Pace,
    ) -> None:
        self._raft = base.raft
        self._links = base.links
        self._contacts = contacts
        self._membership = base.membership
        self._reads = reads
        self._stamps = stamps
        self._pace = pace
        self._storage = base.storage
        self._runtime = base.runtime
        self._notices = base.notices
        self._fill_of_peers: dict[str, float] = {}

    def on_confirm(self, peer: str, frame: Frame) -> None:
        """Say that this node still follows the sender. A newer term comes by append_entries."""
        _, term, number, elapsed_ms, confirmed_age_ms = frame
        raft = self._raft
        if term < raft.term:
            self._links.send(peer, (int(Kind.TERM_HINT), raft.term))
            return
        if term != raft.term or raft.leader_id != peer:
            return
        self._stamps.heard(elapsed_ms)
        self._reads.leader_was_confirmed(confirmed_age_ms)
        self._links.send(
            peer,
            (
                int(Kind.CONFIRM_REPLY),
                term,
                number,
                raft.last_applied,
                int(self._storage.fill_ratio * 1000),
                self._runtime.wall_ms(),
                *self._pace.own_ms(),
            ),
        )

    def on_confirm_reply(self, peer: str, frame: Frame) -> None:
        _, term, number, _, fill, wall_ms, sync_ms, lag_ms = frame
        if term != self._raft.term or not self._raft.is_leader:
            return
        if not self._contacts.is_member(peer):
            return
        self._fill_of_peers[peer] = fill / 1000
        self._pace.heard(peer, sync_ms, lag_ms)
        round_trip_s = self._reads.round_trip_s(number)
        if round_trip_s is not None:
            self._notices.on_clock_sample(peer, wall_ms, int(round_trip_s * 1000))
        if self._membership.votes(peer):
            self._reads.on_confirm_reply(peer, number)

    def greatest_fill_ratio(self) -> float:
        """Of the fullest member, as far as this node knows."""
        return max(self._storage.fill_ratio, *self._fill_of_peers.values(), 0.0)
