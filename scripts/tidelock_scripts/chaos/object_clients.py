"""Clients of versioned objects: each writes with what it has read, which may be old."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from scripts.tidelock_scripts.chaos.checkers import Violation
from scripts.tidelock_scripts.chaos.nemesis import Scene
from scripts.tidelock_scripts.chaos.object_checks import (
    Context,
    ObjectCall,
    StoredWrite,
    as_context,
    check_objects,
)
from scripts.tidelock_scripts.chaos.round_clients import Names, Round, RoundClients, Told
from scripts.tidelock_scripts.chaos.watch_checks import Message

OBJECTS_PATH: Final = "/api/v1/version/objects"
EVENTS_PATH: Final = "/api/v1/version/events"

_OPERATIONS_A_NAME: Final = 100
"""Each answer is held against all writes of its object."""


class ObjectClients(RoundClients):
    """No write is lost because another one came first, and none comes back that was replaced."""

    what = "objects"
    pause_s = 0.02

    def __init__(self, of_round: Round, clients_a_node: int) -> None:
        super().__init__(of_round, clients_a_node)
        self._objects = Names(f"{of_round.name}-o", 2, _OPERATIONS_A_NAME)
        self._answers: list[ObjectCall] = []
        self._known: dict[tuple[str, str], Context] = {}
        """What each writer has read of each object."""

    async def operate(self, unique: str, via: str, chance: random.Random) -> None:
        key, writer = self._objects.choose(chance), f"{self.round.name}-{via}"
        if chance.random() < 0.4:
            told = await self.get(f"{OBJECTS_PATH}/{key}", via=via)
            if told is not None:
                self._note(key, told)
        else:
            read = self._known.get((writer, key), ())
            body = {"nodeId": writer, "value": unique, "context": dict(read)}
            told = await self.post(f"{OBJECTS_PATH}/{key}", body, via=via, retry=True)
            if not told.acknowledged:
                return
            self._note(key, told, writer, unique, read)
        if told is not None and chance.random() < 0.8:
            # Who forgets it writes beside the others.
            self._known[writer, key] = as_context(told.body["context"])

    def _note(
        self, key: str, told: Told, writer: str = "", value: str = "", read: Context = ()
    ) -> None:
        self._answers.append(
            ObjectCall(
                key,
                told.begun_ns,
                told.ended_ns,
                as_context(told.body["context"]),
                _siblings(told.body),
                writer,
                value.encode(),
                read,
            )
        )

    # --- after the round

    async def check(self, scene: Scene, log: Sequence[Message]) -> list[Violation]:
        keys = self._objects.used()
        found: list[Violation] = []
        first, *others = self.round.nodes
        bodies = await self._bodies(first, keys)
        for node_id in others:
            if await self._bodies(node_id, keys) != bodies:
                found.append(Violation("nodes agree", f"{node_id} and {first} differ"))
        for key, body in zip(keys, bodies, strict=True):
            told = await self.get(f"{OBJECTS_PATH}/{key}", via=first)
            if told is not None and told.body != body:
                found.append(Violation("nodes agree", f"{key} is {told.body} and {body}"))
            if told is not None:
                self._note(key, told)
        stored = [write for key in keys for write in await self._stored(first, key)]
        told_of = {(call.key, call.dot) for call in self._answers if call.writer}
        untold = [write for write in stored if (write.key, write.dot) not in told_of]
        self.counters["stored"], self.counters["untold"] = len(stored), len(untold)
        if len(stored) - len(untold) != len(told_of):
            found.append(Violation("an acknowledged write is stored", f"{len(told_of)} were"))
        return found + await asyncio.to_thread(check_objects, self._answers, untold)

    async def _bodies(self, node_id: str, keys: Sequence[str]) -> list[Any]:
        answers = await self.ask_all(node_id, [f"{OBJECTS_PATH}/{key}" for key in keys])
        return [answer.body for answer in answers]

    async def _stored(self, node_id: str, key: str) -> list[StoredWrite]:
        return [
            StoredWrite(key, (event["nodeId"], event["count"]), as_context(event["context"]), None)
            for event in await self.list_all(node_id, f"{EVENTS_PATH}?key={key}")
            if event["type"] == "WRITE"
        ]

    def history(self) -> object:
        return [
            {**asdict(call), "siblings": sorted(map(str, call.siblings.items()))}
            for call in self._answers
        ]


def _siblings(body: Mapping[str, Any]) -> dict[tuple[str, int], bytes]:
    return {(each["nodeId"], each["count"]): each["value"].encode() for each in body["siblings"]}
