"""What clients notice when a node dies or stands still under load."""

from __future__ import annotations

import asyncio
import itertools
import signal
import statistics
import time

from scripts.tidelock_scripts.bench.figures import Figure, at_most
from scripts.tidelock_scripts.bench.load import Load, Tally, summary_of
from scripts.tidelock_scripts.bench.setting import Bench, BenchCluster
from scripts.tidelock_scripts.local_cluster import ClusterError

_CONNECTIONS_A_NODE = 16
_PAUSES = 5
_FOLLOWER_KILLS = 5
_LOAD_BEFORE_S = 0.7
_WATCHED_S = 1.5
_GIVE_UP_S = 20.0
_POLL_S = 0.005

_KILLED_MEDIAN_MS = at_most(100)
_KILLED_WORST_MS = at_most(700)
_PAUSED_WORST_MS = at_most(1500)
_NOTHING = at_most(0)


async def failover(bench: Bench) -> None:
    """kill -9 of the leader: time until a write that was sent afterwards is acknowledged."""
    async with bench.cluster() as running:
        gaps_ms = []
        for number in range(1, bench.kills + 1):
            bench.say(f"kill -9 of the leader, {number} of {bench.kills}")
            gaps_ms.append(await _gap_after(running, signal.SIGKILL))
            await running.recover()
        details = {"gapsMs": [round(gap, 1) for gap in gaps_ms]}
        name = f"first write after kill -9 of the leader, {bench.kills} kills"
        median = statistics.median(gaps_ms)
        bench.add(Figure(f"{name}, median", median, "ms", _KILLED_MEDIAN_MS, details))
        bench.add(Figure(f"{name}, worst", max(gaps_ms), "ms", _KILLED_WORST_MS))


async def pause(bench: Bench) -> None:
    """SIGSTOP of the leader: nothing closes, so only silence tells."""
    async with bench.cluster() as running:
        gaps_ms = []
        for number in range(1, _PAUSES + 1):
            bench.say(f"SIGSTOP of the leader, {number} of {_PAUSES}")
            gaps_ms.append(await _gap_after(running, signal.SIGSTOP))
            await running.recover()
        details = {"gapsMs": [round(gap, 1) for gap in gaps_ms]}
        name = f"first write after SIGSTOP of the leader, {_PAUSES} pauses"
        median = statistics.median(gaps_ms)
        bench.add(Figure(f"{name}, median", median, "ms", None, details))
        bench.add(Figure(f"{name}, worst", max(gaps_ms), "ms", _PAUSED_WORST_MS))


async def _gap_after(running: BenchCluster, number: signal.Signals) -> float:
    """Signal the leader under load on all nodes; return milliseconds without a new write."""
    leader = await running.leader()
    process = running.cluster.process(leader)
    if process is None:
        raise ClusterError(f"{leader} ended by itself\n{running.cluster.log_tail(leader)}")
    load = Load(
        [running.event_target(node, _CONNECTIONS_A_NODE) for node in running.cluster.places]
    )
    try:
        await load.start()
        await asyncio.sleep(_LOAD_BEFORE_S)
        signalled = time.perf_counter()
        process.send(number)
        while (answered := load.tally.first_answer_to_a_request_after(signalled)) is None:
            if time.perf_counter() - signalled > _GIVE_UP_S:
                raise ClusterError(f"no write for {_GIVE_UP_S:.0f} s after {number.name}")
            await asyncio.sleep(_POLL_S)
    finally:
        load.stop()
    if number is signal.SIGKILL:
        await asyncio.to_thread(process.wait_until_gone, _GIVE_UP_S)
    return (answered - signalled) * 1000


async def follower(bench: Bench) -> None:
    """kill -9 of a follower: clients of the other two nodes must not notice."""
    async with bench.cluster() as running:
        before, after = Tally(), Tally()
        longest_gap_ms = 0.0
        for number in range(1, _FOLLOWER_KILLS + 1):
            bench.say(f"kill -9 of a follower, {number} of {_FOLLOWER_KILLS}")
            leader = await running.leader()
            victim, other = running.followers(leader)
            load = Load(
                [running.event_target(node, _CONNECTIONS_A_NODE) for node in (leader, other)]
            )
            try:
                await load.start()
                await asyncio.sleep(_LOAD_BEFORE_S)
                load.tally.clear()
                await asyncio.sleep(_WATCHED_S)
                _add(before, load.tally)
                load.tally.clear()
                process = running.cluster.process(victim)
                if process is not None:
                    process.send(signal.SIGKILL)
                await asyncio.sleep(_WATCHED_S)
                _add(after, load.tally)
                longest_gap_ms = max(longest_gap_ms, _longest_silence_ms(load.tally))
            finally:
                load.stop()
            await running.recover()
        _report_follower(bench, before, after, longest_gap_ms)


def _report_follower(bench: Bench, before: Tally, after: Tally, longest_gap_ms: float) -> None:
    seconds = _WATCHED_S * _FOLLOWER_KILLS
    usual, disturbed = summary_of(before, seconds), summary_of(after, seconds)
    name = f"follower's death, {_FOLLOWER_KILLS} kills"
    failures = sum(disturbed.failures.values())
    details = {"failures": disturbed.failures}
    bench.add(Figure(f"{name}: failed requests elsewhere", failures, "", _NOTHING, details))
    bench.add(
        Figure(
            f"{name}: write p99 afterwards",
            disturbed.p99_ms,
            "ms",
            None,
            {"p99BeforeMs": usual.p99_ms, "worstMs": disturbed.worst_ms},
        )
    )
    bench.add(Figure(f"{name}: write p99 before", usual.p99_ms, "ms"))
    bench.add(Figure(f"{name}: longest time without a write", longest_gap_ms, "ms"))


def _add(total: Tally, more: Tally) -> None:
    total.begun.extend(more.begun)
    total.ended.extend(more.ended)
    total.failures.update(more.failures)


def _longest_silence_ms(tally: Tally) -> float:
    ended = sorted(tally.ended)
    gaps = (later - earlier for earlier, later in itertools.pairwise(ended))
    return max(gaps, default=float("inf")) * 1000
