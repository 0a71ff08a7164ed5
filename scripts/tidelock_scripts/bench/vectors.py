"""Vector clocks of many participants."""

from __future__ import annotations

import statistics
import time

import msgspec

from scripts.tidelock_scripts.bench.figures import Figure, at_most
from scripts.tidelock_scripts.bench.load import Target, build_request, measure
from scripts.tidelock_scripts.bench.setting import Bench, BenchCluster
from scripts.tidelock_scripts.bench.steady import latencies_of
from tidelock.clocks import Relation, VectorClock

PARTICIPANTS = 1_000

_COMPARE_P50_MS = at_most(1.0)
_EVENT_P50_MS = at_most(5.0)

_OWNER = "participant-0"
_COMPARED = 2_000


async def vectors(bench: Bench) -> None:
    """Compare and advance clocks of a thousand participants, one caller."""
    early = {f"participant-{number}": number + 1 for number in range(PARTICIPANTS)}
    late = {name: count + 1 for name, count in early.items()}
    bench.say("vector clocks in process")
    bench.add(
        Figure(
            f"vector clock of {PARTICIPANTS:,}, compare in process, p50",
            _compare_ms(VectorClock(early), VectorClock(late)),
            "ms",
            _COMPARE_P50_MS,
        )
    )
    async with bench.cluster() as running:
        for role, node_id in (await running.roles()).items():
            bench.say(f"vector clocks through the {role}")
            await _fill(running, node_id, late)
            for what, path, body, goal in (
                ("compare", "compare", {"clock1": early, "clock2": late}, None),
                ("event", "tick", {"nodeId": _OWNER}, _EVENT_P50_MS),
            ):
                target = _target(running, node_id, path, body)
                measured = await measure([target], seconds=bench.seconds)
                name = f"vector clock of {PARTICIPANTS:,}, {what} through the {role}, p50"
                details = latencies_of(measured)
                bench.add(Figure(name, measured.p50_ms, "ms", goal, details))


def _compare_ms(early: VectorClock, late: VectorClock) -> float:
    took_ms = []
    for _ in range(_COMPARED):
        begun_at = time.perf_counter()
        relation = early.compare(late)
        took_ms.append((time.perf_counter() - begun_at) * 1_000)
        assert relation is Relation.BEFORE
    return statistics.median(took_ms)


async def _fill(running: BenchCluster, node_id: str, clock: dict[str, int]) -> None:
    body = {"nodeId": _OWNER, "vectorClock": clock}
    answer = await running.client.post("/api/v1/vector-clock/receive", body, via=node_id)
    assert answer.ok, answer


def _target(running: BenchCluster, node_id: str, path: str, body: object) -> Target:
    request = build_request("POST", f"/api/v1/vector-clock/{path}", msgspec.json.encode(body))
    return Target("127.0.0.1", running.cluster.places[node_id].api_port, 1, [request])
