"""The built-in business of the XA and JTA services, on MariaDB and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from decimal import Decimal
from typing import Any

import pytest

from services.work import TakenOverError
from tests.databases.connections import Database
from tests.databases.servers import Server
from tests.databases.service_runs import Services
from tidelock import Application

pytestmark = [pytest.mark.timeout(90), pytest.mark.databases]

ORDER: dict[str, Any] = {
    "orderId": "o-1",
    "customerId": "c-1",
    "items": [
        {"sku": "tea", "price": "10.10", "quantity": 3},
        {"sku": "cup", "price": 4.995, "quantity": 1},
    ],
    "discounts": [
        {"type": "PERCENT", "value": 10},
        {"type": "AMOUNT", "value": "0.50"},
        {"type": "COUPON", "code": "spring"},
    ],
    "payment": {"method": "card", "accountId": "a-1"},
    "shipping": {"region": "north", "weight": 1.5},
}


@pytest.fixture(params=["mysql-postgresql", "postgresql-mysql"])
def services(
    request: pytest.FixtureRequest,
    mariadb: Server,
    postgresql: Server,
    tidelock_application: Application,
) -> Iterator[Services]:
    """Both sources, either way round. Nothing is left prepared when the test ends."""
    with ExitStack() as stack:
        of = {
            "mysql": Database("mysql", mariadb, stack.enter_context(mariadb.database())),
            "postgresql": Database(
                "postgresql", postgresql, stack.enter_context(postgresql.database())
            ),
        }
        first, second = request.param.split("-")
        made = Services(tidelock_application, of[first], of[second])
        made.primary.sql(
            "INSERT INTO inventory VALUES ('tea', 10, 0), ('cup', 5, 0)",
            "INSERT INTO shipping_rate VALUES ('north', 3.00, 2.00)",
            "INSERT INTO coupon VALUES ('spring', 5.00, 1)",
        )
        made.secondary.sql("INSERT INTO account VALUES ('a-1', 100.00, 0)")
        yield made
        assert made.prepared() == []


BOTH = pytest.mark.parametrize("services", ["mysql-postgresql", "postgresql-mysql"], indirect=True)
ONE = pytest.mark.parametrize("services", ["mysql-postgresql"], indirect=True)


def stock(services: Services) -> list[Any]:
    return services.primary.sql("SELECT sku, quantity, version FROM inventory ORDER BY sku")


def untouched(services: Services, log: str = "jta_transaction_log") -> bool:
    """Whether both databases are as they were."""
    return (
        stock(services) == [("cup", 5, 0), ("tea", 10, 0)]
        and services.primary.sql("SELECT remaining FROM coupon") == [(1,)]
        and services.secondary.sql("SELECT balance FROM account") == [(Decimal("100.00"),)]
        and services.secondary.sql("SELECT * FROM orders") == []
        and services.primary.sql(f"SELECT * FROM {log}") == []
        and services.secondary.sql(f"SELECT * FROM {log}") == []
    )


# --- COMPLEX_ORDER


@BOTH
def test_an_order_takes_stock_and_money_and_breaks_its_total_down(services: Services) -> None:
    done = services("COMPLEX_ORDER", ORDER)
    assert (done.status, done.jta_status, done.error) == ("SUCCESS", "COMMITTED", "")
    # 30.30 + 4.995 = 35.295, rounded 35.30; less 3.53, 0.50 and 5.00; shipped for 3.00 + 1.5 × 2.
    assert done.result == {
        "orderId": "o-1",
        "subtotal": "35.30",
        "discounts": [
            {"type": "PERCENT", "amount": "3.53"},
            {"type": "AMOUNT", "amount": "0.50"},
            {"type": "COUPON", "amount": "5.00"},
        ],
        "shipping": "6.00",
        "total": "32.27",
    }
    assert stock(services) == [("cup", 4, 1), ("tea", 7, 1)]
    assert services.secondary.sql("SELECT balance FROM account") == [(Decimal("67.73"),)]
    assert services.secondary.sql("SELECT total FROM orders") == [(Decimal("32.27"),)]
    assert services.secondary.sql("SELECT COUNT(*) FROM order_item") == [(2,)]
    for each in (services.primary, services.secondary):
        ((xid, source),) = each.sql("SELECT xid, data_source FROM jta_transaction_log")
        assert xid == done.xids[0]
        assert source == ("primary" if each is services.primary else "secondary")
    assert done.statuses == ["ACTIVE", "PREPARING", "COMMITTING"]


@ONE
@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"items": [{"sku": "tea", "price": 1, "quantity": 11}]}, "'tea': 11 wanted, 10 there"),
        ({"items": [{"sku": "x", "price": 1, "quantity": 1}]}, "no sku 'x'"),
        ({"items": [{"sku": "tea", "price": 99, "quantity": 2}]}, "money in account 'a-1'"),
        ({"payment": {"method": "card", "accountId": "a-2"}}, "no account 'a-2'"),
        ({"shipping": {"region": "moon", "weight": 1}}, "region 'moon'"),
        ({"discounts": [{"type": "COUPON", "code": "x"}]}, "no coupon 'x'"),
        ({"discounts": [{"type": "COUPON", "code": "spring"}] * 2}, "'spring' is used up"),
    ],
)
def test_what_is_not_enough_is_named_and_everything_is_rolled_back(
    services: Services, changed: dict[str, Any], named: str
) -> None:
    done = services("COMPLEX_ORDER", {**ORDER, **changed})
    assert (done.status, done.jta_status) == ("ROLLBACK", "ROLLED_BACK")
    assert named in done.error
    assert done.statuses == ["ACTIVE", "MARKED_ROLLBACK", "ROLLING_BACK"]
    assert untouched(services)


@BOTH
def test_a_broken_constraint_rolls_both_sources_back(services: Services) -> None:
    """The order's number is taken: the second insert of the diagram fails in SQL."""
    assert services("COMPLEX_ORDER", ORDER).status == "SUCCESS"
    before = (stock(services), services.secondary.sql("SELECT balance FROM account"))
    done = services("COMPLEX_ORDER", {**ORDER, "discounts": []}, service="XA")
    assert (done.status, done.jta_status) == ("ROLLBACK", "ROLLED_BACK")
    assert "o-1" in done.error
    assert (stock(services), services.secondary.sql("SELECT balance FROM account")) == before
    assert services.primary.sql("SELECT * FROM xa_transaction_log") == []


