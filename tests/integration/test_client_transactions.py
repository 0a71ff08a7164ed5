"""Transactions, branches and row locks of the SDK, against the API on a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from api.cluster import OutcomeUnknownError as OutcomeUnknown
from statemachine.state import MachineState
from statemachine.transactions.rows import get_global
from tests.integration.fake_node import FakeNode, Heard, answer_of, listening
from tests.integration.serving import Api, serving
from tests.integration.transacting import Application
from tidelock.client import BlockingClient, Client, RowsToLock, transport
from tidelock.client.answers import BranchState, LockedRow, Transaction
from tidelock.client.row_keys import KeyPart
from tidelock.errors import (
    BranchFailedError,
    BranchNotFoundError,
    BranchNotTriedError,
    BranchStatusFixedError,
    BranchUnfinishedError,
    ChannelSessionEndedError,
    ClientClosedError,
    DeadlockError,
    LockConflictError,
    OperationNotPossibleError,
    OutcomeUnknownError,
    TransactionDecidedError,
    TransactionExistsError,
    TransactionNotActiveError,
    TransactionNotFoundError,
)

LONG_MS = 60_000
WITHIN_S = 10.0


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


@pytest.fixture
async def client(api: Api) -> AsyncIterator[Client]:
    async with Client([api.url], discover=False) as made:
        yield made


async def begin(client: Client, *xids: str) -> None:
    for xid in xids:
        await client.transactions.begin(xid=xid)


async def register(
    client: Client, xid: str, *rows: KeyPart, wait_ms: int = 0, key: str | None = None
) -> BranchState:
    """Register a branch that nobody is called for."""
    if key is None:
        return await client.branches.register(
            xid,
            "AT",
            "db",
            lock_keys={"t": [[row] for row in rows]} if rows else None,
            wait_ms=wait_ms,
            commit_url="",
            rollback_url="",
        )
    lock_keys = {"t": [[row] for row in rows]}
    return await client.branches.register(
        xid, "AT", "db", lock_keys=lock_keys, wait_ms=wait_ms, idempotency_key=key
    )


async def done(client: Client, xid: str, *rows: KeyPart) -> int:
    """Register a branch whose work is done, and return it."""
    branch = await register(client, xid, *rows)
    await client.branches.report(xid, branch.branch_id, "PHASE_ONE_DONE")
    return branch.branch_id


async def held(client: Client) -> list[LockedRow]:
    return [row async for row in client.row_locks.list(resource_id="db")]


async def queue_of(client: Client, length: int) -> None:
    async with asyncio.timeout(WITHIN_S):
        while sum(row.queue_length for row in await held(client)) != length:
            await asyncio.sleep(0.01)


async def shown_once(client: Client, xid: str, *statuses: str) -> Transaction:
    """Return a transaction once its branches have these statuses."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            shown = await client.transactions.get(xid)
            if [branch.status for branch in shown.branches] == list(statuses):
                return shown
            await asyncio.sleep(0.01)


# --- from the beginning to the end


async def test_a_transaction_is_begun_joined_and_committed(client: Client) -> None:
    begun = await client.transactions.begin("buy", transaction_timeout_ms=9_000, mode="AT")
    assert (begun.status, begun.name, begun.timeout_ms) == ("BEGIN", "buy", 9_000)
    branch = await client.branches.register(
        begun.xid,
        "AT",
        "db",
        locks=[RowsToLock({"t": [[1, "a", None, True]]}), RowsToLock({"u": [[2]]}, "SHARED")],
        application_id="orders",
        application_data={"n": 1},
        commit_url="",
        rollback_url="",
    )
    assert branch.status == "REGISTERED"
    reported = await client.branches.report(begun.xid, branch.branch_id, "PHASE_ONE_DONE")
    assert reported.status == "PHASE_ONE_DONE"
    shown = await client.transactions.get(begun.xid)
    assert (shown.status, shown.kept_in_full, shown.mode) == ("BEGIN", True, "AT")
    assert [each.application_data for each in shown.branches] == [{"n": 1}]
    assert [(row.table, row.key, row.holders[0].lock_mode) for row in shown.locks] == [
        ("t", [1, "a", None, True], "EXCLUSIVE"),
        ("u", [2], "SHARED"),
    ]
    state = await client.transactions.commit(begun.xid, reason="paid")
    assert (state.is_to_commit, state.timed_out, state.reason) == (True, False, "paid")
    ended = await shown_once(client, begun.xid, "PHASE_TWO_COMMITTED")
    assert ended.locks == []
    assert ended.timeline
    assert [each.xid async for each in client.transactions.list(name="buy")] == [begun.xid]
    assert [each async for each in client.transactions.list(status="BEGIN")] == []


