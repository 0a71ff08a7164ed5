"""Locks that nobody else wants: what taking one and giving it back costs."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from scripts.tidelock_scripts.bench.figures import Figure, at_least
from scripts.tidelock_scripts.bench.load import Request, Target, build_request, measure
from scripts.tidelock_scripts.bench.setting import CONNECTIONS, Bench, BenchCluster
from scripts.tidelock_scripts.bench.steady import latencies_of
from scripts.tidelock_scripts.events import LOCKS_PATH

_PAIR_SHARE = at_least(0.15)
_TTL_MS = 30_000
_TOKEN = b'"fencingToken":'


async def locks(bench: Bench) -> None:
    """Acquire and release, each connection a lock of its own, at 64 connections."""
    async with bench.cluster() as running:
        for role, node_id in (await running.roles()).items():
            bench.say(f"locks through the {role}")
            before = await bench.echo_rate(bench.seconds / 2)
            measured = await measure(_targets(running, node_id), seconds=bench.seconds)
            after = await bench.echo_rate(bench.seconds / 2)
            echo_rate = (before.per_second + after.per_second) / 2
            pairs_rate = measured.per_second / 2
            details = {
                "connections": CONNECTIONS,
                "echoPerSecond": round(echo_rate),
                **latencies_of(measured),
            }
            name = f"acquire and release, {role}"
            bench.add(Figure(f"{name}, {CONNECTIONS} connections", pairs_rate, "pairs/s"))
            bench.add(
                Figure(f"{name}, share of the echo", pairs_rate / echo_rate, "", _PAIR_SHARE,
                       details)
            )  # fmt: skip


def _targets(running: BenchCluster, node_id: str) -> list[Target]:
    port = running.cluster.place(node_id).api_port
    return [Target("127.0.0.1", port, 1, _pair(number)) for number in range(CONNECTIONS)]


def _pair(number: int) -> list[Request]:
    path, owner = f"{LOCKS_PATH}/lock-{number}", f"worker-{number}"
    acquire = msgspec.json.encode({"owner": owner, "ttlMs": _TTL_MS})
    return [build_request("POST", f"{path}/acquire", acquire), _release(path, owner)]


def _release(path: str, owner: str) -> Callable[[bytes], bytes]:
    """Return what makes the request that gives back what an answer granted."""

    def build(answer: bytes) -> bytes:
        start = answer.find(_TOKEN) + len(_TOKEN)
        end = start
        while answer[end : end + 1].isdigit():
            end += 1
        token = int(answer[start:end] or b"0")
        return build_request(
            "POST",
            f"{path}/release",
            msgspec.json.encode({"owner": owner, "fencingToken": token}),
        )

    return build
