"""A process that takes part by TCC is killed before and after each write; another one goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.databases.connections import Database
from tests.sdk.shops import Shops
from tests.sdk.tcc_stock import ROW, TABLE
from tidelock.crash_points import POINTS
from tidelock.testing import Coordinator

pytestmark = [pytest.mark.databases, pytest.mark.timeout(120)]

BEFORE_THE_DECISION = (
    "fence.before-register",
    "fence.after-register",
    "fence.before-fence-row",
    "fence.after-fence-row",
    "fence.before-step-commit",
    "fence.after-step-commit",
    "fence.before-report",
    "fence.after-report",
)
WHILE_IT_CONFIRMS = (
    "fence.before-confirm",
    "fence.before-confirm-commit",
    "fence.after-confirm-commit",
)
WHILE_IT_CANCELS = (
    "fence.before-cancel",
    "fence.before-cancel-commit",
    "fence.after-cancel-commit",
)
WHEN_IT_FAILED = ("fence.before-failure-report", "fence.after-failure-report")
WHILE_IT_CLEANS = ("fence.before-delete", "fence.after-delete")
WHEN_NOTHING_WAS_TRIED = (
    "fence.before-suspend",
    "fence.before-suspend-commit",
    "fence.after-suspend-commit",
)
WHEN_IT_CAME_TOO_LATE = ("fence.before-take-back-commit", "fence.after-take-back-commit")
OF_THE_COORDINATORS_FENCE = (
    "fence.before-fence-enter",
    "fence.after-fence-enter",
    "fence.before-fence-done",
    "fence.after-fence-done",
)
DRIVERS = ("pymysql", "psycopg", "sqlite3")


@pytest.fixture
def shops(
    request: pytest.FixtureRequest, database: Database, tidelock_coordinator: Coordinator
) -> Shops:
    driver: str = request.node.callspec.params["database"]
    return Shops(
        tidelock_coordinator,
        driver,
        database,
        program="tests.sdk.tcc_child",
        tables=(TABLE, ROW),
    )


def cases(points: tuple[str, ...]) -> list[Any]:
    """Each point on one database in turn, and at night on all."""
    return [
        pytest.param(
            point,
            driver,
            marks=() if number % len(DRIVERS) == place else (pytest.mark.long,),
        )
        for number, point in enumerate(points)
        for place, driver in enumerate(DRIVERS)
    ]


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


@pytest.mark.parametrize(("point", "database"), cases(WHEN_IT_FAILED), indirect=["database"])
async def test_killed_when_its_try_has_failed_nothing_was_done(shops: Shops, point: str) -> None:
    await shops.killed("fail", point)
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
    await shops.killed("commit", "fence.after-register")
    tidelock_coordinator.advance(70_000)
    async with shops.process("serve", point) as process:
        await asyncio.wait_for(process.wait(), 60)
    await shops.settled()
    assert shops.numbers() == (10, 0, 0)
    assert shops.fence_rows() == 0


@pytest.mark.parametrize(("point", "database"), cases(WHEN_IT_CAME_TOO_LATE), indirect=["database"])
async def test_killed_while_it_takes_back_what_came_too_late_nothing_stays_done(
    shops: Shops, point: str
) -> None:
    await shops.killed("too-late", point)
    await shops.settled()
    assert shops.numbers() == (10, 0, 0)
    assert shops.fence_rows() == 0


def test_every_point_of_the_fence_in_a_database_is_tried() -> None:
    tried = {
        *BEFORE_THE_DECISION,
        *WHILE_IT_CONFIRMS,
        *WHILE_IT_CANCELS,
        *WHEN_IT_FAILED,
        *WHILE_IT_CLEANS,
        *WHEN_NOTHING_WAS_TRIED,
        *WHEN_IT_CAME_TOO_LATE,
    }
    # Those of the coordinator's fence: test_coordinators_fence_crashes.
    elsewhere = set(OF_THE_COORDINATORS_FENCE)
    assert tried | elsewhere == {point for point in POINTS if point.startswith("fence.")}
