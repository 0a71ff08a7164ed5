"""Locks against a model that is too simple to be wrong, over histories that Hypothesis draws.

The model has a list of holders and a list of waiters for each lock. What watchers are told is held
against it too: whoever follows the changes never sees two holders that may not be together.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from statemachine.change_log import read_changes
from statemachine.changes import LockExpired, LockGranted, LockReleased
from statemachine.commands import AbandonLock, AnyCommand, CancelWait, IdempotencyKey
from statemachine.idempotency import GREATEST_TTL_MS
from statemachine.lock_rows import get_lock, is_current
from statemachine.machine import Machine
from statemachine.memory_store import MemoryStore
from statemachine.outcomes import (
    Applied,
    LockAbandoned,
    Outcome,
    Pending,
    Position,
    Rejected,
)
from statemachine.outcomes import LockGranted as GrantedResult
from statemachine.outcomes import LockReleased as ReleasedResult
from statemachine.tickets import get_ticket
from statemachine.timers import due_timers
from tests.statemachine.building import Log, abandon_acquire, acquire, key, release, renew
from tests.statemachine.lock_invariants import assert_locks_intact

NAMES = ["l", "m"]
OWNERS = ["a", "b", "c", "d"]
RELEASE_KEPT_MS = 10_000

names = st.sampled_from(NAMES)
owners = st.sampled_from(OWNERS)
# Often equal, so that what is due together is due together.
durations_ms = st.sampled_from([10, 20, 50, 1_000])


@dataclass
class Holder:
    owner: str
    shared: bool
    token: int
    ttl_ms: int
    expires_ms: int
    unheard: Position | None


@dataclass
class Waiting:
    position: Position
    owner: str
    shared: bool
    ttl_ms: int
    deadline_ms: int


@dataclass
class ModelLock:
    holders: list[Holder] = field(default_factory=list)
    queue: list[Waiting] = field(default_factory=list)
    released: tuple[str, int, int] | None = None
    """Owner and token of the last release, and until when it is remembered."""


class Model:
    """What the rules say, without a thought for rows."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.token = 0
        self.locks = {name: ModelLock() for name in NAMES}
        self.ended: dict[Position, str] = {}

    def touch(self, name: str) -> ModelLock:
        """Let what is over be over, and whose turn has come have its turn."""
        lock = self.locks[name]
        lock.holders = [each for each in lock.holders if each.expires_ms > self.now_ms]
        if lock.released is not None and lock.released[2] <= self.now_ms:
            lock.released = None
        while lock.queue:
            head = lock.queue[0]
            told = self.take(lock, head.owner, head.shared, head.ttl_ms, head.position)
            if told is None:
                break
            lock.queue.pop(0)
            self.ended[head.position] = told
        return lock

    def take(
        self, lock: ModelLock, owner: str, shared: bool, ttl_ms: int, asked: Position
    ) -> str | None:
        """Return a grant, or None when the lock cannot be had now."""
        for held in lock.holders:
            if held.owner == owner and (shared or not held.shared):
                held.ttl_ms = max(held.ttl_ms, ttl_ms)
                held.expires_ms = self.now_ms + held.ttl_ms
                held.unheard = None
                return f"{held.token}"
        if lock.holders and not (shared and all(held.shared for held in lock.holders)):
            return None
        self.token += 1
        lock.released = None
        lock.holders.append(Holder(owner, shared, self.token, ttl_ms, self.now_ms + ttl_ms, asked))
        return f"{self.token}"

    def acquire(
        self, name: str, owner: str, shared: bool, ttl_ms: int, wait_ms: int, asked: Position
    ) -> str:
        lock = self.touch(name)
        own = [held for held in lock.holders if held.owner == owner]
        if own and own[0].shared and not shared:
            return "LOCK_UPGRADE_REFUSED"
        told = self.take(lock, owner, shared, ttl_ms, asked) if own or not lock.queue else None
        if told is None and wait_ms:
            lock.queue.append(Waiting(asked, owner, shared, ttl_ms, self.now_ms + wait_ms))
            told = "waits"
        return told or "LOCK_HELD"

    def renew(self, name: str, owner: str, token: int) -> str:
        for held in self.touch(name).holders:
            if (held.owner, held.token) == (owner, token):
                held.expires_ms = self.now_ms + held.ttl_ms
                held.unheard = None
                return f"{token}"
        return "FENCING_TOKEN_STALE"

    def release(self, name: str, owner: str, token: int) -> str:
        lock = self.touch(name)
        if any((held.owner, held.token) == (owner, token) for held in lock.holders):
            lock.holders = [held for held in lock.holders if held.token != token]
            lock.released = (owner, token, self.now_ms + RELEASE_KEPT_MS)
            self.touch(name)
            return "True"
        if lock.released is not None and lock.released[:2] == (owner, token):
            return "False"
        return "FENCING_TOKEN_STALE"

    def cancel(self, position: Position) -> bool:
        for name, lock in self.locks.items():
            for waiting in lock.queue:
                if waiting.position == position:
                    lock.queue.remove(waiting)
                    self.ended[position] = "LOCK_HELD"
                    self.touch(name)
                    return True
        return False

    def abandon(self, name: str, owner: str, asked: Position) -> str:
        if self.cancel(asked):
            return "(True, False)"
        lock = self.touch(name)
        unheard = [h for h in lock.holders if (h.owner, h.unheard) == (owner, asked)]
        lock.holders = [held for held in lock.holders if held not in unheard]
        self.touch(name)
        return f"(False, {bool(unheard)})"

    def fire(self) -> None:
        """Do all that is due, the first due first; of equals, waits end before leases."""
        due: list[tuple[int, int, tuple[object, ...]]] = []
        for name, lock in self.locks.items():
            due += [(each.deadline_ms, 3, (each.position,)) for each in lock.queue]
            due += [(each.expires_ms, 10, (name, each.token)) for each in lock.holders]
        for due_ms, kind, what in sorted(due):
            if due_ms > self.now_ms:
                continue
            if kind == 3:
                (position,) = what
                assert isinstance(position, Position)
                self.cancel(position)
            else:
                self.touch(str(what[0]))
        for name in NAMES:
            self.touch(name)


