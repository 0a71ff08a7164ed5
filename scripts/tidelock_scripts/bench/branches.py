"""Transactions that the cluster runs over HTTP: their rate, what a call costs, a leader's death."""

from __future__ import annotations

import asyncio
import signal
import statistics
import time

import aiohttp
import msgspec

from scripts.tidelock_scripts.bench import participant
from scripts.tidelock_scripts.bench.figures import Figure, at_least, at_most
from scripts.tidelock_scripts.bench.load import Target, build_request, measure
from scripts.tidelock_scripts.bench.setting import CONNECTIONS, Bench, BenchCluster, side_server
from scripts.tidelock_scripts.bench.steady import latencies_of
from scripts.tidelock_scripts.local_cluster import ClusterError

SAGAS_PATH = "/api/v1/sagas"
TCC_PATH = "/api/v1/tcc"
BRANCHES = 2
IN_FLIGHT = 100
BRANCH_MS = 200
LONG_SAGA = 20

_RATE = at_least(600)
_ADDED_P50_MS = at_most(3)
_ALL_COMPLETE_MS = at_most(3_000)
_WAIT_MS = 30_000
_GIVE_UP_S = 60.0


async def branches(bench: Bench) -> None:
    """A saga and a TCC of two HTTP branches, at 64 connections, each waiting for its end."""
    async with side_server(participant.__name__) as port, bench.cluster() as running:
        url = f"http://127.0.0.1:{port}{participant.BRANCH}"
        kinds = {"saga": (SAGAS_PATH, saga(url), 1), "TCC": (TCC_PATH, tcc(url), 2)}
        for kind, (path, body, calls_a_branch) in kinds.items():
            for role, node_id in (await running.roles()).items():
                bench.say(f"{kind} through the {role}")
                leader = await running.leader()
                cpu_s = running.processor_s(leader)
                begun = time.perf_counter()
                request = build_request("POST", path, msgspec.json.encode(body))
                place = running.cluster.place(node_id)
                target = Target("127.0.0.1", place.api_port, CONNECTIONS, [request])
                measured = await measure([target], seconds=bench.seconds)
                elapsed_s = time.perf_counter() - begun
                share = (running.processor_s(leader) - cpu_s) / elapsed_s
                calls_a_second = measured.per_second * BRANCHES * calls_a_branch
                details = {
                    "connections": CONNECTIONS,
                    "branches": BRANCHES,
                    "leaderShareOfACore": round(share, 2),
                    "leaderProcessorUsACall": round(share / max(calls_a_second, 1) * 1e6),
                    **latencies_of(measured),
                }
                name = f"{kind} of {BRANCHES} HTTP branches, {role}, {CONNECTIONS} connections"
                bench.add(Figure(name, measured.per_second, "transactions/s", _RATE, details))
        await _added(bench, running, url, port)


async def _added(bench: Bench, running: BenchCluster, url: str, port: int) -> None:
    """What the coordinator adds to one call: from an answer to the arrival of the next call."""
    bench.say("one saga after the other")
    gaps_url = f"http://127.0.0.1:{port}{participant.GAPS}"
    body = saga(url, LONG_SAGA)
    async with aiohttp.ClientSession() as session:
        for role, node_id in (await running.roles()).items():
            await _gaps(session, gaps_url)
            ends_at = time.perf_counter() + bench.seconds
            while time.perf_counter() < ends_at:
                await _post(session, f"{running.cluster.place(node_id).url}{SAGAS_PATH}", body)
            found = await _gaps(session, gaps_url)
            if not found:
                raise ClusterError("no saga was run")
            name = f"added by the coordinator to one branch call, begun at the {role}"
            p99 = statistics.quantiles(found, n=100)[98]
            details = {"calls": len(found), "p99Ms": round(p99, 3)}
            p50 = statistics.median(found)
            bench.add(Figure(f"{name}, p50", p50, "ms", _ADDED_P50_MS, details))


async def branch_failover(bench: Bench) -> None:
    """100 sagas with branches of 200 ms are under way when the leader is killed."""
    async with side_server(participant.__name__) as port, bench.cluster() as running:
        url = f"http://127.0.0.1:{port}{participant.BRANCH}?delayMs={BRANCH_MS}"
        async with aiohttp.ClientSession() as session:
            took_ms = await _kill_under_sagas(bench, running, session, saga(url, wait_ms=0))
    name = f"{IN_FLIGHT} sagas of {BRANCHES} branches of {BRANCH_MS} ms, leader killed"
    bench.add(Figure(f"{name}: until all were complete", took_ms, "ms", _ALL_COMPLETE_MS))


async def _kill_under_sagas(
    bench: Bench, running: BenchCluster, session: aiohttp.ClientSession, body: dict[str, object]
) -> float:
    leader = await running.leader()
    other = running.followers(leader)[0]
    base = f"{running.cluster.place(other).url}{SAGAS_PATH}"
    bench.say(f"{IN_FLIGHT} sagas, then kill -9 of the leader")
    begun = await asyncio.gather(*(_post(session, base, body) for _ in range(IN_FLIGHT)))
    xids = [str(each["xid"]) for each in begun]
    process = running.cluster.process(leader)
    if process is None:
        raise ClusterError(f"{leader} ended by itself\n{running.cluster.log_tail(leader)}")
    killed = time.perf_counter()
    process.send(signal.SIGKILL)
    left = list(xids)
    while left:
        shown = await _get(session, f"{base}/{left[-1]}?consistency=local")
        if shown.get("status") == "COMMITTED":
            left.pop()
        elif time.perf_counter() - killed > _GIVE_UP_S:
            raise ClusterError(f"{len(left)} sagas are not complete after {_GIVE_UP_S:.0f} s")
        else:
            await asyncio.sleep(0.01)
    return (time.perf_counter() - killed) * 1000


def saga(url: str, steps: int = BRANCHES, wait_ms: int = _WAIT_MS) -> dict[str, object]:
    """One step after the other, each with a compensation."""
    return {
        "steps": [
            {"name": f"s{number}", "action": url, "compensation": url, "payload": {"n": number}}
            for number in range(steps)
        ],
        "waitMs": wait_ms,
    }


def tcc(url: str) -> dict[str, object]:
    branch = {"try": url, "confirm": url, "cancel": url, "payload": {"n": 1}}
    return {"branches": [branch] * BRANCHES, "waitMs": _WAIT_MS}


async def _post(session: aiohttp.ClientSession, url: str, body: object) -> dict[str, object]:
    async with session.post(url, json=body) as response:
        found: dict[str, object] = await response.json()
        if response.status not in (200, 201):
            raise ClusterError(f"a saga was answered {response.status}: {found}")
        return found


async def _get(session: aiohttp.ClientSession, url: str) -> dict[str, object]:
    async with session.get(url) as response:
        found: dict[str, object] = await response.json(content_type=None)
        return found


async def _gaps(session: aiohttp.ClientSession, url: str) -> list[float]:
    async with session.get(url) as response:
        return msgspec.json.decode(await response.read(), type=list[float])
