"""No way in which a driver ends a local transaction, or sends statements, goes past undo data."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.databases.connections import Database
from tests.sdk.at_sources import Shop
from tidelock.sql.errors import AutocommitError, StatementRefusedError

pytestmark = [pytest.mark.databases, pytest.mark.timeout(120)]

BEFORE = [(1, 10, "one"), (2, 20, "two"), (3, 30, "three")]
ON_POSTGRESQL = pytest.mark.parametrize("database", ["postgresql"], indirect=True)
ON_MYSQL = pytest.mark.parametrize("database", ["mysql"], indirect=True)
ON_SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@ON_POSTGRESQL
@pytest.mark.parametrize("autocommit", [False, True])
def test_blocks_of_psycopg_take_part(database: Database, shop: Shop, autocommit: bool) -> None:
    connection = shop.source.wrap(database.connect(autocommit=autocommit))

    def leave() -> None:
        with connection.transaction():
            connection.execute("DELETE FROM t")
            raise psycopg.Rollback

    def work() -> None:
        with connection.transaction():
            connection.execute("UPDATE t SET v = 11 WHERE id = 1")
            leave()
            with connection.transaction():
                connection.execute("UPDATE t SET v = 21 WHERE id = 2")

    def work_in_vain() -> None:
        with connection.transaction():
            connection.execute("DELETE FROM t")
            raise KeyError

    with pytest.raises(KeyError):
        shop.within(work_in_vain)
    assert shop.rows() == BEFORE
    assert shop.undone_by(work) == [(1, 11, "one"), (2, 21, "two"), BEFORE[2]]
    assert shop.rows() == BEFORE
    work()
    assert shop.rows()[0] == (1, 11, "one"), "and as ever outside of global transactions"
    connection.close()


def begun(shop: Shop) -> Any:
    connection = shop.connect()
    shop.within(lambda: connection.cursor().execute("UPDATE t SET v = 11 WHERE id = 1"))
    return connection


@ON_POSTGRESQL
def test_psycopg_cannot_change_its_mind_in_between(shop: Shop) -> None:
    connection = begun(shop)
    with pytest.raises(AutocommitError, match="commit or roll it back"):
        connection.autocommit = True
    with pytest.raises(StatementRefusedError, match="XA mode"):
        connection.tpc_commit()
    assert connection.autocommit is False
    connection.rollback()
    connection.autocommit = True
    assert connection.autocommit is True
    assert connection.__wrapped__.autocommit is True
    connection.close()
    assert shop.rows() == BEFORE


@ON_MYSQL
def test_pymysql_cannot_change_its_mind_in_between(shop: Shop) -> None:
    connection = begun(shop)
    with pytest.raises(AutocommitError):
        connection.autocommit(True)
    with pytest.raises(AutocommitError):
        connection.begin()
    with pytest.raises(AutocommitError):
        connection.select_db("mysql")
    with pytest.raises(StatementRefusedError, match="cursor"):
        connection.query("COMMIT")
    connection.rollback()
    connection.autocommit(True)
    connection.close()
    assert shop.rows() == BEFORE


@pytest.mark.parametrize("database", ["mysql", "postgresql", "sqlite"], indirect=True)
def test_another_local_transaction_begins_after_the_first(shop: Shop) -> None:
    connection = shop.connect()

    def work() -> None:
        cursor = connection.cursor()
        cursor.execute("UPDATE t SET v = 11 WHERE id = 1")
        cursor.execute("BEGIN")

    with pytest.raises(StatementRefusedError, match="commit it first"):
        shop.within(work)
    connection.rollback()
    connection.close()
    assert shop.rows() == BEFORE


@ON_SQLITE
def test_sqlite3_cannot_change_its_mind_in_between(shop: Shop) -> None:
    connection = begun(shop)
    with pytest.raises(AutocommitError):
        connection.isolation_level = None
    with pytest.raises(StatementRefusedError, match="one by one"):
        shop.within(lambda: connection.executescript("DELETE FROM t"))
    connection.rollback()
    connection.close()
    assert shop.rows() == BEFORE


@ON_POSTGRESQL
def test_who_may_do_little_still_learns_which_database_it_is(
    database: Database, shop: Shop
) -> None:
    database.sql("CREATE ROLE little LOGIN", "GRANT SELECT, UPDATE ON t TO little",
                 "GRANT SELECT, INSERT, UPDATE, DELETE ON undo_log TO little",
                 "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO little")  # fmt: skip
    try:
        where = {**database.where(), "user": "little"}
        little = Shop(database, shop.source.application)
        little.source.close()
        connection = little.source.wrap(psycopg.connect(**where))

        def work() -> None:
            connection.execute("UPDATE t SET v = 0 WHERE id = 1")
            connection.commit()

        assert shop.undone_by(work)[0] == (1, 0, "one")
        connection.close()
    finally:
        database.sql("DROP OWNED BY little", "DROP ROLE little")
    assert shop.rows() == BEFORE
