"""Watchers that change nodes, and writers who give them something to be told."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

from scripts.tidelock_scripts.chaos.checkers import Violation
from scripts.tidelock_scripts.chaos.nemesis import Scene
from scripts.tidelock_scripts.chaos.round_clients import Round, RoundClients, of_kinds
from scripts.tidelock_scripts.chaos.watch_checks import (
    Message,
    check_filtered,
    check_streams,
    position_of,
)
from scripts.tidelock_scripts.client import ClusterClient
from scripts.tidelock_scripts.event_source import RefusedError, Watch
from scripts.tidelock_scripts.events import EVENT_PATH, UnexpectedAnswerError

FILTER = "timestamp."
_CUT_EVERY_S = (0.05, 0.6)
_WITHIN_S = 60.0


class Watchers:
    """Watches from one position on; each goes on at the next node where its last one ended."""

    def __init__(self, addresses: Sequence[str], count: int, begin: str, kinds: str = "") -> None:
        query = f"?from={begin}" + (f"&kinds={kinds}" if kinds else "")
        nodes = len(addresses)
        self.watches = [
            Watch([*addresses[at % nodes :], *addresses[: at % nodes]], query=query)
            for at in range(count)
        ]
        self._running: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._running = [asyncio.create_task(watch.run()) for watch in self.watches]

    async def reach(self, position: str) -> None:
        """Wait until all have been told of everything up to there, then end them.

        Raises:
            UnexpectedAnswerError: one is not, or a node refused it.
        """
        ends_at = time.monotonic() + _WITHIN_S
        try:
            while not self._have_reached(position):
                if time.monotonic() > ends_at:
                    stuck = [watch.last_id for watch in self.watches]
                    raise UnexpectedAnswerError(
                        f"watchers stand at {stuck}, not at {position}, after {_WITHIN_S} s"
                    )
                await asyncio.sleep(0.02)
        finally:
            await self.close()

    def _have_reached(self, position: str) -> bool:
        for task in self._running:
            if task.done():
                try:
                    task.result()
                except RefusedError as error:
                    raise UnexpectedAnswerError(f"a watcher was refused: {error}") from error
        upto = position_of(position)
        return all(position_of(watch.last_id) >= upto for watch in self.watches)

    def streams(self, what: str, upto: str) -> dict[str, list[Message]]:
        """Return what each was told up to a position."""
        return {
            f"{what} {number}": told_upto(watch, upto) for number, watch in enumerate(self.watches)
        }

    async def close(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


def told_upto(watch: Watch, position: str) -> list[Message]:
    upto = position_of(position)
    return [message for message in watch.messages if position_of(message["id"]) <= upto]


async def mark(client: ClusterClient, via: str, name: str) -> str:
    """Record an event and return its position: everything acknowledged before stands before it.

    Raises: UnexpectedAnswerError
    """
    body = {"nodeId": name, "eventType": "MARK"}
    answer = await client.post(EVENT_PATH, body, via=via, deadline_s=30.0)
    if not answer.ok:
        raise UnexpectedAnswerError(f"{answer.node_id} answered {answer} to {body}")
    event_id = answer.body["eventId"]
    return f"{int(event_id[:16], 16)}.{int(event_id[16:], 16)}"


class WatchClients(RoundClients):
    """What all of them were told is the same, and tells of every event of the writers."""

    what = "watch"
    pause_s = 0.01

    def __init__(
        self, of_round: Round, clients_a_node: int, addresses: Sequence[str], begin: str
    ) -> None:
        super().__init__(of_round, clients_a_node)
        self._all = Watchers(addresses, 2 * clients_a_node + 1, begin)
        self._some = Watchers(addresses, clients_a_node, begin, f"{FILTER}*")
        self._acknowledged: list[str] = []

    async def run(self) -> None:
        self._all.start()
        self._some.start()
        cutting = asyncio.create_task(self._cut_at_random())
        try:
            await super().run()
        finally:
            cutting.cancel()

    async def _cut_at_random(self) -> None:
        chance = random.Random(f"{self.round.seed} cut {self.round.name}")  # noqa: S311
        while True:
            await asyncio.sleep(chance.uniform(*_CUT_EVERY_S))
            chance.choice([*self._all.watches, *self._some.watches]).cut()

    async def operate(self, unique: str, via: str, chance: random.Random) -> None:
        body = {"nodeId": f"{self.round.name}-w", "eventType": "WATCHED"}
        told = await self.post(EVENT_PATH, body, via=via, key=unique, retry=True)
        if told.acknowledged:
            self._acknowledged.append(told.body["eventId"])

    async def check(self, scene: Scene, log: Sequence[Message]) -> list[Violation]:
        end = await mark(self.client, self.round.nodes[0], f"{self.round.name}-watched")
        await asyncio.gather(self._all.reach(end), self._some.reach(end))
        upto = log[-1]["id"]
        streams = self._all.streams("watcher", upto)
        self.counters["changes told"] = sum(map(len, streams.values()))
        watches = [*self._all.watches, *self._some.watches]
        self.counters["connections"] = sum(watch.connections for watch in watches)
        violations = check_streams({"the round's": log, **streams})
        for filtered in self._some.streams("filtered", upto).values():
            violations += check_filtered(filtered, log, lambda kind: kind.startswith(FILTER))
        told = {change["eventId"] for change in of_kinds(log, FILTER)}
        lost = [event_id for event_id in self._acknowledged if event_id not in told]
        if lost:
            detail = f"{len(lost)} events were acknowledged and not told, as {lost[0]}"
            violations.append(Violation("watchers are told what is stored", detail))
        return violations

    def history(self) -> object:
        return {
            name: stream
            for watchers in (self._all, self._some)
            for name, stream in watchers.streams("watcher", f"{1 << 62}.0").items()
        }
