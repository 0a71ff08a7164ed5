"""DTM's transactions from end to end: its state machines and its calls, row by row."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from statemachine.commands import BeginGlobal, DecideGlobal
from tests.integration.dtm import EMPTY, SUCCESS, Running, running, saga, step

pytestmark = [pytest.mark.timeout(60), pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with running(tmp_path_factory.mktemp("dtm")) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def node(shared: Running) -> AsyncIterator[Running]:
    async with shared.renewed() as found:
        yield found


async def hastened(node: Running, status: str, gid: str = "") -> Any:
    """Have every next call made at once until the transaction stands so; return it."""
    gid = gid or node.gid
    async with asyncio.timeout(20):
        while True:
            transaction = (await node.dtm.shown(gid))["transaction"]
            if transaction["status"] == status:
                return transaction
            await node.dtm.post("/resetNextCronTime", {"gid": gid})
            await asyncio.sleep(0.02)


# --- saga


async def test_a_refused_saga_undoes_backwards_and_the_refused_step_too(node: Running) -> None:
    at = node.participant
    at.answers["b/do"] = [409]
    body = saga(node.gid, step(at, "a"), step(at, "b"), step(at, "c"), wait_result=True)
    status, said = await node.dtm.said("/submit", body)
    assert (status, said["dtm_result"]) == (409, "FAILURE")
    assert said["message"].startswith("reason: ")
    assert said["message"].endswith("FAILURE")
    assert at.heard == ["a/do action", "b/do action", "b/undo compensate", "a/undo compensate"]
    assert await node.dtm.operations(node.gid) == [
        ("01", "compensate", "succeed"),
        ("01", "action", "succeed"),
        ("02", "compensate", "succeed"),
        ("02", "action", "failed"),
        ("03", "compensate", "prepared"),
        ("03", "action", "prepared"),
    ]
    transaction = (await node.dtm.shown(node.gid))["transaction"]
    assert transaction["status"] == "failed"
    assert transaction["rollback_time"]
    assert "finish_time" not in transaction


async def test_a_saga_that_takes_too_long_is_undone(node: Running) -> None:
    at = node.participant
    at.answers["b/do"] = [500]
    body = saga(node.gid, step(at, "a"), step(at, "b"), timeout_to_fail=1)
    assert await node.dtm.said("/submit", body) == SUCCESS
    transaction = await node.dtm.until(node.gid, "failed")
    assert transaction["rollback_reason"] == "Timeout after 1 seconds"
    assert at.heard[-2:] == ["b/undo compensate", "a/undo compensate"]


async def test_a_saga_has_no_timeout_unless_it_is_asked_for(node: Running) -> None:
    at = node.participant
    at.answers["a/do"] = [500]
    await node.dtm.post("/submit", saga(node.gid, step(at, "a")))
    row = node.cluster.row(node.gid)
    assert row is not None
    assert row.deadline_ms == 0


async def test_a_retry_limit_of_one_gives_two_calls(node: Running) -> None:
    at = node.participant
    at.answers["a/do"] = [500]
    body = saga(node.gid, step(at, "a"), retry_limit=1, retry_interval=1)
    await node.dtm.post("/submit", body)
    await hastened_slowly(node, "failed")
    assert at.heard == ["a/do action", "a/do action", "a/undo compensate"]


async def hastened_slowly(node: Running, status: str) -> None:
    """Wait without haste: it would count the calls anew."""
    await node.dtm.until(node.gid, status)


async def test_a_compensation_is_repeated_until_it_is_done(node: Running) -> None:
    at = node.participant
    at.answers["a/do"] = [409]
    at.answers["a/undo"] = [409, 500, 200]
    await node.dtm.post("/submit", saga(node.gid, step(at, "a")))
    await hastened(node, "failed")
    assert at.heard == ["a/do action", *["a/undo compensate"] * 3]


async def test_steps_of_a_concurrent_saga_do_not_wait_for_each_other(node: Running) -> None:
    at = node.participant
    both = asyncio.Event()

    async def meets(_: web.Request) -> web.StreamResponse:
        if len(at.calls) == 2:
            both.set()
        async with asyncio.timeout(2):
            await both.wait()
        return web.Response()

    at.answers = {"a/do": [meets], "b/do": [meets]}
    data = json.dumps({"concurrent": True})
    body = saga(node.gid, step(at, "a"), step(at, "b"), custom_data=data, wait_result=True)
    assert await node.dtm.said("/submit", body) == SUCCESS


async def test_orders_say_which_steps_come_before(node: Running) -> None:
    at = node.participant
    # The first waits for both others: nothing says that later steps come later.
    data = json.dumps({"concurrent": True, "orders": {"0": [1, 2], "1": [2]}})
    steps = [step(at, name) for name in ("a", "b", "c")]
    body = saga(node.gid, *steps, custom_data=data, wait_result=True)
    assert await node.dtm.said("/submit", body) == SUCCESS
    assert at.heard == ["c/do action", "b/do action", "a/do action"]
    assert [call.query["branch_id"] for call in at.calls] == ["03", "02", "01"]
    ids = [branch_id for branch_id, _, _ in await node.dtm.operations(node.gid)]
    assert ids == ["01", "01", "02", "02", "03", "03"]


async def test_compensation_goes_through_the_graph_backwards(node: Running) -> None:
    at = node.participant
    at.answers["a/do"] = [409]
    data = json.dumps({"concurrent": True, "orders": {"0": [1, 2], "1": [2]}})
    steps = [step(at, name) for name in ("a", "b", "c")]
    await node.dtm.post("/submit", saga(node.gid, *steps, custom_data=data))
    await node.dtm.until(node.gid, "failed")
    assert at.heard[3:] == ["a/undo compensate", "b/undo compensate", "c/undo compensate"]


async def test_a_wait_that_is_too_short_says_that_it_is_not_finished(node: Running) -> None:
    at = node.participant
    at.answers["a/do"] = [500]
    body = saga(node.gid, step(at, "a"), wait_result=True, request_timeout=1)
    status, said = await node.dtm.said("/submit", body)
    assert (status, said["dtm_result"]) == (409, "FAILURE")
    assert said["message"].startswith("wait result not return success: ")
    assert "not finished" in said["message"]
    at.answers["a/do"] = [200]
    await hastened(node, "succeed")


# --- tcc and xa


async def register(node: Running, kind: str, branch_id: str, name: str, **more: str) -> None:
    at = node.participant
    members = {"gid": node.gid, "trans_type": kind, "branch_id": branch_id, **more}
    urls = (
        {"url": at.url(name)}
        if kind == "xa"
        else {"confirm": at.url(f"{name}/yes"), "cancel": at.url(f"{name}/no")}
    )
    assert await node.dtm.said("/registerBranch", {**members, **urls}) == SUCCESS


async def test_tcc_confirms_in_reverse_order_of_registration(node: Running) -> None:
    body = {"gid": node.gid, "trans_type": "tcc", "wait_result": True}
    await node.dtm.post("/prepare", body)
    for branch_id, name in (("01", "a"), ("02", "b"), ("0201", "c")):
        await register(node, "tcc", branch_id, name, data='{"n":1}')
    assert await node.dtm.said("/submit", body) == SUCCESS
    at = node.participant
    assert at.heard == ["c/yes confirm", "b/yes confirm", "a/yes confirm"]
    assert [call.query["branch_id"] for call in at.calls] == ["0201", "02", "01"]
    assert {(call.method, call.content) for call in at.calls} == {("POST", b'{"n":1}')}
    assert await node.dtm.operations(node.gid) == [
        (branch_id, op, status)
        for branch_id in ("01", "02", "0201")
        for op, status in (("cancel", "prepared"), ("confirm", "succeed"))
    ]


async def test_tcc_cancels_in_reverse_order_of_registration(node: Running) -> None:
    body = {"gid": node.gid, "trans_type": "tcc"}
    await node.dtm.post("/prepare", body)
    await register(node, "tcc", "01", "a")
    await register(node, "tcc", "02", "b")
    assert await node.dtm.said("/abort", body) == SUCCESS
    await node.dtm.until(node.gid, "failed")
    assert node.participant.heard == ["b/no cancel", "a/no cancel"]


async def test_a_tcc_that_nobody_decides_times_out(node: Running) -> None:
    await node.dtm.post("/prepare", {"gid": node.gid, "trans_type": "tcc", "timeout_to_fail": 1})
    await register(node, "tcc", "01", "a")
    transaction = await node.dtm.until(node.gid, "failed")
    assert transaction["rollback_reason"] == "Timeout after 1 seconds"
    assert node.participant.heard == ["a/no cancel"]


@pytest.mark.parametrize("kind", ["tcc", "xa", "msg"])
async def test_the_timeout_is_35_seconds_unless_it_is_given(node: Running, kind: str) -> None:
    query = node.participant.url("q")
    await node.dtm.post("/prepare", {"gid": node.gid, "trans_type": kind, "query_prepared": query})
    row = node.cluster.row(node.gid)
    assert row is not None
    due_ms = row.due_ms if kind == "msg" else row.deadline_ms
    elapsed_ms = node.cluster.nodes[0].engine.machine.elapsed_ms
    assert 30_000 < due_ms - elapsed_ms <= 35_000


async def test_xa_commits_in_order_of_registration(node: Running) -> None:
    body = {"gid": node.gid, "trans_type": "xa", "wait_result": True}
    await node.dtm.post("/prepare", body)
    await register(node, "xa", "01", "a")
    await register(node, "xa", "02", "b")
    assert await node.dtm.said("/submit", body) == SUCCESS
    at = node.participant
    assert at.heard == ["a commit", "b commit"]
    assert {(call.method, call.content) for call in at.calls} == {("POST", b"")}


async def test_xa_rolls_back_in_order_of_registration(node: Running) -> None:
    body = {"gid": node.gid, "trans_type": "xa"}
    await node.dtm.post("/prepare", body)
    await register(node, "xa", "01", "a")
    await register(node, "xa", "02", "b")
    await node.dtm.post("/abort", body)
    await node.dtm.until(node.gid, "failed")
    assert node.participant.heard == ["a rollback", "b rollback"]


@pytest.mark.parametrize("kind", ["tcc", "xa"])
async def test_a_branch_that_is_still_at_it_is_ongoing(node: Running, kind: str) -> None:
    at = node.participant
    at.answers = {"a": [425], "a/yes": [425]}
    body = {"gid": node.gid, "trans_type": kind, "wait_result": True, "request_timeout": 1}
    await node.dtm.post("/prepare", body)
    await register(node, kind, "01", "a")
    status, said = await node.dtm.said("/submit", body)
    assert (status, said["dtm_result"]) == (425, "ONGOING")
    assert "01" in said["message"]
    at.answers.clear()
    await hastened(node, "succeed")


async def test_phase_two_is_repeated_though_it_is_refused(node: Running) -> None:
    at = node.participant
    at.answers["a/yes"] = [409, (200, "FAILURE"), 200]
    body = {"gid": node.gid, "trans_type": "tcc"}
    await node.dtm.post("/prepare", body)
    await register(node, "tcc", "01", "a")
    await node.dtm.post("/submit", body)
    await hastened(node, "succeed")
    assert at.heard == ["a/yes confirm"] * 3


# --- messages


def message(node: Running, *actions: str, **members: object) -> dict[str, object]:
    at = node.participant
    return {
        "gid": node.gid,
        "trans_type": "msg",
        "query_prepared": at.url("q"),
        "steps": [{"action": action} for action in actions],
        "payloads": ['{"n":1}'] * len(actions),
        **members,
    }


async def test_a_message_is_delivered_one_step_after_the_other(node: Running) -> None:
    at = node.participant
    at.answers["a"] = [500, 200]
    body = message(node, at.url("a"), at.url("b"))
    assert await node.dtm.said("/prepare", body) == SUCCESS
    assert await node.dtm.operations(node.gid) == []
    assert await node.dtm.said("/submit", body) == SUCCESS
    await node.called(1)
    await hastened(node, "succeed")
    assert at.heard == ["a action", "a action", "b action"]
    assert await node.dtm.operations(node.gid) == [
        ("01", "action", "succeed"),
        ("02", "action", "succeed"),
    ]


async def test_a_concurrent_message_is_delivered_to_all_at_once(node: Running) -> None:
    at = node.participant
    at.answers["a"] = [500]
    body = message(node, at.url("a"), at.url("b"), concurrent=True)
    await node.dtm.post("/submit", body)
    await node.called(2)
    assert sorted(at.heard) == ["a action", "b action"]


async def test_a_message_may_be_submitted_without_being_prepared(node: Running) -> None:
    at = node.participant
    body = message(node, at.url("a"), query_prepared="", wait_result=True)
    assert await node.dtm.said("/submit", body) == SUCCESS
    assert at.heard == ["a action"]


async def test_a_message_that_nobody_could_be_asked_about_is_not_prepared(node: Running) -> None:
    status, said = await node.dtm.said("/prepare", message(node, query_prepared=None))
    assert status == 500
    assert "query_prepared" in said["message"]


async def test_a_message_is_delayed(node: Running) -> None:
    at = node.participant
    body = message(node, at.url("a"), custom_data='{"delay":3600}')
    await node.dtm.post("/submit", body)
    row = node.cluster.row(node.gid)
    assert row is not None
    elapsed_ms = node.cluster.nodes[0].engine.machine.elapsed_ms
    assert 3_590_000 < row.due_ms - elapsed_ms <= 3_600_000
    assert at.calls == []


async def test_after_submission_a_message_never_fails(node: Running) -> None:
    at = node.participant
    at.answers["a"] = [409, 409, 200]
    await node.dtm.post("/submit", message(node, at.url("a")))
    await hastened(node, "succeed")
    assert at.heard == ["a action"] * 3


@pytest.mark.parametrize(("said", "status"), [(200, "succeed"), (409, "failed")])
async def test_the_sender_of_a_message_that_nobody_submits_is_asked(
    node: Running, said: int, status: str
) -> None:
    at = node.participant
    at.answers["q"] = [said]
    await node.dtm.post("/prepare", message(node, at.url("a"), timeout_to_fail=1))
    await node.dtm.until(node.gid, status)
    asked = at.calls[0]
    assert (asked.method, asked.path) == ("GET", "q")
    assert asked.query == {
        "branch_id": "00",
        "gid": node.gid,
        "op": "msg",
        "trans_type": "msg",
    }
    assert at.heard[1:] == (["a action"] if said == 200 else [])


@pytest.mark.parametrize("said", [425, 500, 302])
async def test_a_sender_who_does_not_know_is_asked_again(node: Running, said: int) -> None:
    at = node.participant
    at.answers["q"] = [said, 200]
    await node.dtm.post("/prepare", message(node, at.url("a")))
    await hastened(node, "succeed")
    assert at.heard == ["q msg", "q msg", "a action"]


async def test_a_topic_is_delivered_to_all_who_subscribed(node: Running) -> None:
    at = node.participant
    topic = f"topic-{node.gid}"
    for name in ("a", "b"):
        await node.dtm.get("/subscribe", topic=topic, url=at.url(name), remark=name)
    await node.dtm.post("/submit", message(node, f"topic://{topic}", at.url("c"), wait_result=True))
    assert [(call.path, call.query["branch_id"]) for call in at.calls] == [
        ("a", "01-01"),
        ("b", "01-02"),
        ("c", "02"),
    ]


async def test_a_topic_of_one_subscriber_is_one_branch(node: Running) -> None:
    at = node.participant
    topic = f"topic-{node.gid}"
    await node.dtm.get("/subscribe", topic=topic, url=at.url("a"), remark="")
    await node.dtm.post("/submit", message(node, f"topic://{topic}", wait_result=True))
    assert [call.query["branch_id"] for call in at.calls] == ["01"]


# --- workflows


def workflow(node: Running, **members: object) -> dict[str, object]:
    data = base64.b64encode(b'{"n":1}').decode()
    return {
        "gid": node.gid,
        "trans_type": "workflow",
        "query_prepared": node.participant.url("run"),
        "custom_data": json.dumps({"name": "transfer", "data": data}),
        **members,
    }


async def test_a_workflow_is_prepared_with_what_it_has_got_to(node: Running) -> None:
    answered = await node.dtm.post("/prepareWorkflow", workflow(node))
    assert answered.status == 200
    assert answered.body["progresses"] == []
    assert answered.body["transaction"]["status"] == "prepared"
    branch = {"gid": node.gid, "trans_type": "workflow", "branch_id": "01", "op": "action"}
    progress = {**branch, "status": "succeed", "data": "done", "sync": "1"}
    assert await node.dtm.said("/registerBranch", progress) == SUCCESS
    again = (await node.dtm.post("/prepareWorkflow", workflow(node))).body
    (kept,) = again["progresses"]
    assert (kept["branch_id"], kept["op"], kept["status"]) == ("01", "action", "succeed")
    assert base64.b64decode(kept["bin_data"]) == b"done"
    assert (await node.dtm.shown(node.gid))["branches"] == again["progresses"]
    answered = await node.dtm.post("/registerBranch", progress)
    assert answered.status == 500


@pytest.mark.parametrize("status", ["succeed", "failed"])
async def test_a_workflow_ends_as_its_client_says(node: Running, status: str) -> None:
    await node.dtm.post("/prepareWorkflow", workflow(node))
    extra = {"status": status, "rollback_reason": "why", "result": "cmVzdWx0"}
    assert await node.dtm.said("/submit", workflow(node, req_extra=extra)) == SUCCESS
    answered = await node.dtm.post("/prepareWorkflow", workflow(node))
    transaction = answered.body["transaction"]
    assert (transaction["status"], transaction["result"]) == (status, "cmVzdWx0")
    assert transaction.get("rollback_reason", "") == ("why" if status == "failed" else "")


async def test_a_workflow_that_is_not_prepared_cannot_be_submitted(node: Running) -> None:
    answered = await node.dtm.post("/submit", workflow(node, req_extra={"status": "succeed"}))
    assert answered.status == 500


async def test_a_workflow_is_called_back_until_its_client_has_ended_it(node: Running) -> None:
    at = node.participant
    at.answers["run"] = [500, 200]
    await node.dtm.post("/prepareWorkflow", workflow(node))
    row = node.cluster.row(node.gid)
    assert row is not None
    elapsed_ms = node.cluster.nodes[0].engine.machine.elapsed_ms
    assert 9_000 < row.due_ms - elapsed_ms <= 10_000
    async with asyncio.timeout(20):
        while len(at.calls) < 3:
            await node.dtm.post("/resetNextCronTime", {"gid": node.gid})
            await asyncio.sleep(0.02)
    called = at.calls[0]
    assert (called.method, called.path, called.content) == ("POST", "run", b'{"n":1}')
    assert called.query == {
        "branch_id": "00",
        "gid": node.gid,
        "op": "transfer",
        "trans_type": "workflow",
    }
    await node.dtm.post("/submit", workflow(node, req_extra={"status": "succeed"}))
    assert await node.dtm.status(node.gid) == "succeed"


# --- calls


async def test_a_call_says_who_it_is_for_behind_the_query_that_its_url_has(node: Running) -> None:
    at = node.participant
    body = saga(node.gid, {"action": at.url("a?x=1&y=%20"), "compensate": ""}, wait_result=True)
    assert await node.dtm.said("/submit", body) == SUCCESS
    (call,) = at.calls
    assert call.query_text.startswith("x=1&y=")
    assert call.query_text.endswith(f"&branch_id=01&gid={node.gid}&op=action&trans_type=saga")
    assert call.method == "POST"
    assert call.content == b'{"amount":1}'
    assert call.headers["Content-Type"] == call.headers["Accept"] == "application/json"


async def test_a_call_without_a_payload_is_a_get(node: Running) -> None:
    at = node.participant
    body = saga(node.gid, step(at, "a"), payloads=[""], wait_result=True)
    assert await node.dtm.said("/submit", body) == SUCCESS
    assert [call.method for call in at.calls] == ["GET"]


async def test_branch_headers_are_on_every_call(node: Running) -> None:
    at = node.participant
    at.answers["b/do"] = [409]
    headers = {"X-Tenant": "t1", "content-type": "text/json"}
    body = saga(node.gid, step(at, "a"), step(at, "b"), branch_headers=headers)
    await node.dtm.post("/submit", body)
    await node.dtm.until(node.gid, "failed")
    assert len(at.calls) == 4
    for call in at.calls:
        assert (call.headers["X-Tenant"], call.headers["Content-Type"]) == ("t1", "text/json")


async def test_what_a_submission_names_holds_for_the_calls_behind_it(node: Running) -> None:
    at = node.participant
    prepared = {"gid": node.gid, "trans_type": "tcc", "branch_headers": {"X-A": "1"}}
    await node.dtm.post("/prepare", prepared)
    await register(node, "tcc", "01", "a")
    submitted = {"gid": node.gid, "trans_type": "tcc", "branch_headers": {"X-A": "2"}}
    await node.dtm.post("/submit", submitted)
    await node.dtm.until(node.gid, "succeed")
    assert [call.headers["X-A"] for call in at.calls] == ["2"]


async def test_what_was_prepared_holds_where_a_submission_says_nothing(node: Running) -> None:
    at = node.participant
    body = {"gid": node.gid, "trans_type": "tcc"}
    await node.dtm.post("/prepare", {**body, "branch_headers": {"X-A": "1"}})
    await register(node, "tcc", "01", "a")
    await node.dtm.post("/submit", body)
    await node.dtm.until(node.gid, "succeed")
    assert [call.headers["X-A"] for call in at.calls] == ["1"]


@pytest.mark.parametrize(
    ("said", "calls"),
    [
        ((425, ""), 2),
        ((200, "ONGOING"), 2),
        ((409, "ONGOING"), 2),
        ((500, "ONGOING"), 2),
        ((201, ""), 2),
        ((204, ""), 2),
        ((301, ""), 2),
        ((404, ""), 2),
        ((500, ""), 2),
        ((200, "anything"), 1),
    ],
)
async def test_what_is_not_exactly_done_is_called_again(
    node: Running, said: tuple[int, str], calls: int
) -> None:
    at = node.participant
    at.answers["a/do"] = [said, 200]
    await node.dtm.post("/submit", saga(node.gid, step(at, "a")))
    await hastened(node, "succeed")
    assert at.heard == ["a/do action"] * calls


@pytest.mark.parametrize("said", [(409, ""), (200, "FAILURE"), (500, "xFAILUREx")])
async def test_a_definite_failure_is_a_status_or_a_word(
    node: Running, said: tuple[int, str]
) -> None:
    at = node.participant
    at.answers["a/do"] = [said]
    await node.dtm.post("/submit", saga(node.gid, step(at, "a")))
    await node.dtm.until(node.gid, "failed")
    assert at.heard == ["a/do action", "a/undo compensate"]


async def test_a_call_takes_no_longer_than_the_request_timeout(node: Running) -> None:
    at = node.participant

    async def never(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(3)
        return web.Response()

    at.answers["a/do"] = [never, 200]
    body = saga(node.gid, step(at, "a"), request_timeout=1, retry_interval=1)
    await node.dtm.post("/submit", body)
    await node.called(2)
    shown = node.cluster.branches(node.gid)[0]
    assert shown.failure is None or "1000 ms" in shown.failure.message
    await node.dtm.until(node.gid, "succeed")


async def test_a_gid_that_is_no_xid_goes_under_another_and_is_called_by_its_own(
    node: Running,
) -> None:
    at = node.participant
    gid = f"订单/{node.gid} & more"
    body = saga(gid, step(at, "a"), wait_result=True)
    assert await node.dtm.said("/submit", body) == SUCCESS
    assert await node.dtm.status(gid) == "succeed"
    assert at.calls[0].query["gid"] == gid
    (listed,) = (await node.dtm.get("/all", gid=gid)).body["transactions"]
    assert listed["gid"] == gid


# --- JSON-RPC to branches


async def test_a_branch_is_called_by_json_rpc(node: Running) -> None:
    at = node.participant
    ongoing = {"jsonrpc": "2.0", "id": "1", "error": {"code": -32902, "message": "m"}}
    done = {"jsonrpc": "2.0", "id": "1", "result": "x"}
    at.answers["rpc"] = [json.dumps(ongoing), json.dumps(done)]
    url = at.url("rpc?method=transfer")
    body = saga(node.gid, {"action": url, "compensate": url}, protocol="json-rpc")
    await node.dtm.post("/submit", body)
    await hastened(node, "succeed")
    assert len(at.calls) == 2
    sent = json.loads(at.calls[0].content)
    assert (at.calls[0].method, sent["jsonrpc"], sent["method"]) == ("POST", "2.0", "transfer")
    assert sent["params"] == {
        "amount": 1,
        "gid": node.gid,
        "branch_id": "01",
        "op": "action",
        "trans_type": "saga",
    }


async def test_a_branch_refuses_by_json_rpc(node: Running) -> None:
    at = node.participant
    refused = json.dumps({"id": "1", "error": {"code": -32901, "message": "m"}})
    at.answers["rpc"] = [refused, "{}"]
    url = at.url("rpc?method=transfer")
    body = saga(node.gid, {"action": url, "compensate": url}, protocol="json-rpc")
    await node.dtm.post("/submit", body)
    await node.dtm.until(node.gid, "failed")
    assert [json.loads(call.content)["params"]["op"] for call in at.calls] == [
        "action",
        "compensate",
    ]


# --- one engine


async def test_a_transaction_of_our_own_is_shown_but_not_changed(node: Running) -> None:
    await node.cluster.do(
        BeginGlobal(xid=node.gid, prefix="n1", name="own", timeout_ms=60_000, mode="AT")
    )
    transaction = (await node.dtm.shown(node.gid))["transaction"]
    assert (transaction["trans_type"], transaction["status"]) == ("tcc", "prepared")
    body = {"gid": node.gid, "trans_type": "tcc"}
    assert (await node.dtm.post("/submit", body)).status == 409
    assert (await node.dtm.post("/abort", body)).status == 409
    assert (await node.dtm.post("/forceStop", body)).status == 409
    branch = {**body, "branch_id": "01"}
    assert (await node.dtm.post("/registerBranch", branch)).status == 409
    row = node.cluster.row(node.gid)
    assert row is not None
    assert row.status == "BEGIN"


async def test_our_own_api_decides_what_dtms_clients_began(node: Running) -> None:
    await node.dtm.post("/prepare", {"gid": node.gid, "trans_type": "tcc"})
    await register(node, "tcc", "01", "a")
    await node.cluster.do(
        DecideGlobal(xid=node.gid, commit=True, reason="", wait_ms=0, reports_expected=True)
    )
    await node.dtm.until(node.gid, "succeed")
    assert node.participant.heard == ["a/yes confirm"]


async def test_an_empty_saga_has_nothing_to_do(node: Running) -> None:
    assert await node.dtm.said("/submit", saga(node.gid, wait_result=True)) == SUCCESS
    assert await node.dtm.said("/submit", saga(node.gid + "1", EMPTY)) == SUCCESS
    assert await node.dtm.status(node.gid + "1") == "succeed"
