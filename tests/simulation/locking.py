"""Clients of locks: they wait, hold, renew, verify, release, forget, and go away.

Each acquire has an owner of its own. Leases are short, so that some end before they are renewed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from node.consensus.engine import Engine
from scripts.tidelock_scripts.chaos.history import Ending
from scripts.tidelock_scripts.chaos.lock_checks import (
    check_grants_in_log,
    check_lock_log,
    check_locks,
)
from scripts.tidelock_scripts.chaos.lock_history import (
    LockAction,
    LockCall,
    LockChange,
    LockHistory,
)
from statemachine import changes
from statemachine.commands import AbandonLock, AcquireLock, ReleaseLock, RenewLock
from statemachine.lock_rows import EXCLUSIVE, SHARED, is_current, list_locks
from statemachine.outcomes import Applied, LockGranted, Position, Rejected, RejectionCode
from statemachine.timers import is_armed
from tests.simulation.calls import TIMEOUT_S, Call, Callers, nanoseconds
from tests.simulation.clients import SteadyClients, require_none
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.recorder import Recorder
from tests.simulation.storage import SimulatedStorage
from tests.simulation.world import Violation
from tests.statemachine.lock_invariants import assert_locks_intact

LOCKS = 3

CLOCK_ERROR = 0.03
"""Clocks of simulated nodes drift by 2%."""

_TTLS_MS = (200, 500, 1_000, 2_000)
_WAITS_MS = (0, 0, 800, 3_000, 6_000)
_HELD_S = 0.4
"""In the mean."""


@dataclass(frozen=True, slots=True)
class _Hold:
    """A lease as its owner knows it."""

    lock: str
    owner: str
    shared: bool
    ttl_ms: int
    token: int


class LockClients(SteadyClients):
    """`tests.simulation.clients.Clients` of locks."""

    rate_per_s = 5.0

    def __init__(self, cluster: SimulatedCluster, callers: Callers, recorder: Recorder) -> None:
        super().__init__(cluster, callers)
        self._recorder = recorder
        self._numbers = itertools.count()
        self._calls: list[Call] = []
        self.history = LockHistory()

    # --- calls

    def _begin(self) -> None:
        rng = self._world.rng
        hold = _Hold(
            lock=f"lock-{rng.randrange(LOCKS)}",
            owner=f"o{next(self._numbers)}",
            shared=rng.random() < 0.3,
            ttl_ms=rng.choice(_TTLS_MS),
            token=0,
        )
        self._acquire(hold, rng.choice(_WAITS_MS), again=False)

    def _acquire(self, wanted: _Hold, wait_ms: int, *, again: bool) -> None:
        rng = self._world.rng
        command = AcquireLock(
            name=wanted.lock,
            owner=wanted.owner,
            mode=SHARED if wanted.shared else EXCLUSIVE,
            ttl_ms=wanted.ttl_ms,
            wait_ms=wait_ms,
        )

        def undo(position: Position) -> AbandonLock:
            return AbandonLock(name=wanted.lock, owner=wanted.owner, acquire=position)

        def ended(call: Call) -> None:
            granted = call.result if isinstance(call.result, LockGranted) else None
            token = None if granted is None else granted.fencing_token
            self._note(
                LockAction.ACQUIRE, wanted, call, token=token, position=call.position, again=again
            )
            if granted is not None and not again:
                self._hold(
                    _Hold(
                        wanted.lock,
                        wanted.owner,
                        wanted.shared,
                        wanted.ttl_ms,
                        granted.fencing_token,
                    )
                )

        wait_s = wait_ms / 1000
        call = self._callers.call(
            command, ended, keyed=rng.random() < 0.5, wait_s=wait_s, undo=undo
        )
        self._calls.append(call)
        if call.key is None and wait_ms and rng.random() < 0.2:
            after_s = rng.uniform(0.0, wait_s)
            self._world.at(after_s, lambda: self._callers.hang_up(call, ended))

    def _hold(self, hold: _Hold) -> None:
        """Use the lock for a while; what is done with it afterwards must fail."""
        rng, at = self._world.rng, self._world.at
        held_s = rng.expovariate(1 / _HELD_S)
        for _ in range(rng.choice((1, 1, 2))):
            at(rng.uniform(0.0, 2 * held_s + 0.1), lambda: self._verify(hold))
        if rng.random() < 0.4:
            at(rng.uniform(0.0, 1.5 * held_s), lambda: self._renew(hold))
        if rng.random() < 0.1:
            # Before it releases: afterwards it would be an owner like any other.
            at(rng.uniform(0.0, held_s) / 2, lambda: self._acquire(hold, 0, again=True))
        elif rng.random() < 0.85:
            at(held_s, lambda: self._release(hold))

    def _renew(self, hold: _Hold) -> None:
        command = RenewLock(name=hold.lock, owner=hold.owner, fencing_token=hold.token)
        self._calls.append(
            self._callers.call(
                command,
                lambda call: self._note(LockAction.RENEW, hold, call, token=hold.token),
                keyed=self._world.rng.random() < 0.5,
            )
        )

    def _release(self, hold: _Hold) -> None:
        command = ReleaseLock(name=hold.lock, owner=hold.owner, fencing_token=hold.token)
        self._calls.append(
            self._callers.call(
                command,
                lambda call: self._note(LockAction.RELEASE, hold, call, token=hold.token),
                keyed=self._world.rng.random() < 0.5,
            )
        )

    def _verify(self, hold: _Hold) -> None:
        """As a resource does: look at a state that is no older than the question."""
        name = self._world.rng.choice(self._cluster.names)
        engine = self._cluster.engine(name)
        if engine is None:
            return
        begun_ns = nanoseconds(self._world.now)

        def ready(error: Exception | None) -> None:
            if error is not None:
                return
            valid = is_current(engine.machine_store, hold.lock, hold.token)
            self.counters[f"locks_verified_{valid}"] += 1
            self.history.calls.append(
                LockCall(
                    LockAction.VERIFY,
                    hold.lock,
                    hold.owner,
                    begun_ns,
                    nanoseconds(self._world.now),
                    Ending.ACKNOWLEDGED,
                    shared=hold.shared,
                    token=hold.token,
                    valid=valid,
                )
            )

        self._cluster.run_as(name, lambda: engine.read(engine.now() + TIMEOUT_S, ready))

    def _note(
        self,
        action: LockAction,
        hold: _Hold,
        call: Call,
        *,
        token: int | None,
        position: Position | None = None,
        again: bool = False,
    ) -> None:
        outcome, ended_ns = call.outcome, call.ended_ns
        assert ended_ns is not None
        ending = Ending.UNKNOWN
        if isinstance(outcome, Applied):
            ending = Ending.ACKNOWLEDGED
        elif isinstance(outcome, Rejected) and (
            action is LockAction.ACQUIRE or outcome.code is RejectionCode.FENCING_TOKEN_STALE
        ):
            ending = Ending.REFUSED
        self.counters[f"locks_{action.value}_{ending.value}"] += 1
        self.history.calls.append(
            LockCall(
                action,
                hold.lock,
                hold.owner,
                call.begun_ns,
                ended_ns,
                ending,
                shared=hold.shared,
                ttl_ms=hold.ttl_ms,
                token=token,
                position=None if position is None else (position.entry, position.place),
                again=again,
            )
        )

    # --- the end

    def at_rest(self) -> bool:
        """Every wait has ended and so has every lease, on all nodes."""
        return not any(call.ended_at is None for call in self._calls) and all(
            engine.machine.lock_wait_count == 0
            and not list_locks(engine.machine_store, cursor=None, limit=1)[0]
            for engine in self._cluster.members()
        )

    def check(self) -> None:
        log = lock_changes(self._recorder)
        require_none(
            [
                *check_locks(self.history, clock_error=CLOCK_ERROR),
                *check_lock_log(log, whole=True),
                *check_grants_in_log(self.history.calls, log),
            ]
        )
        for engine in self._cluster.members():
            require_intact_locks(engine)

    def seen(self) -> Iterable[object]:
        return self.history.calls


def lock_changes(recorder: Recorder) -> list[LockChange]:
    kinds = (changes.LockGranted, changes.LockReleased, changes.LockExpired)
    return [
        LockChange(
            change.kind.removeprefix("lock."),
            change.name,
            change.owner,
            change.mode == SHARED,
            change.fencing_token,
        )
        for recorded in recorder.log
        for change in recorded.changes
        if isinstance(change, kinds)
    ]


def require_intact_locks(engine: Engine) -> None:
    """Raises: Violation: rows of locks on this node do not belong together."""
    storage = engine.machine_store
    assert isinstance(storage, SimulatedStorage)
    try:
        for due_ms, kind, timer_id in assert_locks_intact(storage.rows):
            assert is_armed(storage.rows, due_ms, kind, timer_id)
    except AssertionError as error:
        raise Violation(f"{engine.identity.node_id}: rows of locks: {error!r}") from error