async def test_a_transaction_without_branches_ends_at_once(client: Client) -> None:
    await begin(client, "x", "y")
    committed = await client.transactions.commit("x")
    assert (committed.status, committed.has_ended) == ("COMMITTED", True)
    assert (await client.transactions.rollback("y", reason="no")).status == "ROLLED_BACK"
    assert (await client.transactions.commit("x")).status == "COMMITTED"


def committers(api: Api, xid: str) -> int:
    row = get_global(api.cluster.store, xid)
    assert row is not None
    return len(row.committing)


async def test_a_commit_waits_for_the_branches_to_report(api: Api, client: Client) -> None:
    await begin(client, "x")
    branch = await register(client, "x")
    # The deadline is that of an attempt; the wait comes before it.
    commit = client.transactions.commit("x", wait_ms=LONG_MS, timeout_ms=1)
    committing = asyncio.create_task(commit)
    async with asyncio.timeout(WITHIN_S):
        while not committers(api, "x"):
            await asyncio.sleep(0.01)
    await client.branches.report("x", branch.branch_id, "PHASE_ONE_READ_ONLY")
    async with asyncio.timeout(WITHIN_S):
        assert (await committing).status == "COMMITTED"


async def test_a_commit_that_comes_too_late_says_so_in_its_status(api: Api, client: Client) -> None:
    await client.transactions.begin(xid="x", transaction_timeout_ms=10)
    api.cluster.let_pass(11)
    state = await client.transactions.commit("x")
    assert (state.status, state.timed_out) == ("TIMEOUT_ROLLED_BACK", True)
    assert not state.is_to_commit


async def test_failures_of_branches_are_listed(client: Client) -> None:
    await begin(client, "x")
    branch = await register(client, "x")
    await client.branches.report(
        "x",
        branch.branch_id,
        "PHASE_ONE_FAILED",
        error_type="Sold",
        error_message="out",
        error_at=7,
    )
    (found,) = [each async for each in client.transactions.exceptions()]
    assert (found.xid, found.status, found.error.type) == ("x", "PHASE_ONE_FAILED", "Sold")
    assert (found.error.message, found.error.at) == ("out", 7)


# --- rows


async def test_a_conflict_names_who_has_the_row(client: Client) -> None:
    await begin(client, "x", "y")
    branch = await done(client, "x", "a")
    with pytest.raises(LockConflictError) as refused:
        await register(client, "y", "b", "a")
    holder = refused.value.holder
    assert holder is not None
    assert (holder.xid, holder.branch_id, holder.table, holder.key) == ("x", branch, "t", ("a",))
    assert refused.value.retryable
    lockable = await client.row_locks.query("db", {"t": [["b"], ["a"]]}, xid="y")
    assert not lockable.lockable
    assert lockable.holder is not None
    assert (lockable.holder.xid, lockable.holder.key) == ("x", ["a"])
    assert (await client.row_locks.query("db", {"t": [["a"]]}, xid="x")).lockable


async def test_a_conflict_with_what_rolls_back_is_not_to_be_waited_for(client: Client) -> None:
    await begin(client, "x", "y")
    lock_keys = {"t": [["a"]]}
    await client.branches.register("x", "AT", "db", lock_keys=lock_keys)
    rolling = await client.transactions.rollback("x", wait_ms=0)
    assert rolling.status == "ROLLING_BACK"
    with pytest.raises(LockConflictError) as refused:
        await register(client, "y", "a")
    assert not refused.value.retryable


async def test_who_waits_is_registered_when_the_rows_are_free(client: Client) -> None:
    await begin(client, "x", "y")
    await done(client, "x", "a")
    waiting = asyncio.create_task(register(client, "y", "a", wait_ms=LONG_MS))
    await queue_of(client, 1)
    await client.transactions.commit("x")
    async with asyncio.timeout(WITHIN_S):
        assert (await waiting).xid == "y"
    assert [row.holders[0].xid for row in await held(client)] == ["y"]


