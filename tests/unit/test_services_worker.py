"""The worker of the XA and JTA services as a process, where what it needs is not installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from services.messages import Configure, SourceSettings, Unavailable, from_worker, to_line
from tests.meta.documents import ROOT


def configured(password: str = "") -> Configure:
    def source(kind: str) -> SourceSettings:
        return SourceSettings(
            kind=kind, host="127.0.0.1", port=1, user="u", database="d", password=password
        )

    return Configure(
        node_id="n1",
        addresses=("http://127.0.0.1:1",),
        primary=source("mariadb"),
        secondary=source("postgresql"),
        concurrency=1,
        transaction_timeout_ms=1_000,
        rollback_wait_ms=1_000,
        batch_update_allowed=(),
        migration_allowed=(),
        create_tables=True,
        log_level="info",
    )


@pytest.mark.parametrize(
    ("missing", "extra"),
    [("pymysql", "tidelock[pymysql]"), ("psycopg", "tidelock[psycopg]"), ("wrapt", "tidelock[")],
)
def test_a_worker_without_what_it_needs_says_what_to_install_and_stays(
    tmp_path: Path, missing: str, extra: str
) -> None:
    (tmp_path / f"{missing}.py").write_text("raise ModuleNotFoundError('it is not installed')\n")
    worker = subprocess.Popen(
        [sys.executable, "-m", "services"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(to_line(configured("secret")) + b"\n")
    worker.stdin.flush()
    told = from_worker.decode(worker.stdout.readline())
    assert isinstance(told, Unavailable)
    assert extra in told.why
    assert worker.poll() is None
    # The node goes, and so does its worker.
    _, errors = worker.communicate(timeout=30)
    assert worker.returncode == 0
    assert b"secret" not in errors
    assert b"Traceback" not in errors


def test_no_password_is_in_what_settings_look_like() -> None:
    assert "secret" not in repr(configured("secret"))
    assert msgspec.json.decode(to_line(configured("secret")))["primary"]["password"] == "secret"
