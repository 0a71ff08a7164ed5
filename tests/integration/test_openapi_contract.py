"""Every operation answers as the OpenAPI document says, whatever is sent: checked by Schemathesis.

It makes requests out of the document, valid and invalid ones, sends them to nodes that are
processes, and holds the answers against the document. What is described is covered, without a line
here. All checks are in force; what is excused has its reason in openapi_contract/.

The requests follow from the seed and the document. A failure shows its own as a line of curl.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import pytest

from api.openapi import STREAMS
from scripts.tidelock_scripts.local_cluster import ROOT, LocalCluster, free_base_port

FOLDER: Final = Path(__file__).with_name("openapi_contract")

ENVIRONMENT: Final = {
    # Nodes that are not there are waited for so long.
    "TIDELOCK_HTTP_DEFAULT_TIMEOUT_MS": "200",
    "TIDELOCK_HTTP_MAX_TIMEOUT_MS": "1000",
}

NEEDS_NO_SUCCESS: Final = {
    "GET /openapi.json": "without it, there is no run",
    "GET /health/leader": "the node may be a follower",
    "POST /api/v1/locks/{name}/renew": "a token is hardly ever guessed",
    "POST /api/v1/locks/{name}/release": "likewise",
    **dict.fromkeys(
        (
            "POST /api/v1/transactions/{xid}/branches/{branchId}/locks",
            "DELETE /api/v1/transactions/{xid}/branches/{branchId}/locks",
            "POST /api/v1/transactions/{xid}/branches/{branchId}/fence",
        ),
        "a branch that still works is hardly ever guessed",
    ),
    "POST /api/v1/messages/{xid}/submit": "the message of the examples is aborted by then",
    "POST /api/v1/transactions/{xid}/rollback": "the transaction of the examples is committed",
    "POST /api/v1/transactions/{xid}/operations": "what has ended needs no operator",
    "POST /api/v1/cluster/members": "it waits for a node with an empty disk, and there is none",
    "DELETE /api/v1/cluster/members/{nodeId}": "the nodes under test are to stay",
    **dict.fromkeys(
        (
            "POST /xa/execute",
            "POST /xa/batch-execute",
            "POST /xa/execute-async",
            "POST /jta/execute",
            "GET /xa/status/{transactionId}",
            "GET /jta/status/{transactionId}",
        ),
        "the nodes under test have no data sources",
    ),
    "GET /api/v1/rm/channel": "it is a WebSocket",
    "POST /api/v1/cluster/leader/transfer": "a name of a node is hardly ever guessed",
}
"""Of all others, a run of nothing but refusals would prove nothing."""


@contextmanager
def cluster_of(nodes: int, folder: Path) -> Iterator[LocalCluster]:
    cluster = LocalCluster(
        folder / "data",
        nodes=nodes,
        base_port=free_base_port(),
        environment={f"n{number}": ENVIRONMENT for number in range(1, nodes + 1)},
    )
    try:
        for node_id in cluster.places:
            cluster.start(node_id)
        asyncio.run(cluster.wait_until_ready())
        yield cluster
        assert cluster.running() == list(cluster.places)
        for place in cluster.places.values():
            lines = place.log_file.read_text().splitlines()
            assert not [line for line in lines if " ERROR " in line or " CRITICAL " in line]
    finally:
        cluster.stop()


def check(url: str, folder: Path, *, examples: int, seed: int) -> None:
    """Send each operation what its schemas single out, and so many random requests besides."""
    report = folder / f"report-{seed}.json"
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", FOLDER / "schemathesis.toml"),
        *("--no-color", "run", f"{url}/openapi.json"),
        *("--seed", str(seed), "--max-examples", str(examples)),
        *("--exclude-by", f"/{STREAMS} == true"),
        *("--continue-on-failure", "--report-json-path", report),
    ]
    hooks = "tests.integration.openapi_contract.hooks"
    run = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": hooks},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = "\n".join(line[:2_000] for line in run.stdout.splitlines())
    assert run.returncode == 0, f"{lines}\n{run.stderr[-2_000:]}"
    tried = json.loads(report.read_text())
    described = _described(url)
    assert tried["operations"]["tested"] == len(described - {"GET /openapi.json"})
    done = {
        operation
        for operation, phases in tried["valid_rates"].items()
        if any(phase["accepted"] for phase in phases.values())
    }
    assert described - done <= set(NEEDS_NO_SUCCESS)


def _described(url: str) -> set[str]:
    """Return the operations of the document, each by its method and path."""
    with urlopen(f"{url}/openapi.json") as answer:
        document: Any = json.load(answer)
    return {
        f"{method.upper()} {path}"
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if STREAMS not in operation
    }


@pytest.mark.timeout(400)
def test_every_operation_keeps_its_word(tmp_path: Path) -> None:
    with cluster_of(1, tmp_path) as cluster:
        check(cluster.place("n1").url, tmp_path, examples=5, seed=1)


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_every_operation_keeps_its_word_on_any_node(tmp_path: Path) -> None:
    with cluster_of(3, tmp_path) as cluster:
        for seed, place in enumerate(cluster.places.values(), start=2):
            check(place.url, tmp_path, examples=100, seed=seed)
