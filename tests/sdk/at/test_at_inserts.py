"""Rows that an INSERT makes are found, whoever made their keys, and undone."""

# ruff: noqa: E501 (one case a line)
from __future__ import annotations

from typing import Any

import pytest

from tests.sdk.at_sources import Shop, undone
from tidelock.sql.errors import StatementRefusedError

pytestmark = [pytest.mark.databases, pytest.mark.timeout(120)]

MYSQL, POSTGRESQL, SQLITE = "mysql", "postgresql", "sqlite"
COUNTED = {
    MYSQL: "CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, v INT)",
    POSTGRESQL: "CREATE TABLE t (id serial PRIMARY KEY, v int)",
    SQLITE: "CREATE TABLE t (id INTEGER PRIMARY KEY, v INT)",
}
IDENTITY = "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int)"
UUIDS = "CREATE TABLE t (id uuid DEFAULT gen_random_uuid() PRIMARY KEY, v int)"


def on(*dialects: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("database", dialects, indirect=True)


EVERYWHERE = on(MYSQL, POSTGRESQL, SQLITE)

GENERATED: list[tuple[str, str, str]] = [
    *((each, COUNTED[each], "INSERT INTO t (v) VALUES (7)") for each in COUNTED),
    (MYSQL, COUNTED[MYSQL], "INSERT INTO t VALUES (NULL, 7), (DEFAULT, 8), (NULL, 9)"),
    (MYSQL, COUNTED[MYSQL], "INSERT INTO t SET v = 7"),
    (MYSQL, COUNTED[MYSQL], "INSERT INTO t (v) VALUES (7), (8) RETURNING id"),
    (POSTGRESQL, COUNTED[POSTGRESQL], "INSERT INTO t (v) VALUES (7), (8) RETURNING v, id"),
    (POSTGRESQL, COUNTED[POSTGRESQL], "INSERT INTO t VALUES (DEFAULT, 7)"),
    (POSTGRESQL, IDENTITY, "INSERT INTO t (v) VALUES (7)"),
    (POSTGRESQL, IDENTITY, "INSERT INTO t (v) VALUES (7), (8) RETURNING *"),
    (POSTGRESQL, UUIDS, "INSERT INTO t (v) VALUES (7), (8) RETURNING id"),
    (POSTGRESQL, COUNTED[POSTGRESQL], "INSERT INTO t DEFAULT VALUES"),
    (SQLITE, COUNTED[SQLITE], "INSERT INTO t (v) VALUES (7), (8), (9)"),
    (SQLITE, COUNTED[SQLITE], "INSERT INTO t VALUES (NULL, 7) RETURNING id"),
    (SQLITE, COUNTED[SQLITE], "INSERT INTO t DEFAULT VALUES"),
]


@pytest.mark.parametrize(("database", "table", "insert"), GENERATED, indirect=["database"])
def test_keys_that_the_database_makes_are_found(bare_shop: Shop, table: str, insert: str) -> None:
    first = "INSERT INTO t (v) VALUES (1)"
    bare_shop.database.sql(table, first)
    before = bare_shop.rows()
    made = undone(bare_shop, insert)
    assert len(made) > len(before)
    assert bare_shop.rows() == before


@EVERYWHERE
def test_rows_that_were_returned_are_still_the_applications(bare_shop: Shop) -> None:
    bare_shop.database.sql(COUNTED[bare_shop.dialect])
    seen: list[Any] = []

    def work() -> None:
        with bare_shop.local() as cursor:
            cursor.execute("INSERT INTO t (v) VALUES (7), (8), (9) RETURNING v, id")
            seen.append(cursor.fetchone())
            seen.extend(cursor.fetchmany(1))
            seen.extend(cursor)
            assert cursor.fetchone() is None

    bare_shop.within(work)
    assert seen == [(7, 1), (8, 2), (9, 3)]


@EVERYWHERE
def test_a_value_of_none_for_a_counted_key_is_counted(bare_shop: Shop) -> None:
    if bare_shop.dialect == POSTGRESQL:
        return  # it refuses NULL there by itself
    bare_shop.database.sql(COUNTED[bare_shop.dialect])
    assert undone(bare_shop, ("INSERT INTO t VALUES (?, ?)", (None, 7))) == [(1, 7)]
    assert bare_shop.rows() == []


@EVERYWHERE
def test_names_that_must_be_quoted_and_keys_of_several_parts(bare_shop: Shop) -> None:
    quote = "`" if bare_shop.dialect == MYSQL else '"'
    table, order, select = (f"{quote}{each}{quote}" for each in ("Odd %s na?me", "order", "SELECT"))
    bare_shop.database.sql(
        f"CREATE TABLE {table} ({order} INT, {select} VARCHAR(20), v INT,"
        f" PRIMARY KEY ({select}, {order}))",
        f"INSERT INTO {table} VALUES (1, 'a,b', 1), (2, 'a', 2)",
    )
    before = bare_shop.rows(table)
    bind = table if bare_shop.dialect == SQLITE else table.replace("%", "%%")
    name = bind.replace("?", "\1")

    def work() -> None:
        with bare_shop.local() as cursor:
            for text, values in (
                (f"INSERT INTO {name} VALUES (?, ?, 3)", (1, "b")),
                (f"UPDATE {name} SET v = v + ? WHERE {order} = ?", (10, 1)),
                (f"DELETE FROM {name} WHERE {select} = ?", ("a",)),
            ):
                cursor.execute(bare_shop.marked(text).replace("\1", "?"), values)

    assert bare_shop.undone_by(work, table) == [(1, "a,b", 11), (1, "b", 13)]
    assert bare_shop.rows(table) == before


UNIQUE = "CREATE TABLE t (id INT PRIMARY KEY, code VARCHAR(9) UNIQUE, v INT)"
UPSERTS = {
    MYSQL: "INSERT INTO t (id, code, v) VALUES {} ON DUPLICATE KEY UPDATE v = t.v + VALUES(v)",
    POSTGRESQL: "INSERT INTO t (id, code, v) VALUES {} "
    "ON CONFLICT (id) DO UPDATE SET v = t.v + excluded.v",
    SQLITE: "INSERT INTO t (id, code, v) VALUES {} "
    "ON CONFLICT (id) DO UPDATE SET v = t.v + excluded.v",
}
IGNORES = {
    MYSQL: "INSERT IGNORE INTO t (id, code, v) VALUES {}",
    POSTGRESQL: "INSERT INTO t (id, code, v) VALUES {} ON CONFLICT DO NOTHING",
    SQLITE: "INSERT OR IGNORE INTO t (id, code, v) VALUES {}",
}


@EVERYWHERE
@pytest.mark.parametrize(
    ("rows", "made"),
    [
        ("(1, 'a', 5)", [(1, "a", 15), (2, "b", 20)]),
        ("(3, 'c', 5)", [(1, "a", 10), (2, "b", 20), (3, "c", 5)]),
        ("(1, 'a', 5), (3, 'c', 5), (2, 'b', 0)", [(1, "a", 15), (2, "b", 20), (3, "c", 5)]),
        ("(2, 'b', 0)", [(1, "a", 10), (2, "b", 20)]),
    ],
)
def test_an_insert_that_may_update_is_undone_as_what_it_did(
    bare_shop: Shop, rows: str, made: list[Any]
) -> None:
    bare_shop.database.sql(UNIQUE, "INSERT INTO t VALUES (1, 'a', 10), (2, 'b', 20)")
    assert undone(bare_shop, UPSERTS[bare_shop.dialect].format(rows)) == made
    assert bare_shop.rows() == [(1, "a", 10), (2, "b", 20)]


@on(MYSQL)
def test_an_insert_may_meet_a_row_by_any_unique_index(bare_shop: Shop) -> None:
    bare_shop.database.sql(UNIQUE, "INSERT INTO t VALUES (1, 'a', 10), (2, 'b', 20)")
    assert undone(bare_shop, UPSERTS[MYSQL].format("(9, 'b', 5)")) == [(1, "a", 10), (2, "b", 25)]
    assert bare_shop.rows() == [(1, "a", 10), (2, "b", 20)]


@on(MYSQL)
def test_an_insert_that_may_update_and_returns_is_undone_where_gaps_are_locked(
    bare_shop: Shop,
) -> None:
    bare_shop.database.sql(UNIQUE, "INSERT INTO t VALUES (1, 'a', 10), (2, 'b', 20)")
    text = UPSERTS[MYSQL].format("(1, 'a', 5), (2, 'b', 0), (3, 'c', 5)") + " RETURNING id"
    assert undone(bare_shop, text) == [(1, "a", 15), (2, "b", 20), (3, "c", 5)]
    assert bare_shop.rows() == [(1, "a", 10), (2, "b", 20)]
    level = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
    with pytest.raises(StatementRefusedError, match="leave RETURNING out"):
        undone(bare_shop, level, text)
    assert bare_shop.rows() == [(1, "a", 10), (2, "b", 20)]


@EVERYWHERE
def test_an_insert_that_leaves_rows_alone_undoes_only_its_own(bare_shop: Shop) -> None:
    bare_shop.database.sql(UNIQUE, "INSERT INTO t VALUES (1, 'a', 10)")
    text = IGNORES[bare_shop.dialect].format("(1, 'x', 0), (7, 'a', 0), (3, 'c', 5)")
    assert undone(bare_shop, text) == [(1, "a", 10), (3, "c", 5)]
    assert bare_shop.rows() == [(1, "a", 10)]


@EVERYWHERE
def test_defaults_and_computed_columns_come_back(bare_shop: Shop) -> None:
    computed = "INT GENERATED ALWAYS AS (v * 2) STORED"
    bare_shop.database.sql(
        f"CREATE TABLE t (id INT PRIMARY KEY, v INT DEFAULT 7, w {computed})",
        "INSERT INTO t (id) VALUES (1)",
    )
    assert undone(bare_shop, "DELETE FROM t", "INSERT INTO t (id) VALUES (2)") == [(2, 7, 14)]
    assert bare_shop.rows() == [(1, 7, 14)]


@on(MYSQL)
def test_a_column_that_changes_by_itself_is_restored(bare_shop: Shop) -> None:
    bare_shop.database.sql(
        "CREATE TABLE t (id INT PRIMARY KEY, v INT,"
        " at TIMESTAMP(6) NOT NULL DEFAULT '2001-01-01' ON UPDATE CURRENT_TIMESTAMP(6))",
        "INSERT INTO t (id, v) VALUES (1, 1)",
    )
    before = bare_shop.rows()
    assert undone(bare_shop, "UPDATE t SET v = 2") != before
    assert bare_shop.rows() == before


@EVERYWHERE
def test_many_rows_are_undone_from_a_compressed_record(bare_shop: Shop) -> None:
    bare_shop.database.sql("CREATE TABLE t (id INT PRIMARY KEY, name VARCHAR(200))")
    many = [(number, "x" * 150) for number in range(800)]
    bare_shop.database.sql(
        "INSERT INTO t VALUES " + ", ".join(f"({number}, '{name}')" for number, name in many)
    )
    assert undone(bare_shop, "DELETE FROM t") == []
    # Whoever rolls back is answered before so many rows are there again, on a busy machine.
    bare_shop.coordinator.assert_clean(60)
    assert bare_shop.rows() == many


@EVERYWHERE
def test_executemany_is_each_of_its_statements(bare_shop: Shop) -> None:
    bare_shop.database.sql("CREATE TABLE t (id INT PRIMARY KEY, v INT)")
    counts: list[int] = []

    def work() -> None:
        with bare_shop.local() as cursor:
            insert = bare_shop.marked("INSERT INTO t VALUES (?, ?)")
            cursor.executemany(insert, [(number, number) for number in range(5)])
            counts.append(cursor.rowcount)
            cursor.executemany(bare_shop.marked("DELETE FROM t WHERE id = ?"), [(1,), (3,), (9,)])
            counts.append(cursor.rowcount)

    assert bare_shop.undone_by(work) == [(0, 0), (2, 2), (4, 4)]
    assert counts == [5, 2]
    assert bare_shop.rows() == []


REFUSED: list[tuple[str, str, str, str]] = [
    (POSTGRESQL, COUNTED[POSTGRESQL], "INSERT INTO t (v) VALUES (1), (2)", "RETURNING id"),
    (POSTGRESQL, UUIDS, "INSERT INTO t (v) VALUES (1)", "RETURNING id"),
    (MYSQL, COUNTED[MYSQL], "INSERT INTO t VALUES (NULL, 1), (9, 2)", "insert them apart"),
    (MYSQL, "CREATE TABLE t (id CHAR(36) PRIMARY KEY)", "INSERT INTO t VALUES (UUID())", "give its"),
    (SQLITE, "CREATE TABLE t (id INT PRIMARY KEY)", "INSERT INTO t VALUES (abs(-1))", "give its"),
    (SQLITE, "CREATE TABLE t (id INTEGER PRIMARY KEY, v INT)", "INSERT INTO t VALUES (1)", "2 columns"),
    (POSTGRESQL, "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE UNIQUE INDEX i ON t ((v + 1))",
     "INSERT INTO t VALUES (1, 1) ON CONFLICT DO NOTHING", "on expressions"),
    (MYSQL, UNIQUE, "INSERT INTO t VALUES (1, CONCAT('a'), 1) ON DUPLICATE KEY UPDATE v = 2",
     "give its value"),
    (MYSQL, UNIQUE, "INSERT INTO t VALUES (1, 'a', 1) ON DUPLICATE KEY UPDATE id = 2", "primary key"),
    (MYSQL, UNIQUE, "INSERT INTO t VALUES (1, 'a', 1), (1, 'b', 1) ON DUPLICATE KEY UPDATE v = 2",
     "execute them apart"),
]  # fmt: skip


@pytest.mark.parametrize(("database", "table", "text", "instead"), REFUSED, indirect=["database"])
def test_rows_that_nobody_could_find_are_refused(
    bare_shop: Shop, table: str, text: str, instead: str
) -> None:
    bare_shop.database.sql(*table.split("; "))
    with pytest.raises(StatementRefusedError, match=instead):
        bare_shop.within(lambda: bare_shop.execute(text))
    assert bare_shop.rows() == []
