"""Clients of one kind in one round of a chaos run: what all kinds have in common."""

from __future__ import annotations

import abc
import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from scripts.tidelock_scripts.chaos.checkers import Violation
from scripts.tidelock_scripts.chaos.history import Ending
from scripts.tidelock_scripts.chaos.nemesis import Scene
from scripts.tidelock_scripts.chaos.watch_checks import Message
from scripts.tidelock_scripts.client import (
    Answer,
    ClusterClient,
    NotDoneError,
    OutcomeUnknownError,
)
from scripts.tidelock_scripts.events import UnexpectedAnswerError

ATTEMPT_TIMEOUT_S = 1.5
DEADLINE_S = 4.0
OPERATIONS_A_NAME = 300
"""Then it retires, so that the history of each stays short enough to be searched."""

_CHECKERS_AT_ONCE = 8
_PAGE = 1_000
_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Told:
    """What a client was told of one call."""

    ending: Ending
    begun_ns: int
    ended_ns: int
    body: Any = None
    """Of the answer; None when there was none."""

    @property
    def acknowledged(self) -> bool:
        return self.ending is Ending.ACKNOWLEDGED


@dataclass(frozen=True, slots=True)
class Round:
    """What the clients of a round work on."""

    name: str
    client: ClusterClient
    nodes: Sequence[str]
    seed: int
    dtm_urls: Mapping[str, str]
    """Where each node serves DTM's protocol."""


class RoundClients(abc.ABC):
    """Some clients at each node, which do one thing after the other until the round ends."""

    what: ClassVar[str]
    """The name by which `scripts/chaos --workload` knows them."""
    pause_s: ClassVar[float] = 0.004

    def __init__(self, of_round: Round, clients_a_node: int) -> None:
        self.round = of_round
        self.client = of_round.client
        self._clients_a_node = clients_a_node
        self._enough = asyncio.Event()
        self.counters: Counter[str] = Counter()
        self.unexpected: list[str] = []
        """Answers that the contract does not have."""

    async def run(self) -> None:
        """Work until `finish`; every operation in flight is brought to its end."""
        await asyncio.gather(
            *(
                self._work(f"{node_id}-c{number}", node_id)
                for node_id in self.round.nodes
                for number in range(self._clients_a_node)
            )
        )

    def finish(self) -> None:
        self._enough.set()

    async def _work(self, client: str, via: str) -> None:
        seed = f"{self.round.seed} {self.what} {self.round.name} {client}"
        chance = random.Random(seed)  # noqa: S311  # chosen by seed
        number = 0
        while not self._enough.is_set():
            number += 1
            unique = f"{self.round.name}-{self.what}-{client}-{number}"
            await self.operate(unique, via, chance)
            await asyncio.sleep(self.pause_s)

    @abc.abstractmethod
    async def operate(self, unique: str, via: str, chance: random.Random) -> None:
        """Do the next thing through the node `via`. `unique` is a name that nothing else has."""

    @abc.abstractmethod
    async def check(self, scene: Scene, log: Sequence[Message]) -> list[Violation]:
        """Compare what clients saw with what the cluster holds, once all of it has recovered.

        `log` is what a watcher was told from before the round until after it.

        Raises: UnexpectedAnswerError: a node does not answer.
        """

    @abc.abstractmethod
    def history(self) -> object:
        """Return what clients did and saw, as something that can be written as JSON."""

    # --- calls

    async def post(
        self,
        path: str,
        body: Mapping[str, object],
        *,
        via: str,
        retry: bool,
        key: str | None = None,
        refusals: Sequence[str] = (),
        attempt_timeout_s: float | None = None,
    ) -> Told:
        """Write. `refusals` are the codes of the contract by which nothing is done."""
        begun_ns = time.monotonic_ns()
        try:
            answer = await self.client.post(
                path,
                body,
                via=via,
                deadline_s=max(DEADLINE_S, 2 * (attempt_timeout_s or 0.0)),
                idempotency_key=key,
                retry=retry,
                attempt_timeout_s=attempt_timeout_s,
            )
        except NotDoneError:
            return self._told(Ending.REFUSED, begun_ns)
        except OutcomeUnknownError:
            return self._told(Ending.UNKNOWN, begun_ns)
        self.counters["retried"] += answer.attempts > 1
        if answer.ok:
            return self._told(Ending.ACKNOWLEDGED, begun_ns, answer)
        if isinstance(answer.body, dict) and answer.body.get("code") in refusals:
            return self._told(Ending.REFUSED, begun_ns, answer)
        self.unexpected.append(f"{answer.node_id} to {path} {body}: {answer}")
        return self._told(Ending.UNKNOWN, begun_ns)

    async def get(self, path: str, *, via: str, missing: str = "") -> Told | None:
        """Read; None when nobody answered. `missing` is the code of what is not there."""
        begun_ns = time.monotonic_ns()
        try:
            answer = await self.client.get(path, via=via, deadline_s=DEADLINE_S)
        except NotDoneError:
            return None
        if answer.ok or (missing and answer.body.get("code") == missing):
            self.counters["reads"] += 1
            return Told(Ending.ACKNOWLEDGED, begun_ns, time.monotonic_ns(), answer.body)
        self.unexpected.append(f"{answer.node_id} to {path}: {answer}")
        return None

    def _told(self, ending: Ending, begun_ns: int, answer: Answer | None = None) -> Told:
        self.counters[ending.value] += 1
        body = None if answer is None else answer.body
        return Told(ending, begun_ns, time.monotonic_ns(), body)

    # --- after the round

    async def ask_all(self, node_id: str, paths: Sequence[str]) -> list[Answer]:
        """GET each from exactly this node, which must answer.

        Raises: UnexpectedAnswerError
        """
        limit = asyncio.Semaphore(_CHECKERS_AT_ONCE)

        async def one(path: str) -> Answer:
            async with limit:
                answer = await self.client.ask(node_id, path, timeout_s=_PATIENCE_S)
            if answer is None or answer.status not in (200, 404):
                raise UnexpectedAnswerError(f"{node_id} answered {answer} to {path}")
            return answer

        return await asyncio.gather(*map(one, paths))

    async def list_all(self, node_id: str, path: str) -> list[dict[str, Any]]:
        """Return every item of a list, which has other parameters already.

        Raises: UnexpectedAnswerError
        """
        items: list[dict[str, Any]] = []
        cursor = ""
        while True:
            (answer,) = await self.ask_all(node_id, [f"{path}&limit={_PAGE}{cursor}"])
            items += answer.body["items"]
            if answer.body["nextCursor"] is None:
                return items
            cursor = f"&cursor={answer.body['nextCursor']}"


class Names:
    """Names of one kind of thing; each is used for a while and then never again."""

    def __init__(self, prefix: str, at_once: int, operations: int = OPERATIONS_A_NAME) -> None:
        self._prefix = prefix
        self._used = [0] * at_once
        self._operations = operations

    def choose(self, chance: random.Random) -> str:
        at = chance.randrange(len(self._used))
        self._used[at] += 1
        return f"{self._prefix}{at}-{(self._used[at] - 1) // self._operations}"

    def used(self) -> list[str]:
        """Return all that were chosen, the retired ones included."""
        return [
            f"{self._prefix}{at}-{generation}"
            for at, used in enumerate(self._used)
            for generation in range(-(-used // self._operations))
        ]


def of_kinds(log: Sequence[Message], *kinds: str) -> list[dict[str, Any]]:
    """Return the changes of the kinds that begin so."""
    return [
        change
        for message in log
        for change in message["changes"]
        if change["kind"].startswith(kinds)
    ]
