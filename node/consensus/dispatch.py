"""From frames to whom they concern.

The shape of a frame was checked when it was decoded. Here is judged whether its sender may say
such a thing at all: votes and acknowledgements count only from the disks in force, and what speaks
of an older term is dropped (D1).
"""

from __future__ import annotations

from collections.abc import Callable

from node.consensus.admission import Admission
from node.consensus.appending import Appending
from node.consensus.bootstrap import Bootstrap
from node.consensus.contacts import Contacts
from node.consensus.digests import Digests
from node.consensus.draws import Draws
from node.consensus.election import Election
from node.consensus.foundation import Foundation
from node.consensus.messages import Frame, Kind, RefusalReason
from node.consensus.oracle import Oracle
from node.consensus.proposals import Proposals
from node.consensus.reads import Reads
from node.consensus.replication import Replication
from node.consensus.rounds import Rounds
from node.consensus.snapshots import Snapshots

IMMEDIATE_KINDS = frozenset(
    (
        Kind.ALIVE,
        Kind.CHANNEL_CALL,
        Kind.CHANNEL_RESULT,
        Kind.CONFIRM,
        Kind.CONFIRM_REPLY,
        Kind.DRAW,
        Kind.DRAW_REPLY,
        Kind.FORWARD,
        Kind.FORWARD_REFUSED,
        Kind.READ_INDEX,
        Kind.READ_INDEX_REPLY,
        Kind.SNAPSHOT_REQUEST,
        Kind.MEMBERSHIP_REQUEST,
        Kind.MEMBERSHIP_REPLY,
    )
)
"""Kinds that assert nothing about the log and change no Raft state: they need not wait for a
sync."""

Handler = Callable[[str, Frame], None]


