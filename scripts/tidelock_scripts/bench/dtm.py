"""Sagas through DTM's protocol, as its own benchmarks measure them: two empty steps, to the end."""

from __future__ import annotations

import itertools
import os

from scripts.tidelock_scripts.bench.figures import Figure, at_least
from scripts.tidelock_scripts.bench.load import Request, Target, build_request, measure
from scripts.tidelock_scripts.bench.setting import CONNECTIONS, Bench, BenchCluster
from scripts.tidelock_scripts.bench.steady import latencies_of

SUBMIT_PATH = "/api/dtmsvr/submit"

_SAGA_RATE = at_least(4_500)

_LOADS = itertools.count(1)
"""No gid is used twice in a run."""

_SAGA = (
    '{"gid":"%s","trans_type":"saga","steps":[{"action":"","compensate":""},'
    '{"action":"","compensate":""}],"payloads":["",""],"wait_result":true}'
)


async def dtm(bench: Bench) -> None:
    """Submissions of sagas of two empty steps with wait_result, at 64 connections."""
    async with bench.cluster() as running:
        for role, node_id in (await running.roles()).items():
            bench.say(f"sagas of DTM's protocol through the {role}")
            before = await bench.echo_rate(bench.seconds / 2)
            measured = await measure([target(running, node_id)], seconds=bench.seconds)
            after = await bench.echo_rate(bench.seconds / 2)
            echo_rate = (before.per_second + after.per_second) / 2
            details = {
                "connections": CONNECTIONS,
                "echoPerSecond": round(echo_rate),
                **latencies_of(measured),
            }
            name = f"DTM saga of two empty steps, {role}"
            rate = measured.per_second
            bench.add(
                Figure(f"{name}, {CONNECTIONS} connections", rate, "sagas/s", _SAGA_RATE, details)
            )
            bench.add(Figure(f"{name}, share of the echo", rate / echo_rate, ""))


def target(running: BenchCluster, node_id: str) -> Target:
    """Return a load of such sagas."""
    port = running.cluster.place(node_id).dtm_port
    return Target("127.0.0.1", port, CONNECTIONS, [_saga_with_a_new_gid(node_id)])


def _saga_with_a_new_gid(node_id: str) -> Request:
    numbers = itertools.count(1)
    prefix = f"{node_id}-{os.getpid()}-{next(_LOADS)}"

    def build(_: bytes) -> bytes:
        body = _SAGA % f"{prefix}-{next(numbers)}"
        return build_request("POST", SUBMIT_PATH, body.encode())

    return build
