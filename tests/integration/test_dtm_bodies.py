"""What DTM's clients may write, what they are answered, and what is not let through."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import AsyncIterator
from ipaddress import ip_network
from typing import Any

import pytest
import pytest_asyncio

from api.cluster import NoQuorumError, OutcomeUnknownError
from api.settings import ApiSettings
from node.delivery.destinations import Destinations
from tests.integration.dtm import EMPTY, PREFIX, SUCCESS, Dtm, gateway, saga
from tests.integration.local_cluster import LocalCluster

pytestmark = [pytest.mark.timeout(60), pytest.mark.asyncio(loop_scope="module")]

MESSAGES = ["message"]


@pytest_asyncio.fixture(loop_scope="module")
async def cluster() -> LocalCluster:
    return LocalCluster()


@pytest_asyncio.fixture(loop_scope="module")
async def dtm(cluster: LocalCluster) -> AsyncIterator[Dtm]:
    async with gateway(cluster) as found:
        yield found


async def refused(dtm: Dtm, path: str, send: object) -> str:
    """Return the message of an error that is nobody's definite failure."""
    answered = await dtm.post(path, send)
    assert (answered.status, answered.content_type) == (500, "application/json")
    assert list(answered.body) == MESSAGES
    message = str(answered.body["message"])
    assert message
    assert "Traceback" not in message
    return message


# --- JSON


@pytest.mark.parametrize("path", ["/prepare", "/submit", "/abort", "/prepareWorkflow"])
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"1",
        b"{}",
        b"null",
        b"{}{}",
        b"\xff\xfe",
        b'{"gid": "g", "trans_type": "saga",}',
        b"[" * 5_000 + b"]" * 5_000,
        b'{"gid": "\\ud800", "trans_type": "tcc"}',
    ],
)
async def test_what_is_no_transaction_is_an_error(dtm: Dtm, path: str, raw: bytes) -> None:
    answered = await dtm.call("POST", path, raw=raw)
    assert answered.status == 500
    assert list(answered.body) == MESSAGES


@pytest.mark.parametrize(
    "wrong",
    [
        {"gid": 1},
        {"gid": ["g"]},
        {"trans_type": 1},
        {"steps": "s"},
        {"steps": [1]},
        {"steps": [{"action": 1}]},
        {"payloads": {}},
        {"payloads": [{}]},
        {"custom_data": {}},
        {"custom_data": "{"},
        {"custom_data": "[]"},
        {"custom_data": '{"concurrent": 1}'},
        {"custom_data": '{"concurrent": true, "orders": []}'},
        {"custom_data": '{"concurrent": true, "orders": {"x": [0]}}'},
        {"custom_data": '{"concurrent": true, "orders": {"0": ["1"]}}'},
        {"custom_data": '{"concurrent": true, "orders": {"0": [9]}}'},
        {"custom_data": '{"concurrent": true, "orders": {"9": [0]}}'},
        {"custom_data": '{"concurrent": true, "orders": {"0": [0]}}'},
        {"custom_data": '{"concurrent": true, "orders": {"0": [1], "1": [0]}}'},
        {"query_prepared": 1},
        {"protocol": 1},
        {"protocol": "grpc"},
        {"wait_result": "true"},
        {"timeout_to_fail": "1"},
        {"timeout_to_fail": 1.5},
        {"timeout_to_fail": True},
        {"timeout_to_fail": 10**12},
        {"request_timeout": []},
        {"retry_interval": {}},
        {"branch_headers": []},
        {"branch_headers": {"X-A": 1}},
        {"branch_headers": {"Host": "elsewhere"}},
        {"branch_headers": {"Authorization": "x"}},
        {"branch_headers": {"X-Tx-Xid": "x"}},
        {"branch_headers": {"Tidelock-Epoch": "1"}},
        {"branch_headers": {"X-A": "a\r\nX-B: b"}},
        {"branch_headers": {f"X-{at}": "" for at in range(33)}},
        {"branch_headers": {"X-A": "a" * 4_000, "X-B": "b" * 4_000, "X-C": "c" * 4_000}},
        {"concurrent": 1},
        {"retry_limit": "1"},
        {"rollback_reason": 1},
        {"req_extra": "x"},
        {"payloads": []},
        {"payloads": ["{}"]},
        {"gid": "g" * 129},
        {"gid": "\n\r;"},
        {"trans_type": "odd"},
        {"trans_type": ""},
    ],
    ids=lambda wrong: json.dumps(wrong)[:40],
)
async def test_a_field_of_another_type_or_value_is_an_error(
    dtm: Dtm, cluster: LocalCluster, wrong: dict[str, object]
) -> None:
    before = cluster.digest
    await refused(dtm, "/submit", {**saga("g", EMPTY, EMPTY), **wrong})
    assert cluster.digest == before


