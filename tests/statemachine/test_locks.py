"""What is answered of locks, in full: grants, refusals, tokens, queries, and what watchers hear."""

from __future__ import annotations

import pytest

from statemachine import locks
from statemachine.change_log import read_changes
from statemachine.changes import LockExpired, LockGranted, LockReleased
from statemachine.commands import AbandonLock, AnyCommand
from statemachine.lock_rows import get_lock, is_current, list_locks
from statemachine.machine import Machine
from statemachine.memory_store import MemoryStore
from statemachine.outcomes import LockGranted as GrantedResult
from statemachine.outcomes import (
    LockHolder,
    Position,
    Rejected,
    RejectionCode,
)
from statemachine.tickets import get_ticket
from statemachine.timers import due_timers
from tests.statemachine.building import (
    START_MS,
    Log,
    acquire,
    code,
    granted,
    key,
    release,
    renew,
    ticket,
)


def test_a_grant_says_who_has_what_until_when() -> None:
    log = Log()
    log.wait(1_000)
    assert granted(log.do(acquire("l", "a", mode="SHARED", ttl_ms=500))) == GrantedResult(
        name="l",
        owner="a",
        mode="SHARED",
        fencing_token=1,
        expires_at_ms=START_MS + 1_500,
    )


def test_an_expiry_is_shown_in_wall_time_though_time_without_a_leader_does_not_count() -> None:
    log = Log()
    log.do(acquire(ttl_ms=500))
    log.wall_ms += 10_000
    refused = log.do(acquire(owner="b"))
    assert isinstance(refused, Rejected)
    assert refused.holder == LockHolder(
        owner="a", mode="EXCLUSIVE", fencing_token=1, expires_at_ms=START_MS + 10_500
    )
    assert refused.retryable is True


