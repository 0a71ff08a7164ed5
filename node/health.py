"""Checks of the other nodes' health over HTTP, and the way back into rotation.

Each node judges for itself; what the leader sees is recorded in the log by whoever gives
`on_change`. The rules are in `failure_detector`; here is only what waits, calls and times.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

import aiohttp

from api.routing import NodeState, RejoinRefusedError, RoutingTable
from node.config import HealthConfig
from node.failure_detector import Change, Comparison, FailureDetector, Judgement, Verdict
from node.physical_clock import system_monotonic_ms, system_wall_ms

logger = logging.getLogger(__name__)

LIVE_PATH: Final = "/health/live"
NODE_HEADER: Final = "Tidelock-Node"

COMPARISON_TIMEOUT_S: Final = 10.0
"""A comparison that takes longer counts as not possible yet, and is tried again."""

OnChange = Callable[[str, NodeState, str], None]
"""Called with node id, new state and reason, in the order of the changes."""

CompareDigests = Callable[[str], Awaitable[Comparison]]
"""Compares a returning node's digest with a healthy node's (this one's will do) at one index."""

Sleep = Callable[[float], Awaitable[None]]


class Probe(Protocol):
    async def __call__(self, node_id: str, address: str) -> str | None:
        """Check one node at its API address; return None when it lives, else why it seems not to.

        What it raises counts as a miss, and it is cancelled when it takes too long.
        """


class HttpProbe:
    """Asks `GET /health/live`. Every check makes a connection of its own.

    A kept one would say nothing of whether the node still accepts any, and would fail once after
    every restart. Proxies of the environment are not used, and redirects are not followed.
    """

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, node_id: str, address: str) -> str | None:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True, limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        url = f"http://{address}{LIVE_PATH}"
        try:
            async with self._session.get(url, allow_redirects=False) as answer:
                if answer.status != 200:
                    return f"it answered {answer.status}"
                answering = answer.headers.get(NODE_HEADER, node_id)
        except aiohttp.ClientConnectorError as error:
            number = error.os_error.errno
            cause = os.strerror(number).lower() if number else str(error.os_error)
            return f"cannot connect to {address}: {cause}"
        if answering != node_id:
            return f"{answering[:64]!r} answers at {address}"
        return None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


