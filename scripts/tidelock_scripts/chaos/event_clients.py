"""Clients that record events and read clocks through every node."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from scripts.tidelock_scripts.chaos.checkers import Violation, check_everything
from scripts.tidelock_scripts.chaos.history import ClockRead, History, StoredEvent, Write
from scripts.tidelock_scripts.chaos.nemesis import Scene
from scripts.tidelock_scripts.chaos.round_clients import Names, Round, RoundClients, of_kinds
from scripts.tidelock_scripts.chaos.watch_checks import Message, check_told
from scripts.tidelock_scripts.events import CLOCK_PATH, EVENT_PATH, EVENTS_PATH, SYNC_PATH

PARTICIPANTS_AT_ONCE = 6

_SHARE_OF_READS = 0.30
_SHARE_OF_SYNCS = 0.12
_FURTHEST_JUMP = 20


class EventClients(RoundClients):
    """Half of the writes are tried again until they are known."""

    what = "events"

    def __init__(self, of_round: Round, clients_a_node: int) -> None:
        super().__init__(of_round, clients_a_node)
        self._participants = Names(f"{of_round.name}-p", PARTICIPANTS_AT_ONCE)
        self._events = History([], [])

    async def operate(self, unique: str, via: str, chance: random.Random) -> None:
        participant = self._participants.choose(chance)
        kind = chance.random()
        if kind < _SHARE_OF_READS:
            await self._read(participant, via)
            return
        received = 0
        if kind < _SHARE_OF_READS + _SHARE_OF_SYNCS:
            number = int(unique.rpartition("-")[2])
            received = number // 10 + chance.randrange(1, _FURTHEST_JUMP)
        await self._write(unique, participant, via, received, retry=chance.random() < 0.5)

    async def _write(
        self, unique: str, participant: str, via: str, received: int, *, retry: bool
    ) -> None:
        body: dict[str, object] = {
            "nodeId": participant,
            "eventType": "CHAOS",
            "eventData": {"id": unique},
        }
        if received:
            body |= {"sourceNodeId": "elsewhere", "timestamp": received}
        told = await self.post(
            SYNC_PATH if received else EVENT_PATH, body, via=via, key=unique, retry=retry
        )
        event_id, lamport = None, None
        if told.acknowledged:
            event_id = told.body["syncedEventId" if received else "eventId"]
            lamport = told.body["lamportTimestamp"]
        self._events.writes.append(
            Write(
                unique_id=unique,
                participant=participant,
                via=via,
                begun_ns=told.begun_ns,
                ended_ns=told.ended_ns,
                ending=told.ending,
                received_timestamp=received,
                event_id=event_id,
                lamport=lamport,
            )
        )

    async def _read(self, participant: str, via: str) -> None:
        told = await self.get(f"{CLOCK_PATH}/{quote(participant)}", via=via)
        if told is not None:
            lamport = told.body["lamportTimestamp"]
            self._events.reads.append(
                ClockRead(participant, via, told.begun_ns, told.ended_ns, lamport)
            )

    async def check(self, scene: Scene, log: Sequence[Message]) -> list[Violation]:
        lists = await self._list_everywhere()
        stored = next(iter(lists.values()))
        self.counters["stored"] = len(stored)
        participants = {*self._participants.used()}
        told = [
            change["eventId"]
            for change in of_kinds(log, "timestamp.")
            if change["nodeId"] in participants
        ]
        violations = await asyncio.to_thread(check_everything, self._events, lists)
        by_commit = sorted(event.event_id for event in stored)
        return [*violations, *check_told("events", told, by_commit)]

    async def _list_everywhere(self) -> dict[str, list[StoredEvent]]:
        """Return each node's events of the participants: linearizably, and from its own state.

        The nodes' own states come after the linearizable lists, through the same node, so that they
        cannot be older than what was acknowledged.
        """
        lists: dict[str, list[StoredEvent]] = {}
        for consistency in ("linearizable", "local"):
            for node_id in self.round.nodes:
                lists[f"{node_id} ({consistency})"] = [
                    StoredEvent(
                        event_id=event["eventId"],
                        participant=event["nodeId"],
                        lamport=event["lamportTimestamp"],
                        unique_id=_unique_id(event),
                    )
                    for participant in self._participants.used()
                    for event in await self.list_all(
                        node_id, f"{EVENTS_PATH}?nodeId={participant}&consistency={consistency}"
                    )
                ]
        return lists

    def history(self) -> object:
        return self._events


def _unique_id(event: Mapping[str, object]) -> str | None:
    data = event["eventData"]
    return str(data["id"]) if isinstance(data, dict) and "id" in data else None