async def test_an_unknown_type_is_told_in_dtms_words(dtm: Dtm) -> None:
    message = await refused(dtm, "/submit", {"gid": "g", "trans_type": "odd"})
    assert message == "unknow trans type: odd"


async def test_a_missing_gid_is_told_clearly(dtm: Dtm) -> None:
    assert await refused(dtm, "/submit", {"trans_type": "saga"}) == "no gid specified"


async def test_keys_are_known_whatever_their_case_and_unknown_ones_are_ignored(dtm: Dtm) -> None:
    body = {"GID": "g", "Trans_Type": "saga", "STEPS": [EMPTY], "payLoads": [""], "other": [1]}
    assert await dtm.said("/submit", body) == SUCCESS
    assert await dtm.status("g") == "succeed"


async def test_null_is_as_good_as_nothing(dtm: Dtm) -> None:
    names = [
        "custom_data", "query_prepared", "protocol", "wait_result", "timeout_to_fail",
        "request_timeout", "retry_interval", "branch_headers", "concurrent", "retry_limit",
        "retry_count", "rollback_reason", "req_extra",
    ]  # fmt: skip
    body = {**saga("g", EMPTY), **dict.fromkeys(names)}
    body["payloads"] = [None]
    body["steps"] = [{"action": None, "compensate": None}]
    assert await dtm.said("/submit", body) == SUCCESS


async def test_what_dtm_strips_from_a_gid_is_stripped(dtm: Dtm) -> None:
    assert await dtm.said("/submit", saga("a\n\rb;c", EMPTY)) == SUCCESS
    assert await dtm.status("abc") == "succeed"


async def test_a_step_may_have_its_payload_in_itself(dtm: Dtm) -> None:
    body = saga("g", {**EMPTY, "data": '{"n":1}'}, payloads=[])
    assert await dtm.said("/submit", body) == SUCCESS
    action = (await dtm.shown("g"))["branches"][1]
    assert base64.b64decode(action["bin_data"]) == b'{"n":1}'


async def test_a_missing_payload_is_an_error(dtm: Dtm) -> None:
    assert "payloads" in await refused(dtm, "/submit", saga("g", EMPTY, EMPTY, payloads=[""]))


async def test_what_clients_add_of_their_own_is_accepted(dtm: Dtm) -> None:
    python = {"passthrough_headers": [], "request_timeout": 8, "branch_headers": {}, "steps": []}
    assert await dtm.said("/submit", {**saga("py", EMPTY), **python, "payloads": []}) == SUCCESS
    csharp = {"branch_headers": None, "passthrough_headers": None, "BinPayloads": None}
    assert await dtm.said("/submit", {**saga("cs", EMPTY), **csharp}) == SUCCESS
    java = {"sub_type": "x", "context": {"a": 1}}
    assert await dtm.said("/submit", {**saga("java", EMPTY), **java}) == SUCCESS


async def test_a_body_that_is_too_large_is_an_error(cluster: LocalCluster) -> None:
    async with gateway(cluster, ApiSettings(greatest_body_bytes=10_000)) as dtm:
        body = saga("g", EMPTY, payloads=["x" * 20_000])
        assert "10000" in await refused(dtm, "/submit", body)


async def test_what_no_entry_can_hold_is_an_error(dtm: Dtm) -> None:
    body = saga("g", EMPTY, payloads=["x" * 1_500_000])
    assert "1 MiB" in await refused(dtm, "/submit", body)
    assert await dtm.status("g") == ""


async def test_too_many_steps_are_an_error(dtm: Dtm) -> None:
    assert "1000" in await refused(dtm, "/submit", saga("g", *[EMPTY] * 1_001))
    message = {"gid": "m", "trans_type": "msg", "steps": [{"action": ""}] * 1_001}
    assert "1000" in await refused(dtm, "/submit", {**message, "payloads": [""] * 1_001})


@pytest.mark.parametrize("size", ["custom_data", "result"])
async def test_texts_are_bounded(dtm: Dtm, size: str) -> None:
    long = '{"a":"' + "x" * 70_000 + '"}'
    more: dict[str, object] = (
        {"custom_data": long} if size == "custom_data" else {"req_extra": {"result": long}}
    )
    assert "larger than" in await refused(dtm, "/submit", {**saga("g", EMPTY), **more})


