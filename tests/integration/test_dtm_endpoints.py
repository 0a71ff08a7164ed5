"""DTM's endpoints: one test at least for each row of its tables of endpoints and answers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.integration.dtm import EMPTY, SUCCESS, Running, running, saga, step

pytestmark = [pytest.mark.timeout(60), pytest.mark.asyncio(loop_scope="module")]

TCC = {"trans_type": "tcc"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with running(tmp_path_factory.mktemp("dtm")) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def node(shared: Running) -> AsyncIterator[Running]:
    async with shared.renewed() as found:
        yield found


async def test_a_ping_is_answered(node: Running) -> None:
    answered = await node.dtm.get("/api/ping")
    assert (answered.status, answered.body) == (200, {"msg": "pong"})


async def test_metrics_are_those_of_the_node(node: Running) -> None:
    answered = await node.dtm.get("/api/metrics")
    assert (answered.status, answered.content_type) == (200, "text/plain")
    assert b"tidelock_http_request_duration_seconds" in answered.content


async def test_the_version_is_that_of_the_protocol_served(node: Running) -> None:
    answered = await node.dtm.get("/version")
    assert answered.status == 200
    assert list(answered.body) == ["version"]
    assert re.fullmatch(r"v1\.19\.\d+\+tidelock", answered.body["version"])


async def test_a_new_gid_has_22_characters_and_is_new(node: Running) -> None:
    found = [(await node.dtm.get("/newGid")).body for _ in range(20)]
    assert all(each["dtm_result"] == "SUCCESS" for each in found)
    assert all(len(each["gid"]) == 22 and each["gid"].isalnum() for each in found)
    assert all(isinstance(value, str) for each in found for value in each.values())
    assert len({each["gid"] for each in found}) == 20


async def test_a_saga_of_empty_steps_succeeds_at_once(node: Running) -> None:
    body = saga(node.gid, EMPTY, EMPTY, wait_result=True)
    assert await node.dtm.said("/submit", body) == SUCCESS
    assert await node.dtm.status(node.gid) == "succeed"


async def test_a_saga_calls_its_actions_in_order(node: Running) -> None:
    at = node.participant
    body = saga(node.gid, step(at, "a"), step(at, "b"), wait_result=True)
    assert await node.dtm.said("/submit", body) == SUCCESS
    assert at.heard == ["a/do action", "b/do action"]


async def test_a_transaction_that_is_prepared_may_be_prepared_again(node: Running) -> None:
    assert await node.dtm.said("/prepare", {"gid": node.gid, **TCC}) == SUCCESS
    assert await node.dtm.status(node.gid) == "prepared"
    assert await node.dtm.said("/prepare", {"gid": node.gid, "trans_type": "xa"}) == SUCCESS
    shown = await node.dtm.shown(node.gid)
    assert shown["transaction"]["trans_type"] == "tcc"


async def test_what_has_gone_further_cannot_be_prepared(node: Running) -> None:
    await node.dtm.post("/submit", saga(node.gid, EMPTY))
    assert await node.dtm.said("/prepare", saga(node.gid, EMPTY)) == (
        409,
        {"dtm_result": "FAILURE", "message": "current status 'succeed', cannot prepare. FAILURE"},
    )


async def test_a_prepared_saga_runs_its_stored_steps_once_it_is_submitted(node: Running) -> None:
    at = node.participant
    assert await node.dtm.said("/prepare", saga(node.gid, step(at, "a"))) == SUCCESS
    assert await node.dtm.operations(node.gid) == [
        ("01", "compensate", "prepared"),
        ("01", "action", "prepared"),
    ]
    assert at.calls == []
    body = saga(node.gid, step(at, "other"), step(at, "more"), wait_result=True)
    assert await node.dtm.said("/submit", body) == SUCCESS
    assert at.heard == ["a/do action"]


async def test_what_is_submitted_may_be_submitted_again_and_is_not_done_again(
    node: Running,
) -> None:
    at = node.participant
    at.answers["b/do"] = [500, 200]
    body = saga(node.gid, step(at, "a"), step(at, "b"), retry_interval=1)
    assert await node.dtm.said("/submit", body) == SUCCESS
    await node.called(2)
    assert await node.dtm.said("/submit", {**body, "wait_result": True}) == SUCCESS
    assert at.heard == ["a/do action", "b/do action", "b/do action"]


async def test_what_has_ended_cannot_be_submitted(node: Running) -> None:
    await node.dtm.post("/submit", saga(node.gid, EMPTY))
    message = "current status 'succeed', cannot sumbmit. FAILURE"
    assert await node.dtm.said("/submit", saga(node.gid, EMPTY)) == (
        409,
        {"dtm_result": "FAILURE", "message": message},
    )


async def test_a_prepared_message_is_aborted(node: Running) -> None:
    at = node.participant
    body = {"gid": node.gid, "trans_type": "msg", "query_prepared": at.url("q")}
    await node.dtm.post("/prepare", body)
    assert await node.dtm.said("/abort", {**body, "rollback_reason": "no"}) == SUCCESS
    transaction = (await node.dtm.shown(node.gid))["transaction"]
    assert (transaction["status"], transaction["rollback_reason"]) == ("failed", "no")
    assert at.calls == []


@pytest.mark.parametrize("kind", ["tcc", "xa"])
async def test_a_prepared_or_aborting_transaction_is_aborted_and_the_reason_is_kept(
    node: Running, kind: str
) -> None:
    at = node.participant
    at.answers["cancel"] = [500]
    await node.dtm.post("/prepare", {"gid": node.gid, "trans_type": kind})
    branch = {"gid": node.gid, "trans_type": kind, "branch_id": "01"}
    urls = {"confirm": at.url("confirm"), "cancel": at.url("cancel"), "url": at.url("cancel")}
    assert await node.dtm.said("/registerBranch", {**branch, **urls}) == SUCCESS
    abort = {"gid": node.gid, "trans_type": kind, "rollback_reason": "because"}
    assert await node.dtm.said("/abort", abort) == SUCCESS
    assert await node.dtm.said("/abort", {**abort, "rollback_reason": "again"}) == SUCCESS
    transaction = (await node.dtm.shown(node.gid))["transaction"]
    assert (transaction["status"], transaction["rollback_reason"]) == ("aborting", "because")


async def test_a_saga_cannot_be_aborted(node: Running) -> None:
    await node.dtm.post("/submit", saga(node.gid, EMPTY))
    message = "trans type: 'saga' current status 'succeed', cannot abort. FAILURE"
    assert await node.dtm.said("/abort", {"gid": node.gid, "trans_type": "saga"}) == (
        409,
        {"dtm_result": "FAILURE", "message": message},
    )


async def test_an_unknown_gid_cannot_be_aborted(node: Running) -> None:
    assert await node.dtm.said("/abort", {"gid": node.gid, **TCC}) == (
        500,
        {"message": f"no TransGlobal with gid: {node.gid} found"},
    )


async def test_force_ends_what_is_unfinished_without_compensation(node: Running) -> None:
    at = node.participant
    at.answers["b/do"] = [500]
    await node.dtm.post("/submit", saga(node.gid, step(at, "a"), step(at, "b"), retry_interval=1))
    await node.called(2)
    assert await node.dtm.said("/forceStop", {"gid": node.gid}) == SUCCESS
    assert await node.dtm.status(node.gid) == "failed"
    assert [call.op for call in at.calls if call.op != "action"] == []


async def test_force_does_nothing_to_what_has_ended(node: Running) -> None:
    await node.dtm.post("/submit", saga(node.gid, EMPTY))
    answered = await node.dtm.post("/forceStop", {"gid": node.gid})
    assert (answered.status, answered.body["dtm_result"]) == (409, "FAILURE")


async def test_a_reset_makes_the_next_call_at_once(node: Running) -> None:
    at = node.participant
    at.answers["a/do"] = [500, 200]
    await node.dtm.post("/submit", saga(node.gid, step(at, "a"), retry_interval=3600))
    await node.called(1)
    async with asyncio.timeout(10):
        while await node.dtm.status(node.gid) != "succeed":
            assert await node.dtm.said("/resetNextCronTime", {"gid": node.gid}) in (SUCCESS,)
            await asyncio.sleep(0.02)
    assert at.heard == ["a/do action"] * 2


@pytest.mark.parametrize("path", ["/registerBranch", "/registerTccBranch"])
async def test_a_tcc_branch_is_shown_as_its_cancel_and_its_confirm(
    node: Running, path: str
) -> None:
    await node.dtm.post("/prepare", {"gid": node.gid, **TCC})
    at = node.participant
    branch = {"gid": node.gid, **TCC, "branch_id": "01", "data": "payload", "status": "prepared"}
    urls = {"confirm": at.url("yes"), "cancel": at.url("no")}
    assert await node.dtm.said(path, {**branch, **urls}) == SUCCESS
    shown = (await node.dtm.shown(node.gid))["branches"]
    assert [(each["op"], each["url"], each["bin_data"]) for each in shown] == [
        ("cancel", at.url("no"), "cGF5bG9hZA=="),
        ("confirm", at.url("yes"), "cGF5bG9hZA=="),
    ]


@pytest.mark.parametrize("path", ["/registerBranch", "/registerXaBranch"])
async def test_an_xa_branch_is_shown_as_its_rollback_and_its_commit(
    node: Running, path: str
) -> None:
    await node.dtm.post("/prepare", {"gid": node.gid, "trans_type": "xa"})
    branch = {
        "gid": node.gid,
        "trans_type": "xa",
        "branch_id": "01",
        "url": node.participant.url("x"),
    }
    assert await node.dtm.said(path, branch) == SUCCESS
    assert await node.dtm.operations(node.gid) == [
        ("01", "rollback", "prepared"),
        ("01", "commit", "prepared"),
    ]


async def test_a_branch_needs_a_prepared_transaction(node: Running) -> None:
    branch = {"gid": node.gid, **TCC, "branch_id": "01"}
    refused = (
        409,
        {
            "dtm_result": "FAILURE",
            "message": f"no trans with gid: {node.gid} status: prepared found FAILURE",
        },
    )
    assert await node.dtm.said("/registerBranch", branch) == refused
    await node.dtm.post("/submit", {"gid": node.gid, **TCC})
    assert await node.dtm.said("/registerBranch", branch) == refused


async def test_a_branch_is_registered_once(node: Running) -> None:
    await node.dtm.post("/prepare", {"gid": node.gid, **TCC})
    branch = {"gid": node.gid, **TCC, "branch_id": "01"}
    assert await node.dtm.said("/registerBranch", branch) == SUCCESS
    answered = await node.dtm.post("/registerBranch", branch)
    assert answered.status == 500
    assert "01" in answered.body["message"]


async def test_a_branch_of_an_unknown_type_is_refused(node: Running) -> None:
    branch = {"gid": node.gid, "trans_type": "odd", "branch_id": "01"}
    assert await node.dtm.said("/registerBranch", branch) == (
        500,
        {"message": "unknow trans type: odd"},
    )


async def test_a_registration_of_other_than_strings_is_not_bound(node: Running) -> None:
    answered = await node.dtm.post("/registerBranch", {"gid": node.gid, "branch_id": 1})
    assert (answered.status, answered.content_type) == (400, "text/plain")
    assert "branch_id" in answered.body["message"]


async def test_what_is_not_known_is_shown_as_null(node: Running) -> None:
    assert await node.dtm.shown("nobody") == {"transaction": None, "branches": []}


async def test_a_query_needs_a_gid(node: Running) -> None:
    answered = await node.dtm.get("/query")
    assert answered.status == 500
    assert list(answered.body) == ["message"]


@pytest.mark.parametrize("path", ["/nothing", "/query/more", "/api/other", "/api/v1/cluster"])
async def test_an_unknown_path_is_answered_as_a_text(node: Running, path: str) -> None:
    answered = await node.dtm.get(path)
    assert answered.status == 404
    assert answered.content_type == "text/plain"
    assert answered.content == b"404 page not found"


async def test_an_unknown_method_is_answered_as_a_text(node: Running) -> None:
    for method, path in (("GET", "/submit"), ("POST", "/newGid"), ("PUT", "/query")):
        answered = await node.dtm.call(method, path)
        assert (answered.status, answered.content) == (404, b"404 page not found")
