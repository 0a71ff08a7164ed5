"""The change log as it grows: what watchers of this node and waiting requests read from.

Everything comes out of the state, after it was applied here, so a reader that goes on from the
position it has reached misses and repeats nothing, whichever node it asked before. The newest part
is kept in memory because many readers want it at once; it is a copy of what the state holds, and
whoever falls behind it reads the state.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final

from api.cluster import ChangePage
from statemachine.change_log import CompactedError, Recorded, read_changes
from statemachine.outcomes import Outcome
from statemachine.positions import Position
from statemachine.store import DamagedStateError, Reader
from statemachine.tickets import get_ticket

GREATEST_PAGE: Final = 512
"""Positions that one read returns at most: it runs on the node's loop."""

PAGE_BYTES: Final = 128 << 10
"""A page ends with the position that makes it this large."""

_FIRST_PART: Final = 8
_RING_POSITIONS: Final = 8_192
_RING_BYTES: Final = 16 << 20
_PAGES_AT_ONCE: Final = 4

_POSITION_BYTES: Final = 600
"""About what a position takes in memory beside the bytes of its rows."""


class ChangeFeed:
    """`api.cluster.Changes` of one node."""

    def __init__(self, reader: Reader, applied_position: Callable[[], Position]) -> None:
        self._reader = reader
        self._applied_position = applied_position
        self._ring: list[Recorded] = []
        self._ring_bytes = 0
        self._ring_after = Position(0, 0)
        """The ring holds every change after this position…"""
        self._ring_upto = Position(0, 0)
        """…and up to this one."""
        self._waiting: dict[asyncio.Future[None], Position] = {}
        self._tickets: dict[Position, list[asyncio.Future[Outcome]]] = {}
        self._tickets_after = Position(0, 0)
        self._woken = False

    # --- readers

    def read(self, after: Position) -> ChangePage:
        """Raises: CompactedError, DamagedStateError"""
        applied = self._applied_position()
        if after >= applied:
            return ChangePage((), after)
        if after > self._ring_upto:
            self._clear_ring(after)
        if after >= self._ring_after:
            self._extend_ring(applied)
        # Extending may have pushed out of the ring what this reader wants.
        if after < self._ring_after:
            return self._read_state(after, applied)
        begin = bisect_right(self._ring, after, key=_position)
        found = self._ring[begin : begin + GREATEST_PAGE]
        del found[_within_a_page(found) :]
        whole = begin + len(found) == len(self._ring)
        return ChangePage(tuple(found), self._ring_upto if whole else found[-1].position)

    async def wait(self, after: Position) -> None:
        if self._applied_position() > after:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[future] = after
        try:
            await future
        finally:
            # Whoever gives up leaves nothing behind, though nothing may be applied for long.
            self._waiting.pop(future, None)

    async def settled(self, ticket: Position) -> Outcome:
        """Raises: LookupError, DamagedStateError"""
        found = get_ticket(self._reader, ticket)
        if found is None:
            raise LookupError(f"no wait has the ticket {ticket}")
        if found.outcome is not None:
            return found.outcome
        if not self._tickets:
            self._tickets_after = self._applied_position()
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        waiting = self._tickets.setdefault(ticket, [])
        waiting.append(future)
        try:
            return await future
        finally:
            waiting.remove(future)
            if not waiting:
                self._tickets.pop(ticket, None)

    # --- the node

    def on_applied(self) -> None:
        """Entries were applied, or a snapshot was installed: tell the readers soon."""
        if (self._waiting or self._tickets) and not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        self._woken = False
        if self._tickets:
            try:
                self._settle_tickets()
            except DamagedStateError as error:
                # Whoever waits reports it; it must not keep the others from going on.
                self._fail_tickets(error)
        applied = self._applied_position()
        for future, after in self._waiting.items():
            if applied > after and not future.done():
                future.set_result(None)

    def _fail_tickets(self, error: DamagedStateError) -> None:
        for waiting in self._tickets.values():
            for future in waiting:
                if not future.done():
                    future.set_exception(error)

    def _settle_tickets(self) -> None:
        settled: list[Position] = []
        while self._tickets_after < self._applied_position():
            try:
                page = self.read(self._tickets_after)
            except CompactedError:
                # A snapshot went past the log's end here: the tickets themselves tell.
                settled = list(self._tickets)
                self._tickets_after = self._applied_position()
                break
            settled += [ticket for each in page.changes for ticket in each.settled]
            self._tickets_after = page.upto
        for ticket in settled:
            waiting = self._tickets.get(ticket)
            if waiting is None:
                continue
            found = get_ticket(self._reader, ticket)
            for future in waiting:
                if future.done():
                    continue
                if found is None:
                    future.set_exception(LookupError(f"no wait has the ticket {ticket} any more"))
                elif found.outcome is not None:
                    future.set_result(found.outcome)

    # --- the state

    def _read_state(self, after: Position, applied: Position) -> ChangePage:
        """Return the next page. It is read in parts that grow, since few rows may be large ones."""
        found: list[Recorded] = []
        size_bytes = 0
        limit = _FIRST_PART
        upto = after
        while upto < applied and len(found) < GREATEST_PAGE and size_bytes < PAGE_BYTES:
            part = read_changes(self._reader, upto, limit=limit)
            found += part
            size_bytes += sum(each.size_bytes for each in part)
            upto = part[-1].position if len(part) == limit else applied
            limit = min(2 * limit, GREATEST_PAGE - len(found))
        count = _within_a_page(found)
        return ChangePage(
            tuple(found[:count]), upto if count == len(found) else found[count - 1].position
        )

    # --- the ring

    def _clear_ring(self, after: Position) -> None:
        self._ring.clear()
        self._ring_bytes = 0
        self._ring_after = self._ring_upto = after

    def _extend_ring(self, applied: Position) -> None:
        for _ in range(_PAGES_AT_ONCE):
            if self._ring_upto >= applied:
                break
            try:
                page = self._read_state(self._ring_upto, applied)
            except CompactedError as error:
                self._clear_ring(error.oldest)
                raise
            self._ring += page.changes
            self._ring_bytes += sum(map(_size, page.changes))
            self._ring_upto = page.upto
        drop = max(0, len(self._ring) - _RING_POSITIONS)
        self._ring_bytes -= sum(map(_size, self._ring[:drop]))
        while self._ring_bytes > _RING_BYTES and drop < len(self._ring):
            self._ring_bytes -= _size(self._ring[drop])
            drop += 1
        if drop:
            self._ring_after = self._ring[drop - 1].position
            del self._ring[:drop]


def _within_a_page(found: Sequence[Recorded]) -> int:
    """Return how many of these make a page."""
    sizes = accumulate(each.size_bytes for each in found)
    return next((count for count, size in enumerate(sizes, 1) if size >= PAGE_BYTES), len(found))


def _position(recorded: Recorded) -> Position:
    return recorded.position


def _size(recorded: Recorded) -> int:
    return _POSITION_BYTES + recorded.size_bytes
