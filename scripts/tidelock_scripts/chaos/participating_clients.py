"""Clients whose transactions call participants in this process, which are not always well.

What the participants did is held against the end of each transaction, as each node tells it.
"""

from __future__ import annotations

import abc
import asyncio
import random
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Final

from scripts.tidelock_scripts.chaos.branch_effects import BranchEffects
from scripts.tidelock_scripts.chaos.checkers import Violation
from scripts.tidelock_scripts.chaos.nemesis import Scene
from scripts.tidelock_scripts.chaos.participant import ParticipantServer
from scripts.tidelock_scripts.chaos.round_clients import Round, RoundClients
from scripts.tidelock_scripts.chaos.watch_checks import Message

TRANSACTIONS_PATH: Final = "/api/v1/transactions"
ENDED: Final = ("COMMITTED", "ROLLED_BACK", "TIMEOUT_ROLLED_BACK")

_END_WITHIN_S: Final = 30.0
"""After the later of the faults' end and a transaction's own timeout."""
_POLL_S: Final = 0.2


class ParticipatingClients(RoundClients):
    """At the end each transaction is done as a whole, or undone as a whole."""

    pause_s = 0.02
    trouble: ClassVar[float]
    """How often a participant is unwell while the round lasts."""
    timeout_s: ClassVar[float]
    """Of a transaction."""

    def __init__(self, of_round: Round, clients_a_node: int) -> None:
        super().__init__(of_round, clients_a_node)
        self._effects = BranchEffects()
        self._ended: dict[str, str] = {}
        self._server = ParticipantServer(self._answer)
        self._chance = random.Random(f"{of_round.seed} {self.what} {of_round.name}")  # noqa: S311
        self._trouble = self.trouble

    async def run(self) -> None:
        await self._server.start()
        await super().run()

    def finish(self) -> None:
        self._trouble = 0.0
        super().finish()

    @abc.abstractmethod
    def begun(self) -> Collection[str]:
        """Return every transaction that was sent."""

    @abc.abstractmethod
    def judge(self, xid: str, status: str) -> list[Violation]:
        """Hold what was done for a transaction against its end."""

    # --- participants

    def _url(self, name: str, action: str) -> str:
        return self._server.url(f"{name.replace('<', '-after-')}/{action}")

    def _answer(self, path: str, xid: str, _branch_id: int) -> int | None:
        """What the participants do: what they are asked, more or less."""
        name, _, action = path.replace("-after-", "<").rpartition("/")
        drawn = self._chance.random()
        if drawn < 0.3 * self._trouble:
            return None
        if drawn < 0.5 * self._trouble:
            return 503
        if drawn < 0.6 * self._trouble:
            return 425
        status = self._effects.call(xid, name, action)
        return None if drawn < 0.9 * self._trouble else status

    # --- after the round

    async def check(self, scene: Scene, log: Sequence[Message]) -> list[Violation]:
        try:
            found = await self._await_ends()
        finally:
            await self._server.stop()
        found += [
            Violation("participants are asked what makes sense", w) for w in self._effects.broken
        ]
        for node_id in self.round.nodes:
            found += await self._compare(node_id)
        return found

    async def _await_ends(self) -> list[Violation]:
        ends_at = time.monotonic() + self.timeout_s + _END_WITHIN_S
        left = list(self.begun())
        while left:
            found = await statuses_of(self, self.round.nodes[0], left)
            self._ended |= {xid: at for xid, at in found.items() if at in ("", *ENDED)}
            left = [xid for xid in left if xid not in self._ended]
            if left and time.monotonic() > ends_at:
                rule = f"every transaction ends within {_END_WITHIN_S:.0f} s"
                return [Violation(rule, f"{xid} is {found[xid]}") for xid in left]
            await asyncio.sleep(_POLL_S)
        return []

    async def _compare(self, node_id: str) -> list[Violation]:
        """Hold what was done against what one node says."""
        found: list[Violation] = []
        for xid, status in (await statuses_of(self, node_id, list(self._ended))).items():
            if status != self._ended[xid]:
                found.append(Violation("all nodes say the same", f"{xid}: {node_id} says {status}"))
                continue
            self.counters[status.lower() or "never begun"] += node_id == self.round.nodes[0]
            found += self.judge(xid, status)
        return found

    def effects(self) -> object:
        """Return what was done, as something that can be written as JSON."""
        return {
            xid: {name: asdict(effect) for name, effect in of.items()}
            for xid, of in self._effects.of.items()
        }


async def statuses_of(clients: RoundClients, node_id: str, xids: Sequence[str]) -> dict[str, str]:
    """Ask one node where transactions stand; empty for one that was never begun."""
    answers = await clients.ask_all(node_id, [f"{TRANSACTIONS_PATH}/{xid}" for xid in xids])
    return {xid: _status(answer.body) for xid, answer in zip(xids, answers, strict=True)}


def _status(body: Any) -> str:
    return "" if body.get("code") == "TRANSACTION_NOT_FOUND" else str(body["status"])
