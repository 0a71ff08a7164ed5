"""The coordinator that applications test with is a real one, and can be broken."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import tidelock
from tests.integration.resource_manager import agree, connected
from tests.meta.documents import ROOT
from tidelock.client import Client
from tidelock.driving import drive
from tidelock.errors import TransactionNotFoundError, UnavailableError
from tidelock.rm.resource import (
    BranchCall,
    BranchStatus,
    Mode,
    PhaseTwoResult,
    PhaseTwoStatus,
)
from tidelock.testing import Coordinator

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def coordinator(tidelock_coordinator: Coordinator) -> Coordinator:
    return tidelock_coordinator


async def begin(coordinator: Coordinator, session_id: int | None = None, row: str = "a") -> str:
    """Begin a transaction with a finished branch that has locked a row; return its xid."""

    async def work(client: Any) -> str:
        begun = await client.transactions.begin("purchase")
        registered = await client.branches.register(
            begun.xid, "AT", "db", session_id=session_id, lock_keys={"stock": [[row]]}
        )
        await client.branches.report(begun.xid, registered.branch_id, "PHASE_ONE_DONE")
        return str(begun.xid)

    return await asyncio.to_thread(coordinator.client.run, work)


# --- phase two


async def test_phase_two_and_the_clean_up_come_over_the_channel(coordinator: Coordinator) -> None:
    async with connected(coordinator.url, registers=False) as manager:
        manager.answer = agree
        await manager.register()
        xid = await begin(coordinator, manager.session_id)
        coordinator.client.run(lambda client: client.transactions.commit(xid))
        await manager.called(2)
        assert [call["type"] for call in manager.calls] == ["branch-commit", "clean"]
        await asyncio.to_thread(coordinator.assert_clean)
        await manager.say({"type": "leave"})
        await manager.ended()
    coordinator.assert_clean(sessions=True)


class Stock:
    """A resource that notes what it is asked."""

    resource_id = "stock"
    mode: Mode = "TCC"

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.commits = PhaseTwoStatus.COMMITTED
        self.rollbacks = PhaseTwoStatus.ROLLED_BACK

    async def commit(self, call: BranchCall) -> PhaseTwoResult:
        self.asked.append(f"commit {call.application_data}")
        return PhaseTwoResult(status=self.commits, detail="the shelf is gone")

    async def rollback(self, call: BranchCall) -> PhaseTwoResult:
        self.asked.append(f"rollback {call.application_data}")
        return PhaseTwoResult(status=self.rollbacks, detail="somebody changed the row")

    async def status(self, call: BranchCall) -> BranchStatus:
        return BranchStatus.UNKNOWN

    async def clean(self, ended: Sequence[BranchCall]) -> None:
        self.asked += ["clean" for _ in ended]


def take(application: tidelock.Application, sku: str) -> None:
    """Take part in the transaction of the caller, as a mode does."""
    xid = tidelock.current_xid()
    assert xid is not None
    session_id = drive(application.session_id(application.blocking))

    async def work(client: Client) -> None:
        registered = await client.branches.register(
            xid, "TCC", "stock", session_id=session_id, application_data=sku
        )
        await client.branches.report(xid, registered.branch_id, "PHASE_ONE_DONE")

    application.client.run(work)


def test_an_application_with_a_resource_is_tested_from_end_to_end(
    coordinator: Coordinator, tidelock_application: tidelock.Application
) -> None:
    stock = Stock()
    tidelock_application.attach(stock)
    with tidelock.transaction("purchase") as transaction:
        take(tidelock_application, "a-1")
        take(tidelock_application, "a-2")
    assert transaction.status == "COMMITTED"
    with tidelock.transaction("purchase") as transaction:
        take(tidelock_application, "a-3")
        transaction.set_rollback_only()
    coordinator.assert_clean()
    assert sorted(stock.asked[:2]) == ["commit a-1", "commit a-2"]
    assert stock.asked.count("rollback a-3") == 1
    assert stock.asked.count("clean") == 3
    assert coordinator.leftovers(sessions=True)
    tidelock_application.close()
    coordinator.assert_clean(sessions=True)


def test_a_branch_that_cannot_follow_the_decision_is_told_as_what_it_is(
    coordinator: Coordinator, tidelock_application: tidelock.Application
) -> None:
    stock = Stock()
    stock.commits = PhaseTwoStatus.COMMIT_FAILED_UNRETRYABLE
    stock.rollbacks = PhaseTwoStatus.ROLLBACK_FAILED_UNRETRYABLE
    tidelock_application.attach(stock)

    @tidelock.global_transaction
    def buy(*, fail: bool) -> None:
        take(tidelock_application, "a-1")
        if fail:
            raise LookupError("no money")

    with pytest.raises(tidelock.CommitFailedError) as committed:
        buy(fail=False)
    with pytest.raises(tidelock.RollbackFailedError) as rolled_back:
        buy(fail=True)
    assert committed.value.status == "COMMIT_FAILED"
    assert rolled_back.value.status == "ROLLBACK_FAILED"
    assert isinstance(rolled_back.value.__cause__, LookupError)
    assert len(coordinator.leftovers()) == 2


def test_who_cannot_be_told_any_more_leaves_guards_that_need_not_count(
    coordinator: Coordinator, tidelock_application: tidelock.Application
) -> None:
    class Deaf(Stock):
        async def clean(self, ended: Sequence[BranchCall]) -> None:
            raise RuntimeError("the database is away")

    tidelock_application.attach(Deaf())
    with tidelock.transaction():
        take(tidelock_application, "a-1")
    tidelock_application.close()
    coordinator.assert_clean(guards=False)
    (left,) = coordinator.leftovers()
    assert left.endswith("was not cleaned")


def test_branches_that_follow_later_do_not_hold_up_the_end_of_a_block(
    coordinator: Coordinator, tidelock_application: tidelock.Application
) -> None:
    stock = Stock()
    stock.commits = PhaseTwoStatus.COMMIT_FAILED_RETRYABLE
    tidelock_application.attach(stock)
    with tidelock.transaction(end_wait_ms=100) as transaction:
        take(tidelock_application, "a-1")
    assert transaction.status in ("COMMITTING", "COMMIT_RETRYING")
    stock.commits = PhaseTwoStatus.COMMITTED
    coordinator.advance(20_000)
    coordinator.assert_clean()
    assert coordinator.transaction(transaction.xid).status == "COMMITTED"


async def test_a_transaction_that_runs_out_of_time_is_rolled_back_at_its_managers(
    coordinator: Coordinator,
) -> None:
    async with connected(coordinator.url, registers=False) as manager:
        manager.answer = agree
        await manager.register()
        xid = await begin(coordinator, manager.session_id)
        coordinator.advance(60_001)
        assert (await manager.called())["type"] == "branch-rollback"
        await asyncio.to_thread(
            coordinator.wait_until,
            lambda: coordinator.transaction(xid).status == "TIMEOUT_ROLLED_BACK",
        )


async def test_a_repetition_is_made_when_the_time_has_come(coordinator: Coordinator) -> None:
    async with connected(coordinator.url, registers=False) as manager:
        answers = ["ROLLBACK_FAILED_RETRYABLE"] * 6 + ["ROLLED_BACK"]
        manager.answer = lambda call: answers.pop(0) if answers else agree(call)
        await manager.register()
        xid = await begin(coordinator, manager.session_id)
        coordinator.client.run(lambda client: client.transactions.rollback(xid, wait_ms=0))
        began = time.monotonic()
        for attempt in range(1, 8):
            await manager.called(attempt)
            await asyncio.to_thread(_until_tried, coordinator, xid, attempt)
            coordinator.advance(20_000)
        # By themselves the repetitions would take half a minute.
        assert time.monotonic() - began < 20


def _until_tried(coordinator: Coordinator, xid: str, attempt: int) -> None:
    """Wait until the cluster has noted an attempt; after the last one none is in vain any more."""
    coordinator.wait_until(
        lambda: coordinator.transaction(xid).branches[0].attempts in (attempt, 0)
    )


# --- looking


async def test_what_is_left_behind_is_listed(coordinator: Coordinator) -> None:
    async with connected(coordinator.url) as manager:
        xid = await begin(coordinator, manager.session_id)
        (locked,) = coordinator.row_locks()
        assert (locked.table, locked.key, locked.holders[0].xid) == ("stock", ["a"], xid)
        other = coordinator.client.run(lambda client: client.transactions.begin("late")).xid
        waiting = coordinator.client.submit(
            lambda client: client.branches.register(
                other, "AT", "db", lock_keys={"stock": [["a"]]}, wait_ms=60_000
            )
        )
        await asyncio.to_thread(
            coordinator.wait_until, lambda: any("waits" in line for line in coordinator.leftovers())
        )
        left = coordinator.leftovers(sessions=True)
        with pytest.raises(AssertionError, match="stock"):
            coordinator.assert_clean(within_s=0)
        coordinator.client.run(lambda client: client.transactions.rollback(xid, wait_ms=0))
        waiting.cancel()
    assert f"transaction {xid} 'purchase' is BEGIN" in left
    assert f"row stock ['a'] of db is locked by {xid}" in left
    assert "a request waits (ROW_LOCKS)" in left
    assert "session 1 of orders on h1 has not ended" in left


def test_an_unknown_transaction_is_none(coordinator: Coordinator) -> None:
    with pytest.raises(TransactionNotFoundError):
        coordinator.transaction("nobody:1:1")


def test_what_does_not_come_to_be_is_told(coordinator: Coordinator) -> None:
    with pytest.raises(AssertionError, match="the moon"):
        coordinator.wait_until(lambda: False, 0.05, "the moon")


def test_clocks_and_locks_are_served_as_well(coordinator: Coordinator) -> None:
    client = coordinator.client
    assert client.timestamp() < client.timestamp()
    assert client.record("created", node_id="orders").lamport_timestamp == 1
    with client.lock("stock", ttl_ms=1_000) as lock:
        assert not lock.lost


def test_proposals_are_voted_on(coordinator: Coordinator) -> None:
    coordinator.client.run(lambda client: client.proposals.propose({"b": 1}, 7, key="a"))
    kept = coordinator.client.run(lambda client: client.proposals.committed("a"))
    assert kept.data == {"b": 1}


# --- breaking


def test_requests_fail_as_often_as_they_are_told_to(coordinator: Coordinator) -> None:
    coordinator.fail_next("begin", times=2)
    coordinator.client.run(lambda client: client.transactions.begin("a"))
    assert coordinator.requests("begin") == 3
    assert len(coordinator.transactions()) == 1


def test_a_request_may_be_done_though_its_answer_is_lost(coordinator: Coordinator) -> None:
    with coordinator.failing("begin", "lost"), pytest.raises(tidelock.OutcomeUnknownError):
        coordinator.client.run(lambda client: client.transactions.begin("a", timeout_ms=200))
    assert [each.name for each in coordinator.transactions()] == ["a"]


def test_a_connection_may_break(coordinator: Coordinator) -> None:
    with coordinator.failing("any", "unanswered"), pytest.raises(tidelock.OutcomeUnknownError):
        coordinator.client.run(lambda client: client.transactions.begin("a", timeout_ms=200))
    assert coordinator.transactions() == []


def test_what_fails_does_so_until_the_block_ends(coordinator: Coordinator) -> None:
    with coordinator.failing("begin"), pytest.raises(UnavailableError):
        coordinator.client.run(lambda client: client.transactions.begin("a", timeout_ms=100))
    coordinator.client.run(lambda client: client.transactions.begin("a"))


def test_faults_that_are_none_are_refused(coordinator: Coordinator) -> None:
    wrong: Any = "explode"
    with pytest.raises(ValueError, match="faults are unavailable, lost, unanswered"):
        coordinator.fail_next("begin", wrong)
    with pytest.raises(ValueError, match="operations are begin"):
        coordinator.fail_next(wrong)
    with pytest.raises(ValueError, match="times"):
        coordinator.fail_next("begin", times=0)
    with pytest.raises(ValueError, match="backwards"):
        coordinator.advance(-1)


# --- the fixtures


def test_the_application_of_the_fixture_is_the_configured_one(
    tidelock_application: tidelock.Application,
) -> None:
    assert tidelock.configured() is tidelock_application


def test_a_coordinator_ends_once_and_takes_its_thread_along() -> None:
    coordinator = Coordinator()
    coordinator.close()
    coordinator.close()
    with (
        pytest.raises(tidelock.TidelockError),
        tidelock.Application([coordinator.url], application_id="a", timeout_ms=200) as application,
        tidelock.transaction(application=application),
    ):
        pytest.fail("entered")


def test_the_plugin_loads_nothing_until_a_test_asks() -> None:
    code = (
        "import sys, tidelock_testing.pytest_plugin;"
        "heavy = {'aiohttp', 'msgspec', 'tidelock.client', 'tidelock_testing.coordinator'};"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


def test_without_the_extra_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['tidelock_testing'] = None; import tidelock.testing"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr.splitlines()[-1].endswith('pip install "tidelock[testing]"')


def test_pytest_finds_the_fixtures_by_itself(tmp_path: Path) -> None:
    (tmp_path / "test_shop.py").write_text(
        "import tidelock\n"
        "def test_purchase(tidelock_coordinator, tidelock_application):\n"
        "    with tidelock.transaction() as transaction:\n"
        "        pass\n"
        "    assert tidelock_coordinator.transaction(transaction.xid).status == 'COMMITTED'\n"
    )
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:schemathesis", tmp_path],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
