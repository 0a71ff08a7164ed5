"""What statements do, and which are refused because nobody could undo them."""

from __future__ import annotations

import pytest

from tidelock.sql.dialects import DIALECTS, MYSQL, POSTGRESQL, SQLITE
from tidelock.sql.errors import StatementRefusedError
from tidelock.sql.placeholders import MARK, Style
from tidelock.sql.reading import understand
from tidelock.sql.statements import CellKind, Kind, Statement

OF_DRIVER = {"mysql": Style.FORMAT, "postgresql": Style.FORMAT, "sqlite": Style.QMARK}


def read(dialect: str, text: str) -> Statement:
    return understand(DIALECTS[dialect], text, OF_DRIVER[dialect])


def test_an_update_names_its_table_its_columns_and_its_rows() -> None:
    found = understand(
        MYSQL,
        "UPDATE `shop`.acc AS a SET v = v - %s, `na me` = 'x' WHERE a.id = %s ORDER BY id LIMIT 3",
    )
    assert found.kind is Kind.UPDATE
    assert found.table is not None
    assert (found.table.schema, found.table.name) == ("shop", "acc")
    assert found.target.text == "`shop`.acc AS a"
    assert found.alias == "a"
    assert [column.name for column in found.columns] == ["v", "na me"]
    assert (found.where.text, found.where.keys) == (f"WHERE a.id = {MARK}", (1,))
    assert found.order.text == "ORDER BY id LIMIT 3"
    assert found.order_columns is not None
    assert [column.name for column in found.order_columns] == ["id"]


def test_a_where_in_a_text_or_a_name_is_not_one() -> None:
    found = understand(POSTGRESQL, """UPDATE t SET "where" = 'WHERE x' WHERE id = 1""")
    assert found.where.text == "WHERE id = 1"


def test_numbered_placeholders_keep_their_numbers() -> None:
    text = "UPDATE acc SET v = v - $2::INTEGER WHERE id = $1::INTEGER RETURNING v, id"
    found = understand(POSTGRESQL, text, Style.NUMERIC_DOLLAR)
    assert (found.where.text, found.where.keys) == (f"WHERE id = {MARK}::INTEGER", (0,))
    assert found.returning is not None
    assert [column.name for column in found.returning] == ["v", "id"]


def test_several_columns_and_elements_may_be_set_at_once() -> None:
    found = understand(POSTGRESQL, "UPDATE t SET (a, b) = (1, 2), c[1] = 3 WHERE id = 1")
    assert [column.name for column in found.columns] == ["a", "b", "c"]


def test_a_delete_may_have_an_alias_and_an_order() -> None:
    found = understand(MYSQL, "DELETE FROM acc WHERE v > %s ORDER BY v DESC LIMIT 1")
    assert found.kind is Kind.DELETE
    assert found.target.text == "acc"
    assert (found.where.text, found.order.text) == (f"WHERE v > {MARK}", "ORDER BY v DESC LIMIT 1")


def test_what_mysql_calls_a_character_set_before_a_value_belongs_to_it() -> None:
    found = understand(MYSQL, "UPDATE t SET a = _binary %s, _b = '_x' WHERE k = _utf8mb4 %s")
    assert [column.name for column in found.columns] == ["a", "_b"]
    assert (found.where.text, found.where.keys) == (f"WHERE k = _utf8mb4 {MARK}", (1,))
    inserted = understand(MYSQL, "INSERT INTO t (k, v) VALUES (%s, _binary %s)")
    assert inserted.rows[0][1].kind is CellKind.GIVEN
    assert inserted.rows[0][1].fragment.text == f"_binary {MARK}"


def test_an_insert_says_where_each_value_comes_from() -> None:
    text = (
        "INSERT INTO t (a, b, c, d, e) "
        "VALUES (%s, 'x,(y', -5, NULL, DEFAULT), (1, %s, now(), %s, %s)"
    )
    found = understand(MYSQL, text)
    given, default, computed = CellKind.GIVEN, CellKind.DEFAULT, CellKind.COMPUTED
    assert [[cell.kind for cell in row] for row in found.rows] == [
        [given, given, given, default, default],
        [given, given, computed, given, given],
    ]
    assert [cell.fragment.text for cell in found.rows[0]] == [
        MARK,
        "'x,(y'",
        "-5",
        "NULL",
        "DEFAULT",
    ]
    assert [cell.fragment.keys for cell in found.rows[1]] == [(), (1,), (), (2,), (3,)]


def test_an_insert_of_mysql_may_assign() -> None:
    found = understand(MYSQL, "INSERT INTO t SET a = %s, b = CONCAT('a', %s)")
    assert [column.name for column in found.columns] == ["a", "b"]
    assert [cell.fragment.text for cell in found.rows[0]] == [MARK, f"CONCAT('a', {MARK})"]