# --- where the cluster calls


FORBIDDEN = [
    "ftp://127.0.0.1/x",
    "127.0.0.1:8080/x",
    "//host/x",
    "host:36790/busi.Busi/TransOut",
    "javascript:alert(1)",
    "http:///x",
    "http://elsewhere/x",
    "http://127.0.0.1:7101/api/v1/cluster",
    "http://127.0.0.1:7301/api/dtmsvr/forceStop",
    "http://[::ffff:127.0.0.1]:9000/x",
    "http://169.254.169.254/latest",
    "http://user:word@127.0.0.1/x",
]


@pytest_asyncio.fixture(loop_scope="module")
async def guarded(cluster: LocalCluster) -> AsyncIterator[Dtm]:
    """A gateway of a node that calls loopback, but not the cluster's own ports."""
    own = [("127.0.0.1", 7101), ("127.0.0.1", 7301)]
    destinations = Destinations(["127.0.0.1", "10.0.0.0/8"], own)
    async with gateway(cluster, ApiSettings(destinations=destinations)) as found:
        yield found


@pytest.mark.parametrize("url", FORBIDDEN)
async def test_only_what_the_cluster_calls_is_accepted(guarded: Dtm, url: str) -> None:
    dtm = guarded
    message = await refused(dtm, "/submit", saga("g", {"action": url, "compensate": ""}))
    assert message.startswith("the action of step 01 ")
    message = await refused(dtm, "/submit", saga("g", {"action": "", "compensate": url}))
    assert message.startswith("the compensation of step 01 ")
    asked = {"gid": "g", "trans_type": "msg", "query_prepared": url}
    assert "query_prepared" in await refused(dtm, "/prepare", asked)
    assert await dtm.said("/prepare", {"gid": "t", "trans_type": "tcc"}) == SUCCESS
    branch = {"gid": "t", "trans_type": "tcc", "branch_id": "01", "confirm": url}
    assert "confirm" in await refused(dtm, "/registerBranch", branch)
    branch = {"gid": "t", "trans_type": "xa", "branch_id": "01", "url": url}
    assert "url" in await refused(dtm, "/registerBranch", branch)
    answered = await dtm.get("/subscribe", topic="t", url=url, remark="")
    assert answered.status == 500


async def test_a_topic_needs_a_name_that_it_can_have(dtm: Dtm) -> None:
    for topic in ("topic://", "topic://" + "t" * 129):
        body = {"gid": "g", "trans_type": "msg", "steps": [{"action": topic}], "payloads": [""]}
        assert "topic" in await refused(dtm, "/submit", body)


# --- branches


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b'{"gid": 1}', b'{"gid": "g", "data": {}}', b'{"gid": ["g"]}']
)
async def test_a_registration_that_cannot_be_bound_is_a_text_with_json(
    dtm: Dtm, raw: bytes
) -> None:
    answered = await dtm.call("POST", "/registerBranch", raw=raw)
    assert (answered.status, answered.content_type) == (400, "text/plain")
    assert list(answered.body) == MESSAGES


@pytest.mark.parametrize("branch_id", ["", "x" * 129])
async def test_a_branch_id_is_a_short_text(dtm: Dtm, branch_id: str) -> None:
    branch = {"gid": "g", "trans_type": "tcc", "branch_id": branch_id}
    assert "branch_id" in await refused(dtm, "/registerBranch", branch)


async def test_a_transaction_takes_only_branches_of_its_own_sort(dtm: Dtm) -> None:
    branch = {"gid": "g", "branch_id": "01", "op": "action", "status": "succeed"}
    await dtm.post("/prepare", {"gid": "g", "trans_type": "tcc"})
    assert "tcc" in await refused(dtm, "/registerBranch", {**branch, "trans_type": "workflow"})
    await dtm.post("/prepare", saga("s", EMPTY))
    branch = {"gid": "s", "trans_type": "tcc", "branch_id": "01"}
    assert "saga" in await refused(dtm, "/registerBranch", branch)


async def test_there_are_only_so_many_branches(dtm: Dtm) -> None:
    await dtm.post("/prepare", {"gid": "g", "trans_type": "tcc"})
    for number in range(1_000):
        branch = {"gid": "g", "trans_type": "tcc", "branch_id": f"{number}"}
        assert (await dtm.post("/registerBranch", branch)).status == 200
    branch = {"gid": "g", "trans_type": "tcc", "branch_id": "one more"}
    assert "1000" in await refused(dtm, "/registerBranch", branch)


