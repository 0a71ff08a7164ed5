"""Locks, told as tables: what is asked, what is answered, and whose wait ends by it.

A line is `who does what -> answer`, then `& who answer` for each wait that the line ended. Numbers
are fencing tokens, or milliseconds after `for`, `waits` and `pass`. `pass 5` lets five milliseconds
pass and fires what is due; `late 5` only lets them pass.
"""

from __future__ import annotations

import re

import pytest

from statemachine import locks
from statemachine.change_log import read_changes
from statemachine.changes import LockExpired, LockGranted, LockReleased
from statemachine.commands import AbandonLock, AnyCommand, CancelWait
from statemachine.linked_rows import EMPTY, append, remove
from statemachine.linked_rows import scan as scan_list
from statemachine.lock_rows import get_lock, is_current, list_locks
from statemachine.machine import Machine
from statemachine.memory_store import MemoryStore
from statemachine.outcomes import (
    Applied,
    LockAbandoned,
    LockHolder,
    Outcome,
    Pending,
    Position,
    Rejected,
    RejectionCode,
    WaitCancelled,
)
from statemachine.outcomes import LockGranted as GrantedResult
from statemachine.outcomes import (
    LockReleased as ReleasedResult,
)
from statemachine.state import load_state
from statemachine.tickets import get_ticket
from statemachine.timers import due_timers
from statemachine.write_buffer import WriteBuffer
from tests.statemachine.building import (
    START_MS,
    Log,
    acquire,
    code,
    granted,
    key,
    release,
    renew,
    result,
    ticket,
)
from tests.statemachine.lock_invariants import assert_locks_intact

