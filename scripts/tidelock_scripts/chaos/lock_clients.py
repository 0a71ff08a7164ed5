"""Clients that wait for locks, hold, renew and verify them, give them back or forget to."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from scripts.tidelock_scripts.chaos.checkers import Violation
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
    QueueSeen,
)
from scripts.tidelock_scripts.chaos.nemesis import Scene
from scripts.tidelock_scripts.chaos.round_clients import (
    ATTEMPT_TIMEOUT_S,
    Names,
    Round,
    RoundClients,
    Told,
    of_kinds,
)
from scripts.tidelock_scripts.chaos.watch_checks import Message
from scripts.tidelock_scripts.events import LOCKS_PATH

_TTLS_MS = (300, 600, 1_500)
_WAITS_MS = (0, 1_000, 4_000)
_LONGEST_HELD_S = 0.4
_REST_WITHIN_S = 20.0
_STALE = ("FENCING_TOKEN_STALE",)


@dataclass(frozen=True, slots=True)
class _Hold:
    lock: str
    owner: str
    shared: bool
    ttl_ms: int
    token: int


class LockClients(RoundClients):
    """Each acquire has an owner of its own; leases are short, so that some end by themselves."""

    what = "locks"
    pause_s = 0.02

    def __init__(self, of_round: Round, clients_a_node: int) -> None:
        super().__init__(of_round, clients_a_node)
        self._locks = Names(f"{of_round.name}-l", 2, operations=60)
        self._seen = LockHistory()

    async def operate(self, unique: str, via: str, chance: random.Random) -> None:
        lock, ttl_ms = self._locks.choose(chance), chance.choice(_TTLS_MS)
        wait_ms, shared = chance.choice(_WAITS_MS), chance.random() < 0.3
        wanted = _Hold(lock, unique, shared, ttl_ms, 0)
        told = await self.post(
            f"{LOCKS_PATH}/{lock}/acquire",
            {
                "owner": unique,
                "ttlMs": ttl_ms,
                "waitMs": wait_ms,
                "mode": "SHARED" if shared else "EXCLUSIVE",
            },
            via=via,
            retry=chance.random() < 0.5,
            refusals=("LOCK_HELD",),
            # The node is asked for less time than the client gives it: the wait fits in.
            attempt_timeout_s=ATTEMPT_TIMEOUT_S + wait_ms / 1000 * 1.2,
        )
        token = told.body["fencingToken"] if told.acknowledged else None
        self._note(LockAction.ACQUIRE, wanted, told, token)
        if chance.random() < 0.3:
            await self._look(lock, chance)
        if token is not None:
            await self._use(_Hold(lock, unique, shared, ttl_ms, token), via, chance)

    async def _use(self, hold: _Hold, via: str, chance: random.Random) -> None:
        await self._verify(hold, chance)
        await asyncio.sleep(chance.uniform(0.0, _LONGEST_HELD_S))
        if chance.random() < 0.4:
            await self._hold_call(LockAction.RENEW, hold, via, chance)
            await self._verify(hold, chance)
        if chance.random() < 0.85:
            await self._hold_call(LockAction.RELEASE, hold, via, chance)
        if chance.random() < 0.5:
            await self._verify(hold, chance)

    async def _hold_call(
        self, action: LockAction, hold: _Hold, via: str, chance: random.Random
    ) -> None:
        told = await self.post(
            f"{LOCKS_PATH}/{hold.lock}/{action.value}",
            {"owner": hold.owner, "fencingToken": hold.token},
            via=via,
            retry=chance.random() < 0.5,
            refusals=_STALE,
        )
        if told.ending is Ending.REFUSED and told.body is None:
            return  # it was never sent, so it says nothing of the token
        self._note(action, hold, told, hold.token)

    async def _verify(self, hold: _Hold, chance: random.Random) -> None:
        """As a resource does, at any node."""
        told = await self.post(
            f"{LOCKS_PATH}/{hold.lock}/verify",
            {"fencingToken": hold.token},
            via=chance.choice(self.round.nodes),
            retry=False,
        )
        if told.acknowledged:
            self._note(LockAction.VERIFY, hold, told, hold.token, valid=told.body["valid"])

    async def _look(self, lock: str, chance: random.Random) -> None:
        told = await self.get(f"{LOCKS_PATH}/{lock}", via=chance.choice(self.round.nodes))
        if told is not None and told.body["queue"]:
            owners = tuple(waiting["owner"] for waiting in told.body["queue"])
            self._seen.queues.append(QueueSeen(lock, owners))

    def _note(
        self,
        action: LockAction,
        hold: _Hold,
        told: Told,
        token: int | None,
        *,
        valid: bool | None = None,
    ) -> None:
        self.counters[action.value] += 1
        self._seen.calls.append(
            LockCall(
                action,
                hold.lock,
                hold.owner,
                told.begun_ns,
                told.ended_ns,
                told.ending,
                shared=hold.shared,
                ttl_ms=hold.ttl_ms,
                token=token,
                valid=valid,
            )
        )

    # --- after the round

    async def check(self, scene: Scene, log: Sequence[Message]) -> list[Violation]:
        resting = await self._wait_for_rest()
        changes = lock_changes(log)
        # Locks of this round only; tokens are counted over all of them.
        of_round = [change for change in changes if change.lock.startswith(self.round.name)]
        self.counters["granted"] = sum(change.what == "granted" for change in of_round)
        checked = await asyncio.to_thread(check_locks, self._seen, clock_error=0.0)
        return [
            *resting,
            *checked,
            *check_lock_log(changes, whole=False),
            *check_grants_in_log(self._seen.calls, changes),
        ]

    async def _wait_for_rest(self) -> list[Violation]:
        """Every wait ends and every lease too, whether its owner is there or not."""
        ends_at = time.monotonic() + _REST_WITHIN_S
        paths = [f"{LOCKS_PATH}/{lock}" for lock in self._locks.used()]
        while True:
            answers = await self.ask_all(self.round.nodes[0], paths)
            busy = [
                answer.body
                for answer in answers
                if answer.body["holderCount"] or answer.body["queueLength"]
            ]
            if not busy:
                return []
            if time.monotonic() > ends_at:
                return [Violation("every wait ends", f"after {_REST_WITHIN_S} s: {busy[:3]}")]
            await asyncio.sleep(0.2)

    def history(self) -> object:
        return self._seen


def lock_changes(log: Sequence[Message]) -> list[LockChange]:
    return [
        LockChange(
            change["kind"].removeprefix("lock."),
            change["name"],
            change["owner"],
            change["mode"] == "SHARED",
            change["fencingToken"],
        )
        for change in of_kinds(log, "lock.")
    ]
