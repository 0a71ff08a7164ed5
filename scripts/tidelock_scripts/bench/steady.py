"""Rates and latencies of a healthy cluster."""

from __future__ import annotations

from scripts.tidelock_scripts.bench.figures import Figure, Goal, at_least, at_most
from scripts.tidelock_scripts.bench.load import Measured, Target, measure
from scripts.tidelock_scripts.bench.setting import (
    CONNECTIONS,
    EVENTS_A_BATCH,
    Bench,
    BenchCluster,
)

BATCH_CONNECTIONS = 16
TIMESTAMPS_A_DRAW = 1_000

_EVENT_SHARE = at_least(0.35)
_READ_SHARE = at_least(0.45)
_DRAW_SHARE = at_least(0.45)
_DRAWN_RATE = at_least(2_000_000)
_BATCH_RATE = at_least(40_000)
_SINGLE_WRITE_P50_MS = at_most(1.5)


async def events(bench: Bench) -> None:
    """One event a request, at 64 connections."""
    async with bench.cluster() as running:
        for role, node_id in (await running.roles()).items():
            bench.say(f"events through the {role}")
            await beside_the_echo(
                bench, f"event, {role}", running.event_target(node_id), _EVENT_SHARE
            )


async def reads(bench: Bench) -> None:
    """Linearizable reads of a clock, at 64 connections."""
    async with bench.cluster() as running:
        await _fill(running)
        for role, node_id in (await running.roles()).items():
            bench.say(f"reads through the {role}")
            await beside_the_echo(
                bench, f"linearizable read, {role}", running.clock_target(node_id), _READ_SHARE
            )


async def _fill(running: BenchCluster) -> None:
    await measure([running.event_target(await running.leader())], seconds=0.5)


async def beside_the_echo(bench: Bench, name: str, target: Target, share: Goal) -> None:
    """Measure a target with the echo before and after it, so that both had the same machine."""
    before = await bench.echo_rate(bench.seconds / 2)
    measured = await measure([target], seconds=bench.seconds)
    after = await bench.echo_rate(bench.seconds / 2)
    echo_rate = (before.per_second + after.per_second) / 2
    details = {
        "connections": CONNECTIONS,
        "echoPerSecond": round(echo_rate),
        **latencies_of(measured),
    }
    bench.add(Figure(f"{name}, {CONNECTIONS} connections", measured.per_second, "requests/s"))
    bench.add(Figure(f"{name}, share of the echo", measured.per_second / echo_rate, "", share,
                     details))  # fmt: skip


async def batch(bench: Bench) -> None:
    """Batches of 100 events."""
    async with bench.cluster() as running:
        for role, node_id in (await running.roles()).items():
            bench.say(f"batches through the {role}")
            target = running.batch_target(node_id, BATCH_CONNECTIONS)
            measured = await measure([target], seconds=bench.seconds)
            details = {"connections": BATCH_CONNECTIONS, **latencies_of(measured)}
            bench.add(
                Figure(
                    f"batch of {EVENTS_A_BATCH} events, {role}",
                    measured.per_second * EVENTS_A_BATCH,
                    "events/s",
                    _BATCH_RATE,
                    details,
                )
            )


async def tso(bench: Bench) -> None:
    """Timestamps of the oracle at 64 connections: one a request, and a thousand."""
    async with bench.cluster() as running:
        for role, node_id in (await running.roles()).items():
            bench.say(f"timestamps through the {role}")
            await beside_the_echo(
                bench, f"one timestamp, {role}", running.tso_target(node_id, 1), _DRAW_SHARE
            )
            measured = await measure(
                [running.tso_target(node_id, TIMESTAMPS_A_DRAW)], seconds=bench.seconds
            )
            details = {"connections": CONNECTIONS, **latencies_of(measured)}
            bench.add(
                Figure(
                    f"{TIMESTAMPS_A_DRAW:,} timestamps a request, {role}",
                    measured.per_second * TIMESTAMPS_A_DRAW,
                    "timestamps/s",
                    _DRAWN_RATE,
                    details,
                )
            )


async def sequences(bench: Bench) -> None:
    """One number of a sequence a request, at 64 connections."""
    async with bench.cluster() as running:
        for role, node_id in (await running.roles()).items():
            bench.say(f"sequences through the {role}")
            measured = await measure([running.sequence_target(node_id)], seconds=bench.seconds)
            details = {"connections": CONNECTIONS, **latencies_of(measured)}
            name = f"one number of a sequence, {role}, {CONNECTIONS} connections"
            bench.add(Figure(name, measured.per_second, "requests/s", None, details))


async def latency(bench: Bench) -> None:
    """One caller, one event at a time."""
    async with bench.cluster() as running:
        for role, node_id in (await running.roles()).items():
            bench.say(f"one caller through the {role}")
            measured = await measure([running.event_target(node_id, 1)], seconds=bench.seconds)
            name = f"one caller, write through the {role}"
            details = latencies_of(measured)
            bench.add(Figure(f"{name}, p50", measured.p50_ms, "ms", _SINGLE_WRITE_P50_MS, details))
            bench.add(Figure(f"{name}, p99", measured.p99_ms, "ms"))


def latencies_of(measured: Measured) -> dict[str, object]:
    """Return what stands behind a rate, for the JSON report."""
    return {
        "requests": measured.requests,
        "failures": measured.failures,
        "p50Ms": round(measured.p50_ms, 3),
        "p99Ms": round(measured.p99_ms, 3),
        "worstMs": round(measured.worst_ms, 3),
        "loaderShareOfACore": round(measured.loader_share, 2),
    }