class HealthMonitor:
    """Checks every other member at an interval and keeps the routing table (a `RoutingView`).

    Belongs to one event loop. `wall_ms` dates the changes; `monotonic_ms` and `sleep` pace the
    checks.
    """

    def __init__(
        self,
        *,
        node_id: str,
        settings: HealthConfig,
        probe: Probe,
        compare: CompareDigests,
        on_change: OnChange,
        wall_ms: Callable[[], int] = system_wall_ms,
        monotonic_ms: Callable[[], int] = system_monotonic_ms,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._node_id = node_id
        self._settings = settings
        self._probe = probe
        self._compare = compare
        self._on_change = on_change
        self._wall_ms = wall_ms
        self._monotonic_ms = monotonic_ms
        self._sleep = sleep
        self._detector = FailureDetector(
            node_id,
            failures_suspect=settings.failures_suspect,
            failures_failed=settings.failures_failed,
        )
        self._addresses: dict[str, str] = {}
        self._running = False
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._comparisons: dict[str, asyncio.Task[None]] = {}
        self._disagreed: dict[str, int] = {}
        """The episode in which a difference was last logged: once is enough."""

    def set_members(self, addresses: Mapping[str, str]) -> None:
        """Take the members and their API addresses (`host:port`), this node's own included.

        Members that stay keep their state, also under a new address.
        """
        self._addresses = dict(addresses)
        self._detector.set_members({*addresses, self._node_id}, self._wall_ms())
        for tasks in (self._watches, self._comparisons):
            for node_id in [known for known in tasks if known not in addresses]:
                tasks.pop(node_id).cancel()
        for node_id in [known for known in self._disagreed if known not in addresses]:
            del self._disagreed[node_id]
        if self._running:
            self._watch_members()

    def start(self) -> None:
        """Begin to check. Needs a running loop."""
        self._running = True
        self._watch_members()

    async def close(self) -> None:
        """Stop all checks and comparisons."""
        self._running = False
        tasks = [*self._watches.values(), *self._comparisons.values()]
        self._watches.clear()
        self._comparisons.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def table(self) -> RoutingTable:
        return self._detector.table()

    async def rejoin(self, node_id: str) -> NodeState:
        """See `api.routing.RoutingView`."""
        state = self._detector.state_of(node_id)
        if node_id == self._node_id or state is NodeState.HEALTHY:
            return NodeState.HEALTHY
        address = self._addresses[node_id]
        if why := await self._ask(node_id, address):
            raise RejoinRefusedError(
                "NODE_NOT_ANSWERING",
                f"{node_id} does not answer health checks at {address} ({why}): "
                "see that it runs there, then ask again",
            )
        self._follow(node_id, self._detector.asked_to_rejoin(node_id, self._wall_ms()))
        return self._detector.state_of(node_id)

    async def check(self, node_id: str) -> None:
        """Check one member once and draw the consequences."""
        address = self._addresses.get(node_id)
        if address is None:
            return
        began_ms = self._monotonic_ms()
        why = await self._ask(node_id, address)
        if why is None:
            self._follow(node_id, self._detector.answered(node_id, self._wall_ms()))
        elif self._monotonic_ms() - began_ms > 2 * self._settings.timeout_ms:
            # This process was paused or its loop was busy: the time that passed is not the peer's.
            logger.warning("a check was not judged: this node itself stood still")
        else:
            self._follow(node_id, self._detector.missed(node_id, why, self._wall_ms()))

    async def _ask(self, node_id: str, address: str) -> str | None:
        """Return None when the node answered in time, else why it seems not to live."""
        try:
            async with asyncio.timeout(self._settings.timeout_ms / 1000):
                return await self._probe(node_id, address)
        except TimeoutError:
            return f"no answer within {self._settings.timeout_ms} ms"
        except Exception as error:
            # Whatever else goes wrong: a watch that ended would leave the node healthy for ever.
            return _told(error)

    def _watch_members(self) -> None:
        for node_id in self._addresses:
            if node_id != self._node_id and node_id not in self._watches:
                self._watches[node_id] = asyncio.create_task(
                    self._watch(node_id), name=f"health of {node_id}"
                )

    async def _watch(self, node_id: str) -> None:
        """Check at a steady rate; after a standstill go on from now instead of catching up."""
        interval_ms = self._settings.interval_ms
        due_ms = self._monotonic_ms()
        while True:
            await self.check(node_id)
            due_ms = max(due_ms + interval_ms, self._monotonic_ms())
            await self._sleep((due_ms - self._monotonic_ms()) / 1000)

    def _follow(self, node_id: str, judgement: Judgement) -> None:
        if judgement.change is not None:
            self._report(judgement.change)
        if judgement.compare and node_id not in self._comparisons:
            self._comparisons[node_id] = asyncio.create_task(
                self._compare_with_healthy(node_id), name=f"comparison of {node_id}"
            )

    def _report(self, change: Change) -> None:
        level = logging.INFO if change.state is NodeState.HEALTHY else logging.WARNING
        logger.log(
            level,
            "%s is %s: %s",
            change.node_id,
            change.state.value,
            change.reason,
            extra={"peer": change.node_id, "state": change.state.value},
        )
        try:
            self._on_change(change.node_id, change.state, change.reason)
        except Exception:
            logger.exception("a change of the routing table could not be passed on")

    async def _compare_with_healthy(self, node_id: str) -> None:
        episode = self._detector.episode_of(node_id)
        task = asyncio.current_task()
        try:
            async with asyncio.timeout(COMPARISON_TIMEOUT_S):
                comparison = await self._compare(node_id)
        except TimeoutError:
            comparison = Comparison(Verdict.UNKNOWN, "its state could not be compared in time")
        except Exception as error:
            comparison = Comparison(
                Verdict.UNKNOWN, f"its state could not be compared: {_told(error)}"
            )
        finally:
            # Before the verdict is followed, so that a new comparison can begin from it.
            if self._comparisons.get(node_id) is task:
                del self._comparisons[node_id]
        if comparison.verdict is Verdict.DIFFERENT and self._disagreed.get(node_id) != episode:
            self._disagreed[node_id] = episode
            logger.error(
                "%s stays out of rotation: %s", node_id, comparison.detail, extra={"peer": node_id}
            )
        judgement = self._detector.compared(
            node_id, comparison, episode=episode, now_ms=self._wall_ms()
        )
        self._follow(node_id, judgement)


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__
