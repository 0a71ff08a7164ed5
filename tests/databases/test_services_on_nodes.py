"""The XA and JTA services of nodes that are processes, on MariaDB and PostgreSQL."""

from __future__ import annotations

import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.databases.connections import Database
from tests.databases.servers import Server
from tests.databases.services_cluster import ServicesCluster, services_cluster
from tests.meta.documents import ROOT

DOCUMENT = ROOT / "docs" / "SERVICES.md"

pytestmark = [pytest.mark.timeout(180), pytest.mark.databases]


@pytest.fixture(scope="module")
def cluster(
    mariadb: Server, postgresql: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServicesCluster]:
    with ExitStack() as stack:
        primary = Database("mysql", mariadb, stack.enter_context(mariadb.database()))
        secondary = Database("postgresql", postgresql, stack.enter_context(postgresql.database()))
        yield stack.enter_context(
            services_cluster(tmp_path_factory.mktemp("services"), primary, secondary)
        )


@pytest.fixture
def stocked(cluster: ServicesCluster) -> Iterator[str]:
    """A name for what one test orders: there are 10 of it, and 100.00 to pay with."""
    name = uuid.uuid4().hex[:12]
    cluster.primary.sql(
        f"INSERT INTO inventory VALUES ('{name}', 10, 0)",
        f"INSERT INTO shipping_rate VALUES ('{name}', 1.00, 1.00)",
    )
    cluster.secondary.sql(f"INSERT INTO account VALUES ('{name}', 100.00, 0)")
    yield name
    assert cluster.wait_for(lambda: cluster.prepared() == [], "the end of what is prepared")


def order(name: str, quantity: int = 1, number: str = "") -> dict[str, Any]:
    return {
        "orderId": name + number,
        "customerId": "c",
        "items": [{"sku": name, "price": "5.00", "quantity": quantity}],
        "payment": {"method": "card", "accountId": name},
        "shipping": {"region": name, "weight": 1},
    }


def left(cluster: ServicesCluster, name: str) -> tuple[int, float]:
    ((stock,),) = cluster.primary.sql(f"SELECT quantity FROM inventory WHERE sku = '{name}'")
    ((money,),) = cluster.secondary.sql(f"SELECT balance FROM account WHERE account_id = '{name}'")
    return int(stock), float(money)


@pytest.mark.parametrize("service", ["xa", "jta"])
def test_an_execution_is_done_in_both_sources_and_known_to_every_node(
    cluster: ServicesCluster, stocked: str, service: str
) -> None:
    done = cluster.execute("COMPLEX_ORDER", order(stocked), on=service, node="n2")
    assert done.status == 200
    found = done.body
    assert (found["status"], found["finalStatus"]) == ("SUCCESS", "COMMITTED"), found.get("error")
    assert found["result"]["total"] == "7.00"
    assert left(cluster, stocked) == (9, 93.0)
    event = cluster.call(f"/api/v1/timestamp/events/{found['eventId']}").body
    assert event["eventType"] == f"{service.upper()}_TRANSACTION"
    assert event["lamportTimestamp"] == found["lamportTimestamp"]
    assert event["nodeId"] == "n2"
    for node in ("n1", "n2", "n3"):
        status = cluster.call(f"/api/v1/{service}/status/{found['transactionId']}", node=node).body
        assert {name: status[name] for name in found} == found
        assert status["jtaStatus"] == "COMMITTED"
        assert [step["jtaStatus"] for step in status["timeline"]] == [
            None,
            "ACTIVE",
            "PREPARING",
            "COMMITTING",
            "COMMITTED",
        ]
    transaction = cluster.call(f"/api/v1/transactions/{found['xid']}").body
    assert transaction["status"] == "COMMITTED"
    assert [branch["mode"] for branch in transaction["branches"]] == ["XA", "XA"]


