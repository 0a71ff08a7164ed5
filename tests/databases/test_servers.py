"""The servers that other tests stand on: real, alone, and gone at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from tests.databases.servers import PREPARED_TRANSACTIONS, Server
from tests.meta.documents import ROOT

pytestmark = pytest.mark.databases


def test_mariadb_answers_and_runs_without_privileges(mariadb: Server) -> None:
    (version,) = mariadb.sql("SELECT VERSION()")[0]
    assert "MariaDB" in version
    assert Path(f"/proc/{mariadb.process.pid}").stat().st_uid != 0


def test_postgresql_answers_and_prepares_transactions(postgresql: Server) -> None:
    assert postgresql.sql("SHOW max_prepared_transactions") == [(str(PREPARED_TRANSACTIONS),)]
    assert Path(f"/proc/{postgresql.process.pid}").stat().st_uid != 0


def test_a_database_is_of_one_test(postgresql: Server, postgresql_database: str) -> None:
    postgresql.sql("CREATE TABLE t (id int)", database=postgresql_database)
    with postgresql.database() as other, pytest.raises(psycopg.errors.UndefinedTable):
        postgresql.sql("SELECT * FROM t", database=other)


def test_a_database_goes_with_its_connections_and_prepared_transactions(
    postgresql: Server,
) -> None:
    with postgresql.database() as name:
        held = psycopg.connect(
            host=postgresql.host, port=postgresql.port, user=postgresql.user, dbname=name
        )
        held.execute("CREATE TABLE t (id int)")
        held.execute("PREPARE TRANSACTION 'left'")
    held.close()
    assert postgresql.sql("SELECT gid FROM pg_prepared_xacts") == []


STARTS_ONE = """
import sys, time
from tests.databases.servers import {make}
with {make}() as server:
    print(server.process.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("make", ["mariadb_server", "postgresql_server"])
def test_a_server_ends_with_the_tests_even_when_they_are_killed(make: str) -> None:
    tests = subprocess.Popen(
        [sys.executable, "-c", STARTS_ONE.format(make=make)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert tests.stdout is not None
    server = int(tests.stdout.readline())
    tests.send_signal(signal.SIGKILL)
    tests.wait()
    tests.stdout.close()
    ends_at = time.monotonic() + 20
    while _lives(server):
        assert time.monotonic() < ends_at
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]
