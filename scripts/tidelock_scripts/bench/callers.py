"""A node with callers inside: what replication does without HTTP.

Started like `python -m node`. On SIGUSR1 its callers propose events on the node's own loop for a
while; the result is written into the data directory.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import msgspec

from node.__main__ import main
from node.cluster import EngineCluster
from statemachine.commands import RecordEvent

CALLERS = 256
SECONDS_VARIABLE = "TIDELOCK_BENCH_SECONDS"
RESULT_VARIABLE = "TIDELOCK_BENCH_RESULT"

_WARM_UP_S = 0.5
_DATA = b'{"orderId":48213,"amountCents":12990,"currency":"EUR","channel":"web"}'


class CallersResult(msgspec.Struct, frozen=True, rename="camel"):
    events: int
    seconds: float
    p50_ms: float
    p99_ms: float


async def companion(cluster: EngineCluster) -> None:
    begin = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, begin.set)
    while True:
        await begin.wait()
        begin.clear()
        result = await _call(cluster, float(os.environ[SECONDS_VARIABLE]))
        unfinished = Path(os.environ[RESULT_VARIABLE] + ".part")
        unfinished.write_bytes(msgspec.json.encode(result))
        unfinished.replace(os.environ[RESULT_VARIABLE])


async def _call(cluster: EngineCluster, seconds: float) -> CallersResult:
    begun_at = time.perf_counter() + _WARM_UP_S
    ends_at = begun_at + seconds
    latencies_s: list[float] = []

    async def caller(number: int) -> None:
        command = RecordEvent(node_id=f"participant-{number}", event_type="bench", event_data=_DATA)
        while (sent_at := time.perf_counter()) < ends_at:
            await cluster.propose((command,), timeout_ms=5_000)
            if sent_at >= begun_at:
                latencies_s.append(time.perf_counter() - sent_at)

    await asyncio.gather(*(caller(number) for number in range(CALLERS)))
    took_s = time.perf_counter() - begun_at
    latencies_s.sort()
    count = len(latencies_s)
    return CallersResult(
        count, took_s, latencies_s[count // 2] * 1000, latencies_s[count * 99 // 100] * 1000
    )


if __name__ == "__main__":
    sys.exit(main(companion))