def told(outcome: Outcome) -> str:
    if isinstance(outcome, Rejected):
        return outcome.code.value
    if isinstance(outcome, Pending):
        return "waits"
    assert isinstance(outcome, Applied)
    match outcome.result:
        case GrantedResult(fencing_token=token):
            return f"{token}"
        case ReleasedResult(released=released):
            return f"{released}"
        case LockAbandoned(cancelled=cancelled, released=released):
            return f"({cancelled}, {released})"
    raise AssertionError(outcome)


class LocksAgainstModel(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.log = Log()
        self.model = Model()
        self.asked: list[tuple[str, str, Position]] = []
        """Lock, owner and position of each acquire."""
        self.waited: list[Position] = []
        self.seen = Position(0, 0)
        self.watched: dict[str, dict[int, str]] = {name: {} for name in NAMES}
        """What one who watches believes: the mode behind each token, by lock."""
        self.greatest_token = 0

    def do(self, command: AnyCommand) -> str:
        return told(self.log.do(command))

    @rule(
        name=names,
        owner=owners,
        shared=st.booleans(),
        ttl_ms=durations_ms,
        wait_ms=st.sampled_from([0, 10, 50, 1_000]),
    )
    def ask(self, name: str, owner: str, shared: bool, ttl_ms: int, wait_ms: int) -> None:
        position = Position(self.log.machine.applied_index + 1, 0)
        mode = "SHARED" if shared else "EXCLUSIVE"
        command = acquire(name, owner, mode=mode, ttl_ms=ttl_ms, wait_ms=wait_ms)
        sent = self.log.send(command, idempotency=self.key_of(len(self.asked)))
        found = told(sent.outcomes[0])
        assert found == self.model.acquire(name, owner, shared, ttl_ms, wait_ms, position)
        self.asked.append((name, owner, position))
        if found == "waits":
            self.waited.append(position)

    @rule(name=names, owner=owners, age=st.integers(0, 3))
    def renew_one(self, name: str, owner: str, age: int) -> None:
        token = self.model.token - age
        assert self.do(renew(token, owner, name)) == self.model.renew(name, owner, token)

    @rule(name=names, owner=owners, age=st.integers(0, 3))
    def release_one(self, name: str, owner: str, age: int) -> None:
        token = self.model.token - age
        assert self.do(release(token, owner, name)) == self.model.release(name, owner, token)

    @rule(name=names, choice=st.integers(0, 3))
    def holder_releases(self, name: str, choice: int) -> None:
        """Guessing seldom finds a holder."""
        holders = self.model.locks[name].holders
        if holders:
            held = holders[choice % len(holders)]
            owner, token = held.owner, held.token
            assert self.do(release(token, owner, name)) == self.model.release(name, owner, token)

    @precondition(lambda self: self.waited)
    @rule(age=st.integers(1, 5))
    def cancel_one(self, age: int) -> None:
        position = self.waited[-min(age, len(self.waited))]
        self.log.do(CancelWait(ticket=position))
        self.model.cancel(position)

    def key_of(self, number: int) -> IdempotencyKey:
        return key(f"{number}", ttl_ms=GREATEST_TTL_MS)

    @precondition(lambda self: self.asked)
    @rule(age=st.integers(1, 5), by_key=st.booleans())
    def abandon_one(self, age: int, by_key: bool) -> None:
        number = len(self.asked) - min(age, len(self.asked))
        name, owner, position = self.asked[number]
        abandoned = (
            abandon_acquire(f"{number}", owner, name)
            if by_key
            else AbandonLock(name=name, owner=owner, acquire=position)
        )
        assert self.do(abandoned) == self.model.abandon(name, owner, position)

    @rule(name=names, owner=owners)
    def abandon_one_that_is_still_to_come(self, name: str, owner: str) -> None:
        """It is refused when it comes, and leaves no trace in the lock."""
        number = len(self.asked)
        self.do(abandon_acquire(f"{number}", owner, name))
        late = self.log.send(acquire(name, owner, wait_ms=50), idempotency=self.key_of(number))
        assert told(late.outcomes[0]) == "REQUEST_ABANDONED"
        self.asked.append((name, owner, late.position))

    @rule(duration_ms=st.sampled_from([1, 9, 10, 40, 1_000, RELEASE_KEPT_MS]), fires=st.booleans())
    def time_passes(self, duration_ms: int, fires: bool) -> None:
        """What is due is done at once, or later, as by a leader that is busy."""
        self.log.wait(duration_ms)
        self.model.now_ms += duration_ms
        if fires:
            while due_timers(self.log.store, self.log.elapsed_ms):
                self.log.fire_due()
            self.model.fire()

    @rule()
    def snapshot(self) -> None:
        store = MemoryStore(self.log.store.items())
        self.log.store, self.log.machine = store, Machine(store)

    @invariant()
    def waits_end_as_the_model_says(self) -> None:
        for position in self.waited:
            ticket = get_ticket(self.log.store, position)
            if ticket is None:
                continue
            ended = None if ticket.outcome is None else told(ticket.outcome)
            assert ended == self.model.ended.get(position)

    @invariant()
    def holders_and_queues_are_those_of_the_model(self) -> None:
        assert_locks_intact(self.log.store)
        now_ms = self.model.now_ms
        offset_ms = self.log.wall_ms - self.log.elapsed_ms
        self.log.tick()
        for name, lock in self.model.locks.items():
            found = get_lock(self.log.store, name, limit=100)
            holders = [
                (each.owner, each.mode == "SHARED", each.fencing_token, each.expires_at_ms)
                for each in found.holders
                if each.expires_at_ms > now_ms + offset_ms
            ]
            assert holders == [
                (each.owner, each.shared, each.token, each.expires_ms + offset_ms)
                for each in lock.holders
                if each.expires_ms > now_ms
            ]
            waiting = [(each.owner, each.shared) for each in found.waiters]
            assert waiting == [(each.owner, each.shared) for each in lock.queue]
            for _, _, token, _ in holders:
                assert is_current(self.log.store, name, token)

    @invariant()
    def watchers_never_see_two_holders_that_may_not_be_together(self) -> None:
        for recorded in read_changes(self.log.store, self.seen, limit=1_000):
            self.seen = recorded.position
            for change in recorded.changes:
                if isinstance(change, LockGranted):
                    assert change.fencing_token > self.greatest_token
                    self.greatest_token = change.fencing_token
                    self.watched[change.name][change.fencing_token] = change.mode
                elif isinstance(change, LockReleased | LockExpired):
                    assert self.watched[change.name].pop(change.fencing_token) == change.mode
                for modes in self.watched.values():
                    assert len(modes) <= 1 or set(modes.values()) == {"SHARED"}
        for name, modes in self.watched.items():
            found = get_lock(self.log.store, name, limit=100)
            assert {each.fencing_token: each.mode for each in found.holders} == modes

    @invariant()
    def a_free_lock_is_waited_for_by_nobody(self) -> None:
        for name in NAMES:
            found = get_lock(self.log.store, name, limit=100)
            assert found.holders or not found.waiters


LocksAgainstModel.TestCase.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None
)
TestLocksAgainstModel = LocksAgainstModel.TestCase