class Dispatch:
    def __init__(
        self,
        base: Foundation,
        *,
        contacts: Contacts,
        election: Election,
        appending: Appending,
        replication: Replication,
        proposals: Proposals,
        reads: Reads,
        oracle: Oracle,
        draws: Draws,
        rounds: Rounds,
        snapshots: Snapshots,
        bootstrap: Bootstrap,
        admission: Admission,
        digests: Digests,
    ) -> None:
        self._raft = base.raft
        self._links = base.links
        self._membership = base.membership
        self._contacts = contacts
        self._election = election
        self._appending = appending
        self._replication = replication
        self._snapshots = snapshots
        self._counters = base.counters
        self._now = now = base.runtime.monotonic
        self.known_commit = 0
        """The greatest commit index that a leader spoke of."""
        member, voter = self._from_member, self._from_voter
        self._notices = base.notices
        self._handlers: dict[int, Handler] = {
            Kind.APPEND: self._on_append,
            Kind.APPEND_REPLY: self._on_append_reply,
            Kind.COMMIT: self._on_commit,
            # A candidate may vote by a configuration that has not come here yet, so whoever was
            # admitted may ask. It counts the votes by its own configuration.
            Kind.VOTE_REQUEST: election.on_vote_request,
            Kind.VOTE: voter(lambda peer, frame: election.on_vote(peer, frame[1])),
            Kind.TERM_HINT: member(lambda peer, frame: election.step_down(peer, frame[1])),
            Kind.PRE_VOTE_REQUEST: election.on_pre_vote_request,
            Kind.PRE_VOTE: voter(lambda peer, frame: election.on_pre_vote(peer, frame[1])),
            Kind.TIMEOUT_NOW: voter(lambda peer, frame: election.on_timeout_now(peer, frame[1])),
            Kind.CONFIRM: rounds.on_confirm,
            Kind.CONFIRM_REPLY: rounds.on_confirm_reply,
            Kind.ALIVE: lambda _peer, _frame: None,
            Kind.FORWARD: member(
                lambda peer, frame: proposals.on_forward(peer, frame[1], frame[2])
            ),
            Kind.FORWARD_REFUSED: lambda _peer, frame: proposals.on_forward_refused(
                frame[1], frame[2], now()
            ),
            Kind.READ_INDEX: member(lambda peer, frame: reads.on_read_index(peer, frame[1])),
            Kind.DRAW: member(lambda peer, frame: oracle.on_draw(peer, frame[1], frame[2])),
            Kind.DRAW_REPLY: lambda _peer, frame: draws.on_reply(frame, now()),
            Kind.READ_INDEX_REPLY: lambda _peer, frame: reads.on_read_index_reply(frame, now()),
            Kind.SNAPSHOT_OFFER: self._on_snapshot_offer,
            Kind.SNAPSHOT_REQUEST: lambda peer, frame: snapshots.on_request(
                peer, frame[1], frame[2]
            ),
            Kind.SNAPSHOT_CHUNK: snapshots.on_chunk,
            Kind.REFUSED: self._on_refused,
            Kind.BOOTSTRAP: bootstrap.on_announced,
            Kind.MEMBERSHIP_REQUEST: member(admission.on_request),
            Kind.MEMBERSHIP_REPLY: lambda _peer, frame: admission.on_reply(frame),
            Kind.DIGEST: member(lambda peer, frame: digests.judge(peer, frame[1], frame[2])),
            Kind.DIGEST_REQUEST: digests.on_request,
            Kind.DIGEST_REPLY: digests.on_reply,
            Kind.CHANNEL_CALL: member(self._on_channel_frame),
            Kind.CHANNEL_RESULT: member(self._on_channel_frame),
        }

    def __call__(self, peer: str, frame: Frame) -> None:
        handler = self._handlers.get(frame[0])
        if handler is None:
            self._counters["unexpected_frames"] += 1
        else:
            handler(peer, frame)

    # --- who may speak

    def _from_member(self, handler: Handler) -> Handler:
        def guarded(peer: str, frame: Frame) -> None:
            if self._contacts.is_member(peer):
                handler(peer, frame)
            else:
                self._counters["strangers_frames"] += 1

        return guarded

    def _from_voter(self, handler: Handler) -> Handler:
        def guarded(peer: str, frame: Frame) -> None:
            if self._contacts.is_member(peer) and self._membership.votes(peer):
                handler(peer, frame)
            else:
                self._counters["strangers_frames"] += 1

        return guarded

    # --- replication

    def _on_append(self, peer: str, frame: Frame) -> None:
        """Follow a leader, also one that this node's configuration does not name.

        Configurations arrive with a leader's entries, so a follower may know an older one. The
        sender has a quorum of its own configuration behind its term.
        """
        if self._hear_leader(peer, frame[1], frame[3]):
            self._appending.on_append(peer, frame)

    def _on_commit(self, peer: str, frame: Frame) -> None:
        if self._hear_leader(peer, frame[1], frame[2]):
            self._appending.on_commit(peer, frame)

    def _hear_leader(self, peer: str, term: int, commit: int) -> bool:
        """Whether the sender may lead; a node of a newer term knows better."""
        if term < self._raft.term:
            # The sender does not know that it is deposed (D9).
            self._links.send(peer, (int(Kind.TERM_HINT), self._raft.term))
            return False
        self._election.leader_heard(self._now())
        self.known_commit = max(self.known_commit, commit)
        return True

    def _on_append_reply(self, peer: str, frame: Frame) -> None:
        if not self._contacts.is_member(peer):
            self._counters["strangers_frames"] += 1
            return
        if frame[1] > self._raft.term:
            self._election.step_down(peer, frame[1])
        if frame[1] != self._raft.term or not self._raft.is_leader:
            self._counters["stale_replies"] += 1
            return
        self._replication.on_append_reply(peer, frame)

    def _on_snapshot_offer(self, peer: str, frame: Frame) -> None:
        if frame[1] == self._raft.term and self._raft.leader_id == peer:
            self._snapshots.on_offer(peer, frame)

    def _on_channel_frame(self, peer: str, frame: Frame) -> None:
        self._notices.on_channel_frame(peer, frame)

    def _on_refused(self, peer: str, frame: Frame) -> None:
        """The leader found out about this node's disk while the connection was up."""
        if self._raft.leader_id == peer and frame[1] == RefusalReason.REGRESSED:
            self._contacts.refused(peer, RefusalReason.REGRESSED)
