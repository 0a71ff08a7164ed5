"""Who leads: pre-vote, stickiness, fast failure detection, and hand-over.

The library holds elections; this module decides when it may start one and which votes it sees.

- Before a real election a node asks whether it could win (pre-vote), so that a node which was cut
  off does not depose a healthy leader when it returns (D11).
- A node that heard a leader within the minimum election timeout gives no vote (Ongaro's thesis,
  section 4.2.3), nor does one that booted within that time.
- When the connection to the leader breaks and a new dial is *refused*, its process is gone and
  nobody needs to wait for a timeout.
- A leader hands over by TimeoutNow; the target names the leader's term in its vote requests, and
  for that the voters skip stickiness.
"""

from __future__ import annotations

import logging

from node.consensus.foundation import Foundation
from node.consensus.messages import Frame, Kind
from node.consensus.reads import Reads

logger = logging.getLogger(__name__)

_LONG_AGO = float("-inf")


class Election:
    def __init__(
        self,
        base: Foundation,
        reads: Reads,
    ) -> None:
        self._raft = base.raft
        self._journal = base.journal
        self._links = base.links
        self._transport = base.transport
        self._membership = base.membership
        self._runtime = base.runtime
        self._settings = base.settings
        self._reads = reads
        self._pulse = base.pulse
        self._booted_at = base.runtime.monotonic()
        self._leader_heard_at = _LONG_AGO
        self._pre_vote_term: int | None = None
        self._pre_votes: set[str] = set()
        self._voters_of_term: tuple[int, set[str]] = (0, set())
        self._handing_over = False
        self._campaign_now = False
        self.counters = base.counters

    @property
    def leader_heard_at(self) -> float:
        return self._leader_heard_at

    # --- hearing of leaders

    def leader_heard(self, now: float) -> None:
        self._leader_heard_at = now
        self._pre_vote_term = None

    def on_link_lost(self, peer: str) -> None:
        """Ask at once whether the leader's process is gone when its connection breaks."""
        if peer == self._raft.leader_id and not self._raft.is_leader:
            term = self._raft.term
            self._links.probe(peer, lambda refused: self._on_probe(peer, term, refused=refused))

    def _on_probe(self, peer: str, term: int, *, refused: bool) -> None:
        if not refused or self._raft.term != term or self._raft.leader_id != peer:
            return
        self.counters["fast_failures"] += 1
        self._leader_heard_at = _LONG_AGO
        delay = self._runtime.random() * self._settings.heartbeat_s / 2
        self._raft.election_deadline = min(
            self._raft.election_deadline, self._runtime.monotonic() + delay
        )
        self._pulse.kick_after(delay)

    # --- campaigning

    def after_gap(self, now: float) -> None:
        """This process did not run for a while: hear the others before judging their silence."""
        grace = self._settings.heartbeat_s * (2 + self._runtime.random())
        self._raft.election_deadline = max(self._raft.election_deadline, now + grace)

    def before_tick(self, now: float) -> None:
        """Turn a passed election deadline into a pre-vote."""
        raft = self._raft
        if raft.is_leader:
            return
        if self._campaign_now:
            self._campaign_now = False
            raft.election_deadline = 0.0
            return
        if not self._membership.is_voter:
            # Learners and strangers never campaign.
            raft.election_deadline = now + self._settings.election_timeout_max_s
            return
        if raft.election_deadline >= now:
            return
        others = self._membership.other_voters
        if not others:
            return
        pause = self._settings.heartbeat_s * (1 + self._runtime.random())
        raft.election_deadline = now + pause
        last_index, last_term = self._journal.last()
        self._pre_vote_term = raft.term + 1
        self._pre_votes = {self._membership.node_id}
        self.counters["pre_votes"] += 1
        for peer in others:
            self._links.send(
                peer, (int(Kind.PRE_VOTE_REQUEST), self._pre_vote_term, last_index, last_term)
            )

    def on_pre_vote_request(self, peer: str, frame: Frame) -> None:
        _, term, last_index, last_term = frame
        own_last_index, own_last_term = self._journal.last()
        if (
            self._membership.in_force is not None
            and term > self._raft.term
            and (last_term, last_index) >= (own_last_term, own_last_index)
            and not self._is_sticky()
        ):
            self._links.send(peer, (int(Kind.PRE_VOTE), term))

    def on_pre_vote(self, peer: str, term: int) -> None:
        raft = self._raft
        if term != self._pre_vote_term or term != raft.term + 1 or raft.is_leader:
            return
        self._pre_votes.add(peer)
        if self._membership.is_quorum(self._pre_votes):
            self._pre_vote_term = None
            self._campaign()

    def _campaign(self) -> None:
        """Let the library start its election in the next tick."""
        self.counters["elections"] += 1
        self._campaign_now = True

    def campaign_started(self, now: float) -> None:
        """Retry a lost election soon; pre-vote keeps the retry from doing harm."""
        retry = self._settings.heartbeat_s * (3 + 3 * self._runtime.random())
        self._raft.election_deadline = now + retry

    # --- voting

    def on_vote_request(self, peer: str, frame: Frame) -> None:
        _, term, last_index, last_term, transfer_term = frame
        if self._membership.in_force is None:
            # A new disk has nothing to judge by. Any other node votes, also one that does not know
            # yet that it is a voter: whether its vote counts is for the candidate to judge.
            return
        handed_over = transfer_term == self._raft.term == term - 1
        if term > self._raft.term and not handed_over and self._is_sticky():
            self.counters["sticky_refusals"] += 1
            return
        self._transport.inject(
            self._raft.node(peer),
            {
                "type": "request_vote",
                "term": term,
                "last_log_index": last_index,
                "last_log_term": last_term,
            },
        )

    def on_vote(self, peer: str, term: int) -> None:
        """Count each voter once in each term (D2)."""
        if term != self._raft.term:
            return
        counted_term, counted = self._voters_of_term
        if counted_term != term:
            counted = set()
            self._voters_of_term = (term, counted)
        if peer in counted:
            self.counters["repeated_votes"] += 1
            return
        counted.add(peer)
        self._transport.inject(self._raft.node(peer), {"type": "response_vote", "term": term})

    def _is_sticky(self) -> bool:
        now = self._runtime.monotonic()
        window = self._settings.election_timeout_min_s * 0.9
        if now - self._booted_at < self._settings.election_timeout_min_s:
            return True
        if self._raft.is_leader:
            return not self._handing_over and now - self._reads.quorum_confirmed_at < window
        return now - self._leader_heard_at < window

    def step_down(self, peer: str, term: int) -> None:
        """Adopt a newer term. A vote request that nobody would grant does it, without a vote."""
        if term > self._raft.term:
            self._transport.inject(
                self._raft.node(peer),
                {
                    "type": "request_vote",
                    "term": term,
                    "last_log_index": -1,
                    "last_log_term": -1,
                },
            )

    # --- hand-over

    def begin_hand_over(self) -> None:
        self._handing_over = True

    def end_hand_over(self) -> None:
        self._handing_over = False

    def on_timeout_now(self, peer: str, term: int) -> None:
        """Campaign at once, because the leader asks for it."""
        if term != self._raft.term or self._raft.leader_id != peer or self._raft.is_leader:
            return
        if not self._membership.is_voter:
            return
        self._transport.transfer_term = term
        self._leader_heard_at = _LONG_AGO
        self._campaign()
