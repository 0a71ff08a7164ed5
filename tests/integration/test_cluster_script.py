"""`scripts/cluster`: what it starts it can stop, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from scripts.tidelock_scripts import log_pump
from scripts.tidelock_scripts.local_cluster import ROOT, free_base_port
from scripts.tidelock_scripts.processes import ProcessIdentity

SCRIPT = ROOT / "scripts" / "cluster"
WITHIN_S = 30.0


@dataclass
class Script:
    """`scripts/cluster` with one data directory and base port."""

    data_dir: Path
    base_port: int
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, *arguments: str) -> list[str]:
        return [str(SCRIPT), *arguments, "--data", str(self.data_dir)]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            env={**os.environ, **self.environment},
            timeout=90,
            check=False,
        )

    def expect(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def up(self) -> subprocess.CompletedProcess[str]:
        return self.run("up", "--base-port", str(self.base_port))

    def status(self) -> dict[str, dict[str, Any]]:
        described = json.loads(self.expect("status", "--json"))
        return {node["nodeId"]: node for node in described["nodes"]}

    def clear(self) -> None:
        self.run("down")
        shutil.rmtree(self.data_dir, ignore_errors=True)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Script]:
    """Three nodes that run. A test that disturbs them puts them right again."""
    script = Script(tmp_path_factory.mktemp("cluster") / "data", free_base_port())
    try:
        done = script.up()
        assert done.returncode == 0, done.stderr
        yield script
    finally:
        script.clear()


@pytest.fixture
def unused(tmp_path: Path) -> Iterator[Script]:
    """A place for a cluster where nothing is yet."""
    script = Script(tmp_path / "data", free_base_port())
    try:
        yield script
    finally:
        script.clear()


def eventually(holds: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < ends_at, "it did not come to hold in time"
        time.sleep(0.02)


def lives(pid: int) -> bool:
    try:
        return ProcessIdentity.of(pid).state() is not None
    except ProcessLookupError:
        return False


def take_timestamp(node: dict[str, Any], participant: str) -> int:
    request = Request(
        f"http://{node['apiAddress']}/api/v1/timestamp/event",
        data=json.dumps({"nodeId": participant, "eventType": "TEST"}).encode(),
        headers={"Content-Type": "application/json", "Tidelock-Timeout-Ms": "20000"},
    )
    with urlopen(request, timeout=25) as answer:
        return int(json.load(answer)["lamportTimestamp"])


def test_up_returns_with_every_node_ready_at_its_port(running: Script) -> None:
    nodes = running.status()
    assert list(nodes) == ["n1", "n2", "n3"]
    for number, node in enumerate(nodes.values(), start=1):
        assert node["ready"]
        assert node["apiAddress"] == f"127.0.0.1:{running.base_port + number}"
        assert node["peerAddress"] == f"127.0.0.1:{running.base_port + 100 + number}"
    assert sorted(node["role"] for node in nodes.values()) == ["FOLLOWER", "FOLLOWER", "LEADER"]


def test_up_again_changes_nothing(running: Script) -> None:
    before = running.status()
    assert running.up().returncode == 0
    assert [node["pid"] for node in running.status().values()] == [
        node["pid"] for node in before.values()
    ]


def test_a_killed_node_is_gone_and_comes_back_with_what_it_had(running: Script) -> None:
    nodes = running.status()
    first = take_timestamp(nodes["n2"], "kill")
    running.expect("kill", "n2")
    assert running.status()["n2"]["state"] == "stopped"
    assert not lives(nodes["n2"]["pid"])
    second = take_timestamp(nodes["n1"], "kill")
    running.expect("start", "n2")
    returned = running.status()["n2"]
    assert returned["ready"]
    assert returned["pid"] != nodes["n2"]["pid"]
    assert [first, second, take_timestamp(returned, "kill")] == [1, 2, 3]


def test_a_paused_node_stands_still_until_it_is_resumed(running: Script) -> None:
    running.expect("pause", "n3")
    assert running.status()["n3"]["state"] == "paused"
    running.expect("resume", "n3")
    eventually(lambda: bool(running.status()["n3"]["ready"]))


def test_up_resumes_what_is_paused(running: Script) -> None:
    running.expect("pause", "n3")
    assert running.up().returncode == 0
    assert running.status()["n3"]["ready"]


def test_the_leader_may_be_named_as_such(running: Script) -> None:
    def leader() -> str | None:
        described = json.loads(running.expect("status", "--json"))
        return str(described["leader"]) if described["leader"] else None

    eventually(lambda: leader() is not None)
    killed = leader()
    assert running.expect("kill", "leader").strip() == f"killed {killed}"
    assert running.up().returncode == 0


def test_a_wiped_node_comes_back_with_everything(running: Script) -> None:
    timestamp = take_timestamp(running.status()["n1"], "wipe")
    refused = running.run("wipe", "n1")
    assert refused.returncode == 1
    assert "n1 is running" in refused.stderr
    running.expect("kill", "n1")
    running.expect("wipe", "n1")
    assert not (running.data_dir / "n1").exists()
    running.expect("start", "n1")
    assert take_timestamp(running.status()["n1"], "wipe") == timestamp + 1


def test_logs_show_what_a_node_wrote(running: Script) -> None:
    assert f"api=127.0.0.1:{running.base_port + 1}" in running.expect("logs", "n1")


def test_an_unknown_node_is_answered_with_the_known_ones(running: Script) -> None:
    done = running.run("kill", "n9")
    assert done.returncode == 1
    assert "there are n1, n2, n3" in done.stderr


def test_another_shape_for_the_same_data_is_refused(running: Script) -> None:
    for other in (["--nodes", "5"], ["--base-port", "9000"]):
        done = running.run("up", *other)
        assert done.returncode == 1
        assert "holds a cluster of 3 nodes" in done.stderr


def test_down_stops_paused_nodes_as_well_and_keeps_the_data(unused: Script) -> None:
    assert unused.up().returncode == 0
    nodes = unused.status()
    take_timestamp(nodes["n1"], "down")
    unused.expect("pause", "n2")
    assert unused.expect("down").strip() == "stopped n1, n2, n3"
    assert not any(lives(node["pid"]) for node in nodes.values())
    assert unused.expect("down").strip() == "nothing was running"
    assert unused.up().returncode == 0
    assert take_timestamp(unused.status()["n3"], "down") == 2


def test_a_taken_port_is_named_and_nothing_is_left_behind(unused: Script) -> None:
    with socket.create_server(("127.0.0.1", unused.base_port + 2)):
        done = unused.up()
    assert done.returncode == 1
    assert f"port {unused.base_port + 2}, which n2 needs for its API, is in use" in done.stderr
    assert f"pid {os.getpid()}" in done.stderr
    assert all(node["state"] == "stopped" for node in unused.status().values())
    assert not (unused.data_dir / "n1").exists()


def test_a_node_that_ends_by_itself_is_reported_with_its_last_words(unused: Script) -> None:
    unused.environment["TIDELOCK_RAFT_HEARTBEAT_MS"] = "none"
    done = unused.up()
    assert done.returncode == 1
    assert "ended by itself" in done.stderr
    assert "TIDELOCK_RAFT_HEARTBEAT_MS" in done.stderr
    assert all(node["state"] == "stopped" for node in unused.status().values())


def test_an_interrupted_up_takes_back_what_it_started(unused: Script) -> None:
    # Whoever runs the tests in the background of a shell has them ignore SIGINT.
    listening = ("env", "--default-signal=INT")
    with subprocess.Popen(
        (*listening, *unused.command("up", "--base-port", str(unused.base_port))),
        stderr=subprocess.PIPE,
    ) as starting:
        eventually((unused.data_dir / "cluster.json").exists)
        starting.send_signal(signal.SIGINT)
        assert starting.wait(WITHIN_S) == 130
    assert all(node["state"] == "stopped" for node in unused.status().values())


def test_a_stranger_with_the_pid_of_a_node_is_left_alone(unused: Script) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        identity = ProcessIdentity.of(stranger.pid)
        unused.data_dir.mkdir()
        state = {
            "format": 1,
            "base_port": unused.base_port,
            "nodes": 3,
            "processes": {
                "n1": {
                    "pid": stranger.pid,
                    "start_ticks": identity.start_ticks - 1,
                    "boot_id": identity.boot_id,
                }
            },
        }
        (unused.data_dir / "cluster.json").write_text(json.dumps(state))
        assert unused.status()["n1"]["state"] == "stopped"
        assert unused.run("kill", "n1").returncode == 1
        assert unused.expect("down").strip() == "nothing was running"
        assert stranger.poll() is None
        stranger.communicate(b"\n")


def test_wipe_without_a_node_leaves_only_what_is_not_its_own(unused: Script) -> None:
    assert unused.up().returncode == 0
    (unused.data_dir / "notes.txt").write_text("mine")
    assert unused.run("wipe").returncode == 1
    unused.expect("down")
    unused.expect("wipe")
    assert [path.name for path in unused.data_dir.iterdir()] == ["notes.txt"]


def test_a_log_never_grows_beyond_its_bound(tmp_path: Path) -> None:
    log = tmp_path / "n1.log"
    line = b"x" * 99 + b"\n"
    with subprocess.Popen(
        [sys.executable, log_pump.__file__, str(log), "10000"], stdin=subprocess.PIPE
    ) as pump:
        assert pump.stdin is not None
        for _ in range(1000):
            pump.stdin.write(line)
            pump.stdin.flush()
    assert log.stat().st_size <= 10_000
    assert (tmp_path / "n1.log.1").stat().st_size <= 10_000
    assert log.read_bytes().endswith(line)
