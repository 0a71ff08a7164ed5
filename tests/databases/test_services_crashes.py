"""The node that runs an execution dies: both databases or neither, and nothing is left prepared."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final

import pytest

from tests.databases.connections import Database
from tests.databases.servers import Server
from tests.databases.services_cluster import Answered, ServicesCluster, services_cluster
from tidelock.crash_points import VARIABLE

pytestmark = [pytest.mark.timeout(240), pytest.mark.databases]

UNDECIDED: Final = (
    "xa.after-start:4", "xa.before-prepare:1", "xa.after-prepare:1", "xa.after-report:1",
    "xa.after-prepare:2", "xa.after-report:2",
)  # fmt: skip
"""The decision is still to come. Two starts came before, when the node was seen to be ready."""
DECIDED: Final = ("xa.before-commit:1", "xa.after-commit:1", "xa.before-commit:2")

QUICK: Final = {("xa.after-report:2", True), ("xa.before-commit:1", False)}

CASES: Final = [
    pytest.param(
        point, again, id=f"{point}-{'async' if again else 'waited-for'}",
        marks=[] if (point, again) in QUICK else [pytest.mark.long],
    )
    for point in (*UNDECIDED, *DECIDED)
    for again in (True, False)
]  # fmt: skip


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


def stock(cluster: ServicesCluster, name: str) -> str:
    cluster.primary.sql(
        f"INSERT INTO inventory VALUES ('{name}', 10, 0)",
        f"INSERT INTO shipping_rate VALUES ('{name}', 1.00, 1.00)",
    )
    cluster.secondary.sql(f"INSERT INTO account VALUES ('{name}', 100.00, 0)")
    return name


def order(name: str) -> dict[str, Any]:
    return {
        "orderId": name,
        "customerId": "c",
        "items": [{"sku": name, "price": "5.00", "quantity": 1}],
        "payment": {"method": "card", "accountId": name},
        "shipping": {"region": name, "weight": 1},
    }


def left(cluster: ServicesCluster, name: str) -> tuple[int, float, int]:
    ((there,),) = cluster.primary.sql(f"SELECT quantity FROM inventory WHERE sku = '{name}'")
    ((money,),) = cluster.secondary.sql(f"SELECT balance FROM account WHERE account_id = '{name}'")
    orders = cluster.secondary.sql(f"SELECT 1 FROM orders WHERE order_id = '{name}'")
    return int(there), float(money), len(orders)


DONE: Final = (9, 93.0, 1)
NOT_DONE: Final = (10, 100.0, 0)


def deaths(cluster: ServicesCluster) -> int:
    return cluster.nodes.place("n1").log_file.read_text().count("killed at xa.")


@pytest.mark.parametrize(("point", "asynchronous"), CASES)
def test_what_a_dead_node_ran_ends_in_both_databases_or_in_neither(
    cluster: ServicesCluster, point: str, asynchronous: bool
) -> None:
    name = stock(cluster, uuid.uuid4().hex[:12])
    before = deaths(cluster)
    cluster.restart("n1", **{VARIABLE: point})
    body = {"businessType": "COMPLEX_ORDER", "businessData": order(name)}
    path = "/xa/execute-async" if asynchronous else "/xa/execute"

    def ask() -> None:
        try:
            cluster.call(path, body, node="n1", key=name)
        except OSError:
            return  # the node died while it was asked

    asking = threading.Thread(target=ask)
    asking.start()
    cluster.wait_for(lambda: deaths(cluster) > before, "the death of the worker")
    cluster.nodes.kill("n1")
    asking.join()

    # The same request at another node is the same execution.
    again: Answered = cluster.call(path, body, node="n2", key=name)
    ended = cluster.end(again.body["transactionId"], "n3")
    if asynchronous or point in DECIDED:
        assert (ended["status"], ended["finalStatus"]) == ("SUCCESS", "COMMITTED"), ended
        assert ended["result"]["orderId"] == name
    else:
        assert (ended["status"], ended["finalStatus"]) == ("ROLLBACK", "ROLLED_BACK"), ended
    expected = NOT_DONE if ended["status"] == "ROLLBACK" else DONE
    cluster.wait_for(lambda: cluster.prepared() == [], "the end of what was prepared")
    assert left(cluster, name) == expected


def test_a_worker_that_dies_is_started_again_and_its_work_done_once(
    cluster: ServicesCluster,
) -> None:
    """Its node lives: it takes over from its own dead worker, without waiting for a lease."""
    name = stock(cluster, uuid.uuid4().hex[:12])
    cluster.restart("n1", **{VARIABLE: "xa.after-prepare:2"})
    body = {"businessType": "COMPLEX_ORDER", "businessData": order(name)}
    accepted = cluster.call("/xa/execute-async", body, node="n1")
    # The worker after it dies there as well, unless it takes its turn after another execution's.
    ended = cluster.end(accepted.body["transactionId"], "n2")
    assert ended["attempts"] >= 2
    expected = DONE if ended["status"] == "SUCCESS" else NOT_DONE
    cluster.wait_for(lambda: cluster.prepared() == [], "the end of what was prepared")
    assert left(cluster, name) == expected
