"""A process that takes part by TCC is killed before and after each write; another one goes on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.databases.connections import DIALECT_OF, Database
from tests.meta.documents import ROOT
from tests.sdk.tcc_stock import ROW, TABLE
from tidelock.crash_points import POINTS, VARIABLE
from tidelock.tcc.fence_table import fence_ddl
from tidelock.testing import Coordinator

pytestmark = [pytest.mark.databases, pytest.mark.timeout(120)]

BEFORE_THE_DECISION = (
    "tcc.before-register",
    "tcc.after-register",
    "tcc.before-fence-row",
    "tcc.after-fence-row",
    "tcc.before-try-commit",
    "tcc.after-try-commit",
    "tcc.before-report",
    "tcc.after-report",
)
WHILE_IT_CONFIRMS = (
    "tcc.before-confirm",
    "tcc.before-confirm-commit",
    "tcc.after-confirm-commit",
)
WHILE_IT_CANCELS = ("tcc.before-cancel", "tcc.before-cancel-commit", "tcc.after-cancel-commit")
WHILE_IT_CLEANS = ("tcc.before-delete", "tcc.after-delete")
WHEN_NOTHING_WAS_TRIED = (
    "tcc.before-suspend",
    "tcc.before-suspend-commit",
    "tcc.after-suspend-commit",
)
DRIVERS = ("pymysql", "psycopg", "sqlite3")


class Shops:
    """Processes of one application, one after the other."""

    def __init__(self, coordinator: Coordinator, driver: str, database: Database) -> None:
        self._coordinator = coordinator
        self.database = database
        where = {} if database.server is None else database.where()
        told = {"dialect": database.dialect, "name": database.name, "where": where}
        self._arguments = (coordinator.url, driver, json.dumps(told))
        database.sql(fence_ddl(DIALECT_OF[driver]), TABLE, ROW)  # type: ignore[arg-type]  # names of dialects

    @asynccontextmanager
    async def process(self, what: str, crash_at: str) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.sdk.tcc_child", *self._arguments, what),
            env={**os.environ, "PYTHONPATH": str(ROOT)}
            | ({VARIABLE: crash_at} if crash_at else {}),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            if process.returncode is None:
                await process.wait()

    async def killed(self, what: str, crash_at: str) -> None:
        """Run a process that is killed at a point."""
        async with self.process(what, crash_at) as process:
            await process.wait()
            assert process.returncode == -signal.SIGKILL, crash_at

    async def settled(self) -> None:
        """Let another process answer until nothing is left to do."""
        # What nobody has decided times out; the session of who was killed ends.
        self._coordinator.advance(70_000)
        async with self.process("serve", "") as process:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"serving\n"
            await asyncio.to_thread(self._coordinator.assert_clean, 60.0)

    def numbers(self) -> tuple[int, int, int]:
        ((free, reserved, sold),) = self.database.sql("SELECT free, reserved, sold FROM stock")
        return int(free), int(reserved), int(sold)

    def fence_rows(self) -> int:
        ((count,),) = self.database.sql("SELECT COUNT(*) FROM tidelock_fence")
        return int(count)


@pytest.fixture
def shops(
    request: pytest.FixtureRequest, database: Database, tidelock_coordinator: Coordinator
) -> Shops:
    driver: str = request.node.callspec.params["database"]
    return Shops(tidelock_coordinator, driver, database)


def cases(points: tuple[str, ...]) -> list[tuple[str, str]]:
    """Each point on one database in turn: a point is code that all of them share."""
    return [(point, DRIVERS[number % len(DRIVERS)]) for number, point in enumerate(points)]


@pytest.mark.parametrize(("point", "database"), cases(BEFORE_THE_DECISION), indirect=["database"])
async def test_killed_before_the_decision_nothing_was_done(shops: Shops, point: str) -> None:
    await shops.killed("commit", point)
    await shops.settled()
    assert shops.numbers() == (10, 0, 0)
    assert shops.fence_rows() == 0


@pytest.mark.parametrize(("point", "database"), cases(WHILE_IT_CONFIRMS), indirect=["database"])
async def test_killed_while_it_confirms_everything_was_done(shops: Shops, point: str) -> None:
    await shops.killed("commit", point)
    await shops.settled()
    assert shops.numbers() == (7, 0, 3)
    assert shops.fence_rows() == 0


@pytest.mark.parametrize(("point", "database"), cases(WHILE_IT_CANCELS), indirect=["database"])
async def test_killed_while_it_cancels_nothing_was_done(shops: Shops, point: str) -> None:
    await shops.killed("rollback", point)
    await shops.settled()
    assert shops.numbers() == (10, 0, 0)
    assert shops.fence_rows() == 0


@pytest.mark.parametrize(("point", "database"), cases(WHILE_IT_CLEANS), indirect=["database"])
async def test_killed_while_it_cleans_nothing_is_left(shops: Shops, point: str) -> None:
    await shops.killed("commit-and-clean", point)
    await shops.settled()
    assert shops.numbers() == (7, 0, 3)
    assert shops.fence_rows() == 0


@pytest.mark.parametrize(
    ("point", "database"), cases(WHEN_NOTHING_WAS_TRIED), indirect=["database"]
)
async def test_killed_while_it_cancels_what_was_not_tried_nothing_is_left(
    shops: Shops, point: str, tidelock_coordinator: Coordinator
) -> None:
    await shops.killed("commit", "tcc.after-register")
    tidelock_coordinator.advance(70_000)
    async with shops.process("serve", point) as process:
        await asyncio.wait_for(process.wait(), 60)
    await shops.settled()
    assert shops.numbers() == (10, 0, 0)
    assert shops.fence_rows() == 0


def test_every_point_of_the_fence_in_a_database_is_tried() -> None:
    tried = {
        *BEFORE_THE_DECISION,
        *WHILE_IT_CONFIRMS,
        *WHILE_IT_CANCELS,
        *WHILE_IT_CLEANS,
        *WHEN_NOTHING_WAS_TRIED,
    }
    elsewhere = {
        # A Try that outlives its transaction and dies then: tests/sdk/test_tcc.py.
        "tcc.before-take-back-commit",
        "tcc.after-take-back-commit",
        # The coordinator's fence: done at least once.
        "tcc.before-fence-enter",
        "tcc.after-fence-enter",
        "tcc.before-fence-done",
        "tcc.after-fence-done",
    }
    assert tried | elsewhere == {point for point in POINTS if point.startswith("tcc.")}