# --- objects


async def test_a_transaction_shows_what_is_not_empty(dtm: Dtm) -> None:
    body = saga(
        "g",
        EMPTY,
        timeout_to_fail=7,
        retry_interval=3,
        request_timeout=4,
        branch_headers={"X-A": "a"},
        custom_data="{}",
    )
    await dtm.post("/submit", body)
    transaction = (await dtm.shown("g"))["transaction"]
    options = json.loads(transaction.pop("options"))
    assert options == {
        "timeout_to_fail": 7,
        "request_timeout": 4,
        "retry_interval": 3,
        "branch_headers": {"X-A": "a"},
        "concurrent": False,
    }
    assert isinstance(transaction.pop("id"), int)
    times = [transaction.pop(name) for name in ("create_time", "update_time", "finish_time")]
    assert all(time.endswith("Z") and "T" in time for time in times)
    assert transaction == {
        "gid": "g",
        "trans_type": "saga",
        "status": "succeed",
        "concurrent": False,
        "custom_data": "{}",
        "timeout_to_fail": 7,
        "request_timeout": 4,
        "retry_interval": 3,
        "branch_headers": {"X-A": "a"},
    }


async def test_an_unfinished_transaction_shows_what_comes_next(dtm: Dtm) -> None:
    query = "http://sender/q"
    body = {"gid": "g", "trans_type": "msg", "query_prepared": query, "timeout_to_fail": 60}
    await dtm.post("/prepare", body)
    transaction = (await dtm.shown("g"))["transaction"]
    assert transaction["query_prepared"] == query
    assert transaction["next_cron_interval"] == 10
    assert transaction["next_cron_time"] > transaction["create_time"]


async def names(dtm: Dtm, **query: str | int) -> list[str]:
    answered = await dtm.get("/all", **query)
    assert answered.status == 200
    return [each["gid"] for each in answered.body["transactions"]]


async def test_all_lists_the_newest_first_page_by_page(dtm: Dtm) -> None:
    for number in range(5):
        await dtm.post("/submit", saga(f"g{number}", EMPTY))
    first = (await dtm.get("/all", limit=2)).body
    assert [each["gid"] for each in first["transactions"]] == ["g4", "g3"]
    assert first["next_position"]
    second = (await dtm.get("/all", limit=2, position=first["next_position"])).body
    assert [each["gid"] for each in second["transactions"]] == ["g2", "g1"]
    third = (await dtm.get("/all", limit=2, position=second["next_position"])).body
    assert [each["gid"] for each in third["transactions"]] == ["g0"]
    assert third["next_position"] == ""


async def test_all_lists_what_is_asked_for(dtm: Dtm, cluster: LocalCluster) -> None:
    await dtm.post("/submit", saga("early", EMPTY))
    early_ms = cluster.wall_ms
    cluster.wall_ms += 1_000
    await dtm.post("/prepare", {"gid": "open", "trans_type": "tcc"})
    assert await names(dtm) == ["open", "early"]
    assert await names(dtm, status="succeed") == ["early"]
    assert await names(dtm, status="prepared") == ["open"]
    assert await names(dtm, transType="tcc") == ["open"]
    assert await names(dtm, transType="xa") == []
    assert await names(dtm, createTimeStart=early_ms + 1) == ["open"]
    assert await names(dtm, createTimeEnd=early_ms) == ["early"]
    assert await names(dtm, createTimeEnd=10**15 - 1) == ["open", "early"]
    assert await names(dtm, gid="early") == ["early"]
    assert await names(dtm, gid="nobody") == []


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "x"},
        {"position": "x"},
        {"createTimeStart": "x"},
        {"limit": "-1"},
        {"limit": 10**12 + 1},
        {"createTimeEnd": 10**15},
    ],
)
async def test_all_tells_what_it_cannot_read(dtm: Dtm, query: dict[str, str | int]) -> None:
    answered = await dtm.get("/all", **query)
    assert answered.status == 500
    assert list(answered.body) == MESSAGES


