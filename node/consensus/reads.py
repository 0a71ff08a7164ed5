"""Linearizable reads: ReadIndex (Ongaro's thesis, section 6.4), one round shared by all that wait.

A read is served from this node's state once it has applied everything that was committed when the
read arrived. The leader learns that it still leads from a round of CONFIRM frames *begun after*
the read arrived; a follower asks the leader for the index. There is no lease: a paused leader must
not answer from memory.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from api.cluster import NoQuorumError
from node.consensus.foundation import Foundation
from node.consensus.leadership import Leadership
from node.consensus.messages import Frame, Kind
from node.consensus.stamps import Stamps

OnRead = Callable[[Exception | None], None]
"""Called with None when the state may be read now, within the same step."""

OnConfirmed = Callable[[int | None], None]
"""Called with the read index after a quorum round, or with None when leadership was lost."""

_LONG_AGO = float("-inf")

_GREATEST_AGE_S = 3600.0


@dataclass(slots=True)
class Read:
    deadline: float
    on_ready: OnRead | None


@dataclass(slots=True)
class _Round:
    """One question to the quorum."""

    number: int
    started_at: float
    read_index: int
    on_confirmed: list[OnConfirmed]
    confirmed_by: set[str] = field(default_factory=set)
    sent_at: float = 0.0


class Reads:
    def __init__(
        self,
        base: Foundation,
        leadership: Leadership,
        stamps: Stamps,
    ) -> None:
        self._raft = base.raft
        self._links = base.links
        self._membership = base.membership
        self._runtime = base.runtime
        self._settings = base.settings
        self._leadership = leadership
        self._stamps = stamps
        self._gathering: list[OnConfirmed] = []
        """Leader: whoever waits for the next round."""
        self._round: _Round | None = None
        self._rounds = itertools.count(int.from_bytes(base.runtime.random_bytes(4), "big"))
        self._open: list[Read] = []
        """Every read that is not finished, and some that are."""
        self._asking: list[Read] = []
        """Reads that no round and no question under way covers."""
        self._asked: list[Read] = []
        self._question: tuple[int, str, int, float] | None = None
        """id, leader asked, term, when."""
        self._applying: list[tuple[int, int, Read]] = []
        """A heap of (index to be applied, tie breaker, read)."""
        self._tie = itertools.count()
        self._replied_at: dict[str, float] = {}
        """Leader: when each voter last said that it follows."""
        self.quorum_confirmed_at = _LONG_AGO
        """When the last confirmed round began (leader), or its index was given (follower).

        On a follower not later than the leader last heard of it.
        """
        self.counters = base.counters

    # --- callers

    def read(self, deadline: float, on_ready: OnRead) -> None:
        read = Read(deadline, on_ready)
        self._open.append(read)
        self._asking.append(read)

    @property
    def waits(self) -> bool:
        return bool(self._asking)

    def confirm(self, on_confirmed: OnConfirmed) -> None:
        """Leader: call back after a quorum round begun from now on."""
        self._gathering.append(on_confirmed)

    # --- moving

    def feed(self, now: float) -> None:
        if self._raft.is_leader:
            if self._asking and self._leadership.ready:
                reads, self._asking = self._asking, []
                self._gathering.append(lambda index: self._on_own_confirmed(index, reads))
            self._feed_leader(now)
        else:
            self._feed_follower(now)

    def _feed_leader(self, now: float) -> None:
        current = self._round
        if current is not None:
            if now - current.sent_at >= 2 * self._settings.heartbeat_s:
                self._send_round(current, now)
            return
        if self._gathering and self._leadership.ready:
            waiting, self._gathering = self._gathering, []
            self._begin_round(waiting, now)

    def _on_own_confirmed(self, index: int | None, reads: list[Read]) -> None:
        if index is None:
            self._asking = reads + self._asking
        else:
            self._wait_applied(index, reads)

    def _begin_round(self, waiting: list[OnConfirmed], now: float) -> None:
        self._round = _Round(next(self._rounds), now, self._raft.commit_index, waiting)
        self.counters["quorum_rounds"] += 1
        self._send_round(self._round, now)
        self._count(self._round, self._membership.node_id)

    def keep_confirmed(self, now: float) -> None:
        """Leader: hold a round even when nobody reads, so that health knows who follows."""
        idle = now - self.quorum_confirmed_at >= 2 * self._settings.heartbeat_s
        if idle and self._round is None and self._leadership.ready and not self._gathering:
            self._begin_round([], now)

    def _send_round(self, current: _Round, now: float) -> None:
        current.sent_at = now
        for peer in self._membership.other_voters:
            frame = (
                int(Kind.CONFIRM),
                self._raft.term,
                current.number,
                self._stamps.elapsed_ms(),
                int(self._confirmed_age_s(peer, now) * 1000),
            )
            self._links.send(peer, frame)

    def _confirmed_age_s(self, peer: str, now: float) -> float:
        """How long ago this leader was confirmed, as far as the peer may rely on it.

        What does not come from the peer does not reach it either: a node that hears its leader and
        is not heard can serve nothing, and learns it by this alone.
        """
        heard_at = self._replied_at.get(peer, _LONG_AGO)
        return min(now - min(self.quorum_confirmed_at, heard_at), _GREATEST_AGE_S)

    def leader_was_confirmed(self, age_ms: int) -> None:
        """Follower: the leader says how long ago a quorum confirmed it, and it heard this node."""
        confirmed_at = self._runtime.monotonic() - age_ms / 1000
        self.quorum_confirmed_at = max(self.quorum_confirmed_at, confirmed_at)

    def round_trip_s(self, number: int) -> float | None:
        """How long ago the round under way was sent; None when it is another."""
        current = self._round
        if current is None or current.number != number:
            return None
        return self._runtime.monotonic() - current.sent_at

    def on_confirm_reply(self, peer: str, number: int) -> None:
        """A voter follows this leader, in the current term."""
        self._replied_at[peer] = self._runtime.monotonic()
        if self._round is not None and self._round.number == number:
            self._count(self._round, peer)

    def _count(self, current: _Round, node_id: str) -> None:
        current.confirmed_by.add(node_id)
        if not self._membership.is_quorum(current.confirmed_by):
            return
        self._round = None
        self.quorum_confirmed_at = current.started_at
        for on_confirmed in current.on_confirmed:
            on_confirmed(current.read_index)
        if self._gathering or self._asking:
            self.feed(self._runtime.monotonic())

    def _feed_follower(self, now: float) -> None:
        leader = self._raft.leader_id
        if self._question is not None:
            _, asked, term, asked_at = self._question
            if (
                asked == leader
                and term == self._raft.term
                and now - asked_at < 2 * self._settings.heartbeat_s
            ):
                return
            self._asking = self._asked + self._asking
            self._asked = []
            self._question = None
        if not self._asking or leader is None or not self._links.is_connected(leader):
            return
        number = next(self._rounds)
        self._asked, self._asking = self._asking, []
        self._question = (number, leader, self._raft.term, now)
        self._links.send(leader, (int(Kind.READ_INDEX), number))

    def on_read_index(self, peer: str, number: int) -> None:
        """Leader's side of a follower's question. Until the leader is ready it waits."""
        if not self._raft.is_leader:
            self._links.send(peer, (int(Kind.READ_INDEX_REPLY), number, 0))
            return
        self.confirm(lambda index: self._answer_read_index(peer, number, index))

    def _answer_read_index(self, peer: str, number: int, index: int | None) -> None:
        self._links.send(peer, (int(Kind.READ_INDEX_REPLY), number, index or 0))

    def on_read_index_reply(self, frame: Frame, now: float) -> None:
        _, number, index = frame
        if self._question is None or self._question[0] != number:
            return
        asked_at = self._question[3]
        reads, self._asked = self._asked, []
        self._question = None
        if index == 0:
            # Not the leader any more: ask again once somebody is.
            self._asking = reads + self._asking
            return
        self.quorum_confirmed_at = max(self.quorum_confirmed_at, asked_at)
        self._wait_applied(index, reads)
        if self._asking:
            self._feed_follower(now)

    def _wait_applied(self, index: int, reads: list[Read]) -> None:
        if index <= self._raft.last_applied:
            for read in reads:
                _finish(read, None)
            return
        for read in reads:
            heapq.heappush(self._applying, (index, next(self._tie), read))

    def on_applied(self, last_applied: int) -> None:
        while self._applying and self._applying[0][0] <= last_applied:
            _finish(heapq.heappop(self._applying)[2], None)

    def on_role_change(self) -> None:
        """Rounds of another term prove nothing; their reads wait for the next."""
        self._replied_at.clear()
        current, self._round = self._round, None
        abandoned = [*(current.on_confirmed if current else ()), *self._gathering]
        self._gathering = []
        if self._raft.is_leader:
            self._gathering = abandoned
            return
        for on_confirmed in abandoned:
            on_confirmed(None)

    def expire(self, now: float) -> None:
        """Fail the reads whose deadline passed, wherever they wait."""
        kept: list[Read] = []
        for read in self._open:
            if read.on_ready is None:
                continue
            if read.deadline > now:
                kept.append(read)
            else:
                _finish(read, NoQuorumError("no majority confirmed a leader in time"))
        self._open = kept
        self._asking = [read for read in self._asking if read.on_ready is not None]


def _finish(read: Read, error: Exception | None) -> None:
    if read.on_ready is not None:
        on_ready, read.on_ready = read.on_ready, None
        on_ready(error)