SCENARIOS = {
    "one at a time, and each grant has a greater token": """
        a takes         -> granted 1
        b takes         -> LOCK_HELD by a
        a releases 1    -> released
        b takes         -> granted 2
    """,
    "who waits gets the lock with its release": """
        a takes         -> granted 1
        b takes waits 9 -> waits
        a releases 1    -> released & b granted 2
        b releases 2    -> released
    """,
    "those who wait are served in the order of asking": """
        a takes         -> granted 1
        b takes waits 9 -> waits
        c takes waits 9 -> waits
        a releases 1    -> released & b granted 2
        b releases 2    -> released & c granted 3
    """,
    "a lease ends by itself, in its last millisecond and not before": """
        a takes for 20  -> granted 1
        pass 19
        b takes         -> LOCK_HELD by a
        pass 1
        b takes         -> granted 2
        a renews 1      -> FENCING_TOKEN_STALE by b
        a releases 1    -> FENCING_TOKEN_STALE by b
    """,
    "the end of a lease grants the lock to who waits": """
        a takes for 20  -> granted 1
        b takes waits 90 for 50 -> waits
        pass 20         -> & b granted 2
        pass 49
        b renews 2      -> granted 2
        pass 49
        c takes         -> LOCK_HELD by b
        pass 1
        c takes         -> granted 3
    """,
    "a lease that is over is over, though its timer has not fired": """
        a takes for 20  -> granted 1
        late 20
        a renews 1      -> FENCING_TOKEN_STALE
        b takes         -> granted 2
    """,
    "the next in the queue is served before a newcomer finds the lapsed lease": """
        a takes for 20  -> granted 1
        b takes waits 90 -> waits
        late 20
        c takes         -> LOCK_HELD by b & b granted 2
    """,
    "a wait that ends with the lease that it waits for has come to nothing": """
        a takes for 10  -> granted 1
        late 10
        b takes for 10  -> granted 2
        a takes waits 10 -> waits
        pass 10         -> & a LOCK_HELD by b
    """,
    "a late leader does first what was due first": """
        a takes for 10  -> granted 1
        late 10
        b takes for 15  -> granted 2
        a takes waits 10 -> waits
        c takes waits 30 -> waits
        pass 40         -> & a LOCK_HELD by b & c granted 3
    """,
    "renewing begins the lease anew, as long as it was asked for": """
        a takes for 20  -> granted 1
        pass 15
        a renews 1      -> granted 1
        pass 19
        b takes         -> LOCK_HELD by a
        pass 1
        b takes         -> granted 2
    """,
    "an owner that asks again has the same token and never a shorter lease": """
        a takes for 20  -> granted 1
        pass 10
        a takes for 10  -> granted 1
        pass 19
        b takes         -> LOCK_HELD by a
        a takes for 50  -> granted 1
        pass 49
        b takes         -> LOCK_HELD by a
    """,
    "one release gives the lock back, however often its owner asked": """
        a takes         -> granted 1
        a takes         -> granted 1
        a releases 1    -> released
        b takes         -> granted 2
    """,
    "a wait that is over says who holds the lock, and the others move up": """
        a takes         -> granted 1
        b takes waits 9 -> waits
        c takes waits 90 -> waits
        pass 8
        pass 1          -> & b LOCK_HELD by a
        a releases 1    -> released & c granted 2
    """,
    "who cancels its wait is passed over": """
        a takes         -> granted 1
        b takes waits 9 -> waits
        c takes waits 9 -> waits
        d takes waits 9 -> waits
        c cancels       -> cancelled & c LOCK_HELD by a
        a releases 1    -> released & b granted 2
        b releases 2    -> released & d granted 3
        d cancels       -> not cancelled
    """,
    "many share": """
        a shares        -> granted 1
        b shares        -> granted 2
        c takes         -> LOCK_HELD by a
        a releases 1    -> released
        c takes         -> LOCK_HELD by b
        b releases 2    -> released
        c takes         -> granted 3
        a shares        -> LOCK_HELD by c
    """,
    "a sharer does not overtake one who waits to be alone": """
        a shares        -> granted 1
        b takes waits 9 -> waits
        c shares        -> LOCK_HELD by a
        c shares waits 9 -> waits
        a releases 1    -> released & b granted 2
        b releases 2    -> released & c granted 3
    """,
    "sharers next to each other in the queue are granted together": """
        a takes         -> granted 1
        b shares waits 9 -> waits
        c shares waits 9 -> waits
        d takes waits 9 -> waits
        e shares waits 9 -> waits
        a releases 1    -> released & b granted 2 & c granted 3
        b releases 2    -> released
        c releases 3    -> released & d granted 4
        d releases 4    -> released & e granted 5
    """,
    "sharers move up when the one who waits to be alone gives up": """
        a shares        -> granted 1
        b takes waits 9 -> waits
        c shares waits 90 -> waits
        d shares waits 90 -> waits
        pass 9          -> & b LOCK_HELD by a & c granted 2 & d granted 3
    """,
    "a sharer that asks again keeps its token though others wait": """
        a shares for 20 -> granted 1
        b takes waits 90 -> waits
        a shares for 30 -> granted 1
        pass 29
        pass 1          -> & b granted 2
    """,
    "each sharer has a lease of its own": """
        a shares for 20 -> granted 1
        b shares for 10 -> granted 2
        c takes waits 90 -> waits
        pass 10
        b renews 2      -> FENCING_TOKEN_STALE by a
        a renews 1      -> granted 1
        pass 20         -> & c granted 3
    """,
    "leases of sharers that are over stand in nobody's way, fired or not": """
        a shares for 20 -> granted 1
        b shares for 10 -> granted 2
        c shares for 30 -> granted 3
        late 25
        d takes         -> LOCK_HELD by c
        b renews 2      -> FENCING_TOKEN_STALE by c
        late 5
        d takes         -> granted 4
    """,
    "what an owner has for itself serves its request to share": """
        a takes         -> granted 1
        a shares        -> granted 1
        b shares        -> LOCK_HELD by a
    """,
    "who shares a lock cannot make it exclusive": """
        a shares        -> granted 1
        a takes         -> LOCK_UPGRADE_REFUSED by a
        a takes waits 9 -> LOCK_UPGRADE_REFUSED by a
        b shares        -> granted 2
        a releases 1    -> released
        a takes waits 9 -> waits
        b releases 2    -> released & a granted 3
    """,
    "an owner that shares does not become exclusive by a wait of its own": """
        x takes         -> granted 1
        a shares waits 9 -> waits
        a takes waits 9 -> waits
        x releases 1    -> released & a granted 2
        a releases 2    -> released & a granted 3
    """,
    "an owner's other waits next to its turn end with it": """
        a takes         -> granted 1
        b takes waits 9 -> waits
        b shares waits 9 -> waits
        c takes waits 9 -> waits
        b takes waits 9 -> waits
        a releases 1    -> released & b granted 2 & b granted 2
        b releases 2    -> released & c granted 3
        c releases 3    -> released & b granted 4
    """,
    "a release that comes again finds out that it was done": """
        a takes         -> granted 1
        a releases 1    -> released
        a releases 1    -> released before
        b releases 1    -> FENCING_TOKEN_STALE
        a releases 2    -> FENCING_TOKEN_STALE
        a renews 1      -> FENCING_TOKEN_STALE
        b takes         -> granted 2
        a releases 1    -> FENCING_TOKEN_STALE by b
    """,
    "of sharers, the last release is remembered": """
        a shares        -> granted 1
        b shares        -> granted 2
        c shares        -> granted 3
        a releases 1    -> released
        a releases 1    -> released before
        b releases 2    -> released
        b releases 2    -> released before
        a releases 1    -> FENCING_TOKEN_STALE by c
    """,
    "a release is remembered for a while": """
        a takes         -> granted 1
        a releases 1    -> released
        pass 9999
        a releases 1    -> released before
        late 1
        a releases 1    -> FENCING_TOKEN_STALE
    """,
    "a lease that ended was not released": """
        a takes for 20  -> granted 1
        pass 20
        a releases 1    -> FENCING_TOKEN_STALE
    """,
    "tokens of others, of nobody and of other owners do nothing": """
        a takes         -> granted 1
        b renews 1      -> FENCING_TOKEN_STALE by a
        b releases 1    -> FENCING_TOKEN_STALE by a
        a renews 0      -> FENCING_TOKEN_STALE by a
        a releases 2    -> FENCING_TOKEN_STALE by a
        a renews 1      -> granted 1
    """,
    "what nobody heard of goes back": """
        a takes         -> granted 1
        a abandons      -> given back
        b takes         -> granted 2
        c takes waits 9 -> waits
        c abandons      -> cancelled & c LOCK_HELD by b
        b releases 2    -> released
        d takes         -> granted 3
    """,
    "what was granted to one who has gone goes to the next": """
        a takes         -> granted 1
        b takes waits 9 -> waits
        c takes waits 9 -> waits
        a releases 1    -> released & b granted 2
        b abandons      -> given back & c granted 3
        b releases 2    -> FENCING_TOKEN_STALE by c
    """,
    "what its owner asked for again is not given back": """
        a takes         -> granted 1
        b takes waits 9 -> waits
        a releases 1    -> released & b granted 2
        b takes again   -> granted 2
        b abandons      -> nothing
        c takes         -> LOCK_HELD by b
    """,
    "what its owner renewed is not given back": """
        a takes         -> granted 1
        a renews 1      -> granted 1
        a abandons      -> nothing
        b takes         -> LOCK_HELD by a
    """,
    "an abandoned request of an owner that has the lock leaves it": """
        a takes         -> granted 1
        a takes         -> granted 1
        a abandons      -> nothing
        b takes         -> LOCK_HELD by a
    """,
    "to abandon what has ended does nothing": """
        a takes for 20  -> granted 1
        pass 20
        a abandons      -> nothing
        b takes         -> granted 2
        a abandons      -> nothing
        b renews 2      -> granted 2
    """,
}