async def test_what_is_due_late_becomes_due_now(dtm: Dtm) -> None:
    message = {"trans_type": "msg", "steps": [{"action": "http://a/b"}], "payloads": [""]}
    for number in range(3):
        late = {**message, "gid": f"late{number}", "custom_data": '{"delay":3600}'}
        assert await dtm.said("/submit", late) == SUCCESS
    await dtm.post("/submit", {**message, "gid": "soon", "custom_data": '{"delay":60}'})
    first = (await dtm.get("/resetCronTime", timeout=105, limit=2)).body
    assert (first["has_remaining"], first["succeed_count"]) == (True, 2)
    second = (await dtm.get("/resetCronTime")).body
    assert (second["has_remaining"], second["succeed_count"]) == (False, 1)
    soon = (await dtm.shown("soon"))["transaction"]
    late_one = (await dtm.shown("late0"))["transaction"]
    assert soon["next_cron_time"] > late_one["next_cron_time"]


# --- topics


async def test_topics_are_subscribed_to_and_left(dtm: Dtm) -> None:
    url = "http://a/b"
    assert (await dtm.get("/subscribe", topic="t", url=url, remark="r")).body == SUCCESS[1]
    (kept,) = (await dtm.get("/queryKV", cat="topics", key="t")).body["kv"]
    assert (kept["cat"], kept["k"]) == ("topics", "t")
    assert json.loads(kept["v"]) == [{"url": url, "remark": "r"}]
    assert isinstance(kept["id"], int)
    assert isinstance(kept["version"], int)
    assert (await dtm.get("/unsubscribe", topic="t", url=url)).body == SUCCESS[1]
    assert (await dtm.get("/queryKV", cat="topics", key="t")).body == {"kv": []}


async def test_a_topic_is_deleted(dtm: Dtm) -> None:
    for url in ("http://a/b", "http://a/c"):
        await dtm.get("/subscribe", topic="t", url=url, remark="")
    assert (await dtm.call("DELETE", "/topic/t")).body == SUCCESS[1]
    assert (await dtm.get("/queryKV", cat="topics")).body == {"kv": []}


async def message_of(dtm: Dtm, path: str, **query: str) -> str:
    answered = await dtm.get(path, **query)
    assert answered.status == 500
    return str(answered.body["message"])


async def test_topics_refuse_in_dtms_words(dtm: Dtm) -> None:
    url = "http://a/b"
    assert await message_of(dtm, "/subscribe", topic="", url=url) == "empty topic"
    assert await message_of(dtm, "/unsubscribe", topic="", url=url) == "empty topic"
    assert await message_of(dtm, "/unsubscribe", topic="t", url=url) == "no such a topic"
    assert "url" in await message_of(dtm, "/subscribe", topic="t", url="")
    assert "128" in await message_of(dtm, "/subscribe", topic="t" * 129, url=url)
    await dtm.get("/subscribe", topic="t", url=url, remark="")
    assert await message_of(dtm, "/subscribe", topic="t", url=url) == "this url exists"
    assert await message_of(dtm, "/subscribe", topic="t", url=url, remark="r") == "this url exists"
    assert await message_of(dtm, "/unsubscribe", topic="t", url="http://c") == "no such an url "
    answered = await dtm.call("DELETE", "/topic/other")
    assert (answered.status, answered.body) == (500, {"message": "no such a topic"})


async def test_a_long_url_is_subscribed_like_any_other(dtm: Dtm) -> None:
    url = "http://a/" + "b" * 500
    assert (await dtm.get("/subscribe", topic="t", url=url, remark="")).status == 200
    assert await message_of(dtm, "/subscribe", topic="t", url=url) == "this url exists"
    assert (await dtm.get("/unsubscribe", topic="t", url=url)).status == 200


async def test_values_are_scanned_page_by_page(dtm: Dtm) -> None:
    for topic in ("a", "b", "c"):
        await dtm.get("/subscribe", topic=topic, url="http://a/b", remark="")
    first = (await dtm.get("/scanKV", cat="topics", limit=2)).body
    assert [each["k"] for each in first["kv"]] == ["a", "b"]
    position = first["next_position"]
    second = (await dtm.get("/scanKV", cat="topics", limit=2, position=position)).body
    assert ([each["k"] for each in second["kv"]], second["next_position"]) == (["c"], "")
    assert (await dtm.get("/scanKV", cat="other")).body == {"kv": [], "next_position": ""}
    assert (await dtm.get("/queryKV", cat="other", key="a")).body == {"kv": []}
    assert "position" in await message_of(dtm, "/scanKV", cat="topics", position="x" * 200)


# --- JSON-RPC