@pytest.mark.parametrize("service", ["xa", "jta"])
def test_a_business_failure_rolls_both_sources_back(
    cluster: ServicesCluster, stocked: str, service: str
) -> None:
    done = cluster.execute("COMPLEX_ORDER", order(stocked, 11), on=service)
    assert done.status == 200
    assert (done.body["status"], done.body["finalStatus"]) == ("ROLLBACK", "ROLLED_BACK")
    assert f"'{stocked}': 11 wanted, 10 there" in done.body["error"]
    assert "result" not in done.body
    assert left(cluster, stocked) == (10, 100.0)
    steps = [step["jtaStatus"] for step in cluster.status(done.body["transactionId"])["timeline"]]
    marked = ["MARKED_ROLLBACK"] if service == "jta" else []
    assert steps == [None, "ACTIVE", *marked, "ROLLING_BACK", "ROLLED_BACK"]


def test_a_request_that_is_repeated_at_another_node_is_done_once(
    cluster: ServicesCluster, stocked: str
) -> None:
    first = cluster.execute("COMPLEX_ORDER", order(stocked), key=stocked, node="n1")
    again = cluster.execute("COMPLEX_ORDER", order(stocked), key=stocked, node="n3")
    assert again.body == first.body
    assert again.headers["Idempotency-Replayed"] == "true"
    assert left(cluster, stocked) == (9, 93.0)


def test_a_batch_runs_each_in_a_transaction_of_its_own_in_order(
    cluster: ServicesCluster, stocked: str
) -> None:
    quantities = (4, 9, 5)
    wanted = [
        {"businessType": "COMPLEX_ORDER", "businessData": order(stocked, quantity, str(number))}
        for number, quantity in enumerate(quantities)
    ]
    done = cluster.call("/xa/batch-execute", {"transactions": wanted})
    assert done.status == 200
    results = done.body["results"]
    assert [each["status"] for each in results] == ["SUCCESS", "ROLLBACK", "SUCCESS"]
    assert "9 wanted, 6 there" in results[1]["error"]
    assert len({each["xid"] for each in results}) == 3
    assert left(cluster, stocked) == (1, 51.0)


def test_an_execution_that_nobody_waits_for_is_accepted_and_ends(
    cluster: ServicesCluster, stocked: str
) -> None:
    wanted = {"businessType": "COMPLEX_ORDER", "businessData": order(stocked)}
    accepted = cluster.call("/xa/execute-async", wanted, node="n3")
    assert (accepted.status, accepted.body["status"]) == (202, "ACCEPTED")
    name = accepted.body["transactionId"]
    assert accepted.headers["Location"] == f"/xa/status/{name}"
    ended = cluster.end(name)
    assert (ended["status"], ended["xid"]) == ("SUCCESS", accepted.body["xid"])
    assert ended["result"]["orderId"] == stocked
    assert left(cluster, stocked) == (9, 93.0)


def test_a_migration_says_how_far_it_is(cluster: ServicesCluster, stocked: str) -> None:
    source, target = f"t{stocked}", f"c{stocked}"
    rows = ", ".join(f"({number}, 'n{number}')" for number in range(100))
    cluster.primary.sql(
        f"CREATE TABLE {source} (id INT PRIMARY KEY, name VARCHAR(20))",
        f"INSERT INTO {source} VALUES {rows}",
    )
    wanted = {
        "source": {"dataSource": "primary", "table": source},
        "target": {"dataSource": "secondary", "table": target},
        "batchSize": 10,
    }
    body = {"businessType": "DATA_MIGRATION", "businessData": wanted}
    accepted = cluster.call("/xa/execute-async", body)
    ended = cluster.end(accepted.body["transactionId"], "n2")
    assert (ended["status"], ended.get("error")) == ("SUCCESS", None)
    assert ended["progress"] == {"read": 100, "written": 100, "total": 100, "batch": 10}
    assert cluster.secondary.sql(f"SELECT COUNT(*) FROM {target}") == [(100,)]


