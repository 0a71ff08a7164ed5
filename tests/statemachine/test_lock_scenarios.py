"""Locks as their users live through them, told step by step."""

from __future__ import annotations

import re

import pytest

from statemachine.commands import AbandonLock, AnyCommand, CancelWait
from statemachine.outcomes import (
    Applied,
    LockAbandoned,
    LockHolder,
    Outcome,
    Pending,
    Position,
    Rejected,
    WaitCancelled,
)
from statemachine.outcomes import LockGranted as GrantedResult
from statemachine.outcomes import (
    LockReleased as ReleasedResult,
)
from statemachine.tickets import get_ticket
from tests.statemachine.building import (
    Log,
    acquire,
    code,
    release,
    renew,
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
