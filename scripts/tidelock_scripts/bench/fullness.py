"""What a million finished transactions change, and what a million locked rows take.

The full cluster and an empty one stand beside each other and are measured in turns, each time one
against the other, so that both had the same machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec

from scripts.tidelock_scripts.bench import dtm, filler, transactions
from scripts.tidelock_scripts.bench.figures import Figure, at_least, at_most
from scripts.tidelock_scripts.bench.load import Target, measure
from scripts.tidelock_scripts.bench.setting import CONNECTIONS, Bench, BenchCluster
from scripts.tidelock_scripts.local_cluster import ClusterError
from scripts.tidelock_scripts.processes import anonymous_memory_bytes

MIB = 1 << 20
_TABLES = itertools.count(1)
"""No row is locked in two loads: what one leaves undecided stays locked for a while."""

ROUNDS = 6
"""How often each cluster is measured."""

_PROGRAM = (sys.executable, "-P", "-m", filler.__name__)
_MEMORY_MIB = at_most(300)
_RATE_KEPT = at_least(0.85)
_POLL_S = 0.2
_SILENT_AT_MOST_S = 60.0
_LOOKS_AT_MEMORY = 20


async def finished(bench: Bench) -> None:
    """Transactions beside a million that have ended, as a share of those of an empty cluster."""
    count = bench.transactions
    async with _filling() as order, bench.cluster(_PROGRAM) as full:
        memory = _Memory(full)
        await _fill(bench, full, filler.Order(filler.FINISHED, count), order, memory)
        async with bench.cluster() as empty:
            for kind, (targets_of, requests) in _loads().items():
                await _compare(bench, kind, empty, full, targets_of, requests)
            memory.note(count)
        memory.report(bench, f"{count:,} finished transactions")


async def held(bench: Bench) -> None:
    """A million rows locked by transactions that stay open."""
    count = bench.transactions
    async with _filling() as order, bench.cluster(_PROGRAM) as full:
        memory = _Memory(full)
        await _fill(bench, full, filler.Order(filler.HELD, count), order, memory)
        memory.report(bench, f"{count:,} rows locked")


# --- filling


@contextlib.asynccontextmanager
async def _filling() -> AsyncIterator[Path]:
    """Give the file through which nodes are told what to store."""
    with tempfile.TemporaryDirectory() as directory:
        order = Path(directory) / "order.json"
        os.environ[filler.ORDER_VARIABLE] = str(order)
        try:
            yield order
        finally:
            del os.environ[filler.ORDER_VARIABLE]


async def _fill(
    bench: Bench, running: BenchCluster, order: filler.Order, path: Path, memory: _Memory
) -> None:
    leader = await running.leader()
    process = running.cluster.process(leader)
    if process is None:
        raise ClusterError(f"{leader} ended by itself\n{running.cluster.log_tail(leader)}")
    path.write_bytes(msgspec.json.encode(order))
    begun = last_news = time.monotonic()
    process.send(signal.SIGUSR1)
    done = looks = 0
    while done < order.count:
        await asyncio.sleep(_POLL_S)
        before, done = done, _told(path.with_suffix(".done"))
        now = time.monotonic()
        last_news = now if done > before else last_news
        if now - last_news > _SILENT_AT_MOST_S:
            tail = running.cluster.log_tail(leader)
            raise ClusterError(f"filling ended at {done:,} of {order.count:,}\n{tail}")
        if done >= order.count * looks // _LOOKS_AT_MEMORY:
            looks += 1
            memory.note(done)
        rate = done / (now - begun)
        bench.say(f"storing ({order.kind}): {done:,} of {order.count:,}, {rate:,.0f}/s")
    memory.note(done)
    bench.say("")


def _told(path: Path) -> int:
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return 0


# --- memory


class _Memory:
    """Anonymous memory of each node, in MiB, and how much was stored at that moment."""

    def __init__(self, running: BenchCluster) -> None:
        self._running = running
        self._seen: dict[str, list[tuple[int, float]]] = {
            node: [] for node in running.cluster.places
        }

    def note(self, stored: int) -> None:
        for node_id, seen in self._seen.items():
            process = self._running.cluster.process(node_id)
            if process is None:
                tail = self._running.cluster.log_tail(node_id)
                raise ClusterError(f"{node_id} ended by itself\n{tail}")
            seen.append((stored, anonymous_memory_bytes(process.pid) / MIB))

    def report(self, bench: Bench, what: str) -> None:
        for node_id, seen in self._seen.items():
            greatest = max(mebibytes for _, mebibytes in seen)
            course = {f"{stored:,}": round(mebibytes, 1) for stored, mebibytes in seen}
            details = {"mebibytesByStored": course, "atTheEndMiB": round(seen[-1][1], 1)}
            name = f"RssAnon of {node_id} with {what}, greatest"
            bench.add(Figure(name, greatest, "MiB", _MEMORY_MIB, details))


# --- rates

TargetsOf = Callable[[BenchCluster, str], list[Target]]


def _loads() -> dict[str, tuple[TargetsOf, int]]:
    """Return, for each kind of transaction, its load and how many requests one takes."""
    return {
        "transaction of two branches with three row locks each": (
            lambda running, node_id: transactions.targets(running, node_id, f"t{next(_TABLES)}"),
            transactions.REQUESTS,
        ),
        "DTM saga of two empty steps": (
            lambda running, node_id: [dtm.target(running, node_id)],
            1,
        ),
    }


async def _compare(
    bench: Bench,
    kind: str,
    empty: BenchCluster,
    full: BenchCluster,
    targets_of: TargetsOf,
    requests: int,
) -> None:
    rates: dict[str, list[float]] = {"empty": [], "full": []}
    failures = 0
    clusters = {"empty": empty, "full": full}
    for number in range(ROUNDS):
        # First one, then the other: what the machine does in between is nobody's advantage.
        for name in list(clusters) if number % 2 else list(reversed(clusters)):
            bench.say(f"{kind}: {name} cluster, {number + 1} of {ROUNDS}")
            running = clusters[name]
            targets = targets_of(running, await running.leader())
            measured = await measure(targets, seconds=bench.seconds)
            rates[name].append(measured.per_second / requests)
            failures += sum(measured.failures.values())
    pairs = zip(rates["full"], rates["empty"], strict=True)
    kept = statistics.median([one / other for one, other in pairs])
    details = {
        "connections": CONNECTIONS,
        "emptyPerSecond": [round(rate) for rate in rates["empty"]],
        "fullPerSecond": [round(rate) for rate in rates["full"]],
        "failures": failures,
        "loadAverage": os.getloadavg(),
    }
    bench.add(Figure(f"{kind}, leader: rate kept beside finished ones", kept, "", _RATE_KEPT,
                     details))  # fmt: skip
