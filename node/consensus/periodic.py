"""What is due by time and not by input: deadlines, life signs, and a slow leader's hand-over."""

from __future__ import annotations

import logging

from node.consensus.admission import Admission
from node.consensus.draws import Draws
from node.consensus.foundation import Foundation
from node.consensus.leadership import Leadership
from node.consensus.messages import Kind
from node.consensus.pace import Pace
from node.consensus.proposals import Proposals
from node.consensus.reads import Reads
from node.consensus.rounds import Rounds

logger = logging.getLogger(__name__)

_ALIVE_INTERVAL_S = 1.0


class Periodic:
    def __init__(
        self,
        base: Foundation,
        *,
        leadership: Leadership,
        proposals: Proposals,
        reads: Reads,
        draws: Draws,
        rounds: Rounds,
        admission: Admission,
        pace: Pace,
    ) -> None:
        self._runtime = base.runtime
        self._settings = base.settings
        self._membership = base.membership
        self._links = base.links
        self._leadership = leadership
        self._proposals = proposals
        self._reads = reads
        self._draws = draws
        self._rounds = rounds
        self._admission = admission
        self._pace = pace
        self._pulse = base.pulse
        self._counters = base.counters
        self._due_at = base.runtime.monotonic()
        self._alive_due_at = 0.0
        self._stopped = False

    def run(self) -> None:
        """Do it now, and again twice in each heartbeat."""
        if self._stopped:
            return
        interval_s = self._settings.heartbeat_s / 2
        self._runtime.call_later(interval_s, self.run)
        now = self._runtime.monotonic()
        self._pace.timer_was_late(now - self._due_at)
        self._due_at = now + interval_s
        self._leadership.full = self._rounds.greatest_fill_ratio() > self._settings.max_fill_ratio
        self._proposals.expire(now)
        self._reads.expire(now)
        self._draws.expire(now)
        self._admission.on_timer(now)
        if now >= self._alive_due_at:
            self._alive_due_at = now + _ALIVE_INTERVAL_S
            for peer in self._membership.other_members:
                self._links.send(peer, (int(Kind.ALIVE),))
        if self._leadership.ready and self._pace.should_hand_over(self._membership.other_voters):
            logger.warning("hands over: ten times slower than the others for two seconds")
            self._counters["slow_hand_overs"] += 1
            self._admission.hand_over(now + 2 * self._settings.election_timeout_max_s)
        self._pulse.kick()

    def stop(self) -> None:
        self._stopped = True
