"""Did the locks keep what they promise, as far as clients can tell?

Fencing tokens are given out in the order of the log, over all locks. So they date what clients
cannot see: a grant came after the beginning of every call that got a lower token, and before the
end of every call that got a higher one. With that, leases are held against real time.
"""

from __future__ import annotations

import bisect
import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scripts.tidelock_scripts.chaos.checkers import Violation
from scripts.tidelock_scripts.chaos.history import Ending
from scripts.tidelock_scripts.chaos.linearizability import Operation, Verdict, check_history
from scripts.tidelock_scripts.chaos.lock_history import (
    LockAction,
    LockCall,
    LockChange,
    LockHistory,
    QueueSeen,
)

_NS_OF_MS = 1_000_000
_ROUNDING_MS = 5
"""Leases are counted in whole milliseconds, at several places."""


def check_locks(history: LockHistory, *, clock_error: float) -> list[Violation]:
    """Check all that clients of locks saw.

    `clock_error` is the share by which a leader's clock may run faster than the one that the
    history was written by: so much earlier a lease may end.
    """
    calls = history.calls
    return [
        *check_tokens(calls),
        *check_turns(calls, history.queues),
        *check_leases(calls, clock_error),
        *check_locks_by_search(calls),
    ]


def check_tokens(calls: Iterable[LockCall]) -> list[Violation]:
    """A token is given once, to one owner, for one lock and in one mode; and rises in real time."""
    violations = []
    given: dict[int, LockCall] = {}
    for call in _grants(calls):
        first = given.setdefault(_token(call), call)
        if (first.lock, first.owner) != (call.lock, call.owner):
            violations.append(Violation("no token twice", f"{first} and {call}"))
    fresh = [call for call in _grants(calls) if not call.again]
    ended = sorted(fresh, key=lambda call: call.ended_ns)
    greatest: LockCall | None = None
    position = 0
    for call in sorted(fresh, key=lambda call: call.begun_ns):
        while ended[position].ended_ns < call.begun_ns:
            if greatest is None or _token(ended[position]) > _token(greatest):
                greatest = ended[position]
            position += 1
        if greatest is not None and _token(call) < _token(greatest):
            detail = f"{call} began after {greatest} had ended"
            violations.append(Violation("tokens follow real time", detail))
    return violations


def check_turns(calls: Iterable[LockCall], queues: Iterable[QueueSeen]) -> list[Violation]:
    """Who asked first is served first; whoever gave up does not count."""
    violations = []
    placed: dict[str, list[LockCall]] = defaultdict(list)
    token_of: dict[str, int] = {}
    for call in _grants(calls):
        if not call.again:
            token_of[call.owner] = _token(call)
            if call.position is not None:
                placed[call.lock].append(call)
    for asked in placed.values():
        asked.sort(key=lambda call: call.position or (0, 0))
        for earlier, later in itertools.pairwise(asked):
            if _token(later) <= _token(earlier):
                detail = f"{later} was served before {earlier}"
                violations.append(Violation("turns in the order of asking", detail))
    for seen in queues:
        tokens = [token_of[owner] for owner in seen.owners if owner in token_of]
        if tokens != sorted(tokens):
            detail = f"{seen} were served in another order: {tokens}"
            violations.append(Violation("turns in the order of asking", detail))
    return violations


@dataclass(slots=True)
class _Lease:
    """What clients know of one token."""

    call: LockCall
    granted_after_ns: int
    granted_before_ns: int
    known_ns: int
    """From here on the owner knew that it has it."""
    stands_until_ns: int = 0
    """It cannot have ended by itself before."""
    given_up_ns: int | None = None
    """The owner began to release it."""
    released_ns: int | None = None
    """A release of it was answered."""

    def stands_at(self, at_ns: int) -> bool:
        """Tell whether it must still stand."""
        return at_ns < self.stands_until_ns and (
            self.given_up_ns is None or at_ns < self.given_up_ns
        )

    def excludes(self, other: _Lease) -> bool:
        return not (self.call.shared and other.call.shared)


