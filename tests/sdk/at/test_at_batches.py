"""Many groups of values at once: with as few statements, and undone as if each had come alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

import tidelock
from tests.databases.connections import AWAITING, Database
from tests.sdk.at_sources import Shop, UndoneError
from tidelock.application import Application
from tidelock.at import batches
from tidelock.at.errors import RowsLockedError
from tidelock.at.resource import AtDataSource
from tidelock.at.tracing import Tracer
from tidelock.at.undo_log import undo_log_ddl
from tidelock.sql.dialects import DIALECTS
from tidelock.sql.session import MARK
from tidelock.testing import Coordinator

pytestmark = [pytest.mark.databases, pytest.mark.timeout(120)]

EVERYWHERE = pytest.mark.parametrize("database", ["mysql", "postgresql", "sqlite"], indirect=True)
ONE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

PAIRS = "CREATE TABLE pairs (a INT, b VARCHAR(20), v INT, w INT UNIQUE, PRIMARY KEY (a, b))"

INSERT = "INSERT INTO pairs (a, b, v) VALUES (?, ?, ?)"
UPDATE = "UPDATE pairs SET v = ? WHERE a = ? AND b = ? AND v < 1000"
DELETE = "DELETE FROM pairs WHERE b = ? AND a = ?"

FEW = [(number, f"b{number}", number) for number in range(8)]


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many groups each image was of."""
    found: list[int] = []
    trace = Tracer.trace

    async def noted(self: Tracer) -> Any:
        found.append(len(self._groups) if isinstance(self, batches.BatchTracer) else 1)
        return await trace(self)

    monkeypatch.setattr(Tracer, "trace", noted)
    return found


@pytest.fixture
def pairs(bare_shop: Shop) -> Shop:
    bare_shop.database.sql(PAIRS)
    return bare_shop


def many(shop: Shop, *steps: tuple[str, Sequence[Any]]) -> list[int]:
    """Execute each statement with all of its groups, in one local transaction; return counts."""
    counts = []
    with shop.local() as cursor:
        for text, groups in steps:
            cursor.executemany(shop.marked(text), groups)
            counts.append(cursor.rowcount)
    return counts


def undone(shop: Shop, *steps: tuple[str, Sequence[Any]]) -> list[tuple[Any, ...]]:
    """Do so in a global transaction that rolls back; return what it had made."""
    before = shop.rows("pairs")
    made = shop.undone_by(lambda: many(shop, *steps), "pairs")
    assert shop.rows("pairs") == before
    shop.coordinator.assert_clean()
    assert shop.undo_rows() == []
    return made


@EVERYWHERE
def test_a_batch_is_done_and_undone_as_a_whole(
    pairs: Shop, traced: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "GREATEST_ALTERNATIVES", 3)
    counts: list[int] = []
    pairs.within(lambda: counts.extend(many(pairs, (INSERT, FEW))))
    changes = [(100 + number, number, f"b{number}") for number in range(9)]
    made = undone(
        pairs,
        (UPDATE, changes),
        (DELETE, [("b1", 1), ("b3", 3), ("none", 4)]),
        (INSERT, [(1, "b1", 7), (2, "other", None)]),
    )
    assert (len(made), made[1], made[3]) == (8, (1, "b1", 7, None), (2, "other", None, None))
    assert counts == [8]
    assert traced == [8, 9, 3, 2]


@EVERYWHERE
def test_the_count_is_of_all_rows(pairs: Shop) -> None:
    groups = [(50, number, f"b{number}") for number in range(9)]
    counts: list[int] = []
    pairs.within(lambda: counts.extend(many(pairs, (INSERT, FEW), (UPDATE, groups))))
    assert counts == [8, 8]


@EVERYWHERE
def test_a_row_that_is_named_twice_is_changed_twice_and_undone_once(
    pairs: Shop, traced: list[int]
) -> None:
    many(pairs, (INSERT, FEW))
    groups = [(50, 1, "b1"), (51, 2, "b2"), (52, 1, "B1 "), (53, 1, "b1"), (54, 2, "b2")]
    made = undone(pairs, (UPDATE, groups))
    assert [row[2] for row in made[1:3]] == [53, 54]
    assert traced == [2, 1, 2]


@EVERYWHERE
def test_a_group_that_fails_fails_alone(pairs: Shop) -> None:
    many(pairs, (INSERT, FEW))

    def work() -> None:
        with pairs.local() as cursor:
            with pytest.raises(Exception, match=r"(?i)duplicate|unique"):
                cursor.executemany(
                    pairs.marked(INSERT), [(20, "new", 1), (21, "new", 1), (1, "b1", 9)]
                )
            if pairs.dialect == "postgresql":
                cursor.connection.rollback()

    made = pairs.undone_by(work, "pairs")
    # As far as it came, which is nowhere where an error ends the local transaction.
    assert len(made) == (8 if pairs.dialect == "postgresql" else 10)
    assert len(pairs.rows("pairs")) == 8


