"""Clients that move money between rows which the cluster locks."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import asdict

from scripts.tidelock_scripts.chaos.bank import ACCOUNTS, Bank
from scripts.tidelock_scripts.chaos.checkers import Violation
from scripts.tidelock_scripts.chaos.nemesis import Scene
from scripts.tidelock_scripts.chaos.participant import ParticipantServer
from scripts.tidelock_scripts.chaos.participating_clients import (
    ENDED,
    TRANSACTIONS_PATH,
    statuses_of,
)
from scripts.tidelock_scripts.chaos.round_clients import Round, RoundClients, Told
from scripts.tidelock_scripts.chaos.watch_checks import Message

_TIMEOUT_MS = 3_000
_WAIT_MS = 400
_END_WITHIN_S = 30.0
_POLL_S = 0.2
_LATE = ("TRANSACTION_NOT_ACTIVE", "TRANSACTION_DECIDED", "BRANCH_FAILED", "BRANCH_UNFINISHED")
_LOCKED = ("LOCK_CONFLICT", "DEADLOCK", "LOCK_QUEUE_FULL", "TRANSACTION_NOT_ACTIVE")


class BankClients(RoundClients):
    """At the end the balances are those of the committed transfers, and nobody lost a write."""

    what = "bank"
    pause_s = 0.02

    def __init__(self, of_round: Round, clients_a_node: int) -> None:
        super().__init__(of_round, clients_a_node)
        self._bank = Bank()
        self._begun: list[str] = []
        self._server = ParticipantServer(self._roll_back)
        self._resource = f"bank-{of_round.name}"

    async def run(self) -> None:
        await self._server.start()
        await super().run()

    def _roll_back(self, path: str, xid: str, branch_id: int) -> int | None:
        self.counters["undone"] += self._bank.roll_back((xid, branch_id))
        return 200

    async def operate(self, unique: str, via: str, chance: random.Random) -> None:
        xid = unique[-64:]
        self._begun.append(xid)
        begun = await self._ask("", via, {"xid": xid, "timeoutMs": _TIMEOUT_MS})
        if not begun.acknowledged:
            return
        for _ in range(chance.randint(1, 2)):
            if chance.random() < 0.02:
                return  # its client is gone, and its time will be up
            if not await self._transfer(xid, via, chance):
                await self._ask(f"/{xid}/rollback", via, {"waitMs": 0}, *_LATE)
                return
        action = "commit" if chance.random() < 0.7 else "rollback"
        await self._ask(f"/{xid}/{action}", via, {"waitMs": 0}, *_LATE)

    async def _transfer(self, xid: str, via: str, chance: random.Random) -> bool:
        giver, taker = chance.sample(range(ACCOUNTS), 2)
        branch = {
            "mode": "AT",
            "resourceId": self._resource,
            "lockKeys": {"account": [[giver], [taker]]},
            "waitMs": chance.choice((0, _WAIT_MS)),
            "callbacks": {"commit": "", "rollback": self._server.url("undo")},
        }
        told = await self._ask(f"/{xid}/branches", via, branch, *_LOCKED)
        if not told.acknowledged:
            return False
        branch_id = told.body["branchId"]
        done = self._bank.transfer((xid, branch_id), giver, taker, chance.randint(1, 60))
        status = "PHASE_ONE_DONE" if done else "PHASE_ONE_FAILED"
        path = f"/{xid}/branches/{branch_id}/report"
        reported = await self._ask(path, via, {"status": status}, *_LATE, "BRANCH_STATUS_FIXED")
        return done and reported.acknowledged

    async def _ask(self, path: str, via: str, body: dict[str, object], *refusals: str) -> Told:
        return await self.post(
            f"{TRANSACTIONS_PATH}{path}", body, via=via, retry=True, refusals=refusals
        )

    # --- after the round

    async def check(self, scene: Scene, log: Sequence[Message]) -> list[Violation]:
        try:
            ended, found = await self._await_ends()
        finally:
            await self._server.stop()
        bank = self._bank
        found += [Violation("nobody writes what is locked", what) for what in bank.broken]
        found += [
            Violation("what was not committed is undone", f"{branch}: {ended.get(branch[0])}")
            for branch in bank.undo
            if ended.get(branch[0]) != "COMMITTED"
        ]
        if bank.balances != bank.expected():
            what = f"{bank.balances} should be {bank.expected()}"
            found.append(Violation("the balances are those of committed transfers", what))
        self.counters["committed"] += len({xid for xid, _ in bank.undo})
        return found

    async def _await_ends(self) -> tuple[dict[str, str], list[Violation]]:
        ends_at = time.monotonic() + _TIMEOUT_MS / 1000 + _END_WITHIN_S
        ended: dict[str, str] = {}
        left = list(self._begun)
        while left:
            found = await statuses_of(self, self.round.nodes[0], left)
            ended |= {xid: status for xid, status in found.items() if status in ("", *ENDED)}
            left = [xid for xid in left if xid not in ended]
            if left and time.monotonic() > ends_at:
                rule = f"every transaction ends within {_END_WITHIN_S:.0f} s"
                return ended, [Violation(rule, f"{xid} does not") for xid in left]
            await asyncio.sleep(_POLL_S)
        return ended, []

    def history(self) -> object:
        undo = {f"{xid} {branch_id}": asdict(i) for (xid, branch_id), i in self._bank.undo.items()}
        return {"begun": self._begun, "undo": undo, "balances": self._bank.balances}
