"""Database servers of our own: Debian's programs, a free port, a folder that goes with them.

Tests, `scripts/bench` and `scripts/bank` start them. They run as a user without privileges, keep
nothing safe (no fsync), and end with the process that started them in whatever way that ends.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal

import psycopg
import pymysql

Kind = Literal["mariadb", "postgresql"]

READY_WITHIN_S: Final = 60.0
STOPPED_WITHIN_S: Final = 20.0
PREPARED_TRANSACTIONS: Final = 64

ABSENT: Final = (
    "There is no {program} on this machine. Run `apt-get install {package}` as root; scripts/test, "
    "run by root, does it by itself."
)


class ServerError(Exception):
    """A server cannot be had; the message says why and what to do."""


class ServerMissingError(ServerError):
    """Its programs are not installed."""


@dataclass
class Server:
    """A running server. Whoever connects from this machine may do everything."""

    kind: Kind
    port: int
    user: str
    folder: Path
    process: subprocess.Popen[bytes]
    host: str = "127.0.0.1"
    _names: Iterator[int] = field(default_factory=count)

    def sql(self, *statements: str, database: str = "") -> list[tuple[Any, ...]]:
        """Execute statements, each committed by itself; return the rows of the last."""
        rows: list[tuple[Any, ...]] = []
        if self.kind == "mariadb":
            with (
                pymysql.connect(
                    host=self.host,
                    port=self.port,
                    user=self.user,
                    database=database,
                    autocommit=True,
                ) as mysql,
                mysql.cursor() as cursor,
            ):
                for statement in statements:
                    cursor.execute(statement)
                    rows = list(cursor.fetchall())
        else:
            with psycopg.connect(
                host=self.host, port=self.port, user=self.user, dbname=database or "postgres",
                autocommit=True,
            ) as connection:  # fmt: skip
                for statement in statements:
                    found = connection.execute(statement.encode())
                    rows = found.fetchall() if found.description else []
        return rows

    def where(self, database: str) -> dict[str, Any]:
        """Return what the blocking driver (PyMySQL, psycopg) is told to reach a database."""
        name = "database" if self.kind == "mariadb" else "dbname"
        return {"host": self.host, "port": self.port, "user": self.user, name: database}

    @contextmanager
    def database(self) -> Iterator[str]:
        """Make an empty database; it is dropped with whoever is still connected to it."""
        name = f"t{os.getpid()}_{next(self._names)}"
        self.sql(f"CREATE DATABASE {name}")
        try:
            yield name
        finally:
            self.sql(self._dropping(name))

    def _dropping(self, name: str) -> str:
        if self.kind == "mariadb":
            return f"DROP DATABASE IF EXISTS {name}"
        prepared = f"SELECT gid FROM pg_prepared_xacts WHERE database = '{name}'"  # noqa: S608
        for (gid,) in self.sql(prepared):
            self.sql(f"ROLLBACK PREPARED '{gid}'", database=name)
        return f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"


@contextmanager
def mariadb_server() -> Iterator[Server]:
    """Run MariaDB. Raises: ServerError"""
    install = _program("mariadb-install-db", "mariadb-server")
    daemon = _program("mariadbd", "mariadb-server")
    with _folder("mysql") as (folder, user):
        data, port = folder / "data", _free_port()
        # Its temporary tables are named by process ids that begin anew in containers.
        common = ["--no-defaults", f"--datadir={data}", f"--tmpdir={folder}"]
        small = ["--innodb-log-file-size=8M", "--innodb-buffer-pool-size=32M"]
        _finish(
            [install, *common, *small, "--skip-test-db", "--skip-name-resolve", "--cross-bootstrap",
             "--auth-root-authentication-method=normal"],
            user, folder,
        )  # fmt: skip
        fast = ["--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=OFF", "--sync-binlog=0"]
        where = [
            "--bind-address=127.0.0.1", f"--port={port}", f"--socket={folder}/socket",
            f"--pid-file={folder}/pid",
        ]  # fmt: skip
        limits = ["--max-connections=300", "--skip-name-resolve", "--performance-schema=OFF"]
        command = [daemon, *common, *small, *fast, *where, *limits]
        with _running("mariadb", "root", port, folder, command, user, signal.SIGTERM) as server:
            yield server


@contextmanager
def postgresql_server() -> Iterator[Server]:
    """Run PostgreSQL. Raises: ServerError"""
    newest = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name)
    )
    search = ":".join(str(path) for path in reversed(newest))
    initdb = _program("initdb", "postgresql", search)
    daemon = _program("postgres", "postgresql", search)
    with _folder("postgres") as (folder, user):
        data, port = folder / "data", _free_port()
        _finish(
            [initdb, "--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8",
             "--locale=C.UTF-8", f"--pgdata={data}"],
            user, folder,
        )  # fmt: skip
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": folder,
            "max_prepared_transactions": PREPARED_TRANSACTIONS,
            "max_connections": 300,
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "shared_buffers": "32MB",
            "autovacuum": "off",
        }
        given = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [daemon, "-D", str(data), *given]
        with _running(
            "postgresql", "postgres", port, folder, command, user, signal.SIGINT
        ) as server:
            yield server


@contextmanager
def _running(
    kind: Kind,
    role: str,
    port: int,
    folder: Path,
    command: Sequence[str],
    user: str | None,
    stop: signal.Signals,
) -> Iterator[Server]:
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            _as_user(command, user, stop), cwd=folder, stdin=subprocess.DEVNULL,
            stdout=output, stderr=output,
        )  # fmt: skip
    server = Server(kind=kind, port=port, user=role, folder=folder, process=process)
    try:
        _await_ready(lambda: server.sql("SELECT 1"), process, log)
        yield server
    finally:
        process.send_signal(stop)
        try:
            process.wait(STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_ready(ask: Callable[[], object], process: subprocess.Popen[bytes], log: Path) -> None:
    ends_at = time.monotonic() + READY_WITHIN_S
    while True:
        if process.poll() is not None:
            raise ServerError(f"the server ended:\n{log.read_text(errors='replace')}")
        try:
            ask()
        except (pymysql.OperationalError, psycopg.OperationalError):
            if time.monotonic() >= ends_at:
                raise ServerError(
                    f"the server does not answer:\n{log.read_text(errors='replace')}"
                ) from None
            time.sleep(0.01)
        else:
            return


@contextmanager
def _folder(preferred: str) -> Iterator[tuple[Path, str | None]]:
    """Make a folder that belongs to the user who will run the server.

    Root lends it to the package's user, or to nobody: neither server runs as root.
    """
    folder = Path(tempfile.mkdtemp(prefix="tidelock-db-"))
    user: str | None = None
    if os.getuid() == 0:
        names = {entry.pw_name for entry in pwd.getpwall()}
        user = preferred if preferred in names else "nobody"
        entry = pwd.getpwnam(user)
        os.chown(folder, entry.pw_uid, entry.pw_gid)
    try:
        yield folder, user
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _as_user(command: Sequence[str], user: str | None, at_our_end: signal.Signals) -> list[str]:
    """Return the command as that user's, which hears a signal when this process ends."""
    dying = f"--pdeathsig={at_our_end.name.removeprefix('SIG')}"
    if user is None:
        return ["setpriv", dying, *command]
    entry = pwd.getpwnam(user)
    whose = [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
    return ["setpriv", *whose, dying, *command]


def _finish(command: Sequence[str], user: str | None, folder: Path) -> None:
    done = subprocess.run(
        _as_user(command, user, signal.SIGKILL), cwd=folder, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=READY_WITHIN_S, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise ServerError(f"{command[0]} failed:\n{done.stdout}\n{done.stderr}")


def _program(name: str, package: str, folders: str = "") -> str:
    search = f"{folders}:{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    found = shutil.which(name, path=search)
    if found is None:
        raise ServerMissingError(ABSENT.format(program=name, package=package))
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
