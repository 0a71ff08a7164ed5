"""The health monitor: checks over HTTP, their pace, and the way back into rotation."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from api.routing import NodeState, RejoinRefusedError, RoutingView
from node.config import HealthConfig
from node.failure_detector import Comparison, Verdict
from node.health import HealthMonitor, HttpProbe

HEALTHY, SUSPECT, FAILED, RECOVERING = NodeState

SETTINGS = HealthConfig(interval_ms=1000, timeout_ms=50)
MEMBERS = {"n1": "127.0.0.1:7101", "n2": "127.0.0.1:7102", "n3": "127.0.0.1:7103"}

SAME = Comparison(Verdict.SAME, "its digest equals n1's at index 9")
DIFFERENT = Comparison(Verdict.DIFFERENT, "its digest differs from n1's at index 9")


class World:
    """A monitor at n1 among nodes that answer, fail or hang at will; time is set by hand."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.down: dict[str, str | Exception] = {}
        self.hanging: set[str] = set()
        self.changes: list[tuple[str, NodeState, str]] = []
        self.comparisons: list[str] = []
        self.verdicts: list[Comparison | Exception | asyncio.Event] = []
        self.asked: list[tuple[str, str]] = []
        self.pauses_s: list[float] = []
        self.monitor = HealthMonitor(
            node_id="n1",
            settings=SETTINGS,
            probe=self.probe,
            compare=self.compare,
            on_change=self.note,
            wall_ms=lambda: self.now_ms,
            monotonic_ms=lambda: self.now_ms,
            sleep=self.sleep,
        )
        self.monitor.set_members(MEMBERS)

    async def probe(self, node_id: str, address: str) -> str | None:
        self.asked.append((node_id, address))
        if node_id in self.hanging:
            await asyncio.Event().wait()
        found = self.down.get(node_id)
        if isinstance(found, Exception):
            raise found
        return found

    async def compare(self, node_id: str) -> Comparison:
        self.comparisons.append(node_id)
        verdict = self.verdicts.pop(0) if self.verdicts else SAME
        if isinstance(verdict, Exception):
            raise verdict
        if isinstance(verdict, asyncio.Event):
            await verdict.wait()
            return SAME
        return verdict

    async def sleep(self, duration_s: float) -> None:
        self.pauses_s.append(duration_s)
        self.now_ms += round(duration_s * 1000)
        await asyncio.sleep(0)

    def note(self, node_id: str, state: NodeState, reason: str) -> None:
        self.changes.append((node_id, state, reason))

    def state(self, node_id: str) -> NodeState:
        return {e.node_id: e.state for e in self.monitor.table().nodes}[node_id]

    async def fail(self, node_id: str) -> None:
        self.down[node_id] = "it answered 503"
        for _ in range(SETTINGS.failures_failed):
            await self.monitor.check(node_id)
        assert self.state(node_id) is FAILED
        self.changes.clear()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.monitor.close()


async def until(condition: Callable[[], bool], deadline_s: float = 5.0) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.001)


def test_the_monitor_is_a_routing_view(world: World) -> None:
    view: RoutingView = world.monitor
    assert [entry.node_id for entry in view.table().nodes] == ["n1", "n2", "n3"]


async def test_misses_are_counted_and_changes_reported(world: World) -> None:
    world.down["n2"] = ConnectionRefusedError("refused")
    for now_ms in (1000, 2000, 3000, 4000):
        world.now_ms = now_ms
        await world.monitor.check("n2")
    assert world.changes == [
        ("n2", SUSPECT, "missed 1 check: refused"),
        ("n2", FAILED, "missed 3 checks in a row: refused"),
    ]
    entry = world.monitor.table().nodes[1]
    assert (entry.in_rotation, entry.since_ms) == (False, 3000)


async def test_a_node_that_hangs_is_given_up_after_the_timeout(world: World) -> None:
    world.hanging.add("n2")
    await world.monitor.check("n2")
    assert world.changes == [("n2", SUSPECT, "missed 1 check: no answer within 50 ms")]


async def test_an_unforeseen_error_of_a_check_is_a_miss(world: World) -> None:
    world.down["n2"] = ZeroDivisionError()
    await world.monitor.check("n2")
    assert world.changes == [("n2", SUSPECT, "missed 1 check: ZeroDivisionError")]


async def test_a_returning_node_is_compared_and_then_healthy(world: World) -> None:
    await world.fail("n2")
    world.down.clear()
    await world.monitor.check("n2")
    assert world.state("n2") is RECOVERING
    await until(lambda: world.state("n2") is HEALTHY)
    assert world.comparisons == ["n2"]
    assert [state for _, state, _ in world.changes] == [RECOVERING, HEALTHY]
    assert world.changes[-1][2] == SAME.detail