def test_every_failure_of_a_batch_update_is_listed(cluster: ServicesCluster, stocked: str) -> None:
    update = {
        "dataSource": "primary",
        "table": "inventory",
        "key": {"sku": stocked},
        "set": {"quantity": 3},
    }
    failing = {**update, "key": {"sku": "nothing"}}
    done = cluster.execute("BATCH_UPDATE", {"updates": [update, failing]}, on="jta")
    assert done.body["status"] == "ROLLBACK"
    assert done.body["failures"] == [{"path": "updates[1]", "message": "No row has this key."}]
    assert left(cluster, stocked) == (10, 100.0)


def test_the_examples_of_the_document_do_what_they_say(
    cluster: ServicesCluster,
) -> None:
    cluster.primary.sql(
        "INSERT INTO inventory VALUES ('tea', 10, 0)",
        "INSERT INTO shipping_rate VALUES ('north', 1.00, 1.00)",
    )
    cluster.secondary.sql("INSERT INTO account VALUES ('account-1', 100.00, 0)")
    calling, business = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    subprocess.run(
        [sys.executable, "-c", calling.replace("http://127.0.0.1:7101", cluster.url("n1"))],
        check=True,
        timeout=60,
    )
    ((paid,),) = cluster.secondary.sql("SELECT total FROM orders WHERE order_id = 'order-1'")
    # 30.30 less a tenth, shipped for 1.00 and 1.50.
    assert str(paid) == "29.77"
    known: dict[str, Any] = {}
    exec(compile(business, str(DOCUMENT), "exec"), known)
    assert callable(known["close_account"])


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"businessType": "NONE", "businessData": {}}, "businessType"),
        ({"businessType": "COMPLEX_ORDER"}, "businessData"),
        ({"businessType": "COMPLEX_ORDER", "businessData": []}, "businessData"),
        ({"businessType": "COMPLEX_ORDER", "businessData": {}}, "businessData.orderId"),
        (
            {"businessType": "COMPLEX_ORDER", "businessData": {**order("x"), "more": 1}},
            "businessData.more",
        ),
        (
            {"businessType": "COMPLEX_ORDER", "businessData": order("x", -1)},
            "businessData.items[0].quantity",
        ),
        (
            {
                "businessType": "BATCH_UPDATE",
                "businessData": {
                    "updates": [
                        {"dataSource": "third", "table": "t", "key": {"a": 1}, "set": {"b": 1}}
                    ]
                },
            },
            "businessData.updates[0].dataSource",
        ),
        (
            {
                "businessType": "DATA_MIGRATION",
                "businessData": {
                    "source": {"dataSource": "primary", "table": "t"},
                    "target": {"dataSource": "primary", "table": "u"},
                },
            },
            "businessData.target.dataSource",
        ),
    ],
)
def test_bad_input_names_the_field_and_changes_nothing(
    cluster: ServicesCluster, body: dict[str, Any], path: str
) -> None:
    before = cluster.call("/api/v1/timestamp/clock/n1").body
    for where in ("/xa/execute", "/jta/execute", "/xa/execute-async"):
        refused = cluster.call(where, body)
        assert (refused.status, refused.body["code"]) == (422, "INVALID_FIELD")
        assert [each["path"] for each in refused.body["errors"]] == [path]
    refused = cluster.call("/xa/batch-execute", {"transactions": [body]})
    assert [each["path"] for each in refused.body["errors"]] == [f"transactions[0].{path}"]
    assert cluster.call("/api/v1/timestamp/clock/n1").body == before


def test_an_unknown_business_type_is_answered_with_the_known_ones(
    cluster: ServicesCluster,
) -> None:
    refused = cluster.execute("NONE", {})
    assert "COMPLEX_ORDER, BATCH_UPDATE, DATA_MIGRATION" in refused.body["detail"]


@pytest.mark.parametrize("name", ["xa-1", "jta-" + "0" * 24, "xa-" + "f" * 24])
def test_a_status_of_nothing_is_not_found(cluster: ServicesCluster, name: str) -> None:
    assert cluster.call(f"/xa/status/{name}").body["code"] == "EXECUTION_NOT_FOUND"
