"""Tables that cannot take part are refused, with what to do about it."""

from __future__ import annotations

import contextlib

import pytest

from tests.databases.connections import Database
from tests.sdk.at_sources import Shop, undone
from tidelock.application import Application
from tidelock.sql.errors import AutocommitError, DatabaseUnsuitableError, StatementRefusedError

pytestmark = [pytest.mark.databases, pytest.mark.timeout(120)]

EVERYWHERE = pytest.mark.parametrize("database", ["mysql", "postgresql", "sqlite"], indirect=True)

PARENT = "CREATE TABLE t (id INT PRIMARY KEY, v INT)"
CHILD = "CREATE TABLE child (id INT PRIMARY KEY, t INT, FOREIGN KEY (t) REFERENCES t (id) {})"
TRIGGERS = {
    "mysql": ["CREATE TRIGGER tr BEFORE UPDATE ON t FOR EACH ROW SET NEW.v = NEW.w * 100"],
    "postgresql": [
        "CREATE FUNCTION f() RETURNS trigger AS "
        "'BEGIN NEW.v = NEW.w * 100; RETURN NEW; END' LANGUAGE plpgsql",
        "CREATE TRIGGER tr BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f()",
    ],
    "sqlite": [
        "CREATE TRIGGER tr AFTER UPDATE OF w ON t BEGIN "
        "UPDATE t SET v = NEW.w * 100 WHERE id = NEW.id; END"
    ],
}


def refused(shop: Shop, text: str, instead: str) -> None:
    with pytest.raises((StatementRefusedError, DatabaseUnsuitableError), match=instead):
        shop.within(lambda: shop.execute(text))


@EVERYWHERE
def test_a_primary_key_cannot_be_changed(bare_shop: Shop) -> None:
    bare_shop.database.sql(PARENT)
    refused(bare_shop, "UPDATE t SET ID = 2", "DELETE the row and INSERT it")


@EVERYWHERE
def test_a_table_needs_a_primary_key(bare_shop: Shop) -> None:
    bare_shop.database.sql("CREATE TABLE t (id INT)")
    refused(bare_shop, "DELETE FROM t", "no primary key")


@EVERYWHERE
def test_a_table_must_be_there_and_be_one(bare_shop: Shop) -> None:
    bare_shop.database.sql(PARENT, "CREATE VIEW w AS SELECT * FROM t")
    refused(bare_shop, "DELETE FROM nothing", "no table nothing")
    refused(bare_shop, "DELETE FROM w", "view")


@EVERYWHERE
def test_a_column_must_be_there(bare_shop: Shop) -> None:
    bare_shop.database.sql(PARENT)
    refused(bare_shop, "UPDATE t SET nothing = 1", "has no column nothing")


@pytest.mark.parametrize("database", ["mysql"], indirect=True)
def test_an_engine_needs_transactions(bare_shop: Shop) -> None:
    bare_shop.database.sql("CREATE TABLE t (id INT PRIMARY KEY) ENGINE=MyISAM")
    refused(bare_shop, "DELETE FROM t", "ENGINE=InnoDB")


@pytest.mark.parametrize("database", ["mysql"], indirect=True)
def test_rows_of_another_database_have_another_name(bare_shop: Shop) -> None:
    assert bare_shop.database.server is not None
    with bare_shop.database.server.database() as other:
        bare_shop.database.server.sql(PARENT, database=other)
        refused(bare_shop, f"DELETE FROM {other}.t", "connect to it")


@EVERYWHERE
@pytest.mark.parametrize("rule", ["ON DELETE CASCADE", "ON DELETE SET NULL"])
def test_a_key_that_cascades_is_refused_unless_it_is_allowed(
    bare_shop: Shop, application: Application, rule: str
) -> None:
    bare_shop.database.sql(PARENT, CHILD.format(rule), "INSERT INTO t VALUES (1, 1)")
    refused(bare_shop, "DELETE FROM t", "child follows")
    allowing = Shop(bare_shop.database, application, allow={"t"})
    assert undone(allowing, "DELETE FROM t") == []
    assert bare_shop.rows() == [(1, 1)]
    allowing.source.close()


