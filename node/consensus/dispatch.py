"""From frames to whom they concern.

The shape of a frame was checked when it was decoded. Here is judged whether its sender may say
such a thing at all: votes and acknowledgements count only from the disks in force, and what speaks
of an older term is dropped (D1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from node.consensus.appending import Appending
from node.consensus.messages import Frame, Kind, RefusalReason

if TYPE_CHECKING:
    from node.consensus.engine import Engine

IMMEDIATE_KINDS = frozenset(
    (
        Kind.ALIVE,
        Kind.CONFIRM,
        Kind.CONFIRM_REPLY,
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
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._appending = Appending(
            engine.raft, engine.journal, engine.transport, engine.stop_process, engine.counters
        )
        self.known_commit = 0
        """The greatest commit index that a leader spoke of."""
        self._fill_of_peers: dict[str, float] = {}
        now = engine.now
        self._handlers: dict[int, Handler] = {
            Kind.APPEND: self._on_append,
            Kind.APPEND_REPLY: self._on_append_reply,
            # A candidate may vote by a configuration that has not come here yet, so whoever was
            # admitted may ask. It counts the votes by its own configuration.
            Kind.VOTE_REQUEST: engine.election.on_vote_request,
            Kind.VOTE: self._from_voter(
                lambda peer, frame: engine.election.on_vote(peer, frame[1])
            ),
            Kind.TERM_HINT: self._from_member(
                lambda peer, frame: engine.election.step_down(peer, frame[1])
            ),
            Kind.PRE_VOTE_REQUEST: engine.election.on_pre_vote_request,
            Kind.PRE_VOTE: self._from_voter(
                lambda peer, frame: engine.election.on_pre_vote(peer, frame[1])
            ),
            Kind.TIMEOUT_NOW: self._from_voter(
                lambda peer, frame: engine.election.on_timeout_now(peer, frame[1])
            ),
            Kind.CONFIRM: self._on_confirm,
            Kind.CONFIRM_REPLY: self._on_confirm_reply,
            Kind.ALIVE: lambda _peer, _frame: None,
            Kind.FORWARD: self._from_member(
                lambda peer, frame: engine.proposals.on_forward(peer, frame[1], frame[2])
            ),
            Kind.FORWARD_REFUSED: lambda _peer, frame: engine.proposals.on_forward_refused(
                frame[1], frame[2], now()
            ),
            Kind.READ_INDEX: self._from_member(
                lambda peer, frame: engine.reads.on_read_index(peer, frame[1])
            ),
            Kind.READ_INDEX_REPLY: lambda _peer, frame: engine.reads.on_read_index_reply(
                frame, now()
            ),
            Kind.SNAPSHOT_OFFER: self._on_snapshot_offer,
            Kind.SNAPSHOT_REQUEST: lambda peer, frame: engine.snapshots.on_request(
                peer, frame[1], frame[2]
            ),
            Kind.SNAPSHOT_CHUNK: engine.snapshots.on_chunk,
            Kind.REFUSED: self._on_refused,
            Kind.BOOTSTRAP: lambda peer, frame: engine.admission.on_bootstrap(peer, frame[1]),
            Kind.MEMBERSHIP_REQUEST: self._from_member(engine.admission.on_request),
            Kind.MEMBERSHIP_REPLY: lambda _peer, frame: engine.admission.on_reply(frame),
            Kind.DIGEST: self._from_member(
                lambda peer, frame: engine.judge_digest(peer, frame[1], frame[2])
            ),
            Kind.DIGEST_REQUEST: self._on_digest_request,
            Kind.DIGEST_REPLY: lambda peer, frame: engine.divergence.on_reply(
                peer, frame[1], frame[2]
            ),
        }

    def __call__(self, peer: str, frame: Frame) -> None:
        handler = self._handlers.get(frame[0])
        if handler is None:
            self._engine.counters["unexpected_frames"] += 1
        else:
            handler(peer, frame)

    # --- who may speak

    def _from_member(self, handler: Handler) -> Handler:
        def guarded(peer: str, frame: Frame) -> None:
            if self._engine.contacts.is_member(peer):
                handler(peer, frame)
            else:
                self._engine.counters["strangers_frames"] += 1

        return guarded

    def _from_voter(self, handler: Handler) -> Handler:
        def guarded(peer: str, frame: Frame) -> None:
            if self._engine.contacts.is_member(peer) and self._engine.membership.votes(peer):
                handler(peer, frame)
            else:
                self._engine.counters["strangers_frames"] += 1

        return guarded

    # --- replication

    def _on_append(self, peer: str, frame: Frame) -> None:
        """Follow a leader, also one that this node's configuration does not name.

        Configurations arrive with a leader's entries, so a follower may know an older one. The
        sender has a quorum of its own configuration behind its term.
        """
        engine = self._engine
        if frame[1] < engine.raft.term:
            # The sender does not know that it is deposed (D9).
            engine.links.send(peer, (int(Kind.TERM_HINT), engine.raft.term))
            return
        engine.election.leader_heard(engine.now())
        self.known_commit = max(self.known_commit, frame[3])
        self._appending.on_append(peer, frame)

    def _on_append_reply(self, peer: str, frame: Frame) -> None:
        engine = self._engine
        if not engine.contacts.is_member(peer):
            engine.counters["strangers_frames"] += 1
            return
        if frame[1] > engine.raft.term:
            engine.election.step_down(peer, frame[1])
        if frame[1] != engine.raft.term or not engine.raft.is_leader:
            engine.counters["stale_replies"] += 1
            return
        engine.replication.on_append_reply(peer, frame)

    def acknowledge(self, peer: str, index: int) -> None:
        """Tell a leader that the log is its own up to `index`, once that is durable here."""
        self._appending.acknowledge(peer, 0, index + 1)

    def _on_snapshot_offer(self, peer: str, frame: Frame) -> None:
        if frame[1] == self._engine.raft.term and self._engine.raft.leader_id == peer:
            self._engine.snapshots.on_offer(peer, frame)

    def _on_refused(self, peer: str, frame: Frame) -> None:
        """The leader found out about this node's disk while the connection was up."""
        if self._engine.raft.leader_id == peer and frame[1] == RefusalReason.REGRESSED:
            self._engine.on_refused(peer, RefusalReason.REGRESSED)

    # --- quorum rounds

    def _on_confirm(self, peer: str, frame: Frame) -> None:
        """Say that this node still follows the sender. A newer term comes by append_entries."""
        _, term, number, elapsed_ms, confirmed_age_ms = frame
        engine = self._engine
        if term < engine.raft.term:
            engine.links.send(peer, (int(Kind.TERM_HINT), engine.raft.term))
            return
        if term != engine.raft.term or engine.raft.leader_id != peer:
            return
        engine.stamps.heard(elapsed_ms)
        engine.reads.leader_was_confirmed(confirmed_age_ms)
        engine.links.send(
            peer,
            (
                int(Kind.CONFIRM_REPLY),
                term,
                number,
                engine.raft.last_applied,
                int(engine.own_fill_ratio * 1000),
                engine.wall_ms(),
                *engine.pace.own_ms(),
            ),
        )

    def _on_confirm_reply(self, peer: str, frame: Frame) -> None:
        _, term, number, _, fill, wall_ms, sync_ms, lag_ms = frame
        engine = self._engine
        if term != engine.raft.term or not engine.raft.is_leader:
            return
        if not engine.contacts.is_member(peer):
            return
        self._fill_of_peers[peer] = fill / 1000
        engine.pace.heard(peer, sync_ms, lag_ms)
        round_trip_s = engine.reads.round_trip_s(number)
        if round_trip_s is not None:
            engine.on_clock_sample(peer, wall_ms, int(round_trip_s * 1000))
        if engine.membership.votes(peer):
            engine.reads.on_confirm_reply(peer, number)

    def greatest_fill_ratio(self) -> float:
        """Of the fullest member, as far as this node knows."""
        return max(self._engine.own_fill_ratio, *self._fill_of_peers.values(), 0.0)

    # --- digests

    def _on_digest_request(self, peer: str, frame: Frame) -> None:
        del frame
        machine = self._engine.machine
        self._engine.links.send(
            peer, (int(Kind.DIGEST_REPLY), machine.applied_index, machine.digest)
        )
