"""The leader's half of the timestamp oracle: what it gives out, and when it may.

It gives out what it has reserved through the log in its own term, so everything is greater than
what leaders before it gave out or still might. An order is filled after a quorum round that *began
after the order arrived*. Each later leader was elected by a majority, and one of those that
confirmed this leader is in it; so all of them were elected, and gave out greater timestamps, only
after the order was made.

It is filled within the step that ends the round. After a pause of this process, rounds that were
under way are held again: what they proved is true and of no use to anybody who saw later answers.
The argument in full is in docs/adr/0011.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from node.consensus.foundation import Foundation
from node.consensus.leadership import Leadership
from node.consensus.messages import Kind
from node.consensus.pauses import Pauses
from node.consensus.proposals import Answer, Proposals
from node.consensus.reads import Reads
from node.consensus.stamps import Stamps
from node.consensus.timestamp_window import TimestampWindow
from statemachine.codec import encode_request
from statemachine.commands import Request, ReserveTimestamps
from statemachine.hybrid_clock import GREATEST_ENCODED
from statemachine.outcomes import Applied, RequestOutcome, TimestampsReserved

GREATEST_ORDER: Final = 1 << 26
"""Timestamps that one node may ask for at once, for all its callers together."""

NOT_LEADING: Final = 0
"""Instead of the first timestamp: ask whoever leads now."""

EXHAUSTED: Final = -1
"""Instead of the first timestamp: there are not so many left."""

_RESERVE_WITHIN_S: Final = 5.0

OnFirst = Callable[[int], None]
"""Called with the first timestamp of an order, or with NOT_LEADING or EXHAUSTED."""


@dataclass(slots=True)
class _Order:
    """What one node asks for: the callers behind it are its own business."""

    source: str
    number: int
    count: int
    on_first: OnFirst
    in_round: bool = False
    """A quorum round that began after the order arrived is under way."""


class Oracle:
    def __init__(
        self,
        base: Foundation,
        leadership: Leadership,
        stamps: Stamps,
        proposals: Proposals,
        reads: Reads,
        pauses: Pauses,
    ) -> None:
        self._raft = base.raft
        self._machine = base.machine
        self._links = base.links
        self._runtime = base.runtime
        self._pulse = base.pulse
        self._counters = base.counters
        self._leadership = leadership
        self._stamps = stamps
        self._proposals = proposals
        self._reads = reads
        self._pauses = pauses
        self._window = TimestampWindow(base.settings.timestamp_window_ms)
        self._orders: dict[str, _Order] = {}
        """By the node that asks; a newer order of a node replaces what it has given up."""
        self._reserving: int | None = None
        """The term in which a reservation is on its way."""

    # --- orders

    def order(self, source: str, number: int, count: int, on_first: OnFirst) -> None:
        """Take an order of a node; when it is repeated under its number, nothing happens."""
        if not self._raft.is_leader:
            on_first(NOT_LEADING)
            return
        known = self._orders.get(source)
        if known is None or known.number != number:
            self._orders[source] = _Order(source, number, count, on_first)

    def on_draw(self, peer: str, number: int, count: int) -> None:
        """Another node orders."""
        if not 1 <= count <= GREATEST_ORDER:
            self._counters["unexpected_frames"] += 1
            return

        def reply(first: int) -> None:
            self._links.send(peer, (int(Kind.DRAW_REPLY), number, self._raft.term, first))

        self.order(peer, number, count, reply)

    def _fill(self, order: _Order, first: int) -> None:
        del self._orders[order.source]
        order.on_first(first)

    def _is_open(self, order: _Order) -> bool:
        return self._orders.get(order.source) is order

    # --- moving

    def feed(self, now: float) -> None:
        """Begin a round for orders that none covers, and reserve more before it is needed."""
        waiting = [order for order in self._orders.values() if not order.in_round]
        if not waiting or not self._leadership.ready:
            return
        wall_ms = self._runtime.wall_ms()
        held = self._window.holds(waiting[0].count, wall_ms)
        if not held or self._window.is_low(wall_ms):
            self._reserve(wall_ms, now, sum(order.count for order in waiting))
        if held:
            for order in waiting:
                order.in_round = True
            self._reads.confirm(lambda index: self._on_round(index, waiting, now))

    def _on_round(self, index: int | None, orders: list[_Order], asked_at: float) -> None:
        """A round that began at or after `asked_at` has ended."""
        now = self._runtime.monotonic()
        trusted = not self._pauses.came_after(asked_at, now)
        wall_ms = self._runtime.wall_ms()
        for order in orders:
            if not self._is_open(order):
                continue
            if index is None:
                self._fill(order, NOT_LEADING)
                continue
            first = self._window.take(order.count, wall_ms) if trusted else None
            if first is None:
                order.in_round = False
            else:
                self._fill(order, first)
        if trusted:
            self.feed(now)
        else:
            # The loop takes note of the pause first.
            self._counters["timestamp_rounds_distrusted"] += 1
            self._pulse.kick()

    # --- reserving

    def _reserve(self, wall_ms: int, now: float, waiting: int) -> None:
        term = self._raft.term
        if self._reserving == term:
            return
        self._reserving = term
        self._counters["timestamp_reservations"] += 1
        upto = self._window.wanted_upto(wall_ms, waiting, self._machine.reserved_upto)
        expires_at_ms = self._stamps.elapsed_ms() + int(2_000 * _RESERVE_WITHIN_S)
        request = Request(expires_at_ms, None, (ReserveTimestamps(term=term, upto=upto),))
        self._proposals.submit_internal(
            encode_request(request),
            now + _RESERVE_WITHIN_S,
            lambda answer: self._on_reserved(term, answer),
        )
        self._pulse.kick()

    def _on_reserved(self, term: int, answer: Answer) -> None:
        """The log has it, or nobody knows. What another term's leader asked for is nobody's."""
        if self._reserving != term:
            return
        self._reserving = None
        self._pulse.kick()
        outcome = answer.outcomes[0] if isinstance(answer, RequestOutcome) else None
        if not isinstance(outcome, Applied):
            return
        result = outcome.result
        assert isinstance(result, TimestampsReserved)
        if result.upto > result.after:
            self._window.grant(result.after, result.upto)
        elif result.after >= GREATEST_ENCODED:
            for order in list(self._orders.values()):
                self._fill(order, EXHAUSTED)

    def on_role_change(self) -> None:
        """What was reserved is lost, and whoever waits must ask the next leader."""
        self._window.clear()
        self._reserving = None
        for order in list(self._orders.values()):
            self._fill(order, NOT_LEADING)
