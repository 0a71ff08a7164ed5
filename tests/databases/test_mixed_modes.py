"""One group with branches of all modes: all of it is done, or none, and nothing is left behind."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pymysql
import pytest

import tidelock
from tests.databases.connections import Database
from tests.databases.servers import Server
from tidelock.testing import Coordinator
from tidelock.xa import XaSource

pytestmark = [
    pytest.mark.databases,
    pytest.mark.timeout(120),
    pytest.mark.usefixtures("tidelock_application"),
]

MODES = ["AT", "XA", "TCC", "LCN", "TXC"]


class UndoneError(Exception):
    """What makes a group of these tests roll back."""


class Shop:
    """Three databases and five ways to sell from them: each takes 1 of 10."""

    def __init__(self, mysql: Database, postgresql: Database, sqlite: Database) -> None:
        self.mysql, self.postgresql, self.sqlite = mysql, postgresql, sqlite
        stock = "CREATE TABLE stock (id INT PRIMARY KEY, n INT NOT NULL)"
        mysql.sql(
            stock, "INSERT INTO stock VALUES (1, 10), (2, 10)", tidelock.undo_log_ddl("mysql")
        )
        postgresql.sql(
            stock, "INSERT INTO stock VALUES (1, 10), (2, 10)", tidelock.undo_log_ddl("postgresql")
        )
        sqlite.sql(stock, "INSERT INTO stock VALUES (1, 10)", tidelock.fence_ddl("sqlite"))
        self.txc = tidelock.TxcDataSource(lambda: pymysql.connect(**mysql.where()))
        self.xa = XaSource(lambda: pymysql.connect(**mysql.where()))
        self.xa.attach()
        self.at = tidelock.AtDataSource(lambda: psycopg.connect(**postgresql.where()))
        self.lcn = tidelock.LcnDataSource(lambda: psycopg.connect(**postgresql.where()))
        self.tcc = tidelock.TccDataSource(lambda: sqlite3.connect(sqlite.name))
        self.steps = {
            "AT": self.by_at,
            "XA": self.by_xa,
            "TCC": tidelock.tx_transaction(
                type="TCC",
                confirm=_nothing,
                cancel=_give_back,
                source=self.tcc,
                unit_id=f"of {Path(sqlite.name).parent.name}",  # an action is known by its name
            )(_reserve),
            "LCN": tidelock.tx_transaction(type="LCN", unit_id="lcn")(self.by_lcn),
            "TXC": tidelock.tx_transaction(type="TXC", unit_id="txc")(self.by_txc),
        }

    def by_at(self) -> None:
        with self.at.connect() as connection:
            connection.execute("UPDATE stock SET n = n - 1 WHERE id = 1")

    def by_xa(self) -> None:
        with self.xa.connection() as connection:
            connection.cursor().execute("UPDATE stock SET n = n - 1 WHERE id = 1")

    def by_lcn(self) -> None:
        with self.lcn.connection() as connection:
            connection.execute("UPDATE stock SET n = n - 1 WHERE id = 2")

    def by_txc(self) -> None:
        with self.txc.connection() as connection:
            connection.cursor().execute("UPDATE stock SET n = n - 1 WHERE id = 2")

    def left(self) -> list[int]:
        return [
            int(n)
            for database in (self.mysql, self.postgresql, self.sqlite)
            for (n,) in database.sql("SELECT n FROM stock ORDER BY id")
        ]

    def guards(self) -> int:
        tables = ((self.mysql, "undo_log"), (self.postgresql, "public.undo_log"),
                  (self.sqlite, "tidelock_fence"))  # fmt: skip
        return sum(len(each.sql(f"SELECT xid FROM {table}")) for each, table in tables)

    def close(self) -> None:
        for source in (self.txc, self.at, self.tcc):
            source.close()


def _reserve(context: tidelock.ActionContext) -> None:
    context.connection.execute("UPDATE stock SET n = n - 1")


def _give_back(context: tidelock.ActionContext) -> None:
    context.connection.execute("UPDATE stock SET n = n + 1")


def _nothing(context: tidelock.ActionContext) -> None:
    pass


@pytest.fixture
def shop(mariadb: Server, postgresql: Server, tmp_path: Path) -> Iterator[Shop]:
    with ExitStack() as stack:
        shop = Shop(
            Database("mysql", mariadb, stack.enter_context(mariadb.database())),
            Database("postgresql", postgresql, stack.enter_context(postgresql.database())),
            Database("sqlite", None, str(tmp_path / "stock.db")),
        )
        yield shop
        shop.close()


@pytest.mark.parametrize("order", [MODES, MODES[::-1]], ids=["forward", "backward"])
def test_all_modes_in_one_group(
    tidelock_coordinator: Coordinator, shop: Shop, order: list[str]
) -> None:
    with tidelock.transaction() as transaction:
        for mode in order:
            shop.steps[mode]()
    found = tidelock_coordinator.transaction(transaction.xid)
    assert [branch.mode for branch in found.branches] == order
    assert shop.left() == [9] * 5
    with pytest.raises(UndoneError):
        _undone(shop, order)
    tidelock_coordinator.advance(70_000)
    tidelock_coordinator.assert_clean(60)
    assert shop.left() == [9] * 5
    assert shop.guards() == 0
    assert shop.lcn.held() == []


def _undone(shop: Shop, order: list[str]) -> None:
    with tidelock.transaction():
        for mode in order:
            shop.steps[mode]()
        raise UndoneError


@pytest.mark.parametrize("fails", MODES)
def test_a_step_that_fails_takes_all_modes_along(
    tidelock_coordinator: Coordinator, shop: Shop, fails: str
) -> None:
    """It fails after the others have done their work."""

    def purchase() -> None:
        with tidelock.transaction():
            for mode in MODES:
                if mode != fails:
                    shop.steps[mode]()
            _failing(shop, fails)

    with pytest.raises(UndoneError):
        purchase()
    tidelock_coordinator.advance(70_000)
    tidelock_coordinator.assert_clean(60)
    assert shop.left() == [10] * 5
    assert shop.guards() == 0


def _failing(shop: Shop, mode: str) -> None:
    @tidelock.lcn_transaction
    def unit() -> None:
        shop.steps[mode]()
        raise UndoneError

    unit()