STEP = re.compile(
    r"(?:(?P<owner>\w) (?P<verb>takes|shares|renews|releases|cancels|abandons)(?P<again> again)?"
    r"(?: (?P<token>\d+))?(?: waits (?P<wait>\d+))?(?: for (?P<ttl>\d+))?|"
    r"(?P<time>pass|late) (?P<ms>\d+))"
)


class Scenario:
    """A log of one lock, told in words."""

    def __init__(self) -> None:
        self.log = Log()
        self.asked: dict[str, Position] = {}
        """Where each owner last asked for the lock."""
        self.waiting: dict[Position, str] = {}

    def play(self, line: str) -> str:
        """Do what stands before the arrow; return what should stand behind it."""
        step = STEP.fullmatch(line)
        assert step is not None, line
        if step["time"]:
            self.log.wait(int(step["ms"]))
            answer = ""
            if step["time"] == "pass":
                self.log.fire_due()
        else:
            answer = self.do(step)
        assert_locks_intact(self.log.store)
        ended = [f"& {owner} {told}" for owner, told in self.ended()]
        return " ".join([answer, *ended]).strip()

    def do(self, step: re.Match[str]) -> str:
        owner = step["owner"]
        command: AnyCommand
        match step["verb"]:
            case "renews":
                command = renew(int(step["token"]), owner)
            case "releases":
                command = release(int(step["token"]), owner)
            case "cancels":
                command = CancelWait(ticket=self.asked[owner])
            case "abandons":
                command = AbandonLock(name="l", owner=owner, acquire=self.asked[owner])
            case verb:
                mode = "EXCLUSIVE" if verb == "takes" else "SHARED"
                command = acquire(
                    "l",
                    owner,
                    mode=mode,
                    ttl_ms=int(step["ttl"] or 60_000),
                    wait_ms=int(step["wait"] or 0),
                )
        sent = self.log.send(command)
        if step["verb"] in ("takes", "shares") and not step["again"]:
            self.asked[owner] = sent.position
        (outcome,) = sent.outcomes
        if isinstance(outcome, Pending):
            assert outcome.ticket == sent.position
            self.waiting[outcome.ticket] = owner
            return "waits"
        return tell(outcome)

    def ended(self) -> list[tuple[str, str]]:
        """Return whose waits have ended since, and how, in the order of their asking."""
        told = []
        for position, owner in list(self.waiting.items()):
            found = get_ticket(self.log.store, position)
            assert found is not None
            if found.outcome is not None:
                told.append((owner, tell(found.outcome)))
                del self.waiting[position]
        return told


