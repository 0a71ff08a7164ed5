"""A cluster of node processes on this machine: where its files and ports are, and what runs.

Everything is found again from `cluster.json` in the data directory, so that any later process can
go on with it. It names each process by pid, moment of start and boot, and nothing else is ever
signalled.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from scripts.tidelock_scripts.client import ClusterClient
from scripts.tidelock_scripts.processes import ProcessIdentity, listening_process

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_DATA_DIR = ROOT / ".tidelock"
DEFAULT_BASE_PORT = 7100
DEFAULT_NODES = 3
GREATEST_CLUSTER = 15

PEER_PORT_OFFSET = 100
DTM_PORT_OFFSET = 200
"""Node i serves its API at base + i, its peers at base + 100 + i, DTM's protocol at
base + 200 + i."""

READY_WITHIN_S = 30.0
STOPS_WITHIN_S = 10.0
_POLL_S = 0.02

_STATE_FORMAT = 1
_STATE_FILE = "cluster.json"
_LOCK_FILE = "cluster.lock"
_LOG_MAX_BYTES = 4 << 20
_LOG_PUMP = Path(__file__).with_name("log_pump.py")
_LOG_TAIL_LINES = 15

NODE_PROGRAM = (sys.executable, "-P", "-m", "node")


class ClusterError(Exception):
    """What was asked cannot be done; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class NodePlace:
    """Where one node lives."""

    node_id: str
    api_port: int
    peer_port: int
    dtm_port: int
    data_dir: Path
    log_file: Path

    @property
    def api_address(self) -> str:
        return f"127.0.0.1:{self.api_port}"

    @property
    def peer_address(self) -> str:
        return f"127.0.0.1:{self.peer_port}"

    @property
    def dtm_address(self) -> str:
        return f"127.0.0.1:{self.dtm_port}"

    @property
    def url(self) -> str:
        return f"http://{self.api_address}"

    @property
    def dtm_url(self) -> str:
        """What DTM's clients take for the server."""
        return f"http://{self.dtm_address}/api/dtmsvr"

    @property
    def is_empty(self) -> bool:
        return not self.data_dir.exists() or not any(self.data_dir.iterdir())


class _State(msgspec.Struct):
    format: int
    base_port: int
    nodes: int
    processes: dict[str, ProcessIdentity]


