"""What can go wrong around the XA and JTA services: rollbacks that are not confirmed, sources that
are not there, drivers that are missing, business of others."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.databases.connections import Database
from tests.databases.cut_off import Line, line_to
from tests.databases.servers import Server
from tests.databases.services_cluster import Answered, ServicesCluster, services_cluster

pytestmark = [pytest.mark.timeout(180), pytest.mark.databases]

BUSINESS = '''
"""Business that a distribution brings: a row, and a word before and after the end."""
from tidelock.services import BusinessError


class Bell:
    def __init__(self, folder, refuses):
        self.folder, self.refuses = folder, refuses

    def before_completion(self):
        if self.refuses:
            raise BusinessError("The bell refuses.")

    def after_completion(self, status):
        with open(self.folder, "a") as file:
            file.write(status.value + "\\n")


def ring(work, data):
    work.register(Bell(data["file"], data.get("refuses", False)))
    if "reason" in data:
        work.set_rollback_only(data["reason"])
    work.primary.execute("INSERT INTO bell VALUES (%s)", [data["name"]])
    while data.get("asks"):
        work.source(data["asks"]).query("SELECT 1")
    if data.get("raises"):
        raise LookupError("nothing to ring")
    return {"rung": data["name"]}
'''


@pytest.fixture(scope="module")
def line(mariadb: Server) -> Iterator[Line]:
    with line_to(mariadb.host, mariadb.port) as line:
        yield line


@pytest.fixture(scope="module")
def cluster(
    mariadb: Server,
    postgresql: Server,
    line: Line,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ServicesCluster]:
    """One node, whose primary source is at the end of a line, with business of others."""
    folder = tmp_path_factory.mktemp("services")
    info = folder / "brought-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brought\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[tidelock.business]\nBELL = brought:ring\n")
    (folder / "brought.py").write_text(BUSINESS)
    with ExitStack() as stack:
        primary = Database("mysql", mariadb, stack.enter_context(mariadb.database()))
        secondary = Database("postgresql", postgresql, stack.enter_context(postgresql.database()))
        primary.sql("CREATE TABLE bell (name VARCHAR(64) PRIMARY KEY)")
        yield stack.enter_context(
            services_cluster(
                folder,
                primary,
                secondary,
                nodes=1,
                TIDELOCK_SERVICES_PRIMARY_PORT=str(line.port),
                TIDELOCK_SERVICES_BUSINESS_ROLLBACK_WAIT_MS="500",
                TIDELOCK_SERVICES_BUSINESS_TRANSACTION_TIMEOUT_MS="6000",
                PYTHONPATH=f"{ROOT}:{folder}",
            )
        )


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bell(tmp_path: Path) -> dict[str, Any]:
    return {"name": uuid.uuid4().hex[:12], "file": str(tmp_path / "bell")}


def rung(bell: dict[str, Any]) -> list[str]:
    return Path(bell["file"]).read_text().split()


def test_a_rollback_that_is_not_confirmed_is_unknown_until_it_is(
    cluster: ServicesCluster, line: Line
) -> None:
    """The primary source is prepared and out of reach when the secondary one refuses to be."""
    name = uuid.uuid4().hex[:12]
    cluster.primary.sql(f"INSERT INTO inventory VALUES ('{name}', 10, 0)")
    cluster.primary.sql(f"INSERT INTO shipping_rate VALUES ('{name}', 1.00, 1.00)")
    cluster.secondary.sql(
        f"INSERT INTO account VALUES ('{name}', 100.00, 0)",
        """CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            PERFORM pg_advisory_xact_lock(4711);
            RAISE EXCEPTION 'the books are closed';
        END $$""",
        """CREATE CONSTRAINT TRIGGER closed AFTER INSERT ON orders
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()""",
    )
    order = {
        "orderId": name,
        "customerId": "c",
        "items": [{"sku": name, "price": 1, "quantity": 1}],
        "payment": {"method": "card", "accountId": name},
        "shipping": {"region": name, "weight": 1},
    }
    holder = cluster.secondary.connect(autocommit=True)
    answers: list[Answered] = []
    asking = threading.Thread(
        target=lambda: answers.append(cluster.execute("COMPLEX_ORDER", order, on="jta"))
    )
    try:
        holder.execute("SELECT pg_advisory_lock(4711)")
        asking.start()
        waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        cluster.wait_for(lambda: cluster.secondary.sql(waiting), "the second PREPARE")
        line.cut()
        holder.execute("SELECT pg_advisory_unlock(4711)")
        asking.join()
        found = answers[0].body
        assert (answers[0].status, found["status"], found["finalStatus"]) == (
            200,
            "ROLLBACK_FAILED",
            "UNKNOWN",
        ), found
        assert "the books are closed" in found["error"]
        assert cluster.status(found["transactionId"])["jtaStatus"] == "UNKNOWN"
    finally:
        line.mend()
        holder.close()
        cluster.secondary.sql("DROP TRIGGER closed ON orders")

    def confirmed() -> bool:
        status = cluster.status(found["transactionId"])
        return (status["status"], status["jtaStatus"]) == ("ROLLBACK", "ROLLED_BACK")

    cluster.wait_for(confirmed, "the confirmation of the rollback")
    assert cluster.prepared() == []
    assert cluster.primary.sql(f"SELECT quantity FROM inventory WHERE sku = '{name}'") == [(10,)]


def test_a_source_that_is_out_of_reach_rolls_back(
    cluster: ServicesCluster, line: Line, bell: dict[str, Any]
) -> None:
    line.cut()
    try:
        done = cluster.execute("BELL", bell)
    finally:
        line.mend()
    assert (done.body["status"], done.body["finalStatus"]) == ("ROLLBACK", "ROLLED_BACK")
    assert "OperationalError" in done.body["error"]


# --- business that others bring


def test_business_of_others_is_run_with_its_synchronizations(
    cluster: ServicesCluster, bell: dict[str, Any]
) -> None:
    done = cluster.execute("BELL", bell, on="jta")
    assert (done.body["status"], done.body["result"]) == ("SUCCESS", {"rung": bell["name"]})
    assert rung(bell) == ["COMMITTED"]
    assert cluster.primary.sql(f"SELECT 1 FROM bell WHERE name = '{bell['name']}'") == [(1,)]


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        ({"raises": True}, "LookupError: nothing to ring"),
        ({"refuses": True}, "The bell refuses."),
        ({"reason": "Not today."}, "Not today."),
    ],
)
def test_what_business_or_a_synchronization_raises_rolls_back(
    cluster: ServicesCluster, bell: dict[str, Any], wanted: dict[str, Any], error: str
) -> None:
    done = cluster.execute("BELL", {**bell, **wanted}, on="jta")
    assert (done.body["status"], done.body["finalStatus"]) == ("ROLLBACK", "ROLLED_BACK")
    assert done.body["error"] == error
    assert rung(bell) == ["ROLLED_BACK"]
    assert cluster.primary.sql(f"SELECT 1 FROM bell WHERE name = '{bell['name']}'") == []


@pytest.mark.parametrize("source", ["primary", "secondary"])
def test_business_that_asks_without_end_is_interrupted(
    cluster: ServicesCluster, bell: dict[str, Any], source: str
) -> None:
    done = cluster.execute("BELL", {**bell, "asks": source}, on="jta")
    assert (done.body["status"], done.body["finalStatus"]) == ("ROLLBACK", "ROLLED_BACK")
    assert "Business BELL took longer than 6000 ms" in done.body["error"]
    assert cluster.primary.sql(f"SELECT 1 FROM bell WHERE name = '{bell['name']}'") == []
    # Its thread and its connections are free again.
    again = cluster.execute("BELL", bell, on="jta")
    assert again.body["status"] == "SUCCESS"


# --- nodes that cannot run anything


def test_why_nothing_can_be_run_is_answered_and_no_password_is_told(
    cluster: ServicesCluster, tmp_path: Path
) -> None:
    """The node starts and serves; only the services do not. It is the module's last test."""
    secret = tmp_path / "password"
    secret.write_text("correct horse battery\n")
    cluster.restart_unready(
        "n1",
        TIDELOCK_SERVICES_PRIMARY_USER="nobody",
        TIDELOCK_SERVICES_PRIMARY_PASSWORD_FILE=str(secret),
    )
    found = cluster.wait_for(lambda: cluster.refused("cannot be used"), "the reason")
    assert (found.status, found.body["code"]) == (503, "SERVICES_UNAVAILABLE")
    assert "nobody" in found.body["detail"]
    assert found.body["retryable"] is True
    assert "correct horse" not in cluster.nodes.place("n1").log_file.read_text()

    cluster.restart_unready("n1", TIDELOCK_SERVICES_SECONDARY_PASSWORD_VARIABLE="NO_SUCH")
    found = cluster.wait_for(lambda: cluster.refused("NO_SUCH"), "the reason")
    assert "services.secondary.password_variable" in found.body["detail"]

    (tmp_path / "pymysql.py").write_text("raise ModuleNotFoundError('No module named pymysql')\n")
    cluster.restart_unready("n1", PYTHONPATH=f"{tmp_path}:{ROOT}")
    found = cluster.wait_for(lambda: cluster.refused("tidelock[pymysql]"), "the reason")
    assert found.status == 503