async def test_a_node_with_another_digest_stays_out_until_it_is_the_same(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.fail("n2")
    world.down.clear()
    world.verdicts = [DIFFERENT, DIFFERENT, OSError("gone")]
    for number in (1, 2, 3):
        await world.monitor.check("n2")
        await until(lambda number=number: len(world.comparisons) == number)  # type: ignore[misc]
        await asyncio.sleep(0)
        assert world.state("n2") is RECOVERING
    assert "gone" in world.monitor.table().nodes[1].reason
    assert [r.levelno for r in caplog.records].count(logging.ERROR) == 1
    await world.monitor.check("n2")
    await until(lambda: world.state("n2") is HEALTHY)


async def test_one_comparison_at_a_time_is_under_way(world: World) -> None:
    await world.fail("n2")
    world.down.clear()
    finish = asyncio.Event()
    world.verdicts = [finish]
    for _ in range(5):
        await world.monitor.check("n2")
        await asyncio.sleep(0)
    assert world.comparisons == ["n2"]
    finish.set()
    await until(lambda: world.state("n2") is HEALTHY)


async def test_a_comparison_that_outlives_its_recovery_changes_nothing(world: World) -> None:
    await world.fail("n2")
    world.down.clear()
    finish = asyncio.Event()
    world.verdicts = [finish]
    await world.monitor.check("n2")
    await until(lambda: world.comparisons == ["n2"])
    await world.fail("n2")
    finish.set()
    for _ in range(10):
        await asyncio.sleep(0)
    assert world.state("n2") is FAILED


async def test_a_node_may_ask_to_come_back(world: World) -> None:
    await world.fail("n2")
    world.down.clear()
    assert await world.monitor.rejoin("n2") is RECOVERING
    assert world.changes[0][1] is RECOVERING
    await until(lambda: world.state("n2") is HEALTHY)
    assert await world.monitor.rejoin("n2") is HEALTHY
    assert await world.monitor.rejoin("n1") is HEALTHY
    assert world.comparisons == ["n2"]


async def test_a_node_that_does_not_answer_cannot_come_back(world: World) -> None:
    await world.fail("n2")
    with pytest.raises(RejoinRefusedError, match="it answered 503") as caught:
        await world.monitor.rejoin("n2")
    assert caught.value.code == "NODE_NOT_ANSWERING"
    assert world.state("n2") is FAILED
    with pytest.raises(LookupError):
        await world.monitor.rejoin("n9")


async def test_every_other_member_is_checked_at_the_interval(world: World) -> None:
    world.monitor.start()
    await until(lambda: len(world.asked) >= 8)
    await world.monitor.close()
    assert {node_id for node_id, _ in world.asked} == {"n2", "n3"}
    assert ("n2", "127.0.0.1:7102") in world.asked
    assert world.changes == []


async def test_the_time_a_check_takes_does_not_slow_the_pace() -> None:
    world = World()
    world.monitor.set_members({"n1": "h:1", "n2": "h:2"})
    answer = world.probe

    async def slow(node_id: str, address: str) -> str | None:
        world.now_ms += 40
        return await answer(node_id, address)

    world.monitor._probe = slow
    world.monitor.start()
    await until(lambda: len(world.pauses_s) >= 3)
    await world.monitor.close()
    assert world.pauses_s[:3] == [0.96, 0.96, 0.96]


async def test_a_standstill_of_the_judge_is_not_held_against_the_judged(world: World) -> None:
    async def stand_still(node_id: str, address: str) -> str | None:
        world.now_ms += 60_000
        raise TimeoutError

    world.monitor._probe = stand_still
    for _ in range(5):
        await world.monitor.check("n2")
    assert world.state("n2") is HEALTHY


async def test_members_come_and_go_while_checks_go_on(world: World) -> None:
    world.monitor.start()
    await until(lambda: len(world.asked) >= 2)
    world.monitor.set_members({"n1": "127.0.0.1:7101", "n3": "127.0.0.1:9", "n4": "127.0.0.1:4"})
    world.asked.clear()
    await until(lambda: ("n4", "127.0.0.1:4") in world.asked)
    assert [entry.node_id for entry in world.monitor.table().nodes] == ["n1", "n3", "n4"]
    assert all(node_id != "n2" for node_id, _ in world.asked)
    assert ("n3", "127.0.0.1:9") in world.asked
    watches = {task.get_name() for task in asyncio.all_tasks()}
    assert "health of n3" in watches
    assert "health of n2" not in watches


async def test_a_listener_that_fails_does_not_stop_the_checks(world: World) -> None:
    def fail(node_id: str, state: NodeState, reason: str) -> None:
        raise RuntimeError("no leader")

    world.monitor._on_change = fail
    await world.fail("n2")


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/health/live", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"{host}:{port}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "headers", "found"),
    [
        (200, {"Tidelock-Node": "n2"}, None),
        (200, {}, None),
        (503, {"Tidelock-Node": "n2"}, "it answered 503"),
        (302, {"Location": "/elsewhere"}, "it answered 302"),
        (200, {"Tidelock-Node": "n3"}, "'n3' answers at"),
    ],
)
async def test_a_check_over_http_believes_only_the_node_itself(
    status: int, headers: dict[str, str], found: str | None
) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=status, headers=headers)

    probe = HttpProbe()
    try:
        async with serving(handler) as address:
            why = await probe("n2", address)
            assert (why is None) if found is None else (why is not None and found in why)
    finally:
        await probe.close()


async def test_a_node_that_dies_and_returns_is_followed_over_http() -> None:
    changes: list[tuple[NodeState, str]] = []
    probe = HttpProbe()

    async def alive(request: web.Request) -> web.Response:
        return web.Response(headers={"Tidelock-Node": "n2"})

    async def same(node_id: str) -> Comparison:
        return SAME

    monitor = HealthMonitor(
        node_id="n1",
        settings=HealthConfig(interval_ms=50, timeout_ms=2000),
        probe=probe,
        compare=same,
        on_change=lambda _, state, reason: changes.append((state, reason)),
    )
    try:
        async with serving(alive) as address:
            monitor.set_members({"n1": "127.0.0.1:1", "n2": address})
            monitor.start()
        await until(lambda: len(changes) == 2)
        async with serving(alive) as address:
            monitor.set_members({"n1": "127.0.0.1:1", "n2": address})
            await until(lambda: len(changes) == 4)
    finally:
        await monitor.close()
        await probe.close()
    assert [state for state, _ in changes] == [SUSPECT, FAILED, RECOVERING, HEALTHY]
    assert re.fullmatch(
        r"missed 1 check: cannot connect to 127\.0\.0\.1:\d+: connection refused", changes[0][1]
    )
