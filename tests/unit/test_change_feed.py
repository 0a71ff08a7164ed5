"""A reader of the feed sees each change once, in order, however far behind it is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from node import change_feed
from node.change_feed import ChangeFeed
from statemachine import keys
from statemachine.change_log import CompactedError
from statemachine.commands import CancelWait, JoinParticipant, TrimChanges
from statemachine.outcomes import Position, Rejected
from statemachine.store import DamagedStateError
from statemachine.stored_events import EventRow
from tests.statemachine.building import Log, acquire, record, ticket

BEGINNING = Position(0, 0)


class Node:
    """A log and the feed of the node that applies it."""

    def __init__(self) -> None:
        self.log = Log()
        self.feed = ChangeFeed(self.log.store, lambda: self.log.machine.applied_position)

    def join(self, count: int = 1) -> None:
        for _ in range(count):
            self.log.do(JoinParticipant(node_id=f"p{len(self.log.entries)}"))
        self.feed.on_applied()

    def read_all(self, after: Position = BEGINNING) -> list[Position]:
        seen: list[Position] = []
        while True:
            page = self.feed.read(after)
            seen += [each.position for each in page.changes]
            if page.upto == after:
                return seen
            assert page.upto > after
            after = page.upto

    def open_ticket(self) -> Position:
        self.log.do(acquire("l", "holder"))
        return ticket(self.log.do(acquire("l", "waiter", wait_ms=60_000)))


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(change_feed, "GREATEST_PAGE", 4)
    monkeypatch.setattr(change_feed, "_RING_POSITIONS", 10)
    return Node()


async def test_every_reader_sees_everything_once_wherever_it_begins(node: Node) -> None:
    node.join(30)
    whole = [Position(index, 0) for index in range(1, 31)]
    assert node.read_all() == whole
    for begin in (29, 25, 12, 3, 0, 28):
        assert node.read_all(Position(begin, 0)) == whole[begin:]
    node.join(5)
    assert node.read_all(Position(30, 0)) == [Position(index, 0) for index in range(31, 36)]
    assert node.read_all() == [Position(index, 0) for index in range(1, 36)]


async def test_a_reader_at_the_end_does_not_have_the_beginning_read(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.join(30)
    scanned: list[bytes] = []
    scan = node.log.store.scan

    def noting_scan(start: bytes, stop: bytes, **asked: Any) -> list[tuple[bytes, bytes]]:
        scanned.append(start[1:13])
        return scan(start, stop, **asked)

    monkeypatch.setattr(node.log.store, "scan", noting_scan)
    assert node.read_all(Position(29, 0)) == [Position(30, 0)]
    assert min(scanned) == keys.pack_event(29, 0)


async def test_what_is_kept_in_memory_is_bounded(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_feed, "_RING_BYTES", 3_000)
    for _ in range(6):
        node.log.do(record("a", event_data=b"1" * 1_000))
        node.read_all()
    kept = [each.event for each in node.feed._ring if isinstance(each.event, EventRow)]
    assert sum(len(event.event_data) for event in kept) <= 2_000
    assert node.read_all() == [Position(index, 0) for index in range(1, 7)]


@pytest.mark.parametrize("ring_positions", [10, 10_000])
async def test_a_page_is_small_though_its_rows_are_large(
    node: Node, monkeypatch: pytest.MonkeyPatch, ring_positions: int
) -> None:
    """From memory as from the state; a position alone may be larger than a page."""
    monkeypatch.setattr(change_feed, "GREATEST_PAGE", 100)
    monkeypatch.setattr(change_feed, "_RING_POSITIONS", ring_positions)
    data = b'"%b"' % (b"x" * 50_000)
    for _ in range(40):
        node.log.do(record("a", event_data=data))
    node.log.do(record("a", event_data=b'"%b"' % (b"x" * 300_000)))
    after, seen = BEGINNING, 0
    while (page := node.feed.read(after)).changes:
        assert len(page.changes) <= 3
        seen += len(page.changes)
        after = page.upto
    assert seen == 41


async def test_commands_that_change_nothing_move_the_reader_on(node: Node) -> None:
    node.join()
    node.log.do(JoinParticipant(node_id="p0"))
    assert node.feed.read(BEGINNING).upto == Position(2, 0)
    await asyncio.wait_for(node.feed.wait(Position(1, 0)), 5)


async def test_a_reader_waits_for_the_next_change(node: Node) -> None:
    node.join()
    waiting = asyncio.create_task(node.feed.wait(Position(1, 0)))
    ahead = asyncio.create_task(node.feed.wait(Position(9, 0)))
    await asyncio.sleep(0)
    assert not waiting.done()
    node.join()
    await asyncio.wait_for(waiting, 5)
    assert not ahead.done()
    ahead.cancel()


async def test_who_gives_up_waiting_leaves_nothing_behind(node: Node) -> None:
    node.join()
    for _ in range(100):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await node.feed.wait(Position(1, 0))
    assert not node.feed._waiting


async def test_what_was_trimmed_is_refused_and_the_rest_is_read(node: Node) -> None:
    node.join(6)
    node.read_all()
    node.log.do(TrimChanges(before_wall_ms=0, keep=2, limit=10))
    with pytest.raises(CompactedError):
        ChangeFeed(node.log.store, lambda: Position(7, 0)).read(Position(3, 0))
    assert node.read_all(Position(4, 0)) == [Position(5, 0), Position(6, 0)]


async def test_a_ticket_is_answered_when_its_wait_ends(node: Node) -> None:
    waited = node.open_ticket()
    first = asyncio.create_task(node.feed.settled(waited))
    second = asyncio.create_task(node.feed.settled(waited))
    await asyncio.sleep(0)
    node.join(9)
    node.log.do(CancelWait(ticket=waited))
    node.feed.on_applied()
    for task in (first, second):
        assert isinstance(await asyncio.wait_for(task, 5), Rejected)
    assert isinstance(await node.feed.settled(waited), Rejected)


async def test_a_ticket_is_answered_though_the_log_went_past_it(node: Node) -> None:
    waited = node.open_ticket()
    waiting = asyncio.create_task(node.feed.settled(waited))
    await asyncio.sleep(0)
    # As when a snapshot is installed: the end of the wait is no longer among the changes.
    node.log.do(CancelWait(ticket=waited))
    node.log.do(TrimChanges(before_wall_ms=0, keep=0, limit=10))
    node.feed.on_applied()
    assert isinstance(await asyncio.wait_for(waiting, 5), Rejected)


async def test_a_damaged_row_is_told_to_who_waits_for_a_ticket_and_stops_no_other(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = node.open_ticket()
    settled = asyncio.create_task(node.feed.settled(ticket))
    waiting = asyncio.create_task(node.feed.wait(node.log.machine.applied_position))
    await asyncio.sleep(0)
    node.join()

    def scan(*_: object, **__: object) -> Any:
        raise DamagedStateError("row")

    monkeypatch.setattr(node.log.store, "scan", scan)
    with pytest.raises(DamagedStateError):
        await asyncio.wait_for(settled, 5)
    await asyncio.wait_for(waiting, 5)


async def test_an_unknown_ticket_is_an_error(node: Node) -> None:
    with pytest.raises(LookupError):
        await node.feed.settled(Position(5, 5))