def test_an_insert_may_unfold_arrays_but_read_no_table() -> None:
    text = "INSERT INTO t (a, b) SELECT * FROM UNNEST((%s)::int[], (%s)::text[]) RETURNING t.id"
    assert read("postgresql", text).rows == ()
    with pytest.raises(StatementRefusedError, match="SELECT the rows first"):
        read("postgresql", text.replace("RETURNING", "ON CONFLICT DO NOTHING RETURNING"))


@pytest.mark.parametrize(
    ("dialect", "text", "updates"),
    [
        ("mysql", "INSERT INTO t (a) VALUES (1) ON DUPLICATE KEY UPDATE b = VALUES(b)", ("b",)),
        ("mysql", "INSERT IGNORE INTO t (a) VALUES (1)", ()),
        ("postgresql", "INSERT INTO t (a) VALUES (1) ON CONFLICT (a) DO UPDATE SET b = 2", ("b",)),
        ("postgresql", "INSERT INTO t (a) VALUES (1) ON CONFLICT DO NOTHING", ()),
        ("sqlite", "INSERT OR IGNORE INTO t (a) VALUES (1)", ()),
    ],
)
def test_an_insert_says_what_it_does_with_rows_that_are_there(
    dialect: str, text: str, updates: tuple[str, ...]
) -> None:
    conflict = read(dialect, text).conflict
    assert conflict is not None
    assert conflict.updates == updates


@pytest.mark.parametrize(
    ("dialect", "text", "kind"),
    [
        ("mysql", "SELECT * FROM t", Kind.READ),
        ("mysql", " -- why\n (SELECT 1) UNION (SELECT 2)", Kind.READ),
        ("mysql", "SHOW TABLES", Kind.READ),
        ("postgresql", ";", Kind.READ),
        ("postgresql", "WITH x AS (SELECT 1) SELECT * FROM x", Kind.READ),
        ("postgresql", "EXPLAIN UPDATE t SET a = 1", Kind.READ),
        ("sqlite", "PRAGMA table_info(t)", Kind.READ),
        ("postgresql", "SELECT a FROM t WHERE b = %s FOR UPDATE SKIP LOCKED", Kind.READ_LOCKING),
        ("mysql", "SELECT a FROM t WHERE b = 1 LOCK IN SHARE MODE", Kind.READ_LOCKING),
        ("postgresql", "SET search_path TO a", Kind.SETTING),
        ("postgresql", "BEGIN ISOLATION LEVEL SERIALIZABLE;", Kind.BEGIN),
        ("mysql", "START TRANSACTION", Kind.BEGIN),
        ("sqlite", "BEGIN IMMEDIATE", Kind.BEGIN),
        ("postgresql", "COMMIT;", Kind.COMMIT),
        ("postgresql", "ROLLBACK", Kind.ROLLBACK),
    ],
)
def test_what_changes_nothing_is_told_by_what_it_is(dialect: str, text: str, kind: Kind) -> None:
    assert read(dialect, text).kind is kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("SAVEPOINT a", Kind.SAVEPOINT),
        ("ROLLBACK TO SAVEPOINT a", Kind.ROLLBACK_TO),
        ('ROLLBACK TO "a"', Kind.ROLLBACK_TO),
        ("RELEASE SAVEPOINT a;", Kind.RELEASE),
        ("release A", Kind.RELEASE),
    ],
)
def test_savepoints_are_known_by_name(text: str, kind: Kind) -> None:
    found = read("postgresql", text)
    assert (found.kind, found.savepoint) == (kind, "a")