@ONE
def test_rows_of_others_are_refused_for_a_batch_as_for_one(pairs: Shop) -> None:
    many(pairs, (INSERT, FEW))
    with tidelock.transaction(application=pairs.source.application):
        many(pairs, (UPDATE, [(9, 1, "b1"), (9, 2, "b2")]))
        with (
            pytest.raises(RowsLockedError) as refused,
            tidelock.transaction(
                application=pairs.source.application,
                propagation=tidelock.Propagation.REQUIRES_NEW,
            ),
        ):
            many(pairs, (UPDATE, [(10, 2, "b2"), (10, 3, "b3")]))
        (rows,) = refused.value.lock_keys.values()
        assert sorted(map(tuple, rows)) == [(2, "b2"), (3, "b3")]
    assert [row[2] for row in pairs.rows("pairs")[:4]] == [0, 9, 9, 3]


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        # Who has what others had must give it back in the same order.
        ("UPDATE pairs SET w = ? WHERE a = ? AND b = ?", [(5, 1, "b1"), (6, 2, "b2")]),
        # It does not name one row.
        ("UPDATE pairs SET v = ? WHERE a = ?", [(5, 1), (6, 2)]),
        ("UPDATE pairs SET v = ? WHERE a = ? AND b = ? OR v = 1", [(5, 1, "b1"), (6, 2, "b2")]),
        # Nobody knows whether these are the same.
        ("UPDATE pairs SET v = ? WHERE a = ? AND b = ?", [(5, 1, "ä"), (6, 2, "ß")]),
        ("DELETE FROM pairs WHERE a = ? AND b = ?", [(1, None), (2, None)]),
        ("INSERT INTO pairs (a, b) VALUES (?, ?) ON CONFLICT DO NOTHING", [(1, "b1"), (2, "b2")]),
        ("INSERT INTO pairs (a, b) VALUES (?, 'x')", [(1,), (2,)]),
    ],
)
@ONE
def test_what_may_touch_the_same_rows_has_images_of_its_own(
    pairs: Shop, traced: list[int], text: str, groups: list[Any]
) -> None:
    many(pairs, (INSERT, FEW))
    undone(pairs, (text, groups))
    assert traced == [1, 1]


@ONE
def test_a_batch_whose_counts_do_not_agree_is_done_one_by_one(
    pairs: Shop, traced: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    many(pairs, (INSERT, FEW))
    # As when a collation holds for one what look like two.
    monkeypatch.setattr(batches, "_part", lambda column, value: repr(value))
    made = undone(pairs, (UPDATE, [(5, 1, "b1"), (6, "1", "b1"), (7, 2, "b2")]))
    assert [row[2] for row in made[1:3]] == [6, 7]
    assert traced == [3, 1, 1, 1]


@ONE
def test_a_large_batch_is_several(
    pairs: Shop, traced: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "GREATEST_BATCH", 5)
    undone(pairs, (INSERT, FEW))
    assert traced == [5, 3]


@pytest.mark.parametrize(
    ("database", "driver"), [(name, name) for name in AWAITING], indirect=["database"]
)
async def test_asynchronous_drivers_work_in_batches(
    database: Database,
    driver: str,
    tidelock_coordinator: Coordinator,
    traced: list[int],
) -> None:
    dialect = DIALECTS[database.dialect]
    database.sql(undo_log_ddl(dialect.name), PAIRS)
    marks = {"asyncpg": "$%d", "asyncmy": "%%s", "aiosqlite": "?"}[driver]
    with tidelock_coordinator.application() as application:
        source = AtDataSource(lambda: database.open(driver), application=application)
        with pytest.raises(UndoneError):
            await work(database, source, application, marks)
        tidelock_coordinator.assert_clean()
        source.close()
    assert database.sql("SELECT * FROM pairs") == []
    assert traced == [8, 9]


async def work(
    database: Database, source: AtDataSource, application: Application, marks: str
) -> None:
    def marked(text: str) -> str:
        first, *others = text.replace("?", MARK).split(MARK)
        spelled = [marks % at if "%d" in marks else marks.replace("%%", "%") for at in range(1, 9)]
        return first + "".join(mark + part for mark, part in zip(spelled, others, strict=False))

    changes = [(100 + number, number, f"b{number}") for number in range(9)]
    async with tidelock.transaction(application=application):
        connection = await source.aconnect()
        if hasattr(connection, "fetchval"):
            async with connection.transaction():
                await connection.executemany(marked(INSERT), FEW)
                await connection.executemany(marked(UPDATE), changes)
            await connection.close()
        else:
            cursor = await connection.cursor() if "?" in marks else connection.cursor()
            await cursor.executemany(marked(INSERT), FEW)
            await cursor.executemany(marked(UPDATE), changes)
            assert cursor.rowcount == 8
            await connection.commit()
            closing = connection.close()
            if closing is not None:
                await closing
        found = database.sql("SELECT v FROM pairs ORDER BY a")
        assert [int(v) for (v,) in found] == [100 + number for number in range(8)]
        raise UndoneError