def tell(outcome: Outcome) -> str:
    if isinstance(outcome, Rejected):
        holder = outcome.holder
        by = f" by {holder.owner}" if isinstance(holder, LockHolder) else ""
        return str(code(outcome)) + by
    assert isinstance(outcome, Applied)
    match outcome.result:
        case GrantedResult(fencing_token=token):
            return f"granted {token}"
        case ReleasedResult(released=released):
            return "released" if released else "released before"
        case LockAbandoned(cancelled=cancelled, released=released):
            return "cancelled" if cancelled else "given back" if released else "nothing"
        case WaitCancelled(cancelled=cancelled):
            return "cancelled" if cancelled else "not cancelled"
    raise AssertionError(outcome)


@pytest.mark.parametrize("name", SCENARIOS)
def test_it_goes_as_told(name: str) -> None:
    scenario = Scenario()
    lines = [line.strip() for line in SCENARIOS[name].strip().splitlines()]
    told = []
    for line in lines:
        step = line.partition("->")[0].strip()
        answer = scenario.play(step)
        told.append(" ".join(f"{step} -> {answer}".split()) if answer else step)
    assert told == [" ".join(line.split()) for line in lines]


# What is answered, in full


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


# Bounds


def test_a_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "GREATEST_QUEUE", 2)
    log = Log()
    log.do(acquire(owner="holder"))
    for owner in "ab":
        ticket(log.do(acquire(owner=owner, wait_ms=9)))
    assert code(log.do(acquire(owner="c", wait_ms=9))) is RejectionCode.LOCK_QUEUE_FULL
    log.do(release(1, "holder"))
    ticket(log.do(acquire(owner="c", wait_ms=9)))


def test_all_queues_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "GREATEST_WAITS", 1)
    log = Log()
    for name in "lm":
        log.do(acquire(name, "holder"))
    ticket(log.do(acquire("l", "a", wait_ms=9)))
    assert code(log.do(acquire("m", "a", wait_ms=9))) is RejectionCode.LOCK_QUEUE_FULL
    assert log.machine.lock_wait_count == 1


def test_locks_are_bounded_and_each_that_is_forgotten_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(locks, "GREATEST_LOCKS", 2)
    log = Log()
    for name in "lm":
        log.do(acquire(name, ttl_ms=50))
    assert code(log.do(acquire("n"))) is RejectionCode.LOCK_TABLE_FULL
    assert granted(log.do(acquire("l"))).fencing_token == 1
    log.do(release(1))
    assert granted(log.do(acquire("l"))).fencing_token == 3
    log.wait(50)
    log.fire_due()
    assert log.machine.lock_count == 1
    assert granted(log.do(acquire("n"))).fencing_token == 4


def test_so_many_share_and_the_next_waits_for_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "GREATEST_SHARED", 2)
    log = Log()
    log.do(acquire(owner="a"))
    waiting = [
        ticket(log.do(acquire(owner=owner, mode="SHARED", wait_ms=9_000))) for owner in "bcd"
    ]
    log.do(release(1, "a"))
    outcomes = [get_ticket(log.store, each) for each in waiting]
    assert [each is not None and each.outcome is not None for each in outcomes] == [
        True,
        True,
        False,
    ]
    assert code(log.do(acquire(owner="e", mode="SHARED"))) is RejectionCode.LOCK_HELD
    log.do(release(2, "b"))
    last = get_ticket(log.store, waiting[2])
    assert last is not None
    assert granted(last.outcome).fencing_token == 4


