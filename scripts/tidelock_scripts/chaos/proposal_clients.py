"""Clients that propose data for few keys, with timestamps that are often too low."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import asdict

from scripts.tidelock_scripts.chaos.checkers import Violation
from scripts.tidelock_scripts.chaos.history import Ending
from scripts.tidelock_scripts.chaos.nemesis import Scene
from scripts.tidelock_scripts.chaos.proposal_checks import (
    DataRead,
    Decided,
    Proposing,
    check_proposals,
)
from scripts.tidelock_scripts.chaos.round_clients import (
    Names,
    Round,
    RoundClients,
    of_kinds,
)
from scripts.tidelock_scripts.chaos.watch_checks import Message, check_told

PROPOSALS_PATH = "/api/v1/consensus/proposals"
DATA_PATH = "/api/v1/consensus/data"

_STATUS_OF_CODE = {"REJECTED": "REJECTED", "PROPOSAL_EXPIRED": "EXPIRED"}
_LAG_MS = 300
_DECIDED_WITHIN_S = 30.0


class ProposalClients(RoundClients):
    """Each proposal has an id of its own; one that is proposed again says the same."""

    what = "proposals"
    pause_s = 0.05

    def __init__(self, of_round: Round, clients_a_node: int) -> None:
        super().__init__(of_round, clients_a_node)
        self._keys = Names(f"{of_round.name}-d", 2)
        self._proposed: list[Proposing] = []
        self._reads: list[DataRead] = []

    async def operate(self, unique: str, via: str, chance: random.Random) -> None:
        key = self._keys.choose(chance)
        if chance.random() < 0.4:
            await self._read(key, via)
            return
        timestamp = time.monotonic_ns() // 1_000_000 - chance.randrange(_LAG_MS)
        told = await self.post(
            PROPOSALS_PATH,
            {"id": unique, "key": key, "data": unique, "timestamp": timestamp},
            via=via,
            key=unique,
            retry=chance.random() < 0.5,
            refusals=tuple(_STATUS_OF_CODE),
        )
        if told.ending is Ending.REFUSED and told.body is None:
            return
        status, votes = "", {}
        if told.acknowledged:
            status, votes = told.body["status"], told.body["votes"]
        elif told.body is not None:
            status, votes = _STATUS_OF_CODE[told.body["code"]], told.body["votes"]
        self.counters[status or "never told"] += 1
        self._proposed.append(
            Proposing(
                unique,
                key,
                timestamp,
                told.begun_ns,
                told.ended_ns,
                told.ending,
                status,
                votes,
            )
        )

    async def _read(self, key: str, via: str) -> None:
        told = await self.get(f"{DATA_PATH}/{key}", via=via, missing="DATA_NOT_FOUND")
        if told is not None:
            found = told.body.get("proposalId", "")
            self._reads.append(DataRead(key, told.begun_ns, told.ended_ns, found))

    # --- after the round

    async def check(self, scene: Scene, log: Sequence[Message]) -> list[Violation]:
        shown = await self._wait_until_decided()
        names = {each.proposal_id for each in self._proposed}
        final = next(iter(shown.values()))
        told = [
            change["id"]
            for change in of_kinds(log, "proposal.committed", "proposal.rejected")
            if change["id"] in names
        ]
        checked = await asyncio.to_thread(check_proposals, self._proposed, self._reads, shown)
        return [*checked, *check_told("decisions", sorted(told), sorted(final))]

    async def _wait_until_decided(self) -> dict[str, dict[str, Decided]]:
        """Return what each node shows once every node that is well has said all that it owes."""
        ends_at = time.monotonic() + _DECIDED_WITHIN_S
        while True:
            shown = {node_id: await self._shown(node_id) for node_id in self.round.nodes}
            final = next(iter(shown.values()))
            owed = [
                decided
                for decided in final.values()
                if decided.status == "PROPOSED"
                or "PENDING" in decided.votes.values()
                or (decided.status == "COMMITTED" and decided.applied_by != decided.votes.keys())
            ]
            alike = all(decided == final for decided in shown.values())
            if (alike and not owed) or time.monotonic() > ends_at:
                return shown
            await asyncio.sleep(0.2)

    async def _shown(self, node_id: str) -> dict[str, Decided]:
        names = [each.proposal_id for each in self._proposed]
        answers = await self.ask_all(node_id, [f"{PROPOSALS_PATH}/{name}" for name in names])
        return {
            name: Decided(
                name,
                answer.body["status"],
                answer.body["votes"],
                frozenset(answer.body["appliedBy"]),
            )
            for name, answer in zip(names, answers, strict=True)
            if answer.ok
        }

    def history(self) -> object:
        return {
            "proposed": [asdict(each) for each in self._proposed],
            "reads": [asdict(read) for read in self._reads],
        }
