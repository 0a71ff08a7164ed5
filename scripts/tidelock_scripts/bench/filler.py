"""A node that fills its cluster with transactions: through the log, as fast as it takes them.

Started like `python -m node`. On SIGUSR1 it reads from a file what is wanted, and proposes on the
node's own loop the same commands as requests over HTTP would, many in a request. Every node applies
them like any others, so what is stored then is what real transactions leave. How far it has come is
written into a file beside.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from node.__main__ import main
from node.cluster import EngineCluster
from statemachine.commands import (
    AnyCommand,
    BeginGlobal,
    DecideGlobal,
    RegisterBranch,
    ReportBranch,
    RunGlobal,
    Step,
)
from statemachine.outcomes import Applied, BranchRegistered, Outcome
from statemachine.transactions.row_locks import RowLock
from statemachine.transactions.rows import Calls, RetryRule

ORDER_VARIABLE = "TIDELOCK_BENCH_FILL"

FINISHED = "finished"
"""Transactions that have ended: sagas of two empty steps, and as many of two branches with three
row locks each."""
HELD = "held"
"""Row locks of transactions that stay open."""

CALLERS = 12
SAGAS_A_REQUEST = 50
TRANSACTIONS_A_REQUEST = 15
ROWS_A_BRANCH = 3
ROWS_HELD_TOGETHER = 1_000

_TIMEOUT_MS = 60_000
_EMPTY = Calls(forward="", commit="", rollback="")
_STEPS = tuple(
    Step(name=f"step-{at}", calls=_EMPTY, payload=b"", depends_on=tuple(range(at)), timeout_ms=0,
         retry=RetryRule())
    for at in range(2)
)  # fmt: skip
_SAGA = RunGlobal(
    xid="", prefix="127.0.0.1:7101", name="", program="SAGA", steps=_STEPS, timeout_ms=60_000,
    wait_ms=0, in_order=False, compensate_failed=False, forward_recovery=False,
)  # fmt: skip


class Order(msgspec.Struct, frozen=True):
    """What is wanted."""

    kind: str
    count: int
    """Transactions, or rows."""


async def companion(cluster: EngineCluster) -> None:
    begin = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, begin.set)
    path = Path(os.environ[ORDER_VARIABLE])
    while True:
        await begin.wait()
        begin.clear()
        order = msgspec.json.decode(path.read_bytes(), type=Order)
        await Filler(cluster, order, path.with_suffix(".done")).run()


class Filler:
    """One order."""

    def __init__(self, cluster: EngineCluster, order: Order, told: Path) -> None:
        self._cluster = cluster
        self._order = order
        self._told = told
        self._numbers = itertools.count(1)
        self._rows = itertools.count(1)
        self._done = 0

    async def run(self) -> None:
        portions = self._portions()
        await asyncio.gather(*(self._work(portions) for _ in range(CALLERS)))

    def _portions(self) -> Iterator[tuple[bool, int]]:
        """Yield, in turns, whether sagas come next and how many of what is wanted."""
        left, sagas = self._order.count, False
        while left > 0:
            sagas = not sagas and self._order.kind == FINISHED
            greatest = SAGAS_A_REQUEST if sagas else TRANSACTIONS_A_REQUEST
            if self._order.kind == HELD:
                greatest = ROWS_HELD_TOGETHER
            portion = min(left, greatest)
            left -= portion
            yield sagas, portion

    async def _work(self, portions: Iterator[tuple[bool, int]]) -> None:
        for sagas, portion in portions:
            if self._order.kind == HELD:
                await self._hold(portion)
            elif sagas:
                await self._propose([_SAGA] * portion)
            else:
                await self._transactions(portion)
            self._done += portion
            unfinished = self._told.with_suffix(".part")
            unfinished.write_text(str(self._done))
            unfinished.replace(self._told)

    async def _transactions(self, count: int) -> None:
        xids = [f"filled-{next(self._numbers)}" for _ in range(count)]
        first: list[AnyCommand] = []
        for xid in xids:
            first += [_begin(xid), *(self._branch(xid, ROWS_A_BRANCH) for _ in range(2))]
        outcomes = await self._propose(first)
        second: list[AnyCommand] = []
        for xid, (_, *registered) in zip(xids, _threes(outcomes), strict=True):
            second += [_report(xid, _branch_id(each)) for each in registered]
            second.append(
                DecideGlobal(xid=xid, commit=True, reason="", wait_ms=0, reports_expected=True)
            )
        await self._propose(second)

    async def _hold(self, rows: int) -> None:
        xid = f"holding-{next(self._numbers)}"
        await self._propose([_begin(xid), self._branch(xid, rows)])

    def _branch(self, xid: str, rows: int) -> RegisterBranch:
        return RegisterBranch(
            xid=xid,
            mode="AT",
            resource_id="mysql:shop",
            locks=tuple(
                RowLock("mysql:shop", "stock", (next(self._rows),), True) for _ in range(rows)
            ),
            wait_ms=0,
            application_id="",
            unit_id="",
            session_id=0,
            application_data=b"",
            calls=Calls(forward=None, commit="", rollback=""),
        )

    async def _propose(self, commands: Sequence[AnyCommand]) -> Sequence[Outcome]:
        answered = await self._cluster.propose(commands, timeout_ms=_TIMEOUT_MS)
        refused = [each for each in answered.outcomes if not isinstance(each, Applied)]
        if refused:
            raise RuntimeError(f"what was to be stored was refused: {refused[0]}")
        return answered.outcomes


def _threes(outcomes: Sequence[Outcome]) -> Iterator[Sequence[Outcome]]:
    return (outcomes[at : at + 3] for at in range(0, len(outcomes), 3))


def _begin(xid: str) -> BeginGlobal:
    return BeginGlobal(xid=xid, prefix="127.0.0.1:7101", name="", timeout_ms=0, mode="")


def _report(xid: str, branch_id: int) -> ReportBranch:
    return ReportBranch(
        xid=xid, branch_id=branch_id, status="PHASE_ONE_DONE", application_data=None, failure=None
    )


def _branch_id(outcome: Outcome) -> int:
    assert isinstance(outcome, Applied)
    assert isinstance(outcome.result, BranchRegistered)
    return outcome.result.branch_id


if __name__ == "__main__":
    sys.exit(main(companion))