def test_a_sharer_whose_lease_is_over_makes_room_for_one_who_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(locks, "GREATEST_SHARED", 2)
    log = Log()
    log.do(acquire(owner="a", mode="SHARED"))
    log.do(acquire(owner="b", mode="SHARED", ttl_ms=10))
    waiting = ticket(log.do(acquire(owner="c", mode="SHARED", wait_ms=9_000)))
    log.wait(10)
    assert code(log.do(renew(2, "b"))) is RejectionCode.FENCING_TOKEN_STALE
    found = get_ticket(log.store, waiting)
    assert found is not None
    assert granted(found.outcome).owner == "c"
    assert_locks_intact(log.store)


def test_nothing_is_left_of_a_lock_that_nobody_wants() -> None:
    log = Log()
    log.do(acquire(ttl_ms=1_000))
    log.do(acquire(owner="b", mode="SHARED", wait_ms=5_000, ttl_ms=10))
    log.do(acquire(owner="c", mode="SHARED", wait_ms=5_000, ttl_ms=10))
    for _ in range(200):
        log.wait(1_000)
        log.fire_due()
    for prefix in (b"K", b"W"):
        assert log.rows(prefix) == []
    assert (log.machine.lock_count, log.machine.lock_wait_count) == (0, 0)
    assert granted(log.do(acquire())).fencing_token == 4


# Tokens


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


# Watchers


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


# Queries


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


# Price


class CountingStore(MemoryStore):
    """Counts what an entry reads and writes of locks."""

    touched = 0

    def get(self, key: bytes) -> bytes | None:
        self.touched += 1
        return super().get(key)

    def put(self, key: bytes, value: bytes) -> None:
        self.touched += 1
        super().put(key, value)

    def delete(self, key: bytes) -> None:
        self.touched += 1
        super().delete(key)

    def scan(
        self, start: bytes, stop: bytes, *, limit: int, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        raise AssertionError("applying commands of locks scans nothing")


@pytest.mark.parametrize("mode", ["EXCLUSIVE", "SHARED"])
def test_no_length_of_the_queue_changes_the_price_of_an_operation(mode: str) -> None:
    prices = {}
    for length in (20, 2_000):
        log = Log()
        store = CountingStore()
        log.store, log.machine = store, Machine(store)
        log.do(acquire("l", "first", mode="SHARED"))
        log.do(acquire("l", "second", wait_ms=9_000))
        waiting = [
            ticket(log.do(acquire("l", f"w{at}", mode=mode, wait_ms=9_000))) for at in range(length)
        ]
        price = []
        steps = (
            acquire("l", "last", mode=mode, wait_ms=9_000),
            CancelWait(ticket=waiting[length // 2]),
            CancelWait(ticket=waiting[-1]),
            acquire("l", "x"),
            release(1, "first"),
            renew(2, "second"),
        )
        for command in steps:
            store.touched = 0
            log.do(command)
            price.append(store.touched)
        prices[length] = price
        assert get_ticket(store, waiting[0]) is not None
        assert result(log.do(release(2, "second"))) == ReleasedResult(
            name="l", owner="second", fencing_token=2, released=True
        )
    assert prices[20] == prices[2_000]


def test_a_list_of_rows_survives_any_removal() -> None:
    store = MemoryStore()
    writes = WriteBuffer(store)
    names = [bytes([number]) for number in range(1, 6)]
    for gone in ([2], [0], [4], [0, 1, 2], [4, 3], [1, 3], [0, 4], [0, 1, 2, 3, 4]):
        ends = EMPTY
        for name in names:
            ends = append(writes, b"p", ends, name, b"c" + name)
        for at in gone:
            ends = remove(writes, b"p", ends, names[at])
        left = [name for at, name in enumerate(names) if at not in gone]
        assert [name for name, _ in scan_list(writes, b"p", limit=9)] == left
        assert ends.count == len(left)
        assert (ends.first, ends.last) == ((left[0], left[-1]) if left else (b"", b""))
        ends = append(writes, b"p", ends, b"\x09", b"end")
        forward = []
        while ends.count:
            forward.append(ends.first)
            ends = remove(writes, b"p", ends, ends.first)
        assert forward == [*left, b"\x09"]
        assert scan_list(writes, b"p", limit=9) == []
    assert load_state(store).lock_count == 0