@ONE
def test_who_lost_the_execution_to_another_does_not_commit_it(services: Services) -> None:
    for status in ("ACTIVE", "PREPARING", "COMMITTING"):
        with pytest.raises(TakenOverError):
            services("COMPLEX_ORDER", ORDER, refuses_at=status)
    assert untouched(services)


@BOTH
def test_a_row_that_others_hold_is_not_waited_for_without_end(services: Services) -> None:
    hurried = Services(
        services.application, services.primary, services.secondary, statement_ms=1_000
    )
    with closing(services.primary.connect()) as holder:
        cursor = holder.cursor()
        cursor.execute("UPDATE inventory SET quantity = 9 WHERE sku = 'tea'")
        done = hurried("COMPLEX_ORDER", ORDER)
        holder.rollback()
    assert (done.status, done.jta_status) == ("ROLLBACK", "ROLLED_BACK")
    assert untouched(services)


# --- BATCH_UPDATE

TEA = {"dataSource": "primary", "table": "inventory", "key": {"sku": "tea"}, "set": {"quantity": 3}}
MONEY = {
    "dataSource": "secondary",
    "table": "account",
    "key": {"account_id": "a-1"},
    "set": {"balance": "7.50"},
}


@BOTH
def test_a_batch_changes_rows_of_both_sources_and_counts_them(services: Services) -> None:
    done = services("BATCH_UPDATE", {"updates": [TEA, MONEY]})
    assert done.result == {"updated": 2, "primary": 1, "secondary": 1}
    assert stock(services) == [("cup", 5, 0), ("tea", 3, 0)]
    assert services.secondary.sql("SELECT balance FROM account") == [(Decimal("7.50"),)]


@BOTH
def test_every_failure_of_a_batch_is_told_and_none_of_it_is_done(services: Services) -> None:
    updates = [
        TEA,
        {**TEA, "set": {"quantity": -1}},
        {**TEA, "key": {"sku": "x"}},
        {**TEA, "key": {"version": 0}},
        {**MONEY, "set": {"version": 9}},
        {**TEA, "set": {"nothing": 1}},
        MONEY,
    ]
    done = services("BATCH_UPDATE", {"updates": updates})
    assert (done.status, done.jta_status) == ("ROLLBACK", "ROLLED_BACK")
    assert done.error == "5 of 7 updates failed, so none was done."
    assert done.failures is not None
    assert [each["path"] for each in done.failures] == [f"updates[{at}]" for at in range(1, 6)]
    words = [each["message"] for each in done.failures]
    assert words[0].startswith("SQL failed")
    assert words[1:3] == ["No row has this key.", "More than one row has this key."]
    assert "services.business.batch_update_allowed" in words[3]
    assert "nothing" in words[4]
    assert untouched(services)


# --- DATA_MIGRATION

EVERY_TYPE = {
    "mysql": """CREATE TABLE t (id BIGINT, part INT, name VARCHAR(20), amount DECIMAL(12,4),
        ratio DOUBLE, at DATETIME(6), day DATE, raw BLOB, PRIMARY KEY (id, part))""",
    "postgresql": """CREATE TABLE t (id bigint, part int, name varchar(20), amount numeric(12,4),
        ratio double precision, at timestamp, day date, raw bytea, PRIMARY KEY (id, part))""",
}


