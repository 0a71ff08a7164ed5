"""Clients that draw timestamps of the oracle, one or many at once."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import asdict

from scripts.tidelock_scripts.chaos.checkers import Violation, check_draws
from scripts.tidelock_scripts.chaos.history import Draw
from scripts.tidelock_scripts.chaos.nemesis import Scene
from scripts.tidelock_scripts.chaos.round_clients import Round, RoundClients
from scripts.tidelock_scripts.chaos.watch_checks import Message
from scripts.tidelock_scripts.client import (
    Answer,
    ClusterClient,
    NotDoneError,
    OutcomeUnknownError,
)
from scripts.tidelock_scripts.events import TSO_PATH

_COUNTS = (1, 1, 1_000, 1_000_000)


class OracleClients(RoundClients):
    """What they were given in earlier rounds is no part of the history."""

    what = "oracle"
    pause_s = 0.01

    def __init__(self, of_round: Round, clients_a_node: int) -> None:
        super().__init__(of_round, clients_a_node)
        self.draws: list[Draw] = []

    async def operate(self, unique: str, via: str, chance: random.Random) -> None:
        count = chance.choice(_COUNTS)
        drawn = await draw_timestamps(self.client, via, count)
        if isinstance(drawn, Draw):
            self.counters["acknowledged"] += 1
            self.draws.append(drawn)
        elif drawn is not None:
            self.unexpected.append(f"{drawn.node_id} to a draw of {count}: {drawn}")

    async def check(self, scene: Scene, log: Sequence[Message]) -> list[Violation]:
        return check_draws(self.draws)

    def history(self) -> object:
        return [asdict(draw) for draw in self.draws]


async def draw_timestamps(client: ClusterClient, via: str, count: int) -> Draw | Answer | None:
    """Draw once. None: there was no answer; an `Answer`: one that the contract does not have."""
    begun_ns = time.monotonic_ns()
    try:
        answer = await client.post(TSO_PATH, {"count": count}, via=via, retry=False)
    except (NotDoneError, OutcomeUnknownError):
        return None
    ended_ns = time.monotonic_ns()
    if not answer.ok or answer.body["last"] - answer.body["first"] != count - 1:
        return answer
    return Draw(via, begun_ns, ended_ns, answer.body["first"], answer.body["last"])
