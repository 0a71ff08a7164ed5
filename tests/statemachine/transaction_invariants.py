"""What holds of the rows of transactions after every entry."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from statemachine import keys, timers
from statemachine.memory_store import MemoryStore
from statemachine.positions import Position
from statemachine.state import load_state
from statemachine.tickets import TicketKind, get_ticket
from statemachine.timers import TimerKind
from statemachine.transactions.planning import next_calls
from statemachine.transactions.row_locks import LockRow, RowLock, get_lock_row, lock_name
from statemachine.transactions.rows import Branch, Global, get_branches, get_global, get_timeline
from statemachine.transactions.statuses import (
    COMMIT_FAMILY,
    ENDED,
    FAILED,
    BranchStatus,
    GlobalStatus,
    Mode,
)
from statemachine.transactions.transitions import BRANCH_TRANSITIONS, GLOBAL_TRANSITIONS

Rows = list[tuple[bytes, bytes]]

_GLOBAL_STEPS = {(before, then) for (before, _), then in GLOBAL_TRANSITIONS.items()}
_BRANCH_STEPS = {(before, then) for (before, _), then in BRANCH_TRANSITIONS.items()}
_REFUSED = (
    BranchStatus.PHASE_TWO_COMMIT_FAILED_UNRETRYABLE,
    BranchStatus.PHASE_TWO_ROLLBACK_FAILED_UNRETRYABLE,
)


def rows(store: MemoryStore, prefix: bytes) -> Rows:
    return [row for row in store.items() if row[0].startswith(prefix)]


def all_globals(store: MemoryStore) -> dict[str, Global]:
    found = {}
    for key, _ in rows(store, keys.GLOBAL):
        xid = keys.name_of(key[len(keys.GLOBAL) :])
        row = get_global(store, xid)
        assert row is not None
        found[xid] = row
    return found


def assert_transactions_intact(store: MemoryStore) -> None:
    found = all_globals(store)
    state = load_state(store)
    undone = [row for row in found.values() if row.status not in ENDED]
    assert state.global_count == len(undone)
    begun = {value.decode() for _, value in rows(store, keys.BEGUN)}
    assert begun == set(found)
    for row in found.values():
        branches = get_branches(store, row.xid)
        _assert_row_intact(store, row, branches)
        _assert_timeline_legal(store, row)
    _assert_due(store, found)
    _assert_locks_intact(store, found, state.row_lock_count)
    _assert_waits_intact(store, found)
    _assert_timers_intact(store, found)
    for prefix in (keys.FENCE, keys.BRANCH, keys.TIMELINE):
        for key, _ in rows(store, prefix):
            assert keys.name_of(key[len(prefix) : key.index(b"\0", 2) + 1]) in found
    for key, _ in rows(store, keys.SUMMARY):
        assert keys.name_of(key[len(keys.SUMMARY) :]) not in found


def _assert_row_intact(store: MemoryStore, row: Global, branches: list[Branch]) -> None:
    assert row.branches == len(branches)
    calls = [] if row.paused else next_calls(row, branches)
    assert all(call.url != "" for call in calls), "what needs no call is done at once"
    if row.status in ENDED | FAILED:
        assert calls == []
        assert row.waiting == ()
    if row.status is not GlobalStatus.BEGIN:
        assert row.committing == ()
        assert row.decided_ms > 0
    assert (row.ended_ms > 0) == (row.status in ENDED)


def _assert_timeline_legal(store: MemoryStore, row: Global) -> None:
    """No decision is reversed and no branch leaves the table."""
    timeline = get_timeline(store, row.xid)
    assert len(timeline) == row.happenings
    assert sorted(line.lamport for line in timeline) == [line.lamport for line in timeline]
    reached: dict[int, list[str]] = {}
    for line in timeline:
        names = BranchStatus if line.branch_id else GlobalStatus
        if line.event in tuple(names):
            reached.setdefault(line.branch_id, []).append(line.event)
    for branch_id, statuses in reached.items():
        steps: set[tuple[str, str]] = set(_BRANCH_STEPS if branch_id else _GLOBAL_STEPS)
        for before, then in pairwise(statuses):
            # An operator's resumption puts a branch that refused back among those that retry.
            assert (before, then) in steps or before in _REFUSED, (row.xid, branch_id, statuses)
    assert reached[0][-1] == row.status


def _assert_due(store: MemoryStore, found: dict[str, Global]) -> None:
    expected = set()
    for row in found.values():
        calls = [] if row.paused else next_calls(row, get_branches(store, row.xid))
        due_ms = min((call.branch.due_ms for call in calls), default=-1)
        assert row.due_ms == due_ms, row
        if due_ms >= 0:
            expected.add(keys.DUE_GLOBAL + keys.pack_number(due_ms) + row.xid.encode())
    assert {key for key, _ in rows(store, keys.DUE_GLOBAL)} == expected


def _assert_locks_intact(store: MemoryStore, found: dict[str, Global], held: int) -> None:
    holds: Counter[tuple[str, int]] = Counter()
    for key, _ in rows(store, keys.ROW_LOCK):
        row = get_lock_row(store, key)
        assert row is not None
        _assert_row_lock_intact(row)
        name = key[len(keys.ROW_LOCK) :]
        assert name == lock_name(RowLock(row.resource_id, row.table, row.key, True))
        prefix = keys.ROW_LOCK_QUEUE + name
        queue = [k for k, _ in rows(store, prefix) if len(k) == len(prefix) + 12]
        assert row.waiters == len(queue)
        for hold in row.holds:
            holds[hold.xid, hold.branch_id] += 1
            transaction = found[hold.xid]
            assert transaction.status not in ENDED
            branches = {b.branch_id: b for b in get_branches(store, hold.xid)}
            branch = branches[hold.branch_id]
            assert branch.status not in (BranchStatus.WITHDRAWN, BranchStatus.PHASE_ONE_READ_ONLY)
            committed = transaction.status in COMMIT_FAMILY
            assert not (committed and branch.mode in (Mode.AT, Mode.TXC))
    assert sum(holds.values()) == held


def _assert_row_lock_intact(row: LockRow) -> None:
    assert row.holds or row.waiters
    if any(hold.exclusive for hold in row.holds):
        assert len({hold.xid for hold in row.holds}) == 1


def _assert_waits_intact(store: MemoryStore, found: dict[str, Global]) -> None:
    for key, _ in rows(store, keys.ROW_LOCK_WAIT):
        ticket = get_ticket(store, Position(*keys.unpack_event(key[len(keys.ROW_LOCK_WAIT) :])))
        assert ticket is not None
        assert ticket.outcome is None
    waiting = [each for row in found.values() for each in row.waiting]
    waiting += [each.ticket for row in found.values() for each in row.committing]
    assert len(set(waiting)) == len(waiting)
    open_tickets = set()
    for key, _ in rows(store, keys.TICKET):
        position = Position(*keys.unpack_event(key[len(keys.TICKET) :]))
        ticket = get_ticket(store, position)
        assert ticket is not None
        if ticket.kind is TicketKind.GLOBAL_END and ticket.outcome is None:
            open_tickets.add(position)
    assert open_tickets == set(waiting)


def _assert_timers_intact(store: MemoryStore, found: dict[str, Global]) -> None:
    armed: dict[int, set[str]] = {}
    for due_ms, kind, timer_id in timers.due_timers(store, 2**60, limit=100_000):
        if kind in (
            TimerKind.GLOBAL_TIMEOUT,
            TimerKind.GLOBAL_RETENTION,
            TimerKind.GLOBAL_SUMMARY_EXPIRY,
        ):
            assert timer_id.decode() not in armed.setdefault(kind, set()), due_ms
            armed[kind].add(timer_id.decode())
    ended = {row.xid for row in found.values() if row.status in ENDED}
    assert armed.get(TimerKind.GLOBAL_RETENTION, set()) == ended
    for xid in armed.get(TimerKind.GLOBAL_TIMEOUT, set()):
        assert found[xid].status is GlobalStatus.BEGIN
    summaries = {keys.name_of(key[len(keys.SUMMARY) :]) for key, _ in rows(store, keys.SUMMARY)}
    assert armed.get(TimerKind.GLOBAL_SUMMARY_EXPIRY, set()) == summaries