def fill(database: Database, count: int) -> None:
    raw = {"mysql": "x'00ff25'", "postgresql": r"'\x00ff25'"}[database.dialect]
    rows = ", ".join(
        f"({number // 2}, {number % 2}, ' Näme{number}% ', {number}.2500, 0.{number}1,"
        f" '2026-01-02 03:04:05.000006', '2026-02-03', {raw})"
        for number in range(count)
    )
    database.sql(EVERY_TYPE[database.dialect], f"INSERT INTO t VALUES {rows}")
    database.sql("INSERT INTO t (id, part) VALUES (1000, 0)")


def migration(**changed: Any) -> dict[str, Any]:
    return {
        "source": {"dataSource": "primary", "table": "t"},
        "target": {"dataSource": "secondary", "table": "copy"},
        "batchSize": 7,
        **changed,
    }


@BOTH
def test_a_table_is_copied_to_the_other_kind_of_database(services: Services) -> None:
    fill(services.primary, 30)
    done = services("DATA_MIGRATION", migration())
    assert (done.status, done.error) == ("SUCCESS", "")
    assert (done.result["read"], done.result["written"], done.result["batches"]) == (31, 31, 5)
    assert done.result["created"] == {"dataSource": "secondary", "table": "copy"}
    columns = "id, part, name, amount, day"
    assert services.secondary.sql(f"SELECT {columns} FROM copy ORDER BY id, part") == (
        services.primary.sql(f"SELECT {columns} FROM t ORDER BY id, part")
    )
    assert (done.progress[0].read, done.progress[0].total) == (0, 31)
    assert (done.progress[-1].written, done.progress[-1].batch) == (31, 5)


@BOTH
def test_columns_are_renamed_converted_and_filtered(services: Services) -> None:
    fill(services.primary, 6)
    services.secondary.sql(
        "CREATE TABLE copy (a INT PRIMARY KEY, b VARCHAR(20), c VARCHAR(20), d VARCHAR(20), e INT)"
    )
    done = services(
        "DATA_MIGRATION",
        migration(
            filter=[
                {"column": "part", "value": 0},
                {"column": "id", "operator": "<>", "value": 1},
            ],
            mapping=[
                {"from": "id", "to": "a"},
                {"from": "part", "to": "e"},
                {"from": "name", "to": "b", "convert": "trim"},
                {"from": "name", "to": "c", "convert": "default", "value": "none"},
                {"to": "d", "convert": "constant", "value": "moved"},
            ],
        ),
    )
    assert (done.status, done.error) == ("SUCCESS", "")
    assert services.secondary.sql("SELECT a, b, c, d, e FROM copy ORDER BY a") == [
        (0, "Näme0%", " Näme0% ", "moved", 0),
        (2, "Näme4%", " Näme4% ", "moved", 0),
        (1000, None, "none", "moved", 0),
    ]


@BOTH
def test_what_cannot_be_converted_leaves_no_row_and_no_table(services: Services) -> None:
    fill(services.primary, 20)
    done = services(
        "DATA_MIGRATION",
        migration(
            mapping=[
                {"from": "id", "to": "id"},
                {"from": "part", "to": "part"},
                {"from": "name", "to": "n", "convert": "cast", "type": "integer"},
            ]
        ),
    )
    assert (done.status, done.jta_status) == ("ROLLBACK", "ROLLED_BACK")
    assert "id = 0, part = 0" in done.error
    with pytest.raises(Exception, match="copy"):
        services.secondary.sql("SELECT * FROM copy")


@ONE
def test_a_target_that_cannot_hold_every_value_is_found_out(services: Services) -> None:
    fill(services.primary, 3)
    services.secondary.sql("CREATE TABLE copy (id INT, part INT, amount numeric(12, 1))")
    mapping = [{"from": name, "to": name} for name in ("id", "part", "amount")]
    done = services("DATA_MIGRATION", migration(mapping=mapping))
    assert done.status == "ROLLBACK"
    assert "What arrived in amount" in done.error
    assert services.secondary.sql("SELECT * FROM copy") == []


@ONE
@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"source": {"dataSource": "primary", "table": "none"}}, "no table primary.none"),
        ({"mapping": [{"from": "x", "to": "x"}]}, "no column 'x'"),
        ({"mapping": [{"from": "id", "to": "id"}]}, "part is missing"),
        ({"source": {"dataSource": "primary", "table": "keyless"}}, "no primary key"),
        ({"target": {"dataSource": "secondary", "table": "account"}}, "has no column id, part"),
    ],
)
def test_a_migration_that_cannot_be_is_refused_before_anything_is_made(
    services: Services, changed: dict[str, Any], named: str
) -> None:
    fill(services.primary, 1)
    services.primary.sql("CREATE TABLE keyless (id INT)")
    done = services("DATA_MIGRATION", migration(**changed))
    assert done.status == "ROLLBACK"
    assert named in done.error
    assert untouched(services)
