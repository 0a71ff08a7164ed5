"""A process with a step of a saga is killed before and after each write; another one goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.databases.connections import Database
from tests.sdk.saga_stock import ROW, TABLE
from tests.sdk.shops import Shops
from tests.sdk.test_tcc_crashes import OF_THE_COORDINATORS_FENCE, WHEN_IT_CAME_TOO_LATE
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
WHEN_A_SECOND_STEP_FAILED = ("fence.before-failure-report", "fence.after-failure-report")
WHILE_IT_COMPENSATES = (
    "fence.before-cancel",
    "fence.before-cancel-commit",
    "fence.after-cancel-commit",
)
WHILE_IT_CLEANS = ("fence.before-delete", "fence.after-delete")
WHEN_NOTHING_WAS_DONE = (
    "fence.before-suspend",
    "fence.before-suspend-commit",
    "fence.after-suspend-commit",
)
DRIVERS = ("sqlite3", "pymysql", "psycopg")


@pytest.fixture
def shops(
    request: pytest.FixtureRequest, database: Database, tidelock_coordinator: Coordinator
) -> Shops:
    driver: str = request.node.callspec.params["database"]
    return Shops(
        tidelock_coordinator,
        driver,
        database,
        program="tests.sdk.saga_child",
        tables=(TABLE, ROW),
    )


QUICK = (
    "fence.after-step-commit",
    "fence.before-cancel-commit",
    "fence.before-take-back-commit",
)


def cases(points: tuple[str, ...]) -> list[Any]:
    """Some points on one database in turn, and at night all on all."""
    return [
        pytest.param(
            point,
            driver,
            marks=() if point in QUICK and number % len(DRIVERS) == place else (pytest.mark.long,),
        )
        for number, point in enumerate(points)
        for place, driver in enumerate(DRIVERS)
    ]


@pytest.mark.parametrize(("point", "database"), cases(BEFORE_THE_DECISION), indirect=["database"])
async def test_killed_before_the_decision_nothing_stays_done(shops: Shops, point: str) -> None:
    await shops.killed("commit", point)
    await shops.settled()
    assert shops.numbers() == (10,)
    assert shops.fence_rows() == 0


@pytest.mark.parametrize("what", ["refuse", "fail"])
@pytest.mark.parametrize(
    ("point", "database"), cases(WHEN_A_SECOND_STEP_FAILED), indirect=["database"]
)
async def test_killed_when_a_second_step_has_failed_the_first_is_undone(
    shops: Shops, point: str, what: str
) -> None:
    await shops.killed(what, point)
    await shops.settled()
    assert shops.numbers() == (10,)
    assert shops.fence_rows() == 0


@pytest.mark.parametrize(("point", "database"), cases(WHILE_IT_COMPENSATES), indirect=["database"])
async def test_killed_while_it_compensates_nothing_stays_done(shops: Shops, point: str) -> None:
    await shops.killed("rollback", point)
    await shops.settled()
    assert shops.numbers() == (10,)
    assert shops.fence_rows() == 0


@pytest.mark.parametrize(("point", "database"), cases(WHILE_IT_CLEANS), indirect=["database"])
async def test_killed_while_it_cleans_the_step_stays_done(shops: Shops, point: str) -> None:
    await shops.killed("commit-and-clean", point)
    await shops.settled()
    assert shops.numbers() == (7,)
    assert shops.fence_rows() == 0


@pytest.mark.parametrize(("point", "database"), cases(WHEN_NOTHING_WAS_DONE), indirect=["database"])
async def test_killed_while_it_compensates_what_was_not_done_nothing_is_left(
    shops: Shops, point: str, tidelock_coordinator: Coordinator
) -> None:
    await shops.killed("commit", "fence.after-register")
    tidelock_coordinator.advance(70_000)
    async with shops.process("serve", point) as process:
        await asyncio.wait_for(process.wait(), 60)
    await shops.settled()
    assert shops.numbers() == (10,)
    assert shops.fence_rows() == 0


@pytest.mark.parametrize(("point", "database"), cases(WHEN_IT_CAME_TOO_LATE), indirect=["database"])
async def test_killed_while_it_takes_back_what_came_too_late_nothing_stays_done(
    shops: Shops, point: str
) -> None:
    await shops.killed("too-late", point)
    await shops.settled()
    assert shops.numbers() == (10,)
    assert shops.fence_rows() == 0


def test_every_point_of_the_fence_that_a_step_comes_to_is_tried() -> None:
    tried = {
        *BEFORE_THE_DECISION,
        *WHEN_A_SECOND_STEP_FAILED,
        *WHILE_IT_COMPENSATES,
        *WHILE_IT_CLEANS,
        *WHEN_NOTHING_WAS_DONE,
        *WHEN_IT_CAME_TOO_LATE,
    }
    elsewhere = {
        # test_coordinators_fence_crashes
        *OF_THE_COORDINATORS_FENCE,
        # TCC's alone.
        "fence.before-confirm",
        "fence.before-confirm-commit",
        "fence.after-confirm-commit",
    }
    assert tried | elsewhere == {point for point in POINTS if point.startswith("fence.")}
