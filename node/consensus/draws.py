"""Callers who want timestamps: those that wait at this node ask the leader together.

While one order is under way, new callers gather for the next. It is asked for again, under the same
number, until somebody answers: what was given out and got lost on the way is nobody's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from api.cluster import NoQuorumError, OverloadedError, TimestampsExhaustedError
from node.consensus.foundation import Foundation
from node.consensus.messages import Frame, Kind
from node.consensus.oracle import EXHAUSTED, GREATEST_ORDER, NOT_LEADING, Oracle
from node.consensus.pauses import Pauses

OnDrawn = Callable[[int | Exception], None]
"""Called once, with the first of the timestamps, or with an error of `api.cluster`."""

_LONG_AGO = float("-inf")


@dataclass(slots=True)
class _Draw:
    """One caller."""

    count: int
    deadline: float
    on_drawn: OnDrawn | None


@dataclass(slots=True)
class _Order:
    """What this node asks the leader for, on behalf of some callers."""

    number: int
    count: int
    draws: list[_Draw]
    begun_at: float
    asked: tuple[str, int] | None = None
    """Whom, and in which term."""
    asked_at: float = field(default=_LONG_AGO)


class Draws:
    def __init__(self, base: Foundation, oracle: Oracle, pauses: Pauses) -> None:
        self._node_id = base.identity.node_id
        self._raft = base.raft
        self._links = base.links
        self._runtime = base.runtime
        self._settings = base.settings
        self._counters = base.counters
        self._oracle = oracle
        self._pauses = pauses
        self._waiting: deque[_Draw] = deque()
        self._order: _Order | None = None
        # Drawn, so that no answer to an earlier run of this node is taken for one of ours.
        self._last_number = int.from_bytes(base.runtime.random_bytes(7), "big")

    # --- callers

    def draw(self, count: int, deadline: float, on_drawn: OnDrawn) -> None:
        """Queue a caller that wants 1 to `GREATEST_ORDER` timestamps in a row.

        Raises:
            OverloadedError
        """
        if len(self._waiting) >= self._settings.max_pending_requests:
            raise OverloadedError("too many callers wait for timestamps at this node")
        self._waiting.append(_Draw(count, deadline, on_drawn))

    def expire(self, now: float) -> None:
        """Fail the callers whose deadline passed."""
        order = self._order
        for draw in (*self._waiting, *(order.draws if order is not None else ())):
            if draw.deadline <= now:
                _finish(draw, NoQuorumError("no majority confirmed a leader in time"))
        if any(draw.on_drawn is None for draw in self._waiting):
            self._waiting = deque(draw for draw in self._waiting if draw.on_drawn is not None)
        if order is not None and all(draw.on_drawn is None for draw in order.draws):
            self._order = None

    # --- asking

    def feed(self, now: float) -> None:
        """Ask the leader, be it this node, for what callers wait for."""
        self._advance(now)
        self._oracle.feed(now)

    def _advance(self, now: float) -> None:
        if self._order is None and self._waiting:
            self._order = self._gather(now)
        if self._order is not None:
            self._ask(self._order, now)

    def _gather(self, now: float) -> _Order:
        draws = [self._waiting.popleft()]
        count = draws[0].count
        while self._waiting and count + self._waiting[0].count <= GREATEST_ORDER:
            draws.append(self._waiting.popleft())
            count += draws[-1].count
        self._last_number += 1
        return _Order(self._last_number, count, draws, now)

    def _ask(self, order: _Order, now: float) -> None:
        leader = self._raft.leader_id
        if leader is None:
            return
        whom = leader, self._raft.term
        if order.asked == whom and now - order.asked_at < 2 * self._settings.heartbeat_s:
            return
        if self._raft.is_leader:
            order.asked, order.asked_at = whom, now
            self._oracle.order(
                self._node_id, order.number, order.count, lambda first: self._on_own(order, first)
            )
        elif self._links.is_connected(leader):
            self._counters["draws_asked_again"] += order.asked is not None
            order.asked, order.asked_at = whom, now
            self._links.send(leader, (int(Kind.DRAW), order.number, order.count))

    def _on_own(self, order: _Order, first: int) -> None:
        if self._order is not order:
            return
        if first == NOT_LEADING:
            order.asked = None
        else:
            # The oracle has its next round begin once it has filled all orders of this one.
            self._answer(order, first)
            self._advance(self._runtime.monotonic())

    def on_reply(self, frame: Frame, now: float) -> None:
        """The leader has filled an order of this node, or does not lead."""
        _, number, term, first = frame
        order = self._order
        if order is None or order.number != number or term != self._raft.term:
            return
        if first == NOT_LEADING:
            # It does not lead yet, or any more: give it a heartbeat's time.
            order.asked_at = now - self._settings.heartbeat_s
        elif self._pauses.came_after(order.begun_at, now):
            # It may have come long ago, while this process stood still: the loop asks again.
            self._order = None
            self._waiting.extendleft(reversed(order.draws))
        else:
            self._answer(order, first)
            self._advance(now)

    def _answer(self, order: _Order, first: int) -> None:
        self._order = None
        for draw in order.draws:
            if first == EXHAUSTED:
                _finish(draw, TimestampsExhaustedError("no timestamps are left"))
            else:
                _finish(draw, first)
                first += draw.count


def _finish(draw: _Draw, answer: int | Exception) -> None:
    if draw.on_drawn is not None:
        on_drawn, draw.on_drawn = draw.on_drawn, None
        on_drawn(answer)
