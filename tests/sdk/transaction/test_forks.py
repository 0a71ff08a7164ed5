"""Children that are forked within a block: it is their parent's, whatever they do at its end."""

from __future__ import annotations

import os
import sqlite3
import sys
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import tidelock
from tidelock.testing import Coordinator

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("tidelock_application")]


def forked_within(block: Callable[[Callable[[], None]], None]) -> None:
    """Run a block in this process, and its end in a child as well that is forked within it."""
    pid = -1

    def fork() -> None:
        nonlocal pid
        with warnings.catch_warnings():
            # Newer interpreters warn of any fork in a process with threads.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid:
            _, ended = os.waitpid(pid, 0)
            assert os.waitstatus_to_exitcode(ended) == 0

    status = 1
    try:
        block(fork)
        status = 0
    except SystemExit:
        status = 0
    finally:
        if pid == 0:
            os._exit(status)


@pytest.mark.parametrize("leaves", ["at its end", "by SystemExit"])
def test_a_child_does_not_end_the_transaction_of_its_parent(
    coordinator: Coordinator, leaves: str
) -> None:
    parent = os.getpid()

    def block(fork: Callable[[], None]) -> None:
        with tidelock.transaction() as transaction:
            fork()
            if os.getpid() != parent:
                if leaves == "by SystemExit":
                    sys.exit(0)
                return
            assert [each.status for each in coordinator.transactions()] == ["BEGIN"]
        assert transaction.status == "COMMITTED"

    forked_within(block)


def test_a_child_ends_no_unit_of_its_parent(coordinator: Coordinator, tmp_path: Path) -> None:
    path, parent = tmp_path / "shop.db", os.getpid()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (v INT)")
    source = tidelock.LcnDataSource(lambda: sqlite3.connect(path, check_same_thread=False))

    def block(fork: Callable[[], None]) -> None:
        @tidelock.lcn_transaction
        def insert() -> None:
            with source.connection() as held:
                held.execute("INSERT INTO t VALUES (1)")
                fork()
                if os.getpid() != parent:
                    raise SystemExit

        insert()

    forked_within(block)
    coordinator.assert_clean()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT v FROM t").fetchall() == [(1,)]