def check_leases(calls: Sequence[LockCall], clock_error: float) -> list[Violation]:
    """A lease ends at its time, not earlier; nobody else is granted what it excludes meanwhile.

    And whatever a later grant has shown to be over is over: a token that was overtaken verifies
    nothing and renews nothing.
    """
    leases = _leases(calls, clock_error)
    by_lock: dict[str, list[_Lease]] = defaultdict(list)
    for token in sorted(leases):
        by_lock[leases[token].call.lock].append(leases[token])
    violations = []
    for of_lock in by_lock.values():
        violations.extend(_granted_too_early(of_lock))
    overtaken = {
        lock: _Overtaken([lease for lease in of_lock if not lease.call.shared], of_lock)
        for lock, of_lock in by_lock.items()
    }
    for call in calls:
        lease = leases.get(call.token) if call.token is not None else None
        if lease is None or call.action is LockAction.ACQUIRE:
            continue
        confirmed = call.valid if call.action is LockAction.VERIFY else call.acknowledged
        refused = not confirmed and call.ending is not Ending.UNKNOWN
        if refused and lease.known_ns <= call.begun_ns and lease.stands_at(call.ended_ns):
            detail = f"{call}, though the lease of {lease.call} stood"
            violations.append(Violation("a lease lasts", detail))
        if confirmed and call.action is not LockAction.RELEASE:
            by = overtaken[lease.call.lock].by(lease, call.begun_ns)
            if by is not None:
                detail = f"{call} was confirmed after {by}"
                violations.append(Violation("no stale token is accepted", detail))
    return violations


def _leases(calls: Sequence[LockCall], clock_error: float) -> dict[int, _Lease]:
    first: dict[int, LockCall] = {}
    for call in sorted(_grants(calls), key=lambda call: call.ended_ns):
        first.setdefault(_token(call), call)
    leases: dict[int, _Lease] = {}
    after_ns = 0
    for token in sorted(first):
        call = first[token]
        if not call.again:
            after_ns = max(after_ns, call.begun_ns)
        leases[token] = _Lease(call, after_ns, call.ended_ns, call.ended_ns)
    before_ns = None
    for token in sorted(first, reverse=True):
        ended_ns = first[token].ended_ns
        before_ns = ended_ns if before_ns is None else min(before_ns, ended_ns)
        leases[token].granted_before_ns = before_ns
    for call in calls:
        lease = leases.get(call.token) if call.token is not None else None
        if lease is None:
            continue
        if call.action is LockAction.RELEASE:
            given_up_ns = lease.given_up_ns
            lease.given_up_ns = (
                call.begun_ns if given_up_ns is None else min(given_up_ns, call.begun_ns)
            )
            if call.acknowledged:
                released_ns = lease.released_ns
                lease.released_ns = (
                    call.ended_ns if released_ns is None else min(released_ns, call.ended_ns)
                )
        elif call.acknowledged and call.action is not LockAction.VERIFY:
            from_ns = max(call.begun_ns, lease.granted_after_ns)
            lasts_ns = int(call.ttl_ms * (1 - clock_error) - _ROUNDING_MS) * _NS_OF_MS
            lease.stands_until_ns = max(lease.stands_until_ns, from_ns + lasts_ns)
    return leases


def _granted_too_early(of_lock: Sequence[_Lease]) -> list[Violation]:
    """Compare each grant with those before it whose lease may still stand."""
    violations: list[Violation] = []
    standing: list[_Lease] = []
    for lease in of_lock:
        # Those before it are known to have been granted before it, since their tokens are lower.
        at_ns = lease.granted_before_ns
        standing = [other for other in standing if other.stands_at(at_ns)]
        violations.extend(
            Violation("one holder at a time", f"{lease.call} was granted while {other.call} stood")
            for other in standing
            if lease.excludes(other)
        )
        standing.append(lease)
    return violations


class _Overtaken:
    """Finds what shows that a lease is over."""

    def __init__(self, exclusive: Sequence[_Lease], every: Sequence[_Lease]) -> None:
        self._exclusive = _Known(exclusive)
        self._every = _Known(every)

    def by(self, lease: _Lease, before_ns: int) -> LockCall | None:
        """Return a later grant known before then that `lease` excludes, or its own release."""
        if lease.released_ns is not None and lease.released_ns < before_ns:
            return lease.call
        known = (self._exclusive if lease.call.shared else self._every).greatest(before_ns)
        return known.call if known is not None and _token(known.call) > _token(lease.call) else None


class _Known:
    """The greatest token that is known to have been granted by a given time."""

    def __init__(self, leases: Sequence[_Lease]) -> None:
        by_time = sorted(leases, key=lambda lease: lease.granted_before_ns)
        self._times = [lease.granted_before_ns for lease in by_time]
        self._greatest: list[_Lease] = []
        for lease in by_time:
            top = self._greatest[-1] if self._greatest else lease
            self._greatest.append(lease if _token(lease.call) >= _token(top.call) else top)

    def greatest(self, before_ns: int) -> _Lease | None:
        count = bisect.bisect_left(self._times, before_ns)
        return self._greatest[count - 1] if count else None


