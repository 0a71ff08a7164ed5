"""Global transactions over HTTP: begun, decided, shown, listed, operated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest

from api.cluster import NoQuorumError
from statemachine.state import MachineState
from statemachine.transactions import desk
from tests.integration.local_cluster import START_MS
from tests.integration.serving import TRANSACTIONS, Answered, Api, serving
from tests.integration.transacting import MADE_XID, Application


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


@pytest.fixture
def app(api: Api) -> Application:
    return Application(api)


def status(answered: Answered) -> str:
    assert answered.status == 200, answered.body
    assert set(answered.body) == {"xid", "status", "reason"}
    return str(answered.body["status"])


# POST /api/v1/transactions


async def test_a_transaction_is_begun_under_an_xid_of_the_nodes_address(api: Api) -> None:
    answered = await api.post(TRANSACTIONS, {"name": "buy"})
    assert answered.status == 201
    xid = answered.body["xid"]
    assert answered.body == {"xid": xid, "status": "BEGIN", "name": "buy", "timeoutMs": 60_000}
    assert MADE_XID.fullmatch(xid)
    assert (await api.post(TRANSACTIONS, {})).body["xid"] != xid


async def test_an_empty_request_begins_one_too(api: Api) -> None:
    answered = await api.call("POST", TRANSACTIONS)
    assert answered.status == 201


async def test_a_host_that_is_too_long_is_replaced_by_the_nodes_id(api: Api) -> None:
    member = api.cluster.members[0]
    long_host = "a" * 60 + ":7101"
    api.cluster.members[0] = type(member)(
        node_id=member.node_id, peer_address=member.peer_address, api_address=long_host
    )
    assert (await api.post(TRANSACTIONS, {})).body["xid"] == "n1:1"


async def test_a_client_may_choose_the_xid_once(api: Api) -> None:
    body = {"xid": "Order_4711.a:b-c"}
    assert (await api.post(TRANSACTIONS, body)).body["xid"] == "Order_4711.a:b-c"
    assert (await api.post(TRANSACTIONS, body)).refused == (409, "TRANSACTION_EXISTS", [])


async def test_under_a_key_it_is_begun_once(api: Api) -> None:
    first = await api.post(TRANSACTIONS, {"name": "buy"}, Idempotency_Key="k")
    again = await api.post(TRANSACTIONS, {"name": "buy"}, Idempotency_Key="k")
    assert again.body == first.body
    assert again.headers["Idempotency-Replayed"] == "true"


async def test_no_more_are_under_way_than_may(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "GREATEST_GLOBALS", 0)
    refused = await api.post(TRANSACTIONS, {})
    assert refused.refused == (429, "TOO_MANY_TRANSACTIONS", [])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "n" * 129}, "name"),
        ({"name": "a\n"}, "name"),
        ({"timeoutMs": 0}, "timeoutMs"),
        ({"timeoutMs": 604_800_001}, "timeoutMs"),
        ({"timeoutMs": "60000"}, "timeoutMs"),
        ({"xid": ""}, "xid"),
        ({"xid": "x" * 65}, "xid"),
        ({"xid": "a b"}, "xid"),
        ({"xid": "a\n"}, "xid"),
        ({"xid": "名"}, "xid"),
        ({"xid": "exceptions"}, "xid"),
        ({"mode": "at"}, "mode"),
        ({"timeout": 5}, "timeout"),
    ],
)
async def test_a_wrong_field_is_named(api: Api, body: dict[str, object], field: str) -> None:
    assert (await api.post(TRANSACTIONS, body)).refused == (422, "INVALID_FIELD", [field])
    assert (await api.get(TRANSACTIONS)).body["items"] == []


# commit and rollback


async def test_what_has_no_branches_ends_at_once(app: Application) -> None:
    committed, rolled_back = await app.begin(), await app.begin()
    assert status(await app.commit(committed)) == "COMMITTED"
    assert status(await app.roll_back(rolled_back, reason="no more")) == "ROLLED_BACK"
    assert (await app.show(rolled_back))["reason"] == "no more"


async def test_an_empty_request_decides_too(api: Api, app: Application) -> None:
    xid = await app.begin()
    answered = await api.call("POST", f"{TRANSACTIONS}/{xid}/commit")
    assert status(answered) == "COMMITTED"


async def test_a_decision_waits_for_the_end(app: Application) -> None:
    xid = await app.begin()
    branch = await app.register(xid, mode="TCC")
    await app.report(xid, branch.body["branchId"])
    committing = asyncio.ensure_future(app.commit(xid))
    while not app.calls(xid) or app.calls(xid)[0].operation != "COMMIT":
        await asyncio.sleep(0)
    assert not committing.done()
    await app.told(xid)
    assert status(await committing) == "COMMITTED"


@pytest.mark.parametrize("wait_ms", [0, 30])
async def test_it_waits_no_longer_than_it_is_to(api: Api, app: Application, wait_ms: int) -> None:
    xid = await app.begin()
    branch = await app.register(xid, mode="TCC")
    await app.report(xid, branch.body["branchId"])
    path = f"{TRANSACTIONS}/{xid}/commit"
    answered = await api.post(path, {"waitMs": wait_ms}, Tidelock_Timeout_Ms="30")
    assert status(answered) == "COMMITTING"
    assert status(await app.commit(xid, waitMs=0)) == "COMMITTING"


async def test_the_deadline_of_the_request_is_the_wait_unless_it_says_so(
    api: Api, app: Application
) -> None:
    xid = await app.begin()
    branch = await app.register(xid, mode="TCC")
    await app.report(xid, branch.body["branchId"])
    answered = await api.post(f"{TRANSACTIONS}/{xid}/commit", {}, Tidelock_Timeout_Ms="20")
    assert status(answered) == "COMMITTING"


async def test_what_only_has_to_be_cleaned_up_is_not_waited_for(app: Application) -> None:
    xid = await app.begin()
    branch = await app.register(xid)
    await app.report(xid, branch.body["branchId"])
    assert status(await app.commit(xid)) == "ASYNC_COMMITTING"


async def test_a_decision_is_taken_once(app: Application) -> None:
    committed, rolled_back = await app.begin(), await app.begin()
    for _ in range(2):
        assert status(await app.commit(committed)) == "COMMITTED"
        assert status(await app.roll_back(rolled_back)) == "ROLLED_BACK"
    for refused in (await app.roll_back(committed), await app.commit(rolled_back)):
        assert refused.refused == (409, "TRANSACTION_DECIDED", [])
        assert refused.body["retryable"] is False


async def test_a_failed_branch_makes_it_a_rollback(app: Application) -> None:
    xid = await app.begin()
    branch = await app.branch(xid, done=False)
    await app.report(xid, branch, "PHASE_ONE_FAILED")
    assert (await app.commit(xid)).refused == (409, "BRANCH_FAILED", [])
    assert (await app.show(xid))["status"] == "ROLLED_BACK"


async def test_a_failed_branch_that_was_withdrawn_does_not_count(app: Application) -> None:
    xid = await app.begin()
    branch = await app.branch(xid, done=False)
    for said in ("PHASE_ONE_FAILED", "WITHDRAWN"):
        await app.report(xid, branch, said)
    assert status(await app.commit(xid)) == "COMMITTED"


async def test_a_commit_waits_for_the_last_report(app: Application) -> None:
    xid = await app.begin()
    branch = await app.branch(xid, done=False)
    committing = asyncio.ensure_future(app.commit(xid))
    await app.api.cluster.changes.wait(app.api.cluster.applied_position())
    await app.report(xid, branch)
    assert status(await committing) == "COMMITTED"


async def test_reports_may_come_with_the_decision(app: Application) -> None:
    xid = await app.begin()
    branches = [await app.branch(xid, done=False) for _ in range(2)]
    path = f"{TRANSACTIONS}/{xid}/commit"
    unknown = await app.api.post(path, {"branchesDone": [*branches, 9_999]})
    assert unknown.refused == (404, "BRANCH_NOT_FOUND", [])
    assert status(await app.api.post(path, {"branchesDone": branches})) == "COMMITTED"
    malformed = await app.api.post(path, {"branchesDone": ["1"]})
    assert malformed.status == 422


@pytest.mark.parametrize("wait_ms", [0, 20])
async def test_a_branch_that_does_not_report_keeps_it_from_committing(
    app: Application, wait_ms: int
) -> None:
    xid = await app.begin()
    branch = await app.branch(xid, done=False)
    path = f"{TRANSACTIONS}/{xid}/commit"
    refused = await app.api.post(path, {"waitMs": wait_ms}, Tidelock_Timeout_Ms="20")
    assert refused.refused == (409, "BRANCH_UNFINISHED", [])
    assert refused.body["retryable"] is True
    assert f"Branch {branch} on db" in refused.body["detail"]
    assert (await app.show(xid))["status"] == "BEGIN"


async def test_after_its_timeout_it_is_rolled_back_and_a_commit_says_so(app: Application) -> None:
    early, late = await app.begin(timeoutMs=1_000), await app.begin(timeoutMs=1_000)
    await app.branch(early)
    app.api.cluster.elapsed_ms += 1_000
    assert status(await app.commit(early)) == "TIMEOUT_ROLLED_BACK"
    app.api.cluster.let_pass(0)
    assert status(await app.commit(late)) == "TIMEOUT_ROLLED_BACK"
    assert status(await app.roll_back(late)) == "TIMEOUT_ROLLED_BACK"


@pytest.mark.parametrize("path", ["commit", "rollback"])
async def test_decisions_need_a_transaction(api: Api, path: str) -> None:
    missing = await api.post(f"{TRANSACTIONS}/none/{path}", {})
    assert missing.refused == (404, "TRANSACTION_NOT_FOUND", [])
    assert "never begun" in missing.body["detail"]
    assert "transaction" not in missing.body
    odd = await api.post(f"{TRANSACTIONS}/a%20b/{path}", {})
    assert odd.refused == (422, "INVALID_FIELD", ["xid"])
    for body, field in (({"waitMs": -1}, "waitMs"), ({"reason": "r" * 501}, "reason")):
        refused = await api.post(f"{TRANSACTIONS}/x/{path}", body)
        assert refused.refused == (422, "INVALID_FIELD", [field])


# GET one


async def test_everything_about_a_transaction_is_shown(app: Application) -> None:
    xid = await app.begin(name="buy", mode="TXC", timeoutMs=10_000)
    branch = await app.branch(
        xid, "a", 7, mode="TXC", done=False, applicationId="shop", unitId="u", sessionId=3,
        applicationData={"k": [1, None]},
    )  # fmt: skip
    error = {"type": "Deadlock", "message": "lost", "at": START_MS + 5}
    await app.report(xid, branch, "PHASE_ONE_FAILED", error=error)
    shown = await app.show(xid)
    assert shown.pop("timeline")[0]["event"] == "BEGIN"
    assert shown == {
        "xid": xid,
        "status": "BEGIN",
        "reason": "",
        "name": "buy",
        "mode": "TXC",
        "program": "CLIENT",
        "submitted": False,
        "branchCount": 1,
        "begunAt": START_MS,
        "decidedAt": None,
        "endedAt": None,
        "keptInFull": True,
        "timeoutAt": START_MS + 10_000,
        "paused": False,
        "branches": [
            {
                "branchId": branch,
                "name": "",
                "mode": "TXC",
                "status": "PHASE_ONE_FAILED",
                "resourceId": "db",
                "applicationId": "shop",
                "unitId": "u",
                "sessionId": 3,
                "applicationData": {"k": [1, None]},
                "calls": {"forward": None, "commit": "", "rollback": ""},
                "dependsOn": [],
                "attempts": 0,
                "nextAttemptAt": None,
                "result": None,
                "error": error,
                "registeredAt": START_MS,
                "updatedAt": START_MS,
            }
        ],
        "locks": [
            {
                "resourceId": "db",
                "table": "t",
                "key": [key],
                "holders": [
                    {"xid": xid, "branchId": branch, "lockMode": "EXCLUSIVE", "since": START_MS}
                ],
                "holderCount": 1,
                "queueLength": 0,
            }
            for key in ("a", 7)
        ],
    }


async def test_retries_are_shown(app: Application) -> None:
    xid = await app.begin()
    branch = await app.register(xid, mode="TCC")
    await app.report(xid, branch.body["branchId"])
    await app.commit(xid, waitMs=0)
    await app.told(xid, "RETRY")
    (shown,) = (await app.show(xid))["branches"]
    assert shown["status"] == "PHASE_TWO_COMMIT_FAILED_RETRYABLE"
    assert (shown["attempts"], shown["nextAttemptAt"]) == (1, START_MS + 500)


async def test_a_timeline_is_in_causal_order(app: Application) -> None:
    xid = await app.begin()
    branch = await app.branch(xid)
    await app.commit(xid)
    timeline = (await app.show(xid))["timeline"]
    assert [(line["event"], line["branchId"]) for line in timeline] == [
        ("BEGIN", None),
        ("REGISTERED", branch),
        ("PHASE_ONE_DONE", branch),
        ("ASYNC_COMMITTING", None),
        ("PHASE_TWO_COMMITTED", branch),
        ("COMMITTED", None),
    ]
    for earlier, later in pairwise(timeline):
        assert earlier["lamportTimestamp"] < later["lamportTimestamp"]
        assert tuple(earlier["hlc"].values()) < tuple(later["hlc"].values())


async def test_of_what_ended_long_ago_it_is_known_how(api: Api, app: Application) -> None:
    xid = await app.begin(name="buy")
    await app.branch(xid)
    await app.commit(xid)
    api.cluster.let_pass(MachineState().retention_ms)
    shown = await app.show(xid)
    assert (shown["status"], shown["name"], shown["branchCount"]) == ("COMMITTED", "buy", 1)
    assert (shown["keptInFull"], shown["endedAt"]) == (False, START_MS)
    assert shown["branches"] == shown["timeline"] == []
    assert (await api.get(TRANSACTIONS)).body["items"] == []
    assert status(await app.commit(xid)) == "COMMITTED"
    assert (await app.roll_back(xid)).refused == (409, "TRANSACTION_DECIDED", [])
    late = await app.register(xid)
    assert late.refused == (404, "TRANSACTION_NOT_FOUND", [])
    assert f"ended as COMMITTED at {START_MS} ms" in late.body["detail"]
    assert late.body["transaction"] == {"xid": xid, "status": "COMMITTED", "endedAt": START_MS}
    api.cluster.let_pass(MachineState().summary_retention_ms)
    assert (await api.get(f"{TRANSACTIONS}/{xid}")).refused == (404, "TRANSACTION_NOT_FOUND", [])


async def test_an_unknown_transaction_is_not_found(api: Api) -> None:
    assert (await api.get(f"{TRANSACTIONS}/x")).refused == (404, "TRANSACTION_NOT_FOUND", [])
    assert (await api.get(f"{TRANSACTIONS}/{'x' * 65}")).refused == (
        422, "INVALID_FIELD", ["xid"]
    )  # fmt: skip


# GET list


async def listed(api: Api, query: str = "") -> list[str]:
    answered = await api.get(f"{TRANSACTIONS}{query}")
    assert answered.status == 200, answered.body
    assert answered.body["nextCursor"] is None
    return [item["xid"] for item in answered.body["items"]]


async def test_transactions_are_listed_and_chosen(api: Api, app: Application) -> None:
    await app.begin(xid="a", name="buy", mode="TCC")
    api.cluster.let_pass(1_000)
    await app.begin(xid="b", name="sell")
    await app.branch("b", mode="SAGA", done=False)
    api.cluster.let_pass(1_000)
    await app.begin(xid="c", name="buy")
    await app.commit("c")
    assert await listed(api) == ["c", "b", "a"]
    assert await listed(api, "?status=BEGIN") == ["b", "a"]
    assert await listed(api, "?name=buy") == ["c", "a"]
    assert await listed(api, "?mode=TCC") == ["a"]
    assert await listed(api, "?mode=SAGA") == ["b"]
    assert await listed(api, "?resourceId=db") == ["b"]
    assert await listed(api, "?resourceId=db&mode=AT") == []
    assert await listed(api, f"?since={START_MS + 1_000}") == ["c", "b"]
    assert await listed(api, "?status=COMMITTED&name=buy") == ["c"]


async def test_lists_come_in_pages(api: Api, app: Application) -> None:
    for number in range(5):
        await app.begin(xid=f"x{number}")
    seen: list[Any] = []
    query = "?limit=2"
    while True:
        page = (await api.get(TRANSACTIONS + query)).body
        seen.append([item["xid"] for item in page["items"]])
        if page["nextCursor"] is None:
            break
        query = f"?limit=2&cursor={page['nextCursor']}"
    assert seen == [["x4", "x3"], ["x2", "x1"], ["x0"]]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("status=begin", "status"),
        ("mode=MESSAGE", "mode"),
        ("resourceId=", "resourceId"),
        ("name=", "name"),
        ("since=-1", "since"),
        ("limit=0", "limit"),
        ("cursor=xyz", "cursor"),
        ("colour=red", "colour"),
    ],
)
async def test_a_list_that_nobody_can_make_is_refused(api: Api, query: str, field: str) -> None:
    for path in (TRANSACTIONS, f"{TRANSACTIONS}/exceptions"):
        known = field in ("limit", "cursor", "colour")
        if path == TRANSACTIONS or known:
            assert (await api.get(f"{path}?{query}")).refused == (422, "INVALID_FIELD", [field])


# GET exceptions


async def test_what_went_wrong_is_listed_the_last_first(api: Api, app: Application) -> None:
    xid = await app.begin()
    branches = [await app.branch(xid, done=False) for _ in range(3)]
    for number, branch in enumerate(branches):
        error = {"type": "T", "message": f"m{number}"}
        await app.report(xid, branch, "PHASE_ONE_FAILED", error=error)
    page = (await api.get(f"{TRANSACTIONS}/exceptions?limit=2")).body
    assert [item["error"]["message"] for item in page["items"]] == ["m2", "m1"]
    first = page["items"][0]
    assert (first["xid"], first["branchId"], first["mode"]) == (xid, branches[2], "AT")
    assert (first["status"], first["resourceId"]) == ("PHASE_ONE_FAILED", "db")
    assert first["error"]["at"] == START_MS
    rest = await api.get(f"{TRANSACTIONS}/exceptions?cursor={page['nextCursor']}")
    assert [item["error"]["message"] for item in rest.body["items"]] == ["m0"]
    assert rest.body["nextCursor"] is None


# POST operations


async def stuck(app: Application, *, commits: bool = True) -> str:
    """Return a transaction of which a branch refused what was decided."""
    xid = await app.begin()
    branch = await app.register(xid, "a", mode="TCC")
    await app.report(xid, branch.body["branchId"])
    await (app.commit if commits else app.roll_back)(xid, waitMs=0)
    await app.told(xid, "FAILED")
    assert (await app.show(xid))["status"] == ("COMMIT_FAILED" if commits else "ROLLBACK_FAILED")
    return xid


async def test_an_operator_asks_for_another_try(app: Application) -> None:
    xid = await stuck(app)
    assert status(await app.operate(xid, "RETRY_NOW")) == "COMMIT_RETRYING"
    await app.told(xid)
    assert (await app.show(xid))["status"] == "COMMITTED"


async def test_an_operator_stops_retries_and_starts_them_again(app: Application) -> None:
    xid = await stuck(app)
    await app.operate(xid, "RETRY_NOW")
    for action, paused in (("STOP_RETRY", True), ("START_RETRY", False)):
        assert (await app.operate(xid, action)).status == 200
        assert (await app.show(xid))["paused"] is paused


@pytest.mark.parametrize(
    ("commits", "action", "end"),
    [
        (True, "FORCE_COMMIT", "COMMITTED"),
        (False, "FORCE_ROLLBACK", "ROLLED_BACK"),
        (True, "FORGET", "FINISHED"),
        (False, "FORGET", "FINISHED"),
    ],
)
async def test_an_operator_ends_what_cannot_end_by_itself(
    app: Application, commits: bool, action: str, end: str
) -> None:
    xid = await stuck(app, commits=commits)
    assert status(await app.operate(xid, action)) == end
    shown = await app.show(xid)
    assert shown["locks"] == []
    assert f"{action} by " in str(shown["timeline"])


@pytest.mark.parametrize(
    ("commits", "action", "end"),
    [
        (True, "FORCE_COMMIT", "COMMITTED"),
        (False, "FORCE_ROLLBACK", "ROLLED_BACK"),
        (True, "FORGET", "FINISHED"),
    ],
)
async def test_an_operator_ends_what_would_be_retried_for_ever(
    app: Application, commits: bool, action: str, end: str
) -> None:
    xid = await app.begin()
    branch = await app.register(xid, "a", mode="TCC")
    await app.report(xid, branch.body["branchId"])
    await (app.commit if commits else app.roll_back)(xid, waitMs=0)
    assert (await app.operate(xid, action)).code == "OPERATION_NOT_POSSIBLE"
    await app.told(xid, "RETRY")
    assert status(await app.operate(xid, action)) == end
    shown = await app.show(xid)
    assert (shown["locks"], app.calls(xid)) == ([], [])


@pytest.mark.parametrize(("commits", "action"), [(True, "FORCE_ROLLBACK"), (False, "FORCE_COMMIT")])
async def test_no_operator_reverses_a_decision(
    app: Application, commits: bool, action: str
) -> None:
    xid = await stuck(app, commits=commits)
    refused = await app.operate(xid, action)
    assert refused.refused == (409, "OPERATION_NOT_POSSIBLE", [])


async def test_there_is_nothing_to_operate_on_what_has_ended(app: Application) -> None:
    xid = await app.begin()
    await app.commit(xid)
    for action in ("RETRY_NOW", "STOP_RETRY", "FORCE_COMMIT", "FORGET"):
        assert (await app.operate(xid, action)).code == "OPERATION_NOT_POSSIBLE"
    assert (await app.operate("none", "FORGET")).refused == (404, "TRANSACTION_NOT_FOUND", [])


async def test_an_operation_needs_an_action_and_a_reason(api: Api) -> None:
    path = f"{TRANSACTIONS}/x/operations"
    for body, field in (
        ({"action": "EXPLODE", "reason": "r"}, "action"),
        ({"action": "FORGET"}, "reason"),
        ({"action": "FORGET", "reason": ""}, "reason"),
        ({"action": "FORGET", "reason": "a\nb"}, "reason"),
    ):
        assert (await api.post(path, body)).refused == (422, "INVALID_FIELD", [field])


async def test_without_a_quorum_nothing_is_begun_or_read(api: Api) -> None:
    api.cluster.fault = NoQuorumError()
    assert (await api.post(TRANSACTIONS, {})).code == "NO_QUORUM"
    assert (await api.get(TRANSACTIONS)).code == "NO_QUORUM"