REFUSED = [
    ("mysql", "SET STATEMENT max_statement_time = 9 FOR UPDATE t SET v = 1", "more than to set"),
    ("mysql", "SET PASSWORD = PASSWORD('x')", "more than to set"),
    ("mysql", "BEGIN NOT ATOMIC UPDATE t SET v = 1; END", "one by one"),
    ("mysql", "UPDATE t SET v = 1 /*!, w = 2 */ WHERE id = 1", "plainly"),
    ("mysql", "UPDATE t SET v = 1 /*M!100000 , w = 2 */ WHERE id = 1", "plainly"),
    ("postgresql", "SET a.b = 1; UPDATE t SET v = 1", "one by one"),
    ("postgresql", "SHOW timezone; DELETE FROM t", "one by one"),
    ("postgresql", "EXPLAIN SELECT 1; DELETE FROM t", "one by one"),
    ("postgresql", "BEGIN; DELETE FROM t; COMMIT", "one by one"),
    ("postgresql", "SAVEPOINT a;DELETE/**/FROM/**/t", "one by one"),
    ("mysql", "REPLACE INTO t VALUES (1)", "ON DUPLICATE KEY UPDATE"),
    ("sqlite", "INSERT OR REPLACE INTO t VALUES (1)", "ON CONFLICT DO UPDATE"),
    ("sqlite", "INSERT OR ROLLBACK INTO t VALUES (1)", "leave it out"),
    ("postgresql", "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE", "separate UPDATE"),
    ("mysql", "TRUNCATE TABLE t", "write DELETE FROM"),
    ("mysql", "LOAD DATA INFILE 'x' INTO TABLE t", "executemany"),
    ("postgresql", "COPY t FROM STDIN", "executemany"),
    ("mysql", "CALL p(1)", "one by one"),
    ("postgresql", "DO $$ BEGIN END $$", "one by one"),
    ("postgresql", "EXECUTE p(1)", "execute the statement itself"),
    ("mysql", "INSERT INTO t SELECT * FROM u", "SELECT the rows first"),
    ("postgresql", "INSERT INTO t (a) SELECT 1 ON CONFLICT DO NOTHING", "SELECT the rows first"),
    ("mysql", "UPDATE t JOIN u ON t.id = u.id SET t.a = 1", "one table"),
    ("mysql", "UPDATE t, u SET t.a = u.a", "one table"),
    ("postgresql", "UPDATE t SET a = u.a FROM u WHERE t.id = u.id", "UPDATE by key"),
    ("mysql", "DELETE t FROM t JOIN u ON t.id = u.id", "DELETE by key"),
    ("mysql", "DELETE FROM t USING t JOIN u ON t.id = u.id", "key|one table"),
    ("postgresql", "DELETE FROM t USING u WHERE t.id = u.id", "DELETE by key"),
    ("mysql", "UPDATE t SET a = 1 WHERE id IN (SELECT id FROM u)", "FOR UPDATE first"),
    ("postgresql", "DELETE FROM t WHERE EXISTS (SELECT 1 FROM u)", "FOR UPDATE first"),
    ("postgresql", "WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d", "one by one"),
    ("postgresql", "WITH x AS (SELECT 1) UPDATE t SET a = 1", "leave WITH out"),
    ("postgresql", "SELECT * INTO u FROM t", "leave INTO out"),
    ("mysql", "UPDATE IGNORE t SET a = 1", "IGNORE|terms"),
    ("sqlite", "UPDATE OR REPLACE t SET a = 1", "terms|leave"),
    ("mysql", "DELETE IGNORE FROM t", "IGNORE|terms"),
    ("mysql", "UPDATE t SET a = 1 WHERE RAND() < 0.5", "another value each time"),
    ("postgresql", "DELETE FROM t WHERE x < clock_timestamp()", "another value each time"),
    ("mysql", "UPDATE t SET a = 1 WHERE x < NOW()", "give the time as a parameter"),
    ("mysql", "UPDATE t SET a = 1 WHERE x < CURRENT_TIMESTAMP", "give the time as a parameter"),
    ("sqlite", "DELETE FROM t WHERE x < datetime('now')", "give the time as a parameter"),
    ("mysql", "UPDATE t SET a = 1 WHERE b = @b", "as a parameter"),
    ("mysql", "SELECT 1; DELETE FROM t", "one by one"),
    ("mysql", "/*!50001 DELETE FROM t */", "plainly"),
    ("mysql", "SET autocommit = 0", "commit()"),
    ("mysql", "CREATE TABLE t (a INT)", "outside of global transactions"),
    ("mysql", "ALTER TABLE t ADD b INT", "outside of global transactions"),
    ("mysql", "LOCK TABLES t WRITE", "FOR UPDATE"),
    ("mysql", "USE other", "connect to that database"),
    ("mysql", "XA START 'a'", "XA mode"),
    ("postgresql", "PREPARE TRANSACTION 'a'", "execute the statement itself"),
    ("mysql", "FLUSH TABLES", "not known to be harmless"),
    ("postgresql", "NOTIFY a", "not known to be harmless"),
    ("postgresql", "EXPLAIN ANALYZE DELETE FROM t", "leave ANALYZE out"),
    ("sqlite", "PRAGMA foreign_keys = OFF", "before the transaction"),
    ("mysql", "SELECT a FROM t JOIN u ON t.a = u.a FOR UPDATE", "one table at a time"),
    ("mysql", "COMMIT AND CHAIN", "connection's own methods"),
    ("mysql", "UPDATE t SET", "simpler terms"),
    ("mysql", "", "not known to be harmless"),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "text", "instead"), REFUSED)
def test_what_cannot_be_undone_is_refused_with_what_to_write_instead(
    dialect: str, text: str, instead: str
) -> None:
    with pytest.raises(StatementRefusedError, match=instead.replace("()", r"\(\)")) as refused:
        read(dialect, text)
    assert refused.value.statement == text


def test_the_clock_of_postgresql_stands_still_within_a_transaction() -> None:
    assert read("postgresql", "UPDATE t SET a = 1 WHERE x < now()").kind is Kind.UPDATE


def test_a_statement_is_read_once() -> None:
    first = understand(SQLITE, "UPDATE t SET a = ? WHERE id = ?", Style.QMARK)
    assert understand(SQLITE, "UPDATE t SET a = ? WHERE id = ?", Style.QMARK) is first


def test_a_long_statement_is_shown_in_part() -> None:
    with pytest.raises(StatementRefusedError) as refused:
        understand(MYSQL, "TRUNCATE " + "x" * 1_000)
    assert len(str(refused.value)) < 400