class LocalCluster:
    """The nodes n1 … nN of one data directory."""

    def __init__(
        self,
        data_dir: Path,
        *,
        nodes: int | None = None,
        base_port: int | None = None,
        environment: Mapping[str, Mapping[str, str]] | None = None,
        program: Sequence[str] = NODE_PROGRAM,
    ) -> None:
        """Take up the cluster in `data_dir`, or describe a new one; nothing is started.

        `environment` holds further variables for each node id. `nodes` and `base_port` may be left
        out; a cluster that exists keeps its own.

        Raises:
            ClusterError: `data_dir` holds a cluster of another size or at other ports.
        """
        self.data_dir = data_dir.resolve()
        self._environment = environment or {}
        self._program = tuple(program)
        kept = _read_state(self.data_dir)
        if kept is not None:
            _refuse_other_shape(kept, self.data_dir, nodes, base_port)
        self.exists = kept is not None
        self.size = kept.nodes if kept else nodes or DEFAULT_NODES
        self.base_port = kept.base_port if kept else base_port or DEFAULT_BASE_PORT
        if not 1 <= self.size <= GREATEST_CLUSTER:
            raise ClusterError(f"--nodes must be 1 to {GREATEST_CLUSTER}, not {self.size}")
        if not 1024 <= self.base_port <= 65_000:
            raise ClusterError(f"--base-port must be 1024 to 65000, not {self.base_port}")
        self.places = {f"n{i}": self._place(i) for i in range(1, self.size + 1)}
        self.addresses = {node: place.api_address for node, place in self.places.items()}

    def _place(self, number: int) -> NodePlace:
        node_id = f"n{number}"
        return NodePlace(
            node_id=node_id,
            api_port=self.base_port + number,
            peer_port=self.base_port + PEER_PORT_OFFSET + number,
            dtm_port=self.base_port + DTM_PORT_OFFSET + number,
            data_dir=self.data_dir / node_id,
            log_file=self.data_dir / f"{node_id}.log",
        )

    def place(self, node_id: str) -> NodePlace:
        """Raises ClusterError when there is no such node."""
        try:
            return self.places[node_id]
        except KeyError:
            known = ", ".join(self.places)
            raise ClusterError(f"there is no node {node_id!r}; there are {known}") from None

    # What runs

    def process(self, node_id: str) -> ProcessIdentity | None:
        """Return the node's process when it is alive, running or paused."""
        state = _read_state(self.data_dir)
        identity = state.processes.get(node_id) if state else None
        return identity if identity is not None and identity.state() is not None else None

    def running(self) -> list[str]:
        """Return the ids of nodes that are alive, paused ones included."""
        return [node_id for node_id in self.places if self.process(node_id)]

    def is_paused(self, node_id: str) -> bool:
        identity = self.process(node_id)
        return identity is not None and identity.state() in {"T", "t"}

    # Starting

    def start(self, node_id: str) -> bool:
        """Start a node's process; return False when it runs already. Does not wait for it.

        Raises:
            ClusterError: one of its ports is taken.
        """
        place = self.place(node_id)
        with self._locked():
            state = self._state()
            known = state.processes.get(node_id)
            if known is not None and known.state() is not None:
                return False
            ports = [(place.api_port, "API"), (place.peer_port, "peers")]
            ports.append((place.dtm_port, "gateway of DTM's protocol"))
            for port, purpose in ports:
                _refuse_taken_port(port, node_id, purpose)
            bootstrap = node_id == "n1" and all(other.is_empty for other in self.places.values())
            place.data_dir.mkdir(parents=True, exist_ok=True)
            state.processes[node_id] = self._spawn(place, bootstrap=bootstrap)
            _write_state(self.data_dir, state)
        self.exists = True
        return True

    def _spawn(self, place: NodePlace, *, bootstrap: bool) -> ProcessIdentity:
        command = [
            *self._program,
            *("--config", str(ROOT / "cluster.conf")),
            *("--node-id", place.node_id),
            *("--data-dir", str(place.data_dir)),
            *(["--bootstrap"] if bootstrap else []),
        ]
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TIDELOCK_CLUSTER_NODES": self._nodes_setting(),
            "TIDELOCK_GATEWAYS_DTM_ENABLED": "true",
            "TIDELOCK_GATEWAYS_DTM_ADDRESS": place.dtm_address,
            "TIDELOCK_GATEWAYS_DTM_CLUSTER_ADDRESSES": ",".join(
                each.dtm_address for each in self.places.values()
            ),
            **self._environment.get(place.node_id, {}),
        }
        reading, writing = os.pipe()
        try:
            pump = [sys.executable, "-I", "-S", str(_LOG_PUMP), str(place.log_file)]
            _spawn([*pump, str(_LOG_MAX_BYTES)], dict(os.environ), stdin=reading)
            pid = _spawn(command, environment, output=writing)
        finally:
            os.close(reading)
            os.close(writing)
        return ProcessIdentity.of(pid)

    def _nodes_setting(self) -> str:
        tables = (
            f'{{id = "{place.node_id}", api = "{place.api_address}", '
            f'peer = "{place.peer_address}"}}'
            for place in self.places.values()
        )
        return f"[{', '.join(tables)}]"

    # Ending and disturbing

    def kill(self, node_id: str) -> bool:
        """SIGKILL; return False when it was not running."""
        return self._signal(node_id, signal.SIGKILL, wait_s=STOPS_WITHIN_S)

    def pause(self, node_id: str) -> bool:
        return self._signal(node_id, signal.SIGSTOP)

    def resume(self, node_id: str) -> bool:
        return self._signal(node_id, signal.SIGCONT)

    def _signal(self, node_id: str, number: signal.Signals, *, wait_s: float = 0.0) -> bool:
        self.place(node_id)
        identity = self.process(node_id)
        if identity is None or not identity.send(number):
            return False
        if wait_s and not identity.wait_until_gone(wait_s):
            raise ClusterError(f"{node_id} (pid {identity.pid}) does not end on {number.name}")
        return True

    def stop(self, node_ids: Iterable[str] | None = None) -> list[str]:
        """End nodes, all by default: SIGTERM, and SIGKILL for what is left after 10 s.

        Paused ones are resumed, to hear it. Returns the ids of those that had been running.
        """
        chosen = list(self.places if node_ids is None else node_ids)
        alive = {node: process for node in chosen if (process := self.process(node))}
        for process in alive.values():
            process.send(signal.SIGTERM)
            process.send(signal.SIGCONT)
        ends_at = time.monotonic() + STOPS_WITHIN_S
        for process in alive.values():
            if not process.wait_until_gone(max(ends_at - time.monotonic(), 0.0)):
                process.send(signal.SIGKILL)
                process.wait_until_gone(STOPS_WITHIN_S)
        return list(alive)

    def wipe(self, node_id: str) -> None:
        """Delete what a stopped node keeps on disk. Its log stays.

        Raises:
            ClusterError: it is running.
        """
        place = self.place(node_id)
        if self.process(node_id) is not None:
            raise ClusterError(f"{node_id} is running: kill it before its data is wiped")
        if place.data_dir.exists():
            shutil.rmtree(place.data_dir)

    def remove(self) -> None:
        """Delete everything that a stopped cluster keeps, and the directory when that empties it.

        Raises:
            ClusterError: a node is running.
        """
        for node_id in self.places:
            self.wipe(node_id)
            place = self.places[node_id]
            for log in (place.log_file, place.log_file.with_name(place.log_file.name + ".1")):
                log.unlink(missing_ok=True)
        for name in (_STATE_FILE, _LOCK_FILE):
            (self.data_dir / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.data_dir.rmdir()
        self.exists = False

    # Waiting

    async def wait_until_ready(
        self,
        node_ids: Iterable[str] | None = None,
        *,
        timeout_s: float = READY_WITHIN_S,
        on_progress: Callable[[Mapping[str, str]], None] | None = None,
    ) -> None:
        """Return when every node answers /health/ready with 200.

        `on_progress` is told now and then what each node lacks, `ready` when nothing.

        Raises:
            ClusterError: a node ended, or is not ready in time; with the end of its log.
        """
        lacking = dict.fromkeys(node_ids or self.places, "starting")
        waiting = list(lacking)
        ends_at = time.monotonic() + timeout_s
        async with ClusterClient(self.addresses) as client:
            while waiting:
                answers = await asyncio.gather(
                    *(client.ask(node, "/health/ready") for node in waiting)
                )
                for node, answer in zip(list(waiting), answers, strict=True):
                    if self.process(node) is None:
                        raise ClusterError(f"{node} ended by itself\n{self.log_tail(node)}")
                    if answer is not None and answer.status == 200:
                        lacking[node] = "ready"
                        waiting.remove(node)
                    elif answer is not None:
                        lacking[node] = _reason(answer.body)
                if on_progress is not None:
                    on_progress(lacking)
                if waiting and time.monotonic() >= ends_at:
                    tails = "\n".join(self.log_tail(node) for node in waiting)
                    state = ", ".join(f"{node}: {lacking[node]}" for node in waiting)
                    raise ClusterError(f"not ready after {timeout_s:.0f} s: {state}\n{tails}")
                if waiting:
                    await asyncio.sleep(_POLL_S)

    def log_tail(self, node_id: str, lines: int = _LOG_TAIL_LINES) -> str:
        """Return the last lines of a node's log, under a heading."""
        path = self.place(node_id).log_file
        try:
            text = path.read_text(errors="replace")
        except FileNotFoundError:
            text = ""
        if len(text.splitlines()) < lines:
            with contextlib.suppress(FileNotFoundError):
                text = path.with_name(path.name + ".1").read_text(errors="replace") + text
        return "\n".join([f"== {path}", *text.splitlines()[-lines:]])

    # The state file

    def _state(self) -> _State:
        kept = _read_state(self.data_dir)
        return kept or _State(_STATE_FORMAT, self.base_port, self.size, {})

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Let two commands at once take turns."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with (self.data_dir / _LOCK_FILE).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


_claimed: list[int] = []
"""The socket that keeps the last base port from others: it ends with the process."""


def free_base_port(nodes: int = DEFAULT_NODES) -> int:
    """Return a base port at which every port of a cluster is free now.

    No other process is given it before this one asks again, or ends: the base port itself, which
    no node uses, is kept bound, so that two that start clusters at once do not meet.
    """
    for base_port in range(20_000 + (os.getpid() % 40) * 250, 32_000, 250):
        claim = socket.socket()
        try:
            claim.bind(("127.0.0.1", base_port))
        except OSError:
            claim.close()
            continue
        numbers = range(1, nodes + 1)
        offsets = (0, PEER_PORT_OFFSET, DTM_PORT_OFFSET)
        ports = [base_port + offset + i for offset in offsets for i in numbers]
        if all(_is_free(port) for port in ports):
            _claimed.append(claim.detach())
            while len(_claimed) > 1:
                os.close(_claimed.pop(0))
            return base_port
        claim.close()
    raise ClusterError("there is no free range of ports below 32000")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As a server binds: connections of the past that linger do not matter.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _refuse_taken_port(port: int, node_id: str, purpose: str) -> None:
    if not _is_free(port):
        holder = listening_process(port)
        raise ClusterError(
            f"port {port}, which {node_id} needs for its {purpose}, is in use"
            f"{f' by {holder}' if holder else ''}; end that, or choose other ports with --base-port"
        )


def _refuse_other_shape(
    kept: _State, data_dir: Path, nodes: int | None, base_port: int | None
) -> None:
    if nodes not in (None, kept.nodes) or base_port not in (None, kept.base_port):
        raise ClusterError(
            f"{data_dir} holds a cluster of {kept.nodes} nodes with base port {kept.base_port}; "
            "choose another --data, or stop and wipe that one first"
        )


def _read_state(data_dir: Path) -> _State | None:
    path = data_dir / _STATE_FILE
    try:
        state = msgspec.json.decode(path.read_bytes(), type=_State)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise ClusterError(f"{path} is not readable as the state of a cluster: {error}") from error
    if state.format != _STATE_FORMAT:
        raise ClusterError(f"{path} was written by another version (format {state.format})")
    return state


def _write_state(data_dir: Path, state: _State) -> None:
    path = data_dir / _STATE_FILE
    written = path.with_name(path.name + ".new")
    written.write_bytes(msgspec.json.format(msgspec.json.encode(state)) + b"\n")
    written.replace(path)


def _spawn(
    command: list[str],
    environment: Mapping[str, str],
    *,
    stdin: int | None = None,
    output: int | None = None,
) -> int:
    """Start a process in a session of its own, so that Ctrl-C at our terminal is ours alone."""
    if stdin is None:
        actions: list[tuple[object, ...]] = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
    else:
        actions = [(os.POSIX_SPAWN_DUP2, stdin, 0)]
    for stream in (1, 2):
        if output is None:
            actions.append((os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0))
        else:
            actions.append((os.POSIX_SPAWN_DUP2, output, stream))
    return os.posix_spawn(command[0], command, environment, file_actions=actions, setsid=True)


def _reason(body: object) -> str:
    detail = body.get("detail") if isinstance(body, dict) else None
    return str(detail) if detail else "not ready"