async def test_json_rpc_gives_gids_and_runs_transactions(dtm: Dtm) -> None:
    found = await dtm.rpc("newGid", None)
    assert (found["jsonrpc"], found["id"], found["error"]) == ("2.0", "1", None)
    gid = found["result"]["gid"]
    assert len(gid) == 22
    done = {"jsonrpc": "2.0", "id": "1", "error": None, "result": {"dtm_result": "SUCCESS"}}
    tcc = {"gid": gid, "trans_type": "tcc"}
    assert await dtm.rpc("prepare", tcc) == done
    branch = {**tcc, "branch_id": "01", "confirm": "", "cancel": ""}
    assert await dtm.rpc("registerBranch", branch) == done
    assert await dtm.rpc("submit", tcc) == done
    assert await dtm.status(gid) == "succeed"
    other = {"gid": "other", "trans_type": "tcc"}
    assert await dtm.rpc("prepare", other) == done
    assert await dtm.rpc("abort", other) == done
    assert await dtm.status("other") == "failed"


async def code_of(dtm: Dtm, method: str, params: object, **members: object) -> int:
    found: Any = await dtm.rpc(method, params, **members)
    assert found["result"] is None
    assert found["error"]["message"]
    return int(found["error"]["code"])


async def test_json_rpc_has_a_code_for_each_sort_of_error(dtm: Dtm) -> None:
    await dtm.post("/submit", saga("g", EMPTY))
    assert await code_of(dtm, "submit", saga("g", EMPTY)) == -32901
    assert await code_of(dtm, "submit", {"gid": "g2", "trans_type": "odd"}) == -32603
    assert await code_of(dtm, "submit", "no object") == -32603
    assert await code_of(dtm, "registerBranch", {"gid": 1}) == -32603
    assert await code_of(dtm, "nothing", {}) == -32601
    assert await code_of(dtm, "newGid", {}, id="") == -32600
    assert await code_of(dtm, "newGid", {}, id=1) == -32600
    assert await code_of(dtm, "newGid", {}, id=None) == -32600
    assert await code_of(dtm, "newGid", {}, jsonrpc="1.0") == -32600
    sent = {"jsonrpc": "2.0", "method": 5, "id": "1"}
    answered = await dtm.call("POST", "/api/json-rpc", send=sent)
    assert answered.body["error"]["code"] == -32601


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff"])
async def test_json_rpc_that_cannot_be_parsed_is_a_text(dtm: Dtm, raw: bytes) -> None:
    answered = await dtm.call("POST", "/api/json-rpc", raw=raw)
    assert (answered.status, answered.content_type) == (400, "text/plain")
    assert answered.body["error"]["code"] == -32700


# --- who asks, and a cluster that does not answer


async def test_a_client_of_another_network_is_not_served(cluster: LocalCluster) -> None:
    async with gateway(cluster, networks=[ip_network("10.0.0.0/8")]) as dtm:
        for path in ("/newGid", "/api/ping", "/api/metrics"):
            answered = await dtm.get(path)
            assert (answered.status, answered.content_type) == (403, "text/plain")
        assert (await dtm.post("/submit", saga("g", EMPTY))).status == 403
    async with gateway(cluster, networks=[ip_network("127.0.0.1/32")]) as dtm:
        assert (await dtm.get("/newGid")).status == 200


@pytest.mark.parametrize("fault", [NoQuorumError(), OutcomeUnknownError()])
async def test_without_a_quorum_nothing_is_taken_for_a_success(
    dtm: Dtm, cluster: LocalCluster, fault: Exception
) -> None:
    cluster.fault = fault
    assert await refused(dtm, "/submit", saga("g", EMPTY))
    answered = await dtm.get("/query", gid="g")
    assert answered.status == 500


async def test_what_is_not_http_does_not_end_the_gateway(dtm: Dtm) -> None:
    port = int(dtm.root.rpartition(":")[2])
    for said in (b"\x00\xff\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nHost\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(said)
    assert (await dtm.get("/api/ping")).body == {"msg": "pong"}


async def test_what_was_forgotten_is_still_known_to_have_ended(
    dtm: Dtm, cluster: LocalCluster
) -> None:
    await dtm.post("/submit", saga("g", EMPTY))
    cluster.let_pass(25 * 3_600_000)
    answered = await dtm.post("/submit", saga("g", EMPTY))
    message = "current status 'succeed', cannot sumbmit. FAILURE"
    assert (answered.status, answered.body["message"]) == (409, message)
    assert await dtm.shown("g") == {"transaction": None, "branches": []}


async def test_the_prefix_is_dtms(dtm: Dtm) -> None:
    assert dtm.url.endswith(PREFIX)
