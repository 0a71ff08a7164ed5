"""An application's clocks in the synchronisation rounds of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.integration.serving import Api, serving
from tidelock.application import Application
from tidelock.client import Client
from tidelock.client.answers import ClosedRound
from tidelock.clocks import LamportClock, VectorClock
from tidelock.participant_clocks import ClockReading, ParticipantClocks
from tidelock.propagation.reporting import ClockReporter


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


def application(api: Api, name: str, start: ClockReading) -> Application:
    clocks = ParticipantClocks(name, start=start)
    return Application(
        [f"127.0.0.1:{api.port}"], application_id=name, discover=False, clocks=clocks
    )


async def synchronised(client: Client) -> ClosedRound:
    """Close a round, and return it when all have taken its target."""
    number = (await client.synchronisation.run()).round
    async with asyncio.timeout(20):
        while True:
            status = await client.synchronisation.status()
            for closed in status.rounds:
                if closed.round == number and closed.synchronised:
                    return closed
            await asyncio.sleep(0.01)


async def reporting(client: Client, names: set[str]) -> None:
    async with asyncio.timeout(20):
        while True:
            status = await client.synchronisation.status()
            if names <= {node.node_id for node in status.open.nodes}:
                return
            await asyncio.sleep(0.01)


async def test_reporters_take_the_maximum_of_all_clocks_and_acknowledge_it(api: Api) -> None:
    first = application(api, "first", ClockReading(LamportClock(5), VectorClock({"first": 5})))
    second = application(api, "second", ClockReading(LamportClock(2), VectorClock({"second": 7})))
    with first, second:
        async with Client([f"127.0.0.1:{api.port}"], discover=False) as client:
            with ClockReporter(first, interval_ms=10), ClockReporter(second, interval_ms=10):
                await reporting(client, {"first", "second"})
                closed = await synchronised(client)
                acknowledged = {node.node_id for node in closed.nodes if node.acknowledged}
                assert {"first", "second"} <= acknowledged
    for one in (first, second):
        assert one.clocks is not None
        assert one.clocks.read() == ClockReading(
            LamportClock(5), VectorClock({"first": 5, "second": 7})
        )


async def test_a_reporter_outlives_failures_and_ends_when_it_is_stopped(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    # Its application talks to nobody first.
    clocks = ParticipantClocks("a")
    deaf = Application(["127.0.0.1:9"], application_id="a", discover=False, timeout_ms=50)
    with deaf, ClockReporter(deaf, clocks, interval_ms=5):
        async with asyncio.timeout(20):
            while caplog.text.count("tried again") < 2:
                await asyncio.sleep(0.01)
    one = application(api, "a", ClockReading(None, None))
    async with Client([f"127.0.0.1:{api.port}"], discover=False) as client:
        with one:
            reporter = ClockReporter(one)
            reporter.start()
            reporter.start()
            await reporting(client, {"a"})
            reporter.stop()
            reporter.stop()


def test_a_reporter_needs_clocks_and_an_interval() -> None:
    with Application(["127.0.0.1:9"], application_id="a") as none:
        with pytest.raises(ValueError, match="no clocks"):
            ClockReporter(none)
        with pytest.raises(ValueError, match="at least 1 ms"):
            ClockReporter(none, ParticipantClocks("a"), interval_ms=0)
