"""Transactions whose branches an application runs itself: what the coordinator's part costs."""

from __future__ import annotations

import itertools

import msgspec

from scripts.tidelock_scripts.bench.figures import Figure, at_least
from scripts.tidelock_scripts.bench.load import Request, Target, build_request, measure
from scripts.tidelock_scripts.bench.setting import CONNECTIONS, Bench, BenchCluster
from scripts.tidelock_scripts.bench.steady import latencies_of

TRANSACTIONS_PATH = "/api/v1/transactions"
BRANCHES = 2
ROWS_A_BRANCH = 3

_RATE = at_least(1_000)
_REPORT = msgspec.json.encode({"status": "PHASE_ONE_DONE"})
_INSTANT = {"commit": "", "rollback": ""}


async def transactions(bench: Bench) -> None:
    """Begin, two branches with three row locks each, two reports, commit, at 64 connections."""
    async with bench.cluster() as running:
        for role, node_id in (await running.roles()).items():
            bench.say(f"transactions through the {role}")
            measured = await measure(targets(running, node_id, role), seconds=bench.seconds)
            details = {
                "connections": CONNECTIONS,
                "requestsATransaction": REQUESTS,
                **latencies_of(measured),
            }
            name = f"transaction of {BRANCHES} branches with {ROWS_A_BRANCH} row locks each, {role}"
            rate = measured.per_second / REQUESTS
            bench.add(Figure(name, rate, "transactions/s", _RATE, details))


def targets(running: BenchCluster, node_id: str, table: str) -> list[Target]:
    """Return a load of such transactions on rows of one table."""
    port = running.cluster.place(node_id).api_port
    return [
        Target("127.0.0.1", port, 1, _transaction(table, number)) for number in range(CONNECTIONS)
    ]


def _transaction(table: str, connection: int) -> list[Request]:
    """Return its requests; each is made of the answer before it, which names xid and branch.

    No row is locked twice: what a load leaves undecided at its end is locked for a while.
    """
    rows = itertools.count(connection * 1_000_000_000)

    def register(answer: bytes) -> bytes:
        keys = [[next(rows)] for _ in range(ROWS_A_BRANCH)]
        body = {
            "mode": "AT",
            "resourceId": "db",
            "lockKeys": {table: keys},
            "callbacks": _INSTANT,
        }
        path = f"{TRANSACTIONS_PATH}/{_told(answer)['xid']}/branches"
        return build_request("POST", path, msgspec.json.encode(body))

    def report(answer: bytes) -> bytes:
        told = _told(answer)
        path = f"{TRANSACTIONS_PATH}/{told['xid']}/branches/{told['branchId']}/report"
        return build_request("POST", path, _REPORT)

    def commit(answer: bytes) -> bytes:
        path = f"{TRANSACTIONS_PATH}/{_told(answer)['xid']}/commit"
        return build_request("POST", path, b"{}")

    begin = build_request("POST", TRANSACTIONS_PATH, b"{}")
    return [begin, *[register, report] * BRANCHES, commit]


REQUESTS = len(_transaction("", 0))
"""Of one transaction."""


def _told(answer: bytes) -> dict[str, object]:
    """Return what an answer says; of a failure, what leads nowhere: it is counted already."""
    body: dict[str, object] = msgspec.json.decode(answer[answer.find(b"\r\n\r\n") + 4 :])
    return {"xid": "failed", "branchId": 1, **body}
