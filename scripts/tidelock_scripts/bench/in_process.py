"""Callers on the loop of a node: the rate of replication itself."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from scripts.tidelock_scripts.bench.callers import (
    CALLERS,
    RESULT_VARIABLE,
    SECONDS_VARIABLE,
    CallersResult,
)
from scripts.tidelock_scripts.bench.figures import Figure, at_least
from scripts.tidelock_scripts.bench.setting import Bench, BenchCluster
from scripts.tidelock_scripts.local_cluster import ClusterError

_PROGRAM = (sys.executable, "-P", "-m", "scripts.tidelock_scripts.bench.callers")
_RATE = at_least(40_000)
_POLL_S = 0.05
_EXTRA_S = 20.0


async def in_process(bench: Bench) -> None:
    """256 callers in the process of a node, one event a call."""
    with tempfile.TemporaryDirectory() as directory:
        result = Path(directory) / "result.json"
        os.environ[SECONDS_VARIABLE] = str(bench.seconds)
        os.environ[RESULT_VARIABLE] = str(result)
        async with bench.cluster(_PROGRAM) as running:
            for role, node_id in (await running.roles()).items():
                bench.say(f"callers inside the {role}")
                measured = await _measure(running, node_id, result, bench.seconds)
                details = {"p50Ms": round(measured.p50_ms, 3), "p99Ms": round(measured.p99_ms, 3)}
                bench.add(
                    Figure(
                        f"in process, {role}, {CALLERS} callers",
                        measured.events / measured.seconds,
                        "events/s",
                        _RATE,
                        details,
                    )
                )


async def _measure(
    running: BenchCluster, node_id: str, result: Path, seconds: float
) -> CallersResult:
    process = running.cluster.process(node_id)
    if process is None:
        raise ClusterError(f"{node_id} ended by itself\n{running.cluster.log_tail(node_id)}")
    result.unlink(missing_ok=True)
    process.send(signal.SIGUSR1)
    ends_at = time.monotonic() + seconds + _EXTRA_S
    while not result.exists():
        if time.monotonic() > ends_at:
            raise ClusterError(f"the callers in {node_id} did not end")
        await asyncio.sleep(_POLL_S)
    return msgspec.json.decode(result.read_bytes(), type=CallersResult)
