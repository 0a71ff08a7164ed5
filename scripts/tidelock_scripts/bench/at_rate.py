"""Two-branch AT global transactions, with everything on this machine: nodes, databases, processes.

Each transfers between an account in MariaDB and one in PostgreSQL. The processor time of a
transaction, over all processes, stands in the JSON: it says more than the rate of a busy machine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final, Literal

from scripts.tidelock_scripts.accounts.ledger import Ledger, opened_ledger
from scripts.tidelock_scripts.accounts.processes import Tellers, running_tellers
from scripts.tidelock_scripts.accounts.teller import Plan
from scripts.tidelock_scripts.bench.figures import Figure, at_least
from scripts.tidelock_scripts.bench.setting import Bench, BenchCluster
from scripts.tidelock_scripts.processes import processor_s_of_all

PROCESSES: Final = 2
WORKERS: Final = 8
"""In each process."""
_RATE: Final = at_least(250)
_WARM_UP_S: Final = 2.0
_DRIVERS: Final[Mapping[Literal["blocking", "awaiting"], str]] = {
    "blocking": "PyMySQL and psycopg",
    "awaiting": "asyncmy and asyncpg",
}


async def at_rate(bench: Bench) -> None:
    """Transfers by two processes of eight workers, with threads and with coroutines."""
    async with bench.cluster() as running:
        for driver, names in _DRIVERS.items():
            bench.say(f"AT transactions through {names}")
            with opened_ledger() as ledger:
                await _measure(bench, running, ledger, driver, names)


async def _measure(
    bench: Bench,
    running: BenchCluster,
    ledger: Ledger,
    driver: Literal["blocking", "awaiting"],
    names: str,
) -> None:
    plans = [
        Plan(
            addresses=list(running.cluster.addresses.values()),
            databases={name: ledger.where(name) for name in ("mysql", "postgresql")},
            driver=driver,
            workers=WORKERS,
            first=number * WORKERS,
            seed=number,
            meets_others=False,
        )
        for number in range(PROCESSES)
    ]
    async with running_tellers(plans) as tellers:
        await asyncio.sleep(_WARM_UP_S)
        look = _looking(running, ledger, tellers)
        before, used, begun = await tellers.count(), look(), time.perf_counter()
        await asyncio.sleep(bench.seconds)
        after, used_then = await tellers.count(), look()
        elapsed_s = time.perf_counter() - begun
        await tellers.stop()
    done = after["committed"] - before["committed"]
    used_ms = {who: (used_then[who] - used[who]) * 1000 / max(done, 1) for who in used}
    details = {
        "processes": PROCESSES,
        "workers": PROCESSES * WORKERS,
        "failures": after.total() - after["committed"],
        "processorMsATransaction": {
            "together": round(sum(used_ms.values()), 2),
            **{who: round(ms, 2) for who, ms in used_ms.items()},
        },
    }
    name = f"AT transaction of two branches, {names}"
    bench.add(Figure(name, done / elapsed_s, "transactions/s", _RATE, details))


def _looking(
    running: BenchCluster, ledger: Ledger, tellers: Tellers
) -> Callable[[], Mapping[str, float]]:
    """Return what tells how much processor time each kind of process has used, in seconds."""
    nodes = [
        process.pid for node in running.cluster.places if (process := running.cluster.process(node))
    ]
    kinds = {"nodes": nodes, "applications": tellers.pids, **ledger.pids}
    return lambda: {who: processor_s_of_all(pids) for who, pids in kinds.items()}
