"""Clients that take numbers of sequences."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import asdict

from scripts.tidelock_scripts.chaos.checkers import Violation
from scripts.tidelock_scripts.chaos.history import Ending
from scripts.tidelock_scripts.chaos.nemesis import Scene
from scripts.tidelock_scripts.chaos.round_clients import Names, Round, RoundClients
from scripts.tidelock_scripts.chaos.sequence_checks import Take, check_sequences
from scripts.tidelock_scripts.chaos.watch_checks import Message

SEQUENCES_PATH = "/api/v1/sequences"
_COUNTS = (1, 1, 1, 2, 10, 1_000)


class SequenceClients(RoundClients):
    """Seven in ten calls are tried again until they are known."""

    what = "sequences"
    pause_s = 0.01

    def __init__(self, of_round: Round, clients_a_node: int) -> None:
        super().__init__(of_round, clients_a_node)
        self._sequences = Names(f"{of_round.name}-s", 2)
        self._takes: list[Take] = []

    async def operate(self, unique: str, via: str, chance: random.Random) -> None:
        sequence = self._sequences.choose(chance)
        await self._take(sequence, chance.choice(_COUNTS), via, retry=chance.random() < 0.7)

    async def _take(self, sequence: str, count: int, via: str, *, retry: bool) -> None:
        path = f"{SEQUENCES_PATH}/{sequence}/next"
        told = await self.post(path, {"count": count}, via=via, retry=retry)
        if told.ending is Ending.REFUSED:
            return
        self._takes.append(
            Take(
                sequence,
                count,
                told.begun_ns,
                told.ended_ns if told.acknowledged else None,
                told.body["first"] if told.acknowledged else None,
            )
        )

    async def check(self, scene: Scene, log: Sequence[Message]) -> list[Violation]:
        for sequence in self._sequences.used():
            # The number behind all others tells of one that was left out at the end.
            await self._take(sequence, 1, self.round.nodes[0], retry=True)
        return await asyncio.to_thread(check_sequences, self._takes)

    def history(self) -> object:
        return [asdict(take) for take in self._takes]
