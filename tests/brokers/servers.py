"""Redis, NATS and RabbitMQ of the tests' own: Debian's programs, free ports, a folder that goes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

READY_WITHIN_S: Final = 60.0
STOPPED_WITHIN_S: Final = 20.0

ABSENT: Final = (
    "There is no {program} on this machine. Run `apt-get install {package}` as root (scripts/test, "
    "run by root, does it by itself), or leave these tests out with -m 'not brokers'."
)


@dataclass(frozen=True)
class Broker:
    """A running server."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def host(self) -> str:
        return "127.0.0.1"


@contextmanager
def redis_server() -> Iterator[Broker]:
    """Run Redis, which keeps nothing on disk."""
    program, port = _program("redis-server", "redis-server"), _free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with _folder() as folder, _running(port, folder, [program, *options]) as broker:
        yield broker


@contextmanager
def nats_server() -> Iterator[Broker]:
    """Run NATS with JetStream."""
    program, port = _program("nats-server", "nats-server"), _free_port()
    with _folder() as folder:
        options = ["--addr", "127.0.0.1", "--port", str(port), "--jetstream"]
        command = [program, *options, "--store_dir", str(folder)]
        with _running(port, folder, command) as broker:
            yield broker


@contextmanager
def rabbitmq_server() -> Iterator[Broker]:
    """Run RabbitMQ, whose node talks to no other."""
    found = _program("rabbitmq-server", "rabbitmq-server")
    # Debian's wrapper wants to be its own user; what it wraps does not.
    inner = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    program = str(inner) if inner.exists() else found
    port, distribution, mapper = _free_port(), _free_port(), _free_port()
    with _folder() as folder, _port_mapper(mapper):
        (folder / "plugins").write_text("[].\n")
        settings = {
            "HOME": str(folder),
            "RABBITMQ_NODENAME": f"t{os.getpid()}@localhost",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "logs"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_CONFIG_FILE": str(folder / "none"),
            "RABBITMQ_SERVER_START_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(mapper),
        }
        with _running(port, folder, [program], settings) as broker:
            yield broker


@contextmanager
def _port_mapper(port: int) -> Iterator[None]:
    """Run Erlang's port mapper: one that Erlang starts by itself would outlive it."""
    program = _program("epmd", "rabbitmq-server")
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig=KILL", program, "-address", "127.0.0.1", "-port", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        ends_at = time.monotonic() + READY_WITHIN_S
        while not _listens(port):
            assert process.poll() is None, "Erlang's port mapper ended"
            assert time.monotonic() < ends_at, "Erlang's port mapper does not listen"
            time.sleep(0.02)
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def _running(
    port: int, folder: Path, command: list[str], environment: Mapping[str, str] | None = None
) -> Iterator[Broker]:
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            # In a session of its own it can be ended with all that it started, and it ends with us.
            ["setpriv", "--pdeathsig=TERM", *command],
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _await(lambda: _listens(port), process, log)
        yield Broker(port, process)
    finally:
        process.terminate()
        try:
            process.wait(STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _end_session(process.pid)


def _end_session(leader: int) -> None:
    """End what a server left running, such as Erlang's port mapper."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader:
                os.kill(int(entry.name), 9)
        except (OSError, IndexError):
            continue


def _await(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    ends_at = time.monotonic() + READY_WITHIN_S
    while not ready():
        assert process.poll() is None, f"the server ended:\n{log.read_text(errors='replace')}"
        assert time.monotonic() < ends_at, log.read_text(errors="replace")
        time.sleep(0.02)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="tidelock-broker-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _program(name: str, package: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.fail(ABSENT.format(program=name, package=package), pytrace=False)
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
