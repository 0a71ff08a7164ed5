"""`scripts/cluster`: start, stop, look at and disturb a cluster on this machine."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from scripts.tidelock_scripts.client import ClusterClient
from scripts.tidelock_scripts.local_cluster import (
    DEFAULT_BASE_PORT,
    DEFAULT_DATA_DIR,
    DEFAULT_NODES,
    ClusterError,
    LocalCluster,
)
from scripts.tidelock_scripts.terminal import Terminal

_DISTURBANCES = ("kill", "pause", "resume")
_LOG_LINES = 60

_DESCRIPTION = """\
Start, stop, look at and disturb a cluster on this machine.

  up            start every node that is not running and return when all are ready
  down          stop every node; data stays
  status        what runs, who leads
  kill NODE     SIGKILL
  pause NODE    SIGSTOP; resume NODE lets it go on
  start NODE    start one node again
  wipe [NODE]   delete the data of a stopped node, or of the whole stopped cluster
  logs [NODE]   the end of the logs

NODE is n1, n2, … or `leader`.
"""


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    terminal = Terminal(sys.stderr if options.json else sys.stdout)
    try:
        cluster = LocalCluster(options.data, nodes=options.nodes, base_port=options.base_port)
        # Ended by kill as by Ctrl-C: what was begun is taken back either way.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        asyncio.run(_run(options, cluster, terminal))
    except ClusterError as error:
        print(f"scripts/cluster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("scripts/cluster: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/cluster",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = ("up", "down", "status", *_DISTURBANCES, "start", "wipe", "logs")
    parser.add_argument("command", choices=commands, metavar="COMMAND", help=", ".join(commands))
    parser.add_argument("node", nargs="?", metavar="NODE")
    parser.add_argument("--nodes", type=int, metavar="N", help=f"default {DEFAULT_NODES}")
    parser.add_argument(
        "--data", type=Path, default=DEFAULT_DATA_DIR, metavar="DIR", help="default .tidelock/"
    )
    parser.add_argument(
        "--base-port", type=int, metavar="P", help=f"node i serves P+i; default {DEFAULT_BASE_PORT}"
    )
    parser.add_argument("--json", action="store_true", help="print the state as JSON")
    return parser


async def _run(options: argparse.Namespace, cluster: LocalCluster, terminal: Terminal) -> None:
    command: str = options.command
    if command == "up":
        _refuse_node(options)
        await bring_up(cluster, terminal)
        await _report(cluster, terminal, as_json=options.json)
        return
    if not cluster.exists:
        raise ClusterError(f"there is no cluster in {cluster.data_dir}; start one with `up`")
    if command == "down":
        _refuse_node(options)
        stopped = cluster.stop()
        terminal.line(f"stopped {', '.join(stopped)}" if stopped else "nothing was running")
    elif command == "logs":
        chosen = [await _node(options, cluster)] if options.node else list(cluster.places)
        for node_id in chosen:
            print(cluster.log_tail(node_id, _LOG_LINES))
        return
    elif command == "wipe":
        await _wipe(options, cluster, terminal)
    elif command == "start":
        await _start(await _node(options, cluster), cluster, terminal)
    elif command in _DISTURBANCES:
        node_id = await _node(options, cluster)
        done = {"kill": cluster.kill, "pause": cluster.pause, "resume": cluster.resume}[command]
        if not done(node_id):
            raise ClusterError(f"{node_id} is not running")
        past = {"kill": "killed", "pause": "paused", "resume": "resumed"}[command]
        terminal.line(f"{past} {node_id}")
    if command == "status" or options.json:
        await _report(cluster, terminal, as_json=options.json)


async def bring_up(cluster: LocalCluster, terminal: Terminal) -> list[str]:
    """Make every node run and be ready; return the ids of those that had to be started.

    When it does not come up, what this call started is stopped again, and the data of a cluster
    that this call was to create is removed, so that the next attempt begins afresh.
    """
    is_new = all(place.is_empty for place in cluster.places.values())
    started = []
    try:
        for node_id in cluster.places:
            if cluster.start(node_id):
                started.append(node_id)
            elif cluster.is_paused(node_id):
                cluster.resume(node_id)
        await cluster.wait_until_ready(on_progress=lambda now: _show_progress(terminal, now))
    except BaseException:
        cluster.stop(started)
        if is_new:
            for node_id in started:
                cluster.wipe(node_id)
        raise
    return started


def _show_progress(terminal: Terminal, now: Mapping[str, str]) -> None:
    terminal.progress("waiting: " + ", ".join(f"{node} {state}" for node, state in now.items()))


async def _start(node_id: str, cluster: LocalCluster, terminal: Terminal) -> None:
    if not cluster.start(node_id):
        terminal.line(f"{node_id} is running already")
        return
    awake = [node for node in cluster.running() if not cluster.is_paused(node)]
    if len(awake) * 2 <= cluster.size:
        terminal.line(f"started {node_id}; it serves when a majority of the nodes runs")
        return
    await cluster.wait_until_ready([node_id], on_progress=lambda now: _show_progress(terminal, now))
    terminal.line(f"started {node_id}; it is ready")


async def _wipe(options: argparse.Namespace, cluster: LocalCluster, terminal: Terminal) -> None:
    if options.node:
        node_id = await _node(options, cluster)
        cluster.wipe(node_id)
        terminal.line(f"wiped {node_id}")
        return
    if running := cluster.running():
        raise ClusterError(f"{', '.join(running)} running: take the cluster down first")
    cluster.remove()
    terminal.line(f"wiped {cluster.data_dir}")


def _refuse_node(options: argparse.Namespace) -> None:
    if options.node:
        raise ClusterError(f"`{options.command}` is for the whole cluster and takes no NODE")


async def _node(options: argparse.Namespace, cluster: LocalCluster) -> str:
    if not options.node:
        raise ClusterError(f"`{options.command}` needs a NODE: {', '.join(cluster.places)}, leader")
    if options.node != "leader":
        return cluster.place(options.node).node_id
    async with ClusterClient(cluster.addresses) as client:
        leader = await find_leader(client, cluster)
    if leader is None:
        raise ClusterError("no node says that it leads now")
    return leader


async def find_leader(client: ClusterClient, cluster: LocalCluster) -> str | None:
    """Return the node that a quorum lately confirmed as leader, as it says itself."""
    answers = await asyncio.gather(
        *(client.ask(node_id, "/health/leader") for node_id in cluster.places)
    )
    for node_id, answer in zip(cluster.places, answers, strict=True):
        if answer is not None and answer.status == 200:
            return node_id
    return None


async def describe(cluster: LocalCluster) -> dict[str, Any]:
    """Return what the processes and the nodes themselves say, ready for JSON."""
    async with ClusterClient(cluster.addresses) as client:
        nodes = await asyncio.gather(
            *(_describe_node(client, cluster, node_id) for node_id in cluster.places)
        )
    leaders = [node["nodeId"] for node in nodes if node["role"] == "LEADER"]
    return {
        "dataDir": str(cluster.data_dir),
        "basePort": cluster.base_port,
        "leader": leaders[0] if leaders else None,
        "nodes": nodes,
    }


async def _describe_node(
    client: ClusterClient, cluster: LocalCluster, node_id: str
) -> dict[str, Any]:
    place = cluster.places[node_id]
    process = cluster.process(node_id)
    described: dict[str, Any] = {
        "nodeId": node_id,
        "apiAddress": place.api_address,
        "peerAddress": place.peer_address,
        "pid": process.pid if process else None,
        "state": "stopped",
        "ready": False,
        "role": None,
        "term": None,
        "logFile": str(place.log_file),
    }
    if process is None:
        return described
    if cluster.is_paused(node_id):
        return {**described, "state": "paused"}
    described["state"] = "running"
    ready = await client.ask(node_id, "/health/ready")
    described["ready"] = ready is not None and ready.status == 200
    leads = await client.ask(node_id, "/health/leader")
    if leads is not None:
        described["role"] = "LEADER" if leads.status == 200 else "FOLLOWER"
    about = await client.ask(node_id, "/api/v1/cluster")
    if about is not None and about.ok:
        described["term"] = about.body["term"]
        roles = {node["nodeId"]: node["role"] for node in about.body["nodes"]}
        described["role"] = roles.get(node_id, described["role"])
    return described


async def _report(cluster: LocalCluster, terminal: Terminal, *, as_json: bool) -> None:
    description = await describe(cluster)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(description)).decode())
        return
    rows = [
        [
            node["nodeId"],
            "ready" if node["ready"] else node["state"],
            str(node["role"] or "-").lower(),
            str(node["pid"] or "-"),
            f"http://{node['apiAddress']}",
            node["peerAddress"],
        ]
        for node in description["nodes"]
    ]
    terminal.table(["node", "state", "role", "pid", "api", "peers"], rows)


if __name__ == "__main__":
    sys.exit(main())
