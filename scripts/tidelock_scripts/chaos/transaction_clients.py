"""Clients that have the cluster run sagas and TCCs, whose participants are not always well."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from scripts.tidelock_scripts.chaos.branch_effects import BranchEffects
from scripts.tidelock_scripts.chaos.checkers import Violation
from scripts.tidelock_scripts.chaos.nemesis import Scene
from scripts.tidelock_scripts.chaos.participant import ParticipantServer
from scripts.tidelock_scripts.chaos.round_clients import Round, RoundClients
from scripts.tidelock_scripts.chaos.watch_checks import Message

TRANSACTIONS_PATH: Final = "/api/v1/transactions"
SAGAS_PATH: Final = "/api/v1/sagas"
TCC_PATH: Final = "/api/v1/tcc"

ENDED: Final = ("COMMITTED", "ROLLED_BACK", "TIMEOUT_ROLLED_BACK")

_END_WITHIN_S = 30.0
"""After the later of the faults' end and a transaction's own timeout."""
_TIMEOUT_MS = 8_000
_RETRY = {"intervalMs": 100}
_TROUBLE = 0.3
_POLL_S = 0.2


class TransactionClients(RoundClients):
    """At the end each transaction is done as a whole, or undone as a whole."""

    what = "transactions"
    pause_s = 0.02

    def __init__(self, of_round: Round, clients_a_node: int) -> None:
        super().__init__(of_round, clients_a_node)
        self._effects = BranchEffects()
        self._begun: dict[str, str] = {}
        """Every xid that was sent, and its kind."""
        self._server = ParticipantServer(self._answer)
        self._chance = random.Random(f"{of_round.seed} {of_round.name}")  # noqa: S311  # by seed
        self._trouble = _TROUBLE
        self._ended: dict[str, str] = {}

    async def run(self) -> None:
        await self._server.start()
        await super().run()

    def finish(self) -> None:
        self._trouble = 0.0
        super().finish()

    async def operate(self, unique: str, via: str, chance: random.Random) -> None:
        xid = unique[-64:]
        kind = chance.choice((SAGAS_PATH, SAGAS_PATH, TCC_PATH))
        body = self._saga(chance) if kind == SAGAS_PATH else self._tcc(chance)
        self._begun[xid] = kind
        await self.post(kind, {"xid": xid, **body}, via=via, retry=chance.random() < 0.7)

    def _saga(self, chance: random.Random) -> dict[str, object]:
        count = chance.randint(1, 3)
        refusing = chance.randrange(count) if chance.random() < 0.3 else -1
        steps: list[dict[str, object]] = []
        for number in range(count):
            name = f"s{number}" + (f"<s{number - 1}" if number else "")
            action = "refuse" if number == refusing else "do"
            steps.append(
                {
                    "name": name.replace("<", "-after-"),
                    "action": self._url(name, action),
                    "compensation": self._url(name, "undo"),
                    "retry": _RETRY,
                }
            )
        return {"steps": steps, "timeoutMs": _TIMEOUT_MS}

    def _tcc(self, chance: random.Random) -> dict[str, object]:
        count = chance.randint(1, 3)
        refusing = chance.randrange(count) if chance.random() < 0.3 else -1
        branches = [
            {
                "name": f"b{number}",
                "try": self._url(f"b{number}", "refuse" if number == refusing else "do"),
                "confirm": self._url(f"b{number}", "commit"),
                "cancel": self._url(f"b{number}", "undo"),
                "retry": _RETRY,
            }
            for number in range(count)
        ]
        return {"branches": branches, "timeoutMs": _TIMEOUT_MS}

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
        ends_at = time.monotonic() + _TIMEOUT_MS / 1000 + _END_WITHIN_S
        left = dict(self._begun)
        while left:
            for xid, status in (await statuses_of(self, self.round.nodes[0], list(left))).items():
                if status in ("", *ENDED):
                    del left[xid]
                    self._ended[xid] = status
            if left and time.monotonic() > ends_at:
                rule = f"every transaction ends within {_END_WITHIN_S:.0f} s"
                return [Violation(rule, f"{xid} does not") for xid in left]
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
            confirms = self._begun[xid] == TCC_PATH
            wrong = self._effects.found_wrong(
                xid, committed=status == "COMMITTED", confirms=confirms, names=()
            )
            if wrong is not None:
                found.append(Violation("done or undone as a whole", f"{xid} is {status}: {wrong}"))
        return found

    def history(self) -> object:
        return {
            "begun": self._begun,
            "ended": self._ended,
            "effects": {
                xid: {name: asdict(effect) for name, effect in of.items()}
                for xid, of in self._effects.of.items()
            },
        }


async def statuses_of(clients: RoundClients, node_id: str, xids: Sequence[str]) -> dict[str, str]:
    """Ask one node where transactions stand; empty for one that was never begun."""
    answers = await clients.ask_all(node_id, [f"{TRANSACTIONS_PATH}/{xid}" for xid in xids])
    return {xid: _status(answer.body) for xid, answer in zip(xids, answers, strict=True)}


def _status(body: Any) -> str:
    return "" if body.get("code") == "TRANSACTION_NOT_FOUND" else str(body["status"])