@EVERYWHERE
def test_a_key_that_does_not_cascade_is_no_matter(bare_shop: Shop) -> None:
    bare_shop.database.sql(PARENT, CHILD.format(""), "INSERT INTO t VALUES (1, 1)")
    assert undone(bare_shop, "UPDATE t SET v = 2", "DELETE FROM t") == []
    assert bare_shop.rows() == [(1, 1)]


@EVERYWHERE
def test_a_trigger_is_refused_unless_it_is_allowed(
    bare_shop: Shop, application: Application
) -> None:
    bare_shop.database.sql(
        "CREATE TABLE t (id INT PRIMARY KEY, v INT, w INT)",
        "INSERT INTO t VALUES (1, 100, 1)",
        *TRIGGERS[bare_shop.dialect],
    )
    refused(bare_shop, "UPDATE t SET w = 2", "trigger tr")
    assert undone(bare_shop, "DELETE FROM t") == []
    allowing = Shop(bare_shop.database, application, allow={"t"})
    assert undone(allowing, "UPDATE t SET w = 2") == [(1, 200, 2)]
    assert bare_shop.rows() == [(1, 100, 1)]
    allowing.source.close()


@EVERYWHERE
def test_a_column_that_was_added_is_kept_with_a_deleted_row(bare_shop: Shop) -> None:
    bare_shop.database.sql(PARENT, "INSERT INTO t VALUES (1, 1)")
    undone(bare_shop, "DELETE FROM t")
    bare_shop.database.sql("ALTER TABLE t ADD COLUMN w INT", "UPDATE t SET w = 7")
    assert undone(bare_shop, "DELETE FROM t") == []
    assert bare_shop.rows() == [(1, 1, 7)]
    bare_shop.database.sql("ALTER TABLE t ADD COLUMN x INT")
    assert undone(bare_shop, "UPDATE t SET x = 3") == [(1, 1, 7, 3)]
    assert bare_shop.rows() == [(1, 1, 7, None)]


@EVERYWHERE
def test_a_column_that_was_dropped_is_missed_once_at_most(bare_shop: Shop) -> None:
    database = bare_shop.database
    database.sql(PARENT, "ALTER TABLE t ADD COLUMN w INT", "INSERT INTO t VALUES (1, 1, 1)")
    undone(bare_shop, "DELETE FROM t")
    database.sql("ALTER TABLE t DROP COLUMN w")
    assert undone(bare_shop, "DELETE FROM t") == []
    assert bare_shop.rows() == [(1, 1)]

    database.sql("ALTER TABLE t ADD COLUMN w INT")
    undone(bare_shop, "DELETE FROM t")
    database.sql("ALTER TABLE t DROP COLUMN w")
    with contextlib.suppress(Exception):
        undone(bare_shop, "INSERT INTO t (id, v) VALUES (2, 2)")
    assert bare_shop.rows() == [(1, 1)]
    assert undone(bare_shop, "INSERT INTO t (id, v) VALUES (2, 2)") == [(1, 1), (2, 2)]
    assert bare_shop.rows() == [(1, 1)]


@EVERYWHERE
def test_a_connection_that_commits_by_itself_is_refused(
    database: Database, bare_shop: Shop
) -> None:
    database.sql(PARENT, "INSERT INTO t VALUES (1, 1)")
    options = {"isolation_level": None} if database.dialect == "sqlite" else {"autocommit": True}
    connection = bare_shop.source.wrap(database.connect(**options))
    with pytest.raises(AutocommitError, match="begin a local transaction"):
        bare_shop.within(lambda: connection.cursor().execute("UPDATE t SET v = 2"))
    connection.close()
    assert bare_shop.rows() == [(1, 1)]


@EVERYWHERE
def test_within_a_transaction_begun_by_hand_it_takes_part(
    database: Database, bare_shop: Shop
) -> None:
    database.sql(PARENT, "INSERT INTO t VALUES (1, 1)")
    options = {"isolation_level": None} if database.dialect == "sqlite" else {"autocommit": True}
    connection = bare_shop.source.wrap(database.connect(**options))

    def work() -> None:
        cursor = connection.cursor()
        cursor.execute("BEGIN")
        cursor.execute("UPDATE t SET v = 2")
        cursor.execute("COMMIT")

    assert bare_shop.undone_by(work) == [(1, 2)]
    connection.close()
    assert bare_shop.rows() == [(1, 1)]
