"""What a million stored events change: memory, rates, restart, disk, and a node's return."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from scripts.tidelock_scripts.bench.figures import Figure, at_least, at_most
from scripts.tidelock_scripts.bench.load import WARM_UP_S, Load, measure
from scripts.tidelock_scripts.bench.setting import EVENTS_A_BATCH, Bench, BenchCluster
from scripts.tidelock_scripts.bench.steady import BATCH_CONNECTIONS
from scripts.tidelock_scripts.local_cluster import ClusterError
from scripts.tidelock_scripts.processes import anonymous_memory_bytes

MIB = 1 << 20

_MEMORY_MIB = at_most(200)
_RATE_KEPT = at_least(0.85)
_RESTART_S = at_most(3.0)
_BYTES_AN_EVENT = at_most(400)
_REJOIN_S = at_most(10.0)
_BATCHES_FOR_S = 1.5
_LOOKS_AT_MEMORY = 10
_POLL_S = 0.01
_FILL_WITHIN_S = 600.0
_READY_WITHIN_S = 120.0


async def growth(bench: Bench) -> None:
    async with bench.cluster() as running:
        bench.say("rates of an empty cluster")
        before = await _rates(bench, running)
        memory = await _fill(bench, running, bench.events - before.stored)
        bench.say("rates of a full cluster")
        after = await _rates(bench, running)
        _report_memory(bench, memory)
        _report_rates(bench, before, after)
        _report_disk(bench, running, bench.events + after.stored)
        await _restart(bench, running)
        await _rejoin(bench, running)


@dataclass(frozen=True, slots=True)
class _Rates:
    """What the cluster did at one moment, and the echo server just before and after."""

    events_per_second: float
    batched_per_second: float
    echo_per_second: float
    stored: int
    """How many events measuring has stored, roughly."""


async def _rates(bench: Bench, running: BenchCluster) -> _Rates:
    leader = await running.leader()
    echo_before = await bench.echo_rate(bench.seconds / 2)
    singles = await measure([running.event_target(leader)], seconds=bench.seconds)
    batches = await measure(
        [running.batch_target(leader, BATCH_CONNECTIONS)], seconds=_BATCHES_FOR_S
    )
    echo_after = await bench.echo_rate(bench.seconds / 2)
    batched_per_second = batches.per_second * EVENTS_A_BATCH
    stored = singles.per_second * (bench.seconds + WARM_UP_S) + batched_per_second * (
        _BATCHES_FOR_S + WARM_UP_S
    )
    echo_per_second = (echo_before.per_second + echo_after.per_second) / 2
    return _Rates(singles.per_second, batched_per_second, echo_per_second, round(stored))


def _report_rates(bench: Bench, before: _Rates, after: _Rates) -> None:
    """Compare rates as shares of the echo, so that a machine that became slower does not count."""
    shares = {
        "event": (before.events_per_second, after.events_per_second),
        "batch": (before.batched_per_second, after.batched_per_second),
    }
    for name, (at_first, at_last) in shares.items():
        kept = (at_last / after.echo_per_second) / (at_first / before.echo_per_second)
        details = {
            "eventsPerSecondBefore": round(at_first),
            "eventsPerSecondAfter": round(at_last),
            "echoPerSecondBefore": round(before.echo_per_second),
            "echoPerSecondAfter": round(after.echo_per_second),
        }
        bench.add(Figure(f"{name} rate kept at the end", kept, "", _RATE_KEPT, details))


async def _fill(
    bench: Bench, running: BenchCluster, events: int
) -> dict[str, list[tuple[int, float]]]:
    """Store so many events; return each node's (events stored, RssAnon in MiB) on the way."""
    memory: dict[str, list[tuple[int, float]]] = {node: [] for node in running.cluster.places}
    load = Load([running.batch_target(await running.leader(), BATCH_CONNECTIONS)])
    ends_at = time.monotonic() + _FILL_WITHIN_S
    try:
        await load.start()
        looks = 0
        while (stored := len(load.tally.ended) * EVENTS_A_BATCH) < events:
            if time.monotonic() > ends_at:
                raise ClusterError(f"only {stored} events stored after {_FILL_WITHIN_S:.0f} s")
            if stored >= events * looks // _LOOKS_AT_MEMORY:
                looks += 1
                _note_memory(running, memory, stored)
            bench.say(f"storing events: {stored:,} of {events:,}")
            await asyncio.sleep(_POLL_S)
    finally:
        load.stop()
    _note_memory(running, memory, stored)
    return memory


def _note_memory(
    running: BenchCluster, memory: dict[str, list[tuple[int, float]]], stored: int
) -> None:
    for node_id, seen in memory.items():
        process = running.cluster.process(node_id)
        if process is None:
            raise ClusterError(f"{node_id} ended by itself\n{running.cluster.log_tail(node_id)}")
        seen.append((stored, anonymous_memory_bytes(process.pid) / MIB))


def _report_memory(bench: Bench, memory: dict[str, list[tuple[int, float]]]) -> None:
    for node_id, seen in memory.items():
        greatest = max(mebibytes for _, mebibytes in seen)
        halfway = max(mebibytes for _, mebibytes in seen[: len(seen) // 2 + 1])
        course = {f"{stored:,}": round(mebibytes, 1) for stored, mebibytes in seen}
        details = {"mebibytesByEventsStored": course, "grewSinceHalfwayMiB": greatest - halfway}
        bench.add(Figure(f"memory of {node_id}, greatest", greatest, "MiB", _MEMORY_MIB, details))


def _report_disk(bench: Bench, running: BenchCluster, events: int) -> None:
    for node_id, place in running.cluster.places.items():
        state = sum(_allocated_bytes(path) for path in place.data_dir.rglob("*.mdb"))
        everything = sum(
            _allocated_bytes(path) for path in place.data_dir.rglob("*") if path.is_file()
        )
        details = {"events": events, "stateBytes": state, "allBytes": everything}
        bench.add(
            Figure(f"state of {node_id}", state / events, "bytes/event", _BYTES_AN_EVENT, details)
        )


def _allocated_bytes(path: Path) -> int:
    """Return what a file takes on disk: a map may be larger than what is written in it."""
    return path.stat().st_blocks * 512


async def _restart(bench: Bench, running: BenchCluster) -> None:
    """Each role's node ends by SIGKILL and starts again."""
    for role, node_id in (await running.roles()).items():
        bench.say(f"restarting the {role}")
        running.cluster.kill(node_id)
        took_s = await _ready_after_start(running, node_id)
        bench.add(Figure(f"restart of the {role} until ready", took_s, "s", _RESTART_S))
        await running.recover()


async def _rejoin(bench: Bench, running: BenchCluster) -> None:
    bench.say("wiping a follower")
    victim = (await running.roles())["follower"]
    running.cluster.kill(victim)
    running.cluster.wipe(victim)
    took_s = await _ready_after_start(running, victim)
    bench.add(Figure("wiped node until ready again", took_s, "s", _REJOIN_S))


async def _ready_after_start(running: BenchCluster, node_id: str) -> float:
    begun = time.perf_counter()
    running.cluster.start(node_id)
    await running.cluster.wait_until_ready([node_id], timeout_s=_READY_WITHIN_S)
    return time.perf_counter() - begun