async def test_a_wait_outlives_the_attempts_at_it(
    api: Api, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_WAITING_S", 0.05)
    await begin(client, "x", "y")
    await done(client, "x", "a")
    before = len(api.cluster.timeouts_ms)
    lock_keys = {"t": [["a"]]}
    registering = client.branches.register(
        "y", "AT", "db", lock_keys=lock_keys, wait_ms=LONG_MS, timeout_ms=100
    )
    waiting = asyncio.create_task(registering)
    async with asyncio.timeout(WITHIN_S):
        while len(api.cluster.timeouts_ms) < before + 3:
            await asyncio.sleep(0.01)
    await queue_of(client, 1)
    await client.transactions.commit("x")
    async with asyncio.timeout(WITHIN_S):
        registered = await waiting
    shown = await client.transactions.get("y")
    assert [branch.branch_id for branch in shown.branches] == [registered.branch_id]


async def test_who_has_waited_long_enough_hears_who_has_the_row(api: Api, client: Client) -> None:
    await begin(client, "x", "y")
    await done(client, "x", "a")
    waiting = asyncio.create_task(register(client, "y", "a", wait_ms=1_000))
    await queue_of(client, 1)
    api.cluster.let_pass(1_001)
    with pytest.raises(LockConflictError) as refused:
        await waiting
    assert refused.value.holder is not None
    assert refused.value.holder.xid == "x"


async def test_of_those_who_wait_for_each_other_the_youngest_gives_way(client: Client) -> None:
    await begin(client, "x", "y")
    await done(client, "x", "a")
    await done(client, "y", "b")
    waiting = asyncio.create_task(register(client, "x", "b", wait_ms=LONG_MS))
    await queue_of(client, 1)
    with pytest.raises(DeadlockError):
        await register(client, "y", "a", wait_ms=LONG_MS)
    await client.transactions.rollback("y")
    async with asyncio.timeout(WITHIN_S):
        assert (await waiting).xid == "x"


async def test_rows_are_locked_and_given_back_statement_by_statement(client: Client) -> None:
    await begin(client, "x")
    branch = (await register(client, "x", 1)).branch_id
    locked = await client.branches.lock("x", branch, lock_keys={"t": [[2], [3]]})
    assert (locked.xid, locked.branch_id) == ("x", branch)
    assert [row.key for row in await held(client)] == [[1], [2], [3]]
    given_back = await client.branches.unlock("x", branch, lock_keys={"t": [[2], [9]]})
    assert given_back.unlocked == 1
    assert [row.key for row in await held(client)] == [[1], [3]]
    await client.branches.report("x", branch, "PHASE_ONE_DONE")
    with pytest.raises(BranchStatusFixedError):
        await client.branches.lock("x", branch, lock_keys={"t": [[4]]})
    with pytest.raises(BranchNotFoundError):
        await client.branches.lock("x", branch + 1, lock_keys={"t": [[4]]})


# --- callers who leave


async def test_who_is_cancelled_leaves_the_queue(client: Client) -> None:
    await begin(client, "x", "y")
    branch = await done(client, "x", "a")
    mine = (await register(client, "y", "b")).branch_id
    for wait in (
        lambda: register(client, "y", "a", wait_ms=LONG_MS),
        lambda: client.branches.lock("y", mine, lock_keys={"t": [["a"]]}, wait_ms=LONG_MS),
    ):
        waiting = asyncio.create_task(wait())
        await queue_of(client, 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await queue_of(client, 0)
    assert [row.holders[0].branch_id for row in await held(client)] == [branch, mine]
    assert len((await client.transactions.get("y")).branches) == 1


async def test_a_branch_of_which_nobody_was_told_is_withdrawn(api: Api, client: Client) -> None:
    await begin(client, "x")
    api.cluster.fault, api.cluster.lose_answers = OutcomeUnknown(), True
    asked = len(api.cluster.timeouts_ms)
    registering = asyncio.create_task(register(client, "x", "a"))
    async with asyncio.timeout(WITHIN_S):
        while len(api.cluster.timeouts_ms) == asked:
            await asyncio.sleep(0)
    registering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await registering
    api.cluster.fault = None
    assert (await shown_once(client, "x", "WITHDRAWN")).locks == []
    assert (await client.transactions.commit("x")).status == "COMMITTED"


async def test_under_a_key_of_its_own_a_cancelled_registration_may_be_repeated(
    client: Client,
) -> None:
    await begin(client, "x", "y")
    await done(client, "x", "a")
    first = asyncio.create_task(register(client, "y", "a", wait_ms=LONG_MS, key="k"))
    await queue_of(client, 1)
    first.cancel()
    await asyncio.wait([first])
    assert not client._transport.farewells._saying
    second = asyncio.create_task(register(client, "y", "a", wait_ms=LONG_MS, key="k"))
    await client.transactions.commit("x")
    async with asyncio.timeout(WITHIN_S):
        registered = await second
    shown = await client.transactions.get("y")
    assert [branch.branch_id for branch in shown.branches] == [registered.branch_id]


async def test_what_stays_unknown_can_be_asked_for_again(api: Api, client: Client) -> None:
    await begin(client, "x")
    api.cluster.fault, api.cluster.lose_answers = OutcomeUnknown(), True
    with pytest.raises(OutcomeUnknownError) as unknown:
        await client.branches.register("x", "AT", "db", timeout_ms=500)
    api.cluster.fault = None
    key = unknown.value.idempotency_key
    assert key is not None
    again = await client.branches.register("x", "AT", "db", idempotency_key=key)
    shown = await client.transactions.get("x")
    assert [branch.branch_id for branch in shown.branches] == [again.branch_id]


async def test_closing_a_client_gives_up_what_it_waits_for(api: Api, client: Client) -> None:
    await begin(client, "x", "y")
    await done(client, "x", "a")
    other = Client([api.url], discover=False)
    waiting = asyncio.create_task(register(other, "y", "a", wait_ms=LONG_MS))
    await queue_of(client, 1)
    await other.close()
    with pytest.raises(ClientClosedError):
        await waiting
    await queue_of(client, 0)


async def test_a_commit_goes_on_at_another_node_under_the_same_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(_: Heard, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async def committed(_: Heard, writer: asyncio.StreamWriter) -> None:
        writer.write(answer_of(200, {"xid": "x", "status": "COMMITTED", "reason": ""}))

    monkeypatch.setattr(transport, "_WAITING_S", 0.1)
    async with listening(never) as silent, listening(committed) as serves:
        async with Client([silent.address, serves.address], discover=False) as client:
            assert (await client.transactions.commit("x", timeout_ms=3_000)).has_ended
        first, second = asked_of(silent), asked_of(serves)
    assert first == second
    key, told_ms, body = first
    assert key
    assert told_ms is None
    assert body == {"waitMs": 3_000}


def asked_of(node: FakeNode) -> tuple[str | None, str | None, object]:
    heard = node.heard[0]
    headers = heard.headers
    return (
        headers.get("idempotency-key"),
        headers.get("tidelock-timeout-ms"),
        json.loads(heard.body),
    )


async def test_an_answer_about_another_transaction_is_none() -> None:
    async def other(_: Heard, writer: asyncio.StreamWriter) -> None:
        writer.write(answer_of(200, {"xid": "y", "status": "COMMITTED", "reason": ""}))

    async with listening(other) as node, Client([node.address], discover=False) as misled:
        with pytest.raises(OutcomeUnknownError, match="NOT_A_NODE"):
            await misled.transactions.commit("x", timeout_ms=600, wait_ms=0)


# --- refusals


async def test_a_transaction_that_never_was_is_told_from_one_that_ended(
    api: Api, client: Client
) -> None:
    for call in (client.transactions.commit, client.transactions.rollback, client.transactions.get):
        with pytest.raises(TransactionNotFoundError) as unknown:
            await call("none")
        assert unknown.value.never_seen
    await begin(client, "x")
    await client.transactions.commit("x", reason="paid")
    ended_at = api.cluster.wall_ms
    api.cluster.let_pass(MachineState().retention_ms)
    assert not (await client.transactions.get("x")).kept_in_full
    with pytest.raises(TransactionNotFoundError) as ended:
        await register(client, "x")
    assert not ended.value.never_seen
    standing = ended.value.transaction
    assert standing is not None
    assert (standing.xid, standing.status, standing.reason) == ("x", "COMMITTED", "paid")
    assert (standing.ended_at, ended.value.timed_out) == (ended_at, False)


async def test_a_transaction_that_timed_out_says_so(api: Api, client: Client) -> None:
    await client.transactions.begin(xid="x", transaction_timeout_ms=10)
    api.cluster.let_pass(11)
    with pytest.raises(TransactionNotActiveError) as late:
        await register(client, "x")
    assert late.value.timed_out
    api.cluster.let_pass(MachineState().retention_ms)
    with pytest.raises(TransactionNotFoundError) as forgotten:
        await register(client, "x")
    assert forgotten.value.timed_out


async def test_a_decision_stands(client: Client) -> None:
    await begin(client, "x", "y")
    await client.transactions.commit("x")
    await client.transactions.rollback("y", reason="sold out")
    with pytest.raises(TransactionDecidedError) as committed:
        await client.transactions.rollback("x")
    assert committed.value.transaction is not None
    assert committed.value.transaction.status == "COMMITTED"
    with pytest.raises(TransactionNotActiveError) as late:
        await register(client, "y")
    standing = late.value.transaction
    assert standing is not None
    assert (standing.status, standing.reason) == ("ROLLED_BACK", "sold out")
    with pytest.raises(TransactionExistsError):
        await begin(client, "x")


async def test_a_failed_branch_turns_the_commit_into_a_rollback(client: Client) -> None:
    await begin(client, "x")
    branch = await register(client, "x")
    await client.branches.report("x", branch.branch_id, "PHASE_ONE_FAILED")
    with pytest.raises(BranchFailedError) as refused:
        await client.transactions.commit("x")
    standing = refused.value.transaction
    assert standing is not None
    assert standing.branch_id == branch.branch_id
    assert standing.status in ("ROLLING_BACK", "ROLLED_BACK")


async def test_a_branch_that_has_not_reported_leaves_it_undecided(client: Client) -> None:
    await begin(client, "x")
    branch = await register(client, "x")
    with pytest.raises(BranchUnfinishedError) as refused:
        await client.transactions.commit("x", wait_ms=0)
    assert refused.value.retryable
    assert refused.value.transaction is not None
    assert refused.value.transaction.branch_id == branch.branch_id
    assert (await client.transactions.get("x")).status == "BEGIN"


async def test_a_connection_that_has_ended_registers_nothing(client: Client) -> None:
    await begin(client, "x")
    with pytest.raises(ChannelSessionEndedError):
        await client.branches.register("x", "LCN", "db", session_id=4)


async def test_the_fence_lets_a_step_pass_once(client: Client) -> None:
    await begin(client, "x")
    branch = (await client.branches.register("x", "TCC", "wallet")).branch_id
    with pytest.raises(BranchNotTriedError) as early:
        await client.branches.fence("x", branch, "CONFIRM", "ENTER")
    assert early.value.retryable
    assert await client.branches.fence("x", branch, "TRY", "ENTER") == "PROCEED"
    assert await client.branches.fence("x", branch, "TRY", "DONE") == "PROCEED"
    assert await client.branches.fence("x", branch, "TRY", "ENTER") == "DONE_ALREADY"
    assert await client.branches.fence("x", branch, "CANCEL", "ENTER") == "PROCEED"
    assert await client.branches.fence("x", branch, "CONFIRM", "ENTER") == "REFUSE"


async def test_an_operator_ends_what_cannot_end_by_itself(api: Api, client: Client) -> None:
    await begin(client, "x")
    await client.branches.register("x", "TCC", "wallet")
    await client.transactions.rollback("x", wait_ms=0)
    stopped = await client.transactions.operate("x", "STOP_RETRY", "the wallet is gone")
    assert stopped.status == "ROLLING_BACK"
    assert (await client.transactions.get("x")).paused
    await client.transactions.operate("x", "START_RETRY", "it is back")
    await Application(api).told("x", "RETRY")
    forced = await client.transactions.operate("x", "FORCE_ROLLBACK", "settled by hand")
    assert forced.has_ended
    with pytest.raises(OperationNotPossibleError) as refused:
        await client.transactions.operate("x", "RETRY_NOW", "again")
    assert refused.value.transaction is not None
    assert refused.value.transaction.status == forced.status
    records = [each async for each in client.audit.list()]
    assert [each.action for each in records] == [
        "STOP_RETRY",
        "START_RETRY",
        "FORCE_ROLLBACK",
        "RETRY_NOW",
    ]
    (page,) = [each async for each in client.audit.pages()]
    assert (page.items, page.intact) == (records, True)


async def test_a_word_of_the_paths_is_no_transaction(client: Client) -> None:
    with pytest.raises(ValueError, match="exceptions"):
        await client.transactions.get("exceptions")


# --- without asyncio


async def test_threads_reach_transactions_too() -> None:
    def work(url: str) -> None:
        with BlockingClient([url], discover=False) as client:
            xid = client.run(lambda c: c.transactions.begin("buy")).xid
            client.run(lambda c: done(c, xid, "a"))
            rows = client.iterate(lambda c: c.row_locks.list(xid=xid))
            assert [row.key for row in rows] == [["a"]]
            assert client.run(lambda c: c.transactions.commit(xid)).is_to_commit
            with pytest.raises(TransactionNotFoundError):
                client.run(lambda c: c.transactions.get("none"))

    async with serving() as api:
        await asyncio.to_thread(work, api.url)
