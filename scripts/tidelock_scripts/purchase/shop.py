"""A shop: the cluster, the four services and their databases, and purchases that are made there."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from aiohttp import ClientError, ClientSession, ClientTimeout

from scripts.tidelock_scripts.client import ClusterClient
from scripts.tidelock_scripts.cluster_command import find_leader
from scripts.tidelock_scripts.local_cluster import ClusterError, LocalCluster
from scripts.tidelock_scripts.purchase.books import GUARDS, SERVICES, Books
from scripts.tidelock_scripts.purchase.purchases import Event, Plan, Purchase
from scripts.tidelock_scripts.purchase.services import Service, stop, wait_until_ready
from scripts.tidelock_scripts.purchase.wires import Wires
from tidelock.crash_points import VARIABLE as CRASH_VARIABLE

T = TypeVar("T")

_PORTS_FROM: Final = 51
_TIMEOUT_MS: Final = 4_000
_DECIDED_WITHIN_S: Final = 90.0
"""A branch of XA that was left is only given up when its process's session has ended."""
_SETTLED_WITHIN_S: Final = 20.0
_POLL_S: Final = 0.02


class NotSettledError(Exception):
    """A transaction does not come to its end; the message says where it stands."""


@dataclass
class _Happening:
    """A purchase that is being made."""

    events: list[Event] = field(default_factory=list)
    died: list[str] = field(default_factory=list)

    def note(self, who: str, what: str) -> None:
        self.events.append(Event(time.time_ns() // 1_000_000, who, what))


class Shop:
    """Where purchases are made, one at a time."""

    def __init__(
        self,
        cluster: LocalCluster,
        client: ClusterClient,
        books: Books,
        services: Mapping[str, Service],
        wires: Wires,
    ) -> None:
        """Everything runs already; `open_shop` sees to that."""
        self.cluster = cluster
        self.books = books
        self.services = services
        self._client = client
        self._wires = wires

    async def purchase(self, plan: Plan, *, guards_go: bool = True) -> Purchase:
        """Make a purchase, wait until all of it is settled, and say what came of it.

        With `guards_go=False` rows that the SDK keeps against latecomers, until
        `channels.clean_after_ms` after the end, are neither waited for nor counted.

        Raises:
            NotSettledError, ServiceError, ClusterError
        """
        happening = _Happening()
        self._wires.calls.clear()
        before = await asyncio.to_thread(self.books.stand)
        await self._prepare(plan, happening)
        tending = asyncio.create_task(self._tend(happening))
        try:
            answer = await self._ask(plan)
            xid = next((call.xid for call in self._wires.calls), "")
            if not xid:
                raise NotSettledError(f"no transaction was begun: {answer}")
            transaction = await self._ended(xid)
            left_behind = await self._settled(xid, guards_go=guards_go)
        finally:
            tending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await tending
        await self._put_right(plan, happening)
        return Purchase(
            plan=plan,
            before=before,
            after=await asyncio.to_thread(self.books.stand),
            answer=answer,
            calls=list(self._wires.calls),
            events=happening.events,
            transaction=transaction,
            left_behind=left_behind,
            was_killed=plan.victim in happening.died,
        )

    async def _prepare(self, plan: Plan, happening: _Happening) -> None:
        """See to it that the victim dies where it is to die."""
        if plan.victim == "leader":
            self._wires.disturb(("account", "before"), lambda: self._kill_leader(happening))
        elif plan.victim == "business":
            # Nobody will decide, so the time that the transaction has is waited for.
            await self._restart("business", PURCHASE_TIMEOUT_MS=str(_TIMEOUT_MS))
            self._wires.disturb(("account", "after"), lambda: self._kill("business", happening))
        elif point := plan.crash_point():
            await self._restart(plan.victim, **{CRASH_VARIABLE: point})
        elif plan.victim:
            self._wires.disturb((plan.victim, "after"), lambda: self._kill(plan.victim, happening))

    async def _put_right(self, plan: Plan, happening: _Happening) -> None:
        """Bring back what died, and let live what did not come to where it was to die."""
        for node_id in self.cluster.places:
            if self.cluster.start(node_id):
                await self.cluster.wait_until_ready([node_id])
                happening.note(node_id, "started again")
        if plan.victim in self.services and plan.victim not in happening.died:
            await self._restart(plan.victim)
        await wait_until_ready(self.services.values())

    async def _restart(self, name: str, **settings: str) -> None:
        service = self.services[name]
        await asyncio.to_thread(stop, [service])
        service.start(**settings)
        await wait_until_ready([service])

    async def _kill_leader(self, happening: _Happening) -> None:
        leader = await find_leader(self._client, self.cluster)
        if leader is None:
            raise ClusterError("no node says that it leads")
        await asyncio.to_thread(self.cluster.kill, leader)
        happening.died.append("leader")
        happening.note(leader, "killed: it was the leader")

    async def _kill(self, name: str, happening: _Happening) -> None:
        self.services[name].kill()
        happening.note(name, "killed: account has answered, and nothing is decided")

    async def _tend(self, happening: _Happening) -> None:
        """Start a service again that has died."""
        while True:
            for name, service in self.services.items():
                if not service.runs:
                    happening.died.append(name)
                    happening.note(name, f"{_last_words(service)}is started again")
                    service.start()
            await asyncio.sleep(_POLL_S)

    async def _ask(self, plan: Plan) -> str:
        wanted = {
            "user_id": "u-1",
            "commodity_code": "chair",
            "count": plan.count,
            "mode": plan.mode,
        }
        url = f"{self.services['business'].url}/purchase"
        try:
            async with (
                ClientSession(timeout=ClientTimeout(total=_DECIDED_WITHIN_S)) as session,
                session.post(url, json=wanted) as response,
            ):
                said = await response.json() if response.status in (200, 409) else {}
                return str(said.get("error", "")) or f"{response.status}"
        except (ClientError, OSError) as error:
            return f"no answer: {type(error).__name__}"

    async def _ended(self, xid: str) -> dict[str, Any]:
        """Return the transaction once nothing is left to do in it."""

        async def ended() -> dict[str, Any] | None:
            found = await self._read(f"/api/v1/transactions/{xid}")
            return found if found.get("endedAt") is not None else None

        return await self._eventually(ended, _DECIDED_WITHIN_S, lambda: self._where(xid))

    async def _settled(self, xid: str, *, guards_go: bool) -> dict[str, int]:
        """Return what is left behind, once it is nothing or the time is over."""
        found: dict[str, int] = {}

        async def nothing_left() -> bool:
            found.update(await asyncio.to_thread(self.books.left_behind))
            for guard in () if guards_go else GUARDS:
                del found[guard]
            found["row locks"] = len((await self._read(f"/api/v1/row-locks?xid={xid}"))["items"])
            return not any(found.values())

        with contextlib.suppress(NotSettledError):
            await self._eventually(nothing_left, _SETTLED_WITHIN_S, lambda: asyncio.sleep(0, ""))
        return found

    async def _where(self, xid: str) -> str:
        found = await self._read(f"/api/v1/transactions/{xid}")
        branches = ", ".join(f"{each['resourceId']} {each['status']}" for each in found["branches"])
        return f"{xid} is {found['status']} ({branches})"

    async def _read(self, path: str) -> Any:
        answer = await self._client.get(path, via=next(iter(self.cluster.places)))
        if not answer.ok:
            raise NotSettledError(f"{path}: {answer.status} {answer.body}")
        return answer.body

    async def _eventually(
        self,
        ask: Callable[[], Awaitable[T | None]],
        within_s: float,
        where: Callable[[], Awaitable[str]],
    ) -> T:
        ends_at = time.monotonic() + within_s
        while True:
            found = await ask()
            if found:
                return found
            if time.monotonic() >= ends_at:
                raise NotSettledError(await where())
            await asyncio.sleep(_POLL_S)


def _last_words(service: Service) -> str:
    """Return where a crash point ended it, as `died at …, and `."""
    last = service.log_tail(1).rpartition("\n")[2]
    return f"died{last.removeprefix('killed')}, and " if last.startswith("killed at ") else ""


@asynccontextmanager
async def open_shop(cluster: LocalCluster, books: Books, folder: Path) -> AsyncIterator[Shop]:
    """Start the four services of a cluster that runs, and yield once they answer.

    The databases must have their tables. Logs are in `folder`.

    Raises:
        ServiceError
    """
    nodes = ",".join(place.url for place in cluster.places.values())
    ports = {name: cluster.base_port + _PORTS_FROM + i for i, name in enumerate(SERVICES)}
    own = {name: {"PURCHASE_DATABASE": books.databases[name].url} for name in SERVICES}
    services = {
        name: Service(name, ports[name], folder, {"PURCHASE_CLUSTER": nodes, **own[name]})
        for name in SERVICES
    }
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(ClusterClient(cluster.addresses))
        urls = {name: service.url for name, service in services.items()}
        wires = await stack.enter_async_context(Wires(urls))
        told = {f"PURCHASE_{name.upper()}": wires.url(name) for name in SERVICES}
        business = {"PURCHASE_CLUSTER": nodes, **told}
        port = cluster.base_port + _PORTS_FROM + len(SERVICES)
        services["business"] = Service("business", port, folder, business)
        stack.callback(stop, list(services.values()))
        for service in services.values():
            service.start()
        await wait_until_ready(services.values())
        yield Shop(cluster, client, books, services, wires)
