"""Clients of DTM's protocol: sagas, TCCs and messages, each call repeated under its gid.

As DTM's own clients do, they go to another node with the same gid until somebody answers. TCC's
Try they do themselves; some vanish in between.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Final

import aiohttp
import msgspec

from scripts.tidelock_scripts.chaos.branch_effects import DONE, BranchEffects
from scripts.tidelock_scripts.chaos.checkers import Violation
from scripts.tidelock_scripts.chaos.participating_clients import ParticipatingClients
from scripts.tidelock_scripts.chaos.round_clients import ATTEMPT_TIMEOUT_S, Round

LOCAL: Final = "local"
"""The name of what the sender of a message does by itself."""

_TIMEOUT_S: Final = 6
_DEADLINE_S: Final = 8.0
_VANISHES: Final = 0.1
_AGAIN: Final = 0.2
"""How often a submission that was accepted is sent once more, to another node."""


@dataclass(slots=True)
class Wanted:
    """One transaction, as its client knows it."""

    kind: str
    names: list[str] = field(default_factory=list)
    """What must be done when it is committed."""
    accepted: str = ""
    """`submit` or `abort`, once a node has said that it is."""


class DtmClients(ParticipatingClients):
    """Whatever was accepted ends the same for all of its branches."""

    what = "dtm"
    trouble = 0.15
    timeout_s = _TIMEOUT_S

    def __init__(self, of_round: Round, clients_a_node: int) -> None:
        super().__init__(of_round, clients_a_node)
        self._wanted: dict[str, Wanted] = {}
        self._session: aiohttp.ClientSession | None = None

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=ATTEMPT_TIMEOUT_S)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as self._session:
            await super().run()

    async def operate(self, unique: str, via: str, chance: random.Random) -> None:
        gid = unique[-64:]
        match chance.choice(("saga", "tcc", "msg")):
            case "saga":
                await self._saga(gid, via, chance)
            case "tcc":
                await self._tcc(gid, via, chance)
            case _:
                await self._message(gid, via, chance)

    # --- one transaction

    async def _saga(self, gid: str, via: str, chance: random.Random) -> None:
        count = chance.randint(1, 3)
        names = [f"s{number}" + (f"<s{number - 1}" if number else "") for number in range(count)]
        refusing = chance.randrange(count) if chance.random() < 0.3 else -1
        steps = [
            {
                "action": self._url(name, "refuse" if number == refusing else "do"),
                "compensate": self._url(name, "undo"),
            }
            for number, name in enumerate(names)
        ]
        self._wanted[gid] = Wanted("saga", names)
        body = {**_body(gid, "saga"), "steps": steps, "payloads": ["{}"] * count}
        await self._submit(gid, body, via, chance)

    async def _tcc(self, gid: str, via: str, chance: random.Random) -> None:
        wanted = self._wanted[gid] = Wanted("tcc")
        body = {**_body(gid, "tcc"), "timeout_to_fail": _TIMEOUT_S}
        if await self._say("prepare", body, via) != 200:
            return
        fails = chance.random() < 0.3
        for number in range(chance.randint(1, 3)):
            name = f"b{number}"
            urls = {"confirm": self._url(name, "commit"), "cancel": self._url(name, "undo")}
            branch = {"gid": gid, "trans_type": "tcc", "branch_id": f"0{number + 1}", "data": "{}"}
            if await self._say("registerBranch", {**branch, **urls}, via) != 200:
                fails = True
                break
            if chance.random() < _VANISHES:
                return
            if self._effects.call(gid, name, "do") != DONE:
                fails = True  # its time is up, and it was cancelled before
                break
            wanted.names.append(name)
        await self._decide(gid, body, via, chance, abort=fails)

    async def _message(self, gid: str, via: str, chance: random.Random) -> None:
        names = [f"d{number}" for number in range(chance.randint(1, 2))]
        self._wanted[gid] = Wanted("msg", [LOCAL, *names])
        body = {
            **_body(gid, "msg"),
            "steps": [{"action": self._url(name, "do")} for name in names],
            "payloads": ["{}"] * len(names),
            "query_prepared": self._url(LOCAL, "query"),
            "timeout_to_fail": 1,
        }
        if await self._say("prepare", body, via) != 200:
            return
        worked = chance.random() < 0.7 and self._effects.work(gid, LOCAL)
        if chance.random() < 2 * _VANISHES:
            return
        await self._decide(gid, body, via, chance, abort=not worked)

    async def _decide(
        self, gid: str, body: dict[str, object], via: str, chance: random.Random, *, abort: bool
    ) -> None:
        if not abort:
            await self._submit(gid, body, via, chance)
        elif await self._say("abort", body, via) == 200:
            self._wanted[gid].accepted = "abort"

    async def _submit(
        self, gid: str, body: dict[str, object], via: str, chance: random.Random
    ) -> None:
        if await self._say("submit", body, via) != 200:
            return
        self._wanted[gid].accepted = "submit"
        if chance.random() < _AGAIN:
            # What has ended says so; nothing is done again either way.
            await self._say("submit", body, chance.choice(list(self.round.nodes)))

    # --- calls

    async def _say(self, what: str, body: Mapping[str, object], via: str) -> int:
        """Send it to one node after the other until one decides; 0 when none does in time."""
        nodes = [via, *(node for node in self.round.nodes if node != via)]
        ends_at = time.monotonic() + _DEADLINE_S
        attempts = 0
        while time.monotonic() < ends_at:
            url = f"{self.round.dtm_urls[nodes[attempts % len(nodes)]]}/{what}"
            attempts += 1
            status, said = await self._post(url, body)
            if status in (200, 409):
                self.counters["repeated"] += attempts > 1
                self.counters[f"{what} {status}"] += 1
                return status
            if status not in (0, 425, 500, 503):
                self.unexpected.append(f"{url} answered {status} {said!r} to {body}")
                return status
            await asyncio.sleep(0.02)
        self.counters["unknown"] += 1
        return 0

    async def _post(self, url: str, body: Mapping[str, object]) -> tuple[int, bytes]:
        assert self._session is not None
        try:
            async with self._session.post(url, data=msgspec.json.encode(body)) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, OSError):
            return 0, b""

    # --- after the round

    def begun(self) -> Collection[str]:
        return self._wanted

    def judge(self, xid: str, status: str) -> list[Violation]:
        return judge(xid, self._wanted[xid], status, self._effects)

    def history(self) -> object:
        return {
            "wanted": {gid: asdict(wanted) for gid, wanted in self._wanted.items()},
            "ended": self._ended,
            "effects": self.effects(),
        }


def _body(gid: str, kind: str) -> dict[str, object]:
    return {"gid": gid, "trans_type": kind, "retry_interval": 1, "request_timeout": 1}


def judge(gid: str, wanted: Wanted, status: str, effects: BranchEffects) -> list[Violation]:
    """Hold what was done for a transaction against its end."""
    committed = status == "COMMITTED"
    found: list[Violation] = []
    if wanted.accepted and not status:
        found.append(Violation("what was accepted is there", f"{gid} is not"))
    # A saga that was accepted may fail later; the others were decided with that.
    decided = {"submit": True, "abort": False}.get(wanted.accepted)
    if wanted.kind == "saga" and wanted.accepted == "submit":
        decided = None
    if status and decided is not None and decided != committed:
        detail = f"{wanted.accepted} of {gid} was accepted, and it is {status}"
        found.append(Violation("a decision that was accepted stands", detail))
    wrong = effects.found_wrong(
        gid, committed=committed, confirms=wanted.kind == "tcc", names=wanted.names
    )
    if wrong is not None:
        found.append(Violation("done or undone as a whole", f"{gid} is {status}: {wrong}"))
    return found
