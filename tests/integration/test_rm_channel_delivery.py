"""Phase two over channels: through any node, whoever dies, and back to whoever came back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from node.config import ChannelsConfig
from node.consensus.settings import EngineSettings
from node.delivery import cleaner, lost_nodes, relay
from statemachine.commands import BeginGlobal, DecideGlobal, RegisterBranch, ReportBranch
from statemachine.outcomes import Applied, BranchRegistered
from statemachine.transactions import cleaning
from statemachine.transactions.channel_rows import get_session
from statemachine.transactions.cleaning_rows import resources_to_clean, sweeps
from statemachine.transactions.rows import Calls, get_timeline
from tests.integration.engines import LoopCluster, LoopNode, eventually, loop_cluster
from tests.integration.resource_manager import ResourceManager, agree, connected

pytestmark = pytest.mark.timeout(120)

# A busy machine must not make a leader lose its followers, nor a manager its node.
PATIENT = EngineSettings(
    election_timeout_min_s=1.0, election_timeout_max_s=2.0, leader_fallback_s=2.5
)
CHANNELS = ChannelsConfig(grace_ms=3_000, leaderless_ms=60_000, clean_after_ms=0)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LoopCluster]:
    async with loop_cluster(tmp_path, 3, channels=CHANNELS, settings=PATIENT) as found:
        await found.leader()
        yield found


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


async def connect(
    stack: AsyncExitStack, node: LoopNode, *, agrees: bool = True, **as_whom: Any
) -> ResourceManager:
    manager = await stack.enter_async_context(connected(node.url, registers=False))
    if agrees:
        # A call may come with the welcome.
        manager.answer = agree
    await manager.register(**as_whom)
    return manager


async def followers(cluster: LoopCluster) -> list[LoopNode]:
    leader = await cluster.leader()
    return [node for node in cluster.alive if node is not leader]


async def begin(cluster: LoopCluster, xid: str = "x") -> None:
    (begun,) = await cluster.do(BeginGlobal(xid=xid, prefix="n1", name="", timeout_ms=0, mode=""))
    assert isinstance(begun, Applied)


async def branch(
    cluster: LoopCluster,
    session_id: int,
    mode: str = "AT",
    xid: str = "x",
    *,
    application_data: bytes = b'{"order":7}',
    reports: bool = True,
) -> int:
    """Register a branch and report that its phase one is done; return its id."""
    (registered,) = await cluster.do(
        RegisterBranch(
            xid=xid,
            mode=mode,
            resource_id="db",
            locks=(),
            wait_ms=0,
            application_id="orders",
            unit_id="",
            session_id=session_id,
            application_data=application_data,
            calls=Calls(),
        )
    )
    assert isinstance(registered, Applied)
    assert isinstance(registered.result, BranchRegistered)
    branch_id = registered.result.branch_id
    if not reports:
        return branch_id
    (reported,) = await cluster.do(
        ReportBranch(
            xid=xid,
            branch_id=branch_id,
            status="PHASE_ONE_DONE",
            application_data=None,
            failure=None,
        )
    )
    assert isinstance(reported, Applied)
    return branch_id


async def decide(cluster: LoopCluster, xid: str = "x", *, commit: bool = True) -> None:
    (decided,) = await cluster.do(
        DecideGlobal(xid=xid, commit=commit, reason="", wait_ms=0, reports_expected=True)
    )
    assert isinstance(decided, Applied), decided


# --- through any node


@pytest.mark.parametrize("at_leader", [True, False])
async def test_phase_two_reaches_a_manager_at_any_node(
    cluster: LoopCluster, stack: AsyncExitStack, at_leader: bool
) -> None:
    leader = await cluster.leader()
    node = leader if at_leader else (await followers(cluster))[0]
    manager = await connect(stack, node)
    await begin(cluster)
    branch_id = await branch(cluster, manager.session_id)
    await decide(cluster)
    await cluster.until("x", "COMMITTED")
    told = manager.calls[0]
    assert told == {
        "type": "branch-commit",
        "requestId": told["requestId"],
        "xid": "x",
        "branchId": branch_id,
        "mode": "AT",
        "resourceId": "db",
        "applicationData": {"order": 7},
        "epoch": leader.engine.raft.term,
        "phaseOneDone": True,
    }


async def test_branches_are_rolled_back_by_those_who_registered_them_in_reverse(
    cluster: LoopCluster, stack: AsyncExitStack
) -> None:
    one, other = await followers(cluster)
    managers = [await connect(stack, one), await connect(stack, other)]
    await begin(cluster)
    ids = [await branch(cluster, manager.session_id) for manager in managers]
    order: list[int] = []

    def answer(call: dict[str, Any]) -> str:
        order.append(call["branchId"])
        return agree(call)

    for manager in managers:
        manager.answer = answer
    await decide(cluster, commit=False)
    await cluster.until("x", "ROLLED_BACK")
    assert order[:2] == ids[::-1]
    assert [manager.calls[0]["branchId"] for manager in managers] == ids


async def test_what_a_manager_cannot_do_now_is_tried_again_and_what_never_is_seen(
    cluster: LoopCluster, stack: AsyncExitStack
) -> None:
    manager = await connect(stack, (await followers(cluster))[0])
    answers = [
        {"status": "ROLLBACK_FAILED_RETRYABLE", "detail": "the database is away"},
        {"status": "ROLLBACK_FAILED_UNRETRYABLE", "detail": "somebody changed the row"},
    ]
    manager.answer = lambda _: answers.pop(0)
    await begin(cluster)
    await branch(cluster, manager.session_id)
    await decide(cluster, commit=False)
    await cluster.until("x", "ROLLBACK_FAILED")
    failure = cluster.branches("x")[0].failure
    assert failure is not None
    assert (failure.type, failure.message) == (
        "ROLLBACK_FAILED_UNRETRYABLE",
        "somebody changed the row",
    )


async def test_another_manager_does_it_when_the_one_that_registered_is_gone(
    cluster: LoopCluster, stack: AsyncExitStack
) -> None:
    one, other = await followers(cluster)
    first = await connect(stack, one)
    second = await connect(stack, other, host="h2")
    await begin(cluster)
    await branch(cluster, first.session_id)
    await first.say({"type": "leave"})
    await first.ended()
    await decide(cluster)
    await cluster.until("x", "COMMITTED")
    assert second.calls[0]["ownerGone"] is True


async def test_what_the_database_does_not_know_is_rolled_back_once_its_owner_is_gone(
    cluster: LoopCluster, stack: AsyncExitStack
) -> None:
    one, other = await followers(cluster)
    owner = await connect(stack, one, agrees=False)
    second = await connect(stack, other, host="h2", agrees=False)
    unknown = {"status": "ROLLBACK_FAILED_RETRYABLE", "notFound": True}
    owner.answer = second.answer = lambda call: agree(call) if call["type"] == "clean" else unknown
    await begin(cluster)
    await branch(cluster, owner.session_id, "XA")
    await decide(cluster, commit=False)
    await owner.called()
    await eventually(
        lambda: cluster.branches("x")[0].status == "PHASE_TWO_ROLLBACK_NOTA_RETRYABLE",
        "the branch is not found",
    )
    await owner.say({"type": "leave"})
    await cluster.until("x", "ROLLED_BACK")


# --- connections that break


async def test_a_call_under_way_when_the_channel_breaks_is_made_again(
    cluster: LoopCluster, stack: AsyncExitStack
) -> None:
    one, other = await followers(cluster)
    manager = await connect(stack, one, agrees=False)
    await begin(cluster)
    await branch(cluster, manager.session_id, "LCN")
    await decide(cluster)
    first = await manager.called()
    await manager.hang_up()
    again = await connect(stack, other, sessionId=manager.session_id)
    assert again.heard[0]["resumed"]
    await cluster.until("x", "COMMITTED")
    assert again.calls[0]["branchId"] == first["branchId"]


async def test_a_branch_that_waits_is_tried_at_once_when_its_manager_comes(
    cluster: LoopCluster, stack: AsyncExitStack
) -> None:
    manager = await connect(stack, (await followers(cluster))[0])
    await begin(cluster)
    await branch(cluster, manager.session_id)
    await manager.say({"type": "leave"})
    await manager.ended()
    await decide(cluster)
    # After some tries the next one is far away.
    await eventually(lambda: cluster.attempts("x") >= 3, "three tries")
    due_ms = cluster.branches("x")[0].due_ms
    leader = await cluster.leader()
    await connect(stack, (await followers(cluster))[1])
    await cluster.until("x", "COMMITTED")
    assert leader.engine.stamps.elapsed_ms() < due_ms


async def test_a_frame_that_was_lost_is_sent_again(
    cluster: LoopCluster, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "RESEND_S", 0.05)
    leader = await cluster.leader()
    manager = await connect(stack, (await followers(cluster))[0])
    await begin(cluster)
    await branch(cluster, manager.session_id)
    lost: list[object] = []
    sends = leader.engine.send_channel_frame

    def lose_some(peer: str, frame: Any) -> bool:
        if len(lost) < 2:
            lost.append(frame)
            return True
        return sends(peer, frame)

    monkeypatch.setattr(leader.engine, "send_channel_frame", lose_some)
    await decide(cluster)
    await cluster.until("x", "COMMITTED")
    assert len(lost) == 2
    assert cluster.branches("x")[0].attempts == 0


# --- nodes that die


async def test_a_new_leader_goes_on_through_the_node_that_has_the_channel(
    cluster: LoopCluster, stack: AsyncExitStack
) -> None:
    leader = await cluster.leader()
    manager = await connect(stack, (await followers(cluster))[0], agrees=False)
    await begin(cluster)
    await branch(cluster, manager.session_id, "XA")
    await decide(cluster)
    first = await manager.called()
    await leader.stop()
    manager.answer = lambda call: "PREPARED" if call["type"] == "branch-status" else agree(call)
    await cluster.until("x", "COMMITTED")
    asked, told = manager.calls[1:3]
    assert (asked["type"], told["type"]) == ("branch-status", "branch-commit")
    assert told["epoch"] > first["epoch"]
    # The answer of the call that the old leader made is nobody's.
    await manager.result(first, "COMMIT_FAILED_UNRETRYABLE")
    lines = get_timeline((await cluster.leader()).engine.machine_store, "x")
    answers = [(line.event, line.detail) for line in lines if line.event == "BRANCH_STATUS"]
    assert answers == [("BRANCH_STATUS", "PREPARED")]


async def test_a_new_leader_does_not_repeat_what_it_learns_is_done(
    cluster: LoopCluster, stack: AsyncExitStack
) -> None:
    leader = await cluster.leader()
    manager = await connect(stack, (await followers(cluster))[0], agrees=False)
    await begin(cluster)
    await branch(cluster, manager.session_id, "XA")
    await decide(cluster)
    await manager.called()
    await leader.stop()
    manager.answer = lambda call: "COMMITTED" if call["type"] == "branch-status" else None
    await cluster.until("x", "COMMITTED")
    kinds = [call["type"] for call in manager.calls if call["type"] != "clean"]
    assert kinds == ["branch-commit", "branch-status"]


async def test_a_branch_that_did_the_contrary_is_seen(
    cluster: LoopCluster, stack: AsyncExitStack
) -> None:
    leader = await cluster.leader()
    manager = await connect(stack, (await followers(cluster))[0], agrees=False)
    await begin(cluster)
    await branch(cluster, manager.session_id, "XA")
    await decide(cluster)
    await manager.called()
    await leader.stop()
    manager.answer = lambda _: {"status": "ROLLED_BACK", "detail": "an operator did"}
    await cluster.until("x", "COMMIT_FAILED")
    failure = cluster.branches("x")[0].failure
    assert failure is not None
    assert failure.type == "DECIDED_OTHERWISE"


async def test_a_manager_takes_its_session_from_a_node_that_stops_to_another(
    cluster: LoopCluster, stack: AsyncExitStack
) -> None:
    one, other = await followers(cluster)
    manager = await connect(stack, one)
    await begin(cluster)
    await branch(cluster, manager.session_id, "LCN")
    await one.stop()
    assert await manager.ended() == 1001
    again = await connect(stack, other, sessionId=manager.session_id)
    assert again.heard[0]["resumed"]
    await decide(cluster)
    await cluster.until("x", "COMMITTED")
    assert len(again.calls) >= 1


async def test_the_group_of_a_manager_that_does_not_come_back_rolls_back(
    cluster: LoopCluster, stack: AsyncExitStack
) -> None:
    one, other = await followers(cluster)
    lost, left = await connect(stack, one), await connect(stack, other)
    await begin(cluster)
    for manager in (lost, left):
        await branch(cluster, manager.session_id, "LCN")
    await lost.hang_up()
    await cluster.until("x", "ROLLED_BACK")
    assert [call["type"] for call in left.calls][:1] == ["branch-rollback"]
    assert lost.calls == []
    store = (await cluster.leader()).engine.machine_store
    assert get_session(store, lost.session_id) is None


async def test_a_silent_node_holds_its_managers_no_longer(
    cluster: LoopCluster, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_nodes, "SILENT_S", 1.5)
    one, other = await followers(cluster)
    moves, stays = await connect(stack, one), await connect(stack, one)
    left = await connect(stack, other)
    await begin(cluster)
    await branch(cluster, stays.session_id, "LCN")
    one.cut_off()
    one.up = False
    store = (await cluster.leader()).engine.machine_store

    def detached() -> bool:
        session = get_session(store, moves.session_id)
        return session is not None and not session.is_attached

    await eventually(detached, "the sessions of the silent node are detached")
    again = await connect(stack, other, sessionId=moves.session_id)
    assert again.heard[0]["resumed"]
    await cluster.until("x", "ROLLED_BACK")
    assert get_session(store, stays.session_id) is None
    for manager in (left, again):
        session = get_session(store, manager.session_id)
        assert session is not None
        assert session.is_attached
    one.up = True


async def test_another_manager_is_asked_after_one_that_does_not_answer(
    tmp_path: Path, stack: AsyncExitStack
) -> None:
    hasty = ChannelsConfig(call_timeout_ms=300, clean_after_ms=3_600_000)
    async with loop_cluster(tmp_path, channels=hasty, settings=PATIENT) as cluster:
        node = await cluster.leader()
        dumb = await connect(stack, node, agrees=False)
        other = await connect(stack, node, host="h2", agrees=False)
        await begin(cluster)
        await branch(cluster, dumb.session_id)
        await decide(cluster)
        await dumb.called()
        other.answer = agree
        await cluster.until("x", "COMMITTED")
        assert other.calls[0]["type"] == "branch-commit"


# --- what is over


async def test_managers_are_told_what_is_over_until_they_say_that_they_know(
    cluster: LoopCluster, stack: AsyncExitStack
) -> None:
    manager = await connect(stack, (await followers(cluster))[0], agrees=False)
    refused: list[object] = []

    def answer(call: dict[str, Any]) -> str:
        if call["type"] == "clean" and not refused:
            refused.append(call)
            return "CLEAN_FAILED"
        return agree(call)

    manager.answer = answer
    await begin(cluster)
    ids = [await branch(cluster, manager.session_id, mode) for mode in ("AT", "TCC")]
    await decide(cluster)
    store = (await cluster.leader()).engine.machine_store
    await cluster.until("x", "COMMITTED")
    await eventually(lambda: not resources_to_clean(store, "", 1), "all is cleaned")
    cleaned = [call["branchId"] for call in manager.calls if call["type"] == "clean"]
    assert set(cleaned) == set(ids)
    assert len(cleaned) == 3


async def test_many_are_told_together_to_who_takes_them_so(
    cluster: LoopCluster, stack: AsyncExitStack
) -> None:
    manager = await connect(stack, await cluster.leader(), cleanBatch=5, agrees=False)
    manager.answer = lambda call: None if call["type"] == "clean" else agree(call)
    xids = [f"x{number}" for number in range(10)]
    for xid in xids:
        await begin(cluster, xid)
        await branch(cluster, manager.session_id, "TCC", xid)
        await decide(cluster, xid)
    for xid in xids:
        await cluster.until(xid, "COMMITTED")
    manager.answer = agree
    for call in [call for call in manager.calls if call["type"] == "clean"]:
        await manager.result(call, "CLEANED")
    store = (await cluster.leader()).engine.machine_store
    await eventually(lambda: not resources_to_clean(store, "", 1), "all is cleaned")
    batches = [call["branches"] for call in manager.calls if call["type"] == "clean"]
    assert {each["xid"] for batch in batches for each in batch} == set(xids)
    assert max(map(len, batches)) <= 5
    assert len(batches) < 10


async def test_a_manager_that_was_away_for_long_sweeps_what_nobody_noted(
    cluster: LoopCluster, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleaning, "GREATEST_NOTED", 1)
    store = (await cluster.leader()).engine.machine_store
    ids = {}
    async with AsyncExitStack() as before:
        manager = await connect(before, await cluster.leader())
        manager.answer = lambda call: "CLEAN_FAILED" if call["type"] == "clean" else agree(call)
        for xid in ("x", "y", "z"):
            await begin(cluster, xid)
            ids[xid] = await branch(cluster, manager.session_id, xid=xid)
            await decide(cluster, xid)
        for xid in ids:
            await cluster.until(xid, "COMMITTED")
        await manager.say({"type": "leave"})
    await begin(cluster, "open")
    guarded = {**ids, "open": 1_000}
    returned = await connect(stack, (await followers(cluster))[0], agrees=False)
    returned.answer = lambda call: None if call["type"] == "sweep" else agree(call)
    sweep = await returned.until(
        lambda: next((each for each in returned.calls if each["type"] == "sweep"), None)
    )
    assert (sweep["resourceId"], sweep["mode"]) == ("db", "AT")
    told = dict(zip(guarded, await returned.fates(*guarded.items()), strict=True))
    assert told == {
        **dict.fromkeys(ids, ("COMMITTED", True)),
        "open": ("BEGIN", False),
    }
    await returned.result(sweep, "CLEANED")
    await eventually(lambda: not sweeps(store, b"", 1), "the sweep is recorded")
    await eventually(lambda: not resources_to_clean(store, "", 1), "the note is worked off, too")


async def test_a_sweep_that_failed_is_asked_for_again(
    cluster: LoopCluster, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleaning, "GREATEST_NOTED", 0)
    monkeypatch.setattr(cleaner, "_PAUSE_AFTER_FAILURE_S", 0.1)
    manager = await connect(stack, await cluster.leader(), agrees=False)
    failures = ["CLEAN_FAILED"]
    manager.answer = lambda call: (
        failures.pop() if call["type"] == "sweep" and failures else agree(call)
    )
    await begin(cluster)
    await branch(cluster, manager.session_id)
    await decide(cluster)
    store = (await cluster.leader()).engine.machine_store
    await cluster.until("x", "COMMITTED")
    await eventually(
        lambda: not failures and not sweeps(store, b"", 1), "it is swept the second time"
    )
    assert len([call for call in manager.calls if call["type"] == "sweep"]) == 2


async def test_nobody_is_told_at_once_of_what_may_still_come(
    tmp_path: Path, stack: AsyncExitStack
) -> None:
    late = ChannelsConfig(clean_after_ms=3_600_000)
    async with loop_cluster(tmp_path, channels=late, settings=PATIENT) as cluster:
        manager = await connect(stack, await cluster.leader())
        for xid, reports in (("x", False), ("y", True)):
            await begin(cluster, xid)
            await branch(cluster, manager.session_id, xid=xid, reports=reports)
            await decide(cluster, xid, commit=False)
            await cluster.until(xid, "ROLLED_BACK")
        cleaned = await manager.until(
            lambda: [call["xid"] for call in manager.calls if call["type"] == "clean"]
        )
        assert cleaned == ["y"]
