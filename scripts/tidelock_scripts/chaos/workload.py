"""Clients that write, read and draw timestamps through every node and note what they saw."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field

from scripts.tidelock_scripts.chaos.history import ClockRead, Draw, Ending, History, Write
from scripts.tidelock_scripts.client import (
    Answer,
    ClusterClient,
    NotDoneError,
    OutcomeUnknownError,
)
from scripts.tidelock_scripts.events import CLOCK_PATH, EVENT_PATH, SYNC_PATH, TSO_PATH

CLIENTS_A_NODE = 3
PARTICIPANTS_AT_ONCE = 6
OPERATIONS_A_PARTICIPANT = 300
"""Then it retires, so that the history of each stays short enough to be searched."""

ATTEMPT_TIMEOUT_S = 1.5
DEADLINE_S = 4.0
_PAUSE_S = 0.004
_SHARE_OF_READS = 0.25
_SHARE_OF_SYNCS = 0.10
_SHARE_OF_DRAWS = 0.15
_COUNTS = (1, 1, 1_000, 1_000_000)
_FURTHEST_JUMP = 20


@dataclass(slots=True)
class Workload:
    """The clients of one round and their common history."""

    name: str
    client: ClusterClient
    nodes: list[str]
    seed: int
    history: History = field(default_factory=lambda: History([], []))
    unexpected: list[str] = field(default_factory=list)
    """Answers that the contract does not have."""
    retried: int = 0
    _enough: asyncio.Event = field(default_factory=asyncio.Event)
    _slots: list[_Slot] = field(default_factory=list)

    async def run(self) -> None:
        """Work until `finish`; every operation in flight is brought to its end."""
        self._slots = [_Slot(f"{self.name}-p{number}") for number in range(PARTICIPANTS_AT_ONCE)]
        clients = (
            self._work(f"{node_id}-c{number}", node_id)
            for node_id in self.nodes
            for number in range(CLIENTS_A_NODE)
        )
        await asyncio.gather(*clients)

    def finish(self) -> None:
        self._enough.set()

    def participants(self) -> list[str]:
        """Return all that took part, the retired ones included."""
        return [name for slot in self._slots for name in slot.used()]

    async def _work(self, name: str, via: str) -> None:
        chance = random.Random(f"{self.seed} {self.name} {name}")  # noqa: S311  # chosen by seed
        number = 0
        while not self._enough.is_set():
            number += 1
            participant = chance.choice(self._slots).next_participant()
            kind = chance.random()
            if kind < _SHARE_OF_READS:
                await self._read(participant, via)
            elif kind > 1.0 - _SHARE_OF_DRAWS:
                await self._draw(via, chance.choice(_COUNTS))
            else:
                jump = chance.randrange(1, _FURTHEST_JUMP)
                is_sync = kind < _SHARE_OF_READS + _SHARE_OF_SYNCS
                await self._write(
                    f"{self.name}-{name}-{number}",
                    participant,
                    via,
                    received=number // 10 + jump if is_sync else 0,
                    retry=chance.random() < 0.5,
                )
            await asyncio.sleep(_PAUSE_S)

    async def _write(
        self, unique_id: str, participant: str, via: str, *, received: int, retry: bool
    ) -> None:
        body: dict[str, object] = {
            "nodeId": participant,
            "eventType": "CHAOS",
            "eventData": {"id": unique_id},
        }
        if received:
            body |= {"sourceNodeId": "elsewhere", "timestamp": received}
        begun_ns = time.monotonic_ns()
        ending, event_id, lamport = Ending.ACKNOWLEDGED, None, None
        try:
            answer = await self.client.post(
                SYNC_PATH if received else EVENT_PATH,
                body,
                via=via,
                deadline_s=DEADLINE_S,
                idempotency_key=unique_id,
                retry=retry,
            )
        except NotDoneError:
            ending = Ending.REFUSED
        except OutcomeUnknownError:
            ending = Ending.UNKNOWN
        else:
            self.retried += answer.attempts > 1
            if answer.ok:
                event_id = answer.body["syncedEventId" if received else "eventId"]
                lamport = answer.body["lamportTimestamp"]
            else:
                ending = Ending.UNKNOWN
                self.unexpected.append(f"{answer.node_id} to {unique_id}: {answer}")
        self.history.writes.append(
            Write(
                unique_id=unique_id,
                participant=participant,
                via=via,
                begun_ns=begun_ns,
                ended_ns=time.monotonic_ns(),
                ending=ending,
                received_timestamp=received,
                event_id=event_id,
                lamport=lamport,
            )
        )

    async def _read(self, participant: str, via: str) -> None:
        begun_ns = time.monotonic_ns()
        try:
            answer = await self.client.get(
                f"{CLOCK_PATH}/{participant}", via=via, deadline_s=DEADLINE_S
            )
        except NotDoneError:
            return
        ended_ns = time.monotonic_ns()
        if answer.ok:
            lamport = answer.body["lamportTimestamp"]
            self.history.reads.append(ClockRead(participant, via, begun_ns, ended_ns, lamport))
        else:
            self.unexpected.append(f"{answer.node_id} to a read of {participant}: {answer}")

    async def _draw(self, via: str, count: int) -> None:
        drawn = await draw_timestamps(self.client, via, count)
        if isinstance(drawn, Draw):
            self.history.draws.append(drawn)
        elif drawn is not None:
            self.unexpected.append(f"{drawn.node_id} to a draw of {count}: {drawn}")


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


@dataclass(slots=True)
class _Slot:
    """One participant after another, under names that are never used again."""

    name: str
    _operations: int = 0

    def next_participant(self) -> str:
        self._operations += 1
        return f"{self.name}-{(self._operations - 1) // OPERATIONS_A_PARTICIPANT}"

    def used(self) -> list[str]:
        generations = -(-self._operations // OPERATIONS_A_PARTICIPANT)
        return [f"{self.name}-{generation}" for generation in range(generations)]
