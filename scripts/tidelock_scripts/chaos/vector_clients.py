"""Clients of vector clocks and version vectors: they tick, send, receive, write, merge, compare."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from scripts.tidelock_scripts.chaos.checkers import Violation
from scripts.tidelock_scripts.chaos.history import Ending
from scripts.tidelock_scripts.chaos.nemesis import Scene
from scripts.tidelock_scripts.chaos.round_clients import (
    Names,
    Round,
    RoundClients,
    Told,
    of_kinds,
)
from scripts.tidelock_scripts.chaos.vector_checks import (
    Vector,
    VectorCall,
    VectorEvent,
    as_vector,
    check_vectors,
    relation_of,
)
from scripts.tidelock_scripts.chaos.watch_checks import Message, check_told

CLOCKS_PATH = "/api/v1/vector-clock"
VERSIONS_PATH = "/api/v1/version"

_REMEMBERED = 30
_FURTHEST_COUNT = 40


@dataclass(frozen=True, slots=True)
class _Sent:
    message_id: str
    sender: str
    vector: Vector


class VectorClients(RoundClients):
    """A message carries what the cluster answered to its sender; each is received once by each."""

    what = "vectors"
    pause_s = 0.01

    def __init__(self, of_round: Round, clients_a_node: int) -> None:
        super().__init__(of_round, clients_a_node)
        self._participants = Names(f"{of_round.name}-v", 3)
        self._keys = Names(f"{of_round.name}-k", 2)
        self._messages: list[_Sent] = []
        self._receipts: set[tuple[str, str]] = set()
        self._clocks: list[VectorCall] = []
        self._versions: list[VectorCall] = []
        self._wrong: list[Violation] = []

    async def operate(self, unique: str, via: str, chance: random.Random) -> None:
        kind = chance.random()
        if kind < 0.15:
            name = self._participants.choose(chance)
            await self._clock_call("tick", name, {}, via, chance)
        elif kind < 0.35:
            await self._send(self._participants.choose(chance), via, chance)
        elif kind < 0.55:
            await self._receive(self._participants.choose(chance), via, chance)
        elif kind < 0.65:
            await self._write(self._keys.choose(chance), via, chance)
        elif kind < 0.75:
            await self._merge(self._keys.choose(chance), via, chance)
        elif kind < 0.95:
            await self._read(via, chance)
        else:
            await self._compare(via, chance)

    # --- clocks

    async def _clock_call(
        self,
        action: str,
        name: str,
        more: Mapping[str, object],
        via: str,
        chance: random.Random,
        received: Vector = (),
    ) -> Told:
        told = await self.post(
            f"{CLOCKS_PATH}/{action}",
            {"nodeId": name, **more},
            via=via,
            retry=chance.random() < 0.6,
        )
        if told.ending is not Ending.REFUSED:
            self._clocks.append(_raised(name, name, received, told, "vectorClock"))
        return told

    async def _send(self, name: str, via: str, chance: random.Random) -> None:
        told = await self._clock_call("send", name, {}, via, chance)
        if told.acknowledged:
            vector = as_vector(told.body["vectorClock"])
            self._messages.append(_Sent(told.body["messageId"], name, vector))
            del self._messages[:-_REMEMBERED]

    async def _receive(self, name: str, via: str, chance: random.Random) -> None:
        if not self._messages:
            return
        message = chance.choice(self._messages)
        place = name, message.message_id
        if message.sender == name or place in self._receipts:
            return
        self._receipts.add(place)
        more = {"vectorClock": dict(message.vector), "messageId": message.message_id}
        await self._clock_call("receive", name, more, via, chance, message.vector)

    async def _compare(self, via: str, chance: random.Random) -> None:
        """The cluster's own comparison must say what the papers say."""
        known = [call.answer for call in self._clocks[-_REMEMBERED:] if call.answer is not None]
        if len(known) < 2:
            return
        one, other = (dict(vector) for vector in chance.sample(known, 2))
        body = {"clock1": one, "clock2": other}
        told = await self.post(f"{CLOCKS_PATH}/compare", body, via=via, retry=False)
        if told.acknowledged and told.body["relation"] != relation_of(one, other):
            self._wrong.append(Violation("vectors tell causes", f"{body}: {told.body}"))

    # --- versions

    async def _write(self, key: str, via: str, chance: random.Random) -> None:
        body = {"key": key, "nodeId": f"w{chance.randrange(4)}"}
        told = await self.post(f"{VERSIONS_PATH}/increment", body, via=via, retry=True)
        if told.ending is not Ending.REFUSED:
            self._versions.append(_raised(key, body["nodeId"], (), told, "versionVector"))

    async def _merge(self, key: str, via: str, chance: random.Random) -> None:
        vector = {f"w{chance.randrange(4)}": chance.randrange(1, _FURTHEST_COUNT)}
        body = {"key": key, "versionVector": vector}
        told = await self.post(f"{VERSIONS_PATH}/merge", body, via=via, retry=True)
        if told.ending is not Ending.REFUSED:
            self._versions.append(_raised(key, "", as_vector(vector), told, "versionVector"))

    # --- reads

    async def _read(self, via: str, chance: random.Random) -> None:
        if chance.random() < 0.5:
            name = self._participants.choose(chance)
            told = await self.get(f"{CLOCKS_PATH}/{name}", via=via)
            if told is not None:
                self._clocks.append(_read(name, told, "vectorClock"))
        else:
            key = self._keys.choose(chance)
            told = await self.get(f"{VERSIONS_PATH}/{key}", via=via)
            if told is not None:
                self._versions.append(_read(key, told, "versionVector"))

    # --- after the round

    async def check(self, scene: Scene, log: Sequence[Message]) -> list[Violation]:
        lists = {node_id: await self._events(node_id) for node_id in self.round.nodes}
        (first, stored), *others = lists.items()
        self.counters["stored"] = len(stored)
        participants = {*self._participants.used()}
        told = [
            change["eventId"]
            for change in of_kinds(log, "vector.")
            if change["nodeId"] in participants
        ]
        checked = await asyncio.to_thread(check_vectors, self._clocks, stored, self._versions)
        return [
            *self._wrong,
            *checked,
            *check_told("vector events", told, [event.event_id for event in stored]),
            *(
                Violation("nodes agree", f"{node_id} and {first} list other vector events")
                for node_id, events in others
                if events != stored
            ),
        ]

    async def _events(self, node_id: str) -> list[VectorEvent]:
        """Return all vector events of the round, in the order of the log."""
        events = [
            VectorEvent(
                event["eventId"],
                event["nodeId"],
                as_vector(event["vectorClock"]),
                (event["messageId"] or "") if event["type"] == "RECEIVE" else "",
            )
            for name in self._participants.used()
            for event in await self.list_all(node_id, f"{CLOCKS_PATH}/events?nodeId={name}")
        ]
        return sorted(events, key=lambda event: event.event_id)

    def history(self) -> object:
        return {
            "clocks": [asdict(call) for call in self._clocks],
            "versions": [asdict(call) for call in self._versions],
        }


def _raised(name: str, counts: str, received: Vector, told: Told, member: str) -> VectorCall:
    known = told.acknowledged
    return VectorCall(
        name,
        told.begun_ns,
        told.ended_ns if known else None,
        counts=counts,
        received=received,
        answer=as_vector(told.body[member]) if known else None,
        relation=told.body.get("relation") if known else None,
    )


def _read(name: str, told: Told, member: str) -> VectorCall:
    return VectorCall(
        name, told.begun_ns, told.ended_ns, is_read=True, answer=as_vector(told.body[member])
    )