@pytest.mark.parametrize(
    "command",
    [
        acquire(""),
        acquire("n" * 129),
        acquire("名" * 43),
        acquire(owner=""),
        acquire(owner="o" * 129),
        acquire(mode="exclusive"),
        acquire(ttl_ms=9),
        acquire(ttl_ms=locks.GREATEST_TTL_MS + 1),
        acquire(ttl_ms=-1),
        acquire(wait_ms=-1),
        acquire(wait_ms=locks.GREATEST_WAIT_MS + 1),
        renew(1, name=""),
        renew(1, owner="o" * 129),
        release(1, name="n" * 129),
        release(1, owner=""),
        AbandonLock(name="", owner="a", acquire=Position(1, 0)),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(command: AnyCommand) -> None:
    log = Log()
    assert code(log.do(command)) is RejectionCode.INVALID_COMMAND
    assert log.rows(b"K") == []


@pytest.mark.parametrize("name", ["n" * 128, "名" * 42, "\0" * 128, "a\0b"])
def test_any_name_of_128_bytes_will_do(name: str) -> None:
    log = Log()
    assert granted(log.do(acquire(name, name, mode="SHARED"))).name == name
    ticket(log.do(acquire(name, "other", wait_ms=9)))
    assert get_lock(log.store, name, limit=9).waiter_count == 1
    log.do(release(1, name, name))
    assert granted(log.do(acquire(name, "other"))).fencing_token == 2


def test_locks_of_names_that_begin_alike_do_not_meet() -> None:
    log = Log()
    names = ["a", "a\0", "a\0b", "ab", "a\0\xff"]
    for name in names:
        log.do(acquire(name, "x", mode="SHARED"))
        log.do(acquire(name, "y", wait_ms=9))
    for name in names:
        found = get_lock(log.store, name, limit=100)
        assert (len(found.holders), len(found.waiters)) == (1, 1)


def test_tokens_rise_over_all_locks_through_snapshots_and_when_locks_are_forgotten() -> None:
    log = Log()
    seen = []
    for round_number in range(6):
        for name in "lm":
            token = granted(log.do(acquire(name, ttl_ms=10))).fencing_token
            seen.append(token)
            if round_number % 2:
                log.do(release(token, name=name))
        log.wait(20_000)
        while due_timers(log.store, log.elapsed_ms):
            log.fire_due()
        assert log.rows(b"K") == []
        copied = MemoryStore(log.store.items())
        log.store, log.machine = copied, Machine(copied)
    assert seen == list(range(1, 13))


def test_a_token_is_current_while_its_lease_lasts() -> None:
    log = Log()
    log.do(acquire("l", "a", ttl_ms=1_000))
    log.do(acquire("m", "a", mode="SHARED"))
    log.do(acquire("m", "b", mode="SHARED", ttl_ms=1_000))
    wanted = {("l", 1), ("m", 2), ("m", 3)}
    names, tokens = ["l", "m", "n", "", "n" * 129], [-1, 0, 1, 2, 3, 4, 2**63, 2**70]

    def current() -> set[tuple[str, int]]:
        return {(n, t) for n in names for t in tokens if is_current(log.store, n, t)}

    assert current() == wanted
    log.wait(1_000)
    log.tick()
    assert current() == {("m", 2)}
    log.fire_due()
    assert current() == {("m", 2)}
    log.do(release(2, name="m"))
    assert current() == set()


def test_a_retry_with_the_same_key_attaches_to_the_wait() -> None:
    log = Log()
    log.do(acquire(owner="a"))
    wanted = acquire(owner="b", wait_ms=5_000)
    first = log.send(wanted, idempotency=key("k"))
    again = log.send(wanted, idempotency=key("k"))
    assert again.replayed
    assert again.outcomes == first.outcomes
    assert log.machine.lock_wait_count == 1
    log.do(release(1, "a"))
    found = get_ticket(log.store, ticket(again.outcomes[0]))
    assert found is not None
    assert granted(found.outcome).owner == "b"


def test_watchers_are_told_of_grants_releases_and_expiries_and_not_of_renewals() -> None:
    log = Log()
    log.do(acquire("l", "a", ttl_ms=1_000))
    log.do(renew(1, "a"))
    waiting = ticket(log.do(acquire("l", "b", wait_ms=9_000, ttl_ms=500)))
    log.do(release(1, "a"))
    log.wait(500)
    log.fire_due()
    recorded = read_changes(log.store, Position(0, 0), limit=100)
    grant_a = LockGranted(
        name="l", owner="a", mode="EXCLUSIVE", fencing_token=1, expires_at=START_MS + 1_000
    )
    released = LockReleased(name="l", owner="a", mode="EXCLUSIVE", fencing_token=1)
    grant_b = LockGranted(
        name="l", owner="b", mode="EXCLUSIVE", fencing_token=2, expires_at=START_MS + 500
    )
    expired = LockExpired(name="l", owner="b", mode="EXCLUSIVE", fencing_token=2)
    assert [each.changes for each in recorded] == [(grant_a,), (released, grant_b), (expired,)]
    assert [each.settled for each in recorded] == [(), (waiting,), ()]


def test_a_lock_is_shown_with_its_holders_and_its_queue() -> None:
    log = Log()
    for owner in "abc":
        log.do(acquire("l", owner, mode="SHARED"))
    for owner in "xyz":
        log.do(acquire("l", owner, wait_ms=9_000))
    found = get_lock(log.store, "l", limit=2)
    assert [holder.owner for holder in found.holders] == ["a", "b"]
    assert [waiter.owner for waiter in found.waiters] == ["x", "y"]
    assert (found.holder_count, found.waiter_count) == (3, 3)
    log.do(acquire("m", "a"))
    alone = get_lock(log.store, "m", limit=2)
    assert [holder.mode for holder in alone.holders] == ["EXCLUSIVE"]
    assert (alone.holder_count, alone.waiter_count) == (1, 0)


@pytest.mark.parametrize("name", ["never", "", "n" * 129])
def test_a_lock_that_nobody_asked_for_is_free(name: str) -> None:
    found = get_lock(Log().store, name, limit=2)
    assert (found.holders, found.holder_count, found.waiter_count) == ((), 0, 0)


def test_held_locks_are_listed_by_name_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("statemachine.lock_rows.GREATEST_EXAMINED", 3)
    log = Log()
    for name in ("c", "a", "d", "b", "名"):
        log.do(acquire(name, "o", mode="SHARED"))
        log.do(acquire(name, "p", mode="SHARED"))
        log.do(acquire(name, "q", wait_ms=9_000))
    for token, name, owner in ((3, "a", "o"), (4, "a", "p"), (11, "a", "q")):
        log.do(release(token, owner, name))
    for limit in (1, 2, 9):
        names, cursor, pages = [], None, 0
        while cursor is not None or not pages:
            found, cursor = list_locks(log.store, cursor=cursor, limit=limit)
            pages += 1
            names += [each.name for each in found]
            assert len(found) <= limit
            for each in found:
                assert [holder.owner for holder in each.holders] == ["o"]
                assert (each.holder_count, each.waiter_count) == (2, 1)
        assert names == ["b", "c", "d", "名"]
