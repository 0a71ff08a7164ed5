"""Rows of barriers stay as long as the cluster may still call, and are deleted after that."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import aiosqlite
import pytest

from tidelock.application import Application
from tidelock.barrier import Branch, BranchBarrier, barrier_ddl
from tidelock.barrier.sweeping import Swept, sweep, sweep_async
from tidelock.testing import Coordinator


@pytest.fixture
def application(tidelock_coordinator: Coordinator) -> Iterator[Application]:
    with tidelock_coordinator.application("orders") as made:
        yield made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.execute(barrier_ddl("sqlite"))
        connection.commit()
    return tmp_path / "a.db"


def passed(connection: sqlite3.Connection, gid: str) -> None:
    branch = Branch(trans_type="tcc", gid=gid, branch_id="01", op="cancel")
    BranchBarrier(branch).run(connection, lambda _: None)


def kept(connection: sqlite3.Connection) -> list[str]:
    found = connection.execute("SELECT DISTINCT gid FROM barrier ORDER BY gid").fetchall()
    return [gid for (gid,) in found]


def begun(application: Application, *, ends: bool) -> str:
    xid = application.client.run(lambda client: client.transactions.begin()).xid
    if ends:
        application.client.run(lambda client: client.transactions.rollback(xid))
    return xid


def test_rows_of_ended_transactions_are_deleted_and_those_of_others_stay(
    application: Application, file: Path
) -> None:
    ended, under_way = begun(application, ends=True), begun(application, ends=False)
    others = ["never-begun", "no/xid"]
    with closing(sqlite3.connect(file)) as connection:
        for gid in [ended, under_way, *others]:
            passed(connection, gid)
        assert sweep(connection, application=application) == Swept(
            deleted=0, under_way=2, unknown=2
        ), "not long enough ago"
        assert sweep(connection, application=application, ended_since_ms=0) == Swept(
            deleted=2, under_way=1, unknown=2
        )
        assert kept(connection) == sorted([under_way, *others])
        assert not connection.in_transaction
    application.client.run(lambda client: client.transactions.rollback(under_way))


def test_any_number_of_transactions_is_gone_through(
    application: Application, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidelock.barrier.sweeping.BATCH", 3)
    ended = [begun(application, ends=True) for _ in range(7)]
    with closing(sqlite3.connect(file)) as connection:
        for gid in [*ended, "never-begun"]:
            passed(connection, gid)
        found = sweep(connection, application=application, ended_since_ms=0)
        assert found == Swept(deleted=14, under_way=0, unknown=1)
        assert kept(connection) == ["never-begun"]


async def test_an_asynchronous_connection_is_swept_as_well(
    application: Application, file: Path
) -> None:
    ended = await asyncio.to_thread(begun, application, ends=True)
    async with aiosqlite.connect(file) as connection:
        message = BranchBarrier.of_message(ended)
        await message.query_prepared_async(connection)
        found = await sweep_async(connection, application=application, ended_since_ms=0)
    assert found == Swept(deleted=1, under_way=0, unknown=0)