def check_lock_log(changes: Iterable[LockChange], *, whole: bool) -> list[Violation]:
    """The log itself never has two holders that may not be together, and no token is left out.

    `whole`: it begins with the first grant that there ever was.
    """
    violations = []
    live: dict[str, dict[int, LockChange]] = defaultdict(dict)
    last: int | None = 0 if whole else None
    for change in changes:
        holders = live[change.lock]
        if change.what != "granted":
            begun = holders.pop(change.token, None)
            if begun is None and whole:
                violations.append(Violation("a lease ends once", f"{change} ends no lease"))
            elif begun is not None and begun.owner != change.owner:
                violations.append(Violation("a lease ends once", f"{change} ends {begun}"))
            continue
        if last is not None and change.token != last + 1:
            detail = f"{change} follows token {last}"
            violations.append(Violation("tokens rise by one from grant to grant", detail))
        last = change.token
        violations.extend(
            Violation("one holder at a time", f"{change} while {other} stood in the log")
            for other in holders.values()
            if not (change.shared and other.shared)
        )
        holders[change.token] = change
    return violations


def check_grants_in_log(
    calls: Iterable[LockCall], changes: Iterable[LockChange]
) -> list[Violation]:
    """What clients were granted is what the log says was granted."""
    logged = {
        change.token: (change.lock, change.owner, change.shared)
        for change in changes
        if change.what == "granted"
    }
    return [
        Violation("granted as the log says", f"{call}, the log says {logged.get(_token(call))}")
        for call in _grants(calls)
        if not call.again and logged.get(_token(call)) != (call.lock, call.owner, call.shared)
    ]


@dataclass(frozen=True, slots=True)
class _Answered:
    """An answer, for the search: a grant, or whether a token is that of a lease."""

    token: int
    shared: bool
    granted: bool
    confirmed: bool
    ends: bool


class FencedLock:
    """The sequential object behind a lock, without its time: a lease may end at any moment."""

    initial: tuple[int, bool, frozenset[int]] = (0, False, frozenset())
    """The greatest token granted, whether the holders share it, and whose leases stand."""

    def step(
        self, state: tuple[int, bool, frozenset[int]], action: _Answered
    ) -> tuple[int, bool, frozenset[int]] | None:
        greatest, shared, live = state
        if action.granted:
            if action.token in live:  # its owner asked again
                return state
            if action.token <= greatest:
                return None
            together = live if shared and action.shared else frozenset()
            return action.token, action.shared, together | {action.token}
        if action.confirmed and action.token not in live:
            return None
        if action.ends or not action.confirmed:
            return greatest, shared, live - {action.token}
        return state


def check_locks_by_search(calls: Iterable[LockCall]) -> list[Violation]:
    """Search an order of all answers on each lock that real time allows.

    What nobody was told can only end a lease, which may end at any moment here; it is left out.
    """
    granted = {_token(call) for call in _grants(calls)}
    operations = []
    for call in calls:
        if call.token is None or call.token not in granted or call.ending is Ending.UNKNOWN:
            continue
        is_grant = call.action is LockAction.ACQUIRE
        confirmed = call.valid if call.action is LockAction.VERIFY else call.acknowledged
        action = _Answered(
            token=call.token,
            shared=call.shared,
            granted=is_grant,
            # A release that is answered again confirms nothing: it was done before.
            confirmed=bool(confirmed) and call.action is not LockAction.RELEASE,
            ends=call.action is LockAction.RELEASE,
        )
        operations.append(Operation(call.lock, call.begun_ns, call.ended_ns, action))
    return [
        Violation(
            "linearizable by search",
            f"lock {found.key}, {found.operations} operations, {found.verdict.value}: "
            f"{found.reason}",
        )
        for found in check_history(operations, FencedLock())
        if found.verdict is not Verdict.LINEARIZABLE
    ]


def _grants(calls: Iterable[LockCall]) -> list[LockCall]:
    return [
        call
        for call in calls
        if call.action is LockAction.ACQUIRE and call.acknowledged and call.token is not None
    ]


def _token(call: LockCall) -> int:
    assert call.token is not None
    return call.token
