"""Three nodes as processes whose XA and JTA services have real databases."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from scripts.tidelock_scripts.local_cluster import LocalCluster, free_base_port
from tests.databases.connections import Database

WITHIN_S: Final = 60.0


class Answered:
    """What came back."""

    def __init__(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body: Any = json.loads(content)


class ServicesCluster:
    """The nodes, and requests to them."""

    def __init__(
        self,
        nodes: LocalCluster,
        primary: Database,
        secondary: Database,
        environment: dict[str, dict[str, str]],
    ) -> None:
        self.nodes = nodes
        self._environment = environment
        self.primary = primary
        self.secondary = secondary

    def call(
        self,
        path: str,
        send: object = None,
        *,
        node: str = "n1",
        key: str = "",
        timeout_ms: int = 30_000,
    ) -> Answered:
        headers = {"Content-Type": "application/json", "Tidelock-Timeout-Ms": str(timeout_ms)}
        if key:
            headers["Idempotency-Key"] = key
        body = None if send is None else json.dumps(send).encode()
        wanted = Request(f"{self.nodes.place(node).url}{path}", data=body, headers=headers)
        try:
            with urlopen(wanted, timeout=90) as response:
                return Answered(response.status, dict(response.headers), response.read())
        except HTTPError as error:
            return Answered(error.code, dict(error.headers), error.read())

    def url(self, node_id: str) -> str:
        return self.nodes.place(node_id).url

    def execute(self, business_type: str, data: object, *, on: str = "xa", **more: Any) -> Answered:
        wanted = {"businessType": business_type, "businessData": data}
        return self.call(f"/{on}/execute", wanted, **more)

    def status(self, transaction_id: str, node: str = "n1") -> Any:
        service = transaction_id.partition("-")[0]
        return self.call(f"/{service}/status/{transaction_id}", node=node).body

    def wait_for(self, condition: Callable[[], object], what: str) -> Any:
        ends_at = time.monotonic() + WITHIN_S
        while not (found := condition()):
            assert time.monotonic() < ends_at, f"{what} did not come"
            time.sleep(0.05)
        return found

    def restart(self, node_id: str, **more: str) -> None:
        """Start a node anew, with further environment variables; the last ones are forgotten."""
        self.restart_unready(node_id, **more)
        self.wait_until_ready(node_id)

    def restart_unready(self, node_id: str, **more: str) -> None:
        """The same, of a node whose worker is not expected to find its databases."""
        self.nodes.kill(node_id)
        self._environment[node_id] = {**self._environment[""], **more}
        self.nodes.start(node_id)
        asyncio.run(self.nodes.wait_until_ready())

    def refused(self, words: str) -> Answered | None:
        """Return the refusal of an execution when it has these words."""
        found = self.execute("COMPLEX_ORDER", EMPTY_ORDER)
        return found if words in found.body.get("detail", "") else None

    def wait_until_ready(self, *node_ids: str) -> None:
        """Wait until the workers of nodes have their databases: an unknown row is not found."""
        for node_id in node_ids:
            self.wait_for(partial(self._answers, node_id), f"the worker of {node_id}")

    def _answers(self, node: str) -> bool:
        found = self.execute("COMPLEX_ORDER", EMPTY_ORDER, node=node)
        assert found.status in (200, 503), found.body
        return found.status == 200

    def end(self, transaction_id: str, node: str = "n1") -> Any:
        """Wait until an execution has ended, and return its status."""

        def ended() -> Any:
            found = self.status(transaction_id, node)
            return found if found.get("status") not in (None, "ACCEPTED", "RUNNING") else None

        return self.wait_for(ended, f"the end of {transaction_id}")

    def prepared(self) -> list[Any]:
        """What either server holds prepared."""
        found: list[Any] = []
        for each in (self.primary, self.secondary):
            listing = (
                "XA RECOVER"
                if each.dialect == "mysql"
                else "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
            )
            found += each.sql(listing)
        return found


EMPTY_ORDER: Final = {
    "orderId": "ready",
    "customerId": "c",
    "items": [{"sku": "none", "price": 1, "quantity": 1}],
    "payment": {"method": "card", "accountId": "none"},
    "shipping": {"region": "none", "weight": 1},
}


def environment_of(primary: Database, secondary: Database, **more: str) -> dict[str, str]:
    """Return the settings of a node's data sources, as environment variables."""
    found = {
        "TIDELOCK_SERVICES_BUSINESS_LEASE_MS": "1500",
        "TIDELOCK_SERVICES_BUSINESS_BATCH_UPDATE_ALLOWED": "primary.*.*,secondary.*.*",
        "TIDELOCK_SERVICES_BUSINESS_MIGRATION_ALLOWED": "*.*",
        "TIDELOCK_CHANNELS_GRACE_MS": "1000",
    }
    for name, database in (("PRIMARY", primary), ("SECONDARY", secondary)):
        assert database.server is not None
        prefix = f"TIDELOCK_SERVICES_{name}"
        found[f"{prefix}_KIND"] = "mariadb" if database.dialect == "mysql" else "postgresql"
        found[f"{prefix}_HOST"] = database.server.host
        found[f"{prefix}_PORT"] = str(database.server.port)
        found[f"{prefix}_USER"] = database.server.user
        found[f"{prefix}_DATABASE"] = database.name
    return {**found, **more}


@contextmanager
def services_cluster(
    folder: Path,
    primary: Database,
    secondary: Database,
    *,
    nodes: int = 3,
    **more: str,
) -> Iterator[ServicesCluster]:
    """Give a cluster whose workers are ready."""
    common = environment_of(primary, secondary, **more)
    environment = {"": common, **{f"n{number}": common for number in range(1, nodes + 1)}}
    cluster = LocalCluster(
        folder / "data", nodes=nodes, base_port=free_base_port(nodes), environment=environment
    )
    try:
        for node_id in cluster.places:
            cluster.start(node_id)
        asyncio.run(cluster.wait_until_ready())
        made = ServicesCluster(cluster, primary, secondary, environment)
        made.wait_until_ready(*cluster.places)
        yield made
    finally:
        cluster.stop()
