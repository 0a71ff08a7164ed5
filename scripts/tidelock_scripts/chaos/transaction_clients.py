"""Clients that have the cluster run sagas and TCCs, whose participants are not always well."""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Final

from scripts.tidelock_scripts.chaos.checkers import Violation
from scripts.tidelock_scripts.chaos.participating_clients import ParticipatingClients
from scripts.tidelock_scripts.chaos.round_clients import Round

SAGAS_PATH: Final = "/api/v1/sagas"
TCC_PATH: Final = "/api/v1/tcc"

_TIMEOUT_MS = 8_000
_RETRY = {"intervalMs": 100}


class TransactionClients(ParticipatingClients):
    """The cluster runs them from their submission on."""

    what = "transactions"
    trouble = 0.3
    timeout_s = _TIMEOUT_MS / 1_000

    def __init__(self, of_round: Round, clients_a_node: int) -> None:
        super().__init__(of_round, clients_a_node)
        self._begun: dict[str, str] = {}
        """Every xid that was sent, and its kind."""

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

    # --- after the round

    def begun(self) -> Collection[str]:
        return self._begun

    def judge(self, xid: str, status: str) -> list[Violation]:
        wrong = self._effects.found_wrong(
            xid,
            committed=status == "COMMITTED",
            confirms=self._begun[xid] == TCC_PATH,
            names=(),
        )
        if wrong is None:
            return []
        return [Violation("done or undone as a whole", f"{xid} is {status}: {wrong}")]

    def history(self) -> object:
        return {"begun": self._begun, "ended": self._ended, "effects": self.effects()}
