"""The driver on real engines, calling a real HTTP server: what is decided happens, whoever dies."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from node.config import DeliveryConfig
from node.delivery.calls import BranchRequest
from node.delivery.destinations import Destinations
from node.delivery.http import HttpSender, signature
from statemachine.commands import (
    BeginGlobal,
    DecideGlobal,
    OperateGlobal,
    RegisterBranch,
    RunGlobal,
    Step,
)
from statemachine.outcomes import Applied
from statemachine.transactions.recovery import list_recoveries
from statemachine.transactions.rows import Calls, RetryRule
from tests.integration.engines import LoopCluster, eventually, loop_cluster
from tests.integration.participant import Participant, participating

pytestmark = pytest.mark.timeout(120)

QUICK = RetryRule(interval_ms=20, greatest_interval_ms=100)


@pytest.fixture
async def participant() -> AsyncIterator[Participant]:
    async with participating() as found:
        yield found


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LoopCluster]:
    async with loop_cluster(tmp_path) as found:
        yield found


def step(
    at: Participant,
    name: str,
    *depends_on: int,
    payload: bytes = b'{"amount":1}',
    timeout_ms: int = 0,
    retry: RetryRule = QUICK,
) -> Step:
    return Step(
        name=name,
        calls=Calls(at.url(f"{name}/do"), "", at.url(f"{name}/undo")),
        payload=payload,
        depends_on=depends_on,
        timeout_ms=timeout_ms,
        retry=retry,
    )


def run(xid: str, *steps: Step, program: str = "SAGA", timeout_ms: int = 0) -> RunGlobal:
    return RunGlobal(
        xid=xid,
        prefix="n1",
        name="trip",
        program=program,
        steps=steps,
        timeout_ms=timeout_ms,
        wait_ms=0,
        in_order=False,
        compensate_failed=False,
        forward_recovery=False,
    )


async def test_the_steps_of_a_saga_are_called_in_order_and_their_results_are_kept(
    cluster: LoopCluster, participant: Participant
) -> None:
    await cluster.do(run("x", step(participant, "a"), step(participant, "b", 0)))
    await cluster.until("x", "COMMITTED")
    assert participant.paths() == ["a/do", "b/do"]
    first = participant.calls[0]
    assert (first.xid, first.operation, first.step) == ("x", "FORWARD", "a")
    assert first.body == {"amount": 1}
    assert first.epoch == cluster.nodes[0].engine.raft.term
    assert [branch.result for branch in cluster.branches("x")] == [
        b'{"path": "a/do", "status": 200}',
        b'{"path": "b/do", "status": 200}',
    ]


async def test_a_step_that_refuses_has_those_before_it_compensated_in_reverse(
    cluster: LoopCluster, participant: Participant
) -> None:
    participant.answers["c/do"] = [409]
    steps = [step(participant, "a"), step(participant, "b", 0), step(participant, "c", 1)]
    await cluster.do(run("x", *steps))
    row = await cluster.until("x", "ROLLED_BACK")
    assert participant.paths() == ["a/do", "b/do", "c/do", "b/undo", "a/undo"]
    assert "step c failed" in row.reason
    failure = cluster.branches("x")[2].failure
    assert failure is not None
    assert failure.type == "REFUSED"


async def test_what_nobody_knows_is_asked_again_until_it_is_known(
    cluster: LoopCluster, participant: Participant
) -> None:
    participant.answers["a/do"] = [500, 302, 404, 200]
    await cluster.do(run("x", step(participant, "a")))
    await cluster.until("x", "COMMITTED")
    assert participant.paths() == ["a/do"] * 4


async def test_a_step_that_is_going_on_is_asked_again_and_does_not_count_as_failed(
    cluster: LoopCluster, participant: Participant
) -> None:
    participant.answers["a/do"] = [425, 425, 425, 425, 425, 200]
    once = RetryRule(limit=0, interval_ms=20)
    await cluster.do(run("x", step(participant, "a", retry=once)))
    await cluster.until("x", "COMMITTED")
    assert participant.paths() == ["a/do"] * 6


async def test_a_step_that_does_not_answer_in_time_is_compensated_once_its_limit_is_reached(
    cluster: LoopCluster, participant: Participant
) -> None:
    async def never(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(1)
        return web.Response()

    participant.answers["a/do"] = [never]
    rule = RetryRule(limit=1, interval_ms=10)
    await cluster.do(run("x", step(participant, "a", timeout_ms=50, retry=rule)))
    row = await cluster.until("x", "ROLLED_BACK")
    # It may have had an effect, though nobody heard of it.
    assert participant.paths() == ["a/do", "a/do", "a/undo"]
    assert "50 ms" in row.reason


async def test_a_saga_whose_time_is_up_is_rolled_back(
    cluster: LoopCluster, participant: Participant
) -> None:
    participant.answers["b/do"] = [503]
    steps = [step(participant, "a"), step(participant, "b", 0)]
    await cluster.do(run("x", *steps, timeout_ms=300))
    await cluster.until("x", "TIMEOUT_ROLLED_BACK")
    paths = participant.paths()
    assert paths[:2] == ["a/do", "b/do"]
    assert paths[-2:] == ["b/undo", "a/undo"]


async def test_a_participant_that_was_away_is_called_when_it_is_back(
    cluster: LoopCluster, participant: Participant
) -> None:
    steps = [step(participant, "a"), step(participant, "b", 0)]
    await participant.stop()
    await cluster.do(run("x", *steps))

    def has_failed() -> bool:
        failure = cluster.branches("x")[0].failure
        return failure is not None and failure.type == "UNREACHABLE"

    await eventually(has_failed, "the first step fails")
    await participant.start()
    await cluster.until("x", "COMMITTED")


async def test_steps_that_do_not_depend_on_each_other_are_called_at_once(
    cluster: LoopCluster, participant: Participant
) -> None:
    gate = asyncio.Event()

    async def wait_for_the_other(request: web.Request) -> web.StreamResponse:
        if request.path == "/b/do":
            gate.set()
        await gate.wait()
        return web.Response()

    for path in ("a/do", "b/do"):
        participant.answers[path] = [wait_for_the_other]
    await cluster.do(run("x", step(participant, "a"), step(participant, "b")))
    await cluster.until("x", "COMMITTED")


async def test_branches_that_a_client_registered_are_told_the_decision(
    cluster: LoopCluster, participant: Participant
) -> None:
    await cluster.do(BeginGlobal(xid="x", prefix="n1", name="", timeout_ms=0))
    calls = Calls(None, participant.url("confirm"), participant.url("cancel"))
    for mode in ("TCC", "TCC"):
        await cluster.do(
            RegisterBranch(
                xid="x",
                mode=mode,
                resource_id="stock",
                locks=(),
                wait_ms=0,
                application_id="",
                unit_id="",
                session_id=0,
                application_data=b'{"sku":7}',
                calls=calls,
            )
        )
    await cluster.do(
        DecideGlobal(xid="x", commit=True, reason="", wait_ms=0, reports_expected=False)
    )
    await cluster.until("x", "COMMITTED")
    assert participant.paths() == ["confirm", "confirm"]
    assert participant.calls[0].body == {
        "xid": "x",
        "branchId": cluster.branches("x")[0].branch_id,
        "action": "commit",
        "mode": "TCC",
        "resourceId": "stock",
        "applicationData": {"sku": 7},
        "epoch": cluster.nodes[0].engine.raft.term,
    }


async def test_a_paused_transaction_is_left_alone_until_it_is_resumed(
    cluster: LoopCluster, participant: Participant
) -> None:
    participant.answers["a/do"] = [503]
    await cluster.do(run("x", step(participant, "a")))
    await eventually(lambda: len(participant.calls) > 1, "it is called again")
    stop = OperateGlobal(xid="x", action="STOP_RETRY", reason="", principal="op")
    (stopped,) = await cluster.do(stop)
    assert isinstance(stopped, Applied)
    # Whatever was under way ends; then nothing happens, though its time would have come.
    await eventually(lambda: not cluster.nodes[0].delivery.driver.in_flight, "no call goes on")
    calls = len(participant.calls)
    await cluster.do(run("y", step(participant, "b")))
    await cluster.until("y", "COMMITTED")
    await asyncio.sleep(0.2)
    assert len(participant.calls) == calls + 1
    participant.answers["a/do"] = [200]
    await cluster.do(OperateGlobal(xid="x", action="START_RETRY", reason="", principal="op"))
    await cluster.until("x", "COMMITTED")


async def test_one_host_takes_no_more_than_its_share(
    tmp_path: Path, participant: Participant
) -> None:
    most = 0

    async def count(request: web.Request) -> web.StreamResponse:
        nonlocal most
        most = max(most, sum(participant.under_way.values()))
        await asyncio.sleep(0.01)
        return web.Response()

    participant.answers["a/do"] = [count]
    limits = DeliveryConfig(max_calls=8, max_calls_per_host=3)
    async with loop_cluster(tmp_path, delivery=limits) as cluster:
        await cluster.do(*(run(f"x{number}", step(participant, "a")) for number in range(40)))
        for number in range(40):
            await cluster.until(f"x{number}", "COMMITTED")
        assert most == 3
        driver = cluster.nodes[0].delivery.driver
        await eventually(lambda: driver.backlog == 0, "nobody waits any more")
    assert len(participant.calls) == 40
    assert participant.overlapped == []


async def test_a_result_too_large_to_keep_is_left_out(
    cluster: LoopCluster, participant: Participant
) -> None:
    async def much(_: web.Request) -> web.StreamResponse:
        return web.Response(body=b"x" * 200_000)

    participant.answers["a/do"] = [much]
    await cluster.do(run("x", step(participant, "a")))
    await cluster.until("x", "COMMITTED")
    branch = cluster.branches("x")[0]
    assert branch.result == b""
    assert len(participant.calls) == 1


async def test_alerts_are_sent_from_the_third_doubling_on(
    tmp_path: Path, participant: Participant
) -> None:
    participant.answers["a/do"] = [503, 503, 503, 503, 503, 503, 200]
    config = DeliveryConfig(alert_url=participant.url("alert"))
    async with loop_cluster(tmp_path, delivery=config) as cluster:
        await cluster.do(run("x", step(participant, "a")))
        await cluster.until("x", "COMMITTED")
        alerts = cluster.nodes[0].delivery.alerts
        await eventually(lambda: alerts.counters["sent"] == 3, "three alerts are taken")
        told = [call.body for call in participant.calls if call.path == "alert"]
        assert [each["retryCount"] for each in told] == [4, 5, 6]
        assert told[0] == {
            "xid": "x",
            "status": "BEGIN",
            "branch": cluster.branches("x")[0].branch_id,
            "error": "STATUS_503: the participant answered 503",
            "retryCount": 4,
        }


async def test_calls_are_signed_when_there_is_a_key(
    tmp_path: Path, participant: Participant
) -> None:
    key_file = tmp_path / "key"
    key_file.write_bytes(b"0123456789abcdef0123\n")
    config = DeliveryConfig(signature_key_file=key_file)
    async with loop_cluster(tmp_path, delivery=config) as cluster:
        await cluster.do(run("x", step(participant, "a")))
        await cluster.until("x", "COMMITTED")
    called = participant.calls[0]
    at, _, digest = called.headers["Tidelock-Signature"].partition(",v1=")
    signed = at.removeprefix("t=").encode() + b"." + called.content
    assert digest == hmac.new(b"0123456789abcdef0123", signed, hashlib.sha256).hexdigest()
    at_s = int(at.removeprefix("t="))
    assert called.headers["Tidelock-Signature"] == signature(
        b"0123456789abcdef0123", at_s, called.content
    )


async def test_the_death_of_a_leader_ends_no_transaction_and_repeats_no_step_that_is_known(
    tmp_path: Path, participant: Participant
) -> None:
    participant.latency_s = 0.1
    async with loop_cluster(tmp_path, count=3) as cluster:
        for number in range(20):
            steps = [step(participant, "a"), step(participant, "b", 0)]
            await cluster.do(run(f"x{number}", *steps))
        leader = await cluster.leader()
        await eventually(lambda: "b/do" in participant.paths(), "some are at their second step")
        known = {
            (xid, branch.name)
            for xid in (f"x{number}" for number in range(20))
            for branch in cluster.branches(xid)
            if branch.status == "PHASE_ONE_DONE"
        }
        before = len(participant.calls)
        await leader.stop()
        for number in range(20):
            await cluster.until(f"x{number}", "COMMITTED")
        again = {(call.xid, call.step) for call in participant.calls[before:]}
        assert not known & again
        old, new = leader.engine.raft.term, (await cluster.leader()).engine.raft.term
        assert {call.epoch for call in participant.calls} == {old, new}


async def test_a_leader_without_a_quorum_calls_nobody(
    tmp_path: Path, participant: Participant
) -> None:
    """It may believe for a while that it leads; the work is for whoever does."""
    participant.answers["a/do"] = [503]
    async with loop_cluster(tmp_path, count=3) as cluster:
        await cluster.do(run("x", step(participant, "a")))
        await eventually(lambda: len(participant.calls) > 2, "it is called again and again")
        leader = await cluster.leader()
        for node in cluster.nodes:
            if node is not leader:
                await node.stop()
        fresh_s = leader.engine.settings.election_timeout_min_s
        await eventually(
            lambda: leader.engine.now() - leader.engine.reads.quorum_confirmed_at > fresh_s,
            "no quorum was heard for a while",
        )
        calls = len(participant.calls)
        await asyncio.sleep(0.5)
        assert len(participant.calls) == calls


async def test_nothing_is_called_where_nothing_may_be(
    cluster: LoopCluster, participant: Participant
) -> None:
    calls = Calls("http://169.254.169.254/latest", "", "")
    forbidden = Step(
        name="a", calls=calls, payload=b"", depends_on=(), timeout_ms=0, retry=RetryRule(limit=0)
    )
    await cluster.do(run("x", forbidden))
    row = await cluster.until("x", "ROLLED_BACK")
    assert "link-local" in row.reason or "allowed_hosts" in row.reason


async def test_a_sender_follows_no_redirect_and_reads_no_more_than_it_keeps(
    participant: Participant,
) -> None:
    async def elsewhere(_: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(participant.url("b"))

    participant.answers["a"] = [elsewhere]
    sender = HttpSender(Destinations(["127.0.0.1"], []), timeout_ms=5_000)
    try:
        reply = await sender.exchange(BranchRequest(url=participant.url("a")))
    finally:
        await sender.close()
    assert reply.status == 302
    assert participant.paths() == ["a"]


async def test_a_new_leader_records_what_it_found_and_goes_on_with(
    tmp_path: Path, participant: Participant
) -> None:
    participant.answers["b/do"] = [503]
    async with loop_cluster(tmp_path, count=3) as cluster:
        await cluster.do(run("x", step(participant, "a"), step(participant, "b", 0)))
        await cluster.do(run("y", step(participant, "c")))
        await cluster.until("y", "COMMITTED")
        await eventually(lambda: "b/do" in participant.paths(), "the second step is called")
        await (await cluster.leader()).stop()
        participant.answers["b/do"] = [200]
        await cluster.until("x", "COMMITTED")
        leader = await cluster.leader()
        reader = leader.engine.machine_store
        found, _ = list_recoveries(reader, xid=None, cursor=None, limit=10)
        assert [(each.xid, each.recovery.decision) for each in found] == [("x", "CONTINUE_FORWARD")]
        assert found[0].recovery.term == leader.engine.raft.term
        statuses = [status for _, status in found[0].recovery.branches]
        assert statuses == ["PHASE_ONE_DONE", "REGISTERED"]
