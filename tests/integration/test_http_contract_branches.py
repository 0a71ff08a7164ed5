"""Branches, their row locks, their reports and their fence, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from api.row_locks import RowLocks
from statemachine.transactions import locking, participation, row_locks
from tests.integration.local_cluster import START_MS
from tests.integration.serving import (
    AUDIT,
    CLUSTER,
    ROW_LOCKS,
    TRANSACTIONS,
    Answered,
    Api,
    serving,
)
from tests.integration.transacting import INSTANT, Application


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


@pytest.fixture
async def app(api: Api) -> Application:
    app = Application(api)
    for xid in "xy":
        await app.begin(xid=xid)
    return app


# POST …/branches


async def test_a_branch_is_registered_with_all_its_rows(app: Application) -> None:
    answered = await app.register(
        "x",
        mode="TXC",
        locks=[
            {"lockKeys": {"t": [[1], ["1"]], "u": [[1, "a", None, True]]}},
            {"lockKeys": {"v": [[2]]}, "lockMode": "SHARED"},
        ],
        lockKeys={"w": [[3]]},
        lockMode="SHARED",
    )
    assert answered.status == 201
    branch = answered.body["branchId"]
    assert answered.body == {"xid": "x", "branchId": branch, "status": "REGISTERED"}
    locks = (await app.show("x"))["locks"]
    assert [(row["table"], row["key"], row["holders"][0]["lockMode"]) for row in locks] == [
        ("t", [1], "EXCLUSIVE"),
        ("t", ["1"], "EXCLUSIVE"),
        ("u", [1, "a", None, True], "EXCLUSIVE"),
        ("v", [2], "SHARED"),
        ("w", [3], "SHARED"),
    ]


async def test_a_conflict_names_who_has_the_row(app: Application) -> None:
    branch = await app.branch("x", "a")
    refused = await app.register("y", "b", "a")
    assert refused.refused == (409, "LOCK_CONFLICT", [])
    assert refused.body["retryable"] is True
    assert refused.body["holder"] == {
        "xid": "x",
        "branchId": branch,
        "resourceId": "db",
        "table": "t",
        "key": ["a"],
        "since": START_MS,
    }
    assert (await app.show("y"))["branches"] == []


async def test_a_conflict_with_what_rolls_back_is_hopeless_without_waiting(
    app: Application,
) -> None:
    await app.register("x", "a")
    await app.roll_back("x", waitMs=0)
    refused = await app.register("y", "a")
    assert (refused.code, refused.body["retryable"]) == ("LOCK_CONFLICT", False)


async def test_who_waits_is_registered_when_the_rows_are_free(app: Application) -> None:
    await app.branch("x", "a")
    waiting = asyncio.ensure_future(app.register("y", "a", waitMs=30_000))
    while (await app.api.get(f"{ROW_LOCKS}?resourceId=db")).body["items"][0]["queueLength"] == 0:
        await asyncio.sleep(0)
    await app.commit("x")
    assert (await waiting).status == 201
    assert (await app.show("y"))["locks"][0]["key"] == ["a"]


async def test_who_has_waited_long_enough_hears_who_has_the_row(app: Application) -> None:
    await app.branch("x", "a")
    path = f"{TRANSACTIONS}/y/branches"
    body = {"mode": "AT", "resourceId": "db", "lockKeys": {"t": [["a"]]}, "waitMs": 60_000}
    refused = await app.api.post(path, body, Tidelock_Timeout_Ms="20")
    assert (refused.code, refused.body["holder"]["xid"]) == ("LOCK_CONFLICT", "x")
    assert (await app.show("y"))["branches"] == []


async def test_a_client_that_goes_while_it_waits_leaves_nothing_behind(app: Application) -> None:
    await app.branch("x", "a")
    path = f"{TRANSACTIONS}/y/branches"
    body = {"mode": "AT", "resourceId": "db", "lockKeys": {"t": [["a"]]}, "waitMs": 60_000}
    waiting = asyncio.ensure_future(app.api.post(path, body))
    while (await app.api.get(f"{ROW_LOCKS}?resourceId=db")).body["items"][0]["queueLength"] == 0:
        await asyncio.sleep(0)
    waiting.cancel()
    while (await app.api.get(f"{ROW_LOCKS}?resourceId=db")).body["items"][0]["queueLength"]:
        await asyncio.sleep(0)
    await app.commit("x")
    shown = await app.show("y")
    assert shown["locks"] == []
    assert shown["branches"] == []


async def test_who_would_close_a_cycle_is_refused(app: Application) -> None:
    await app.branch("x", "a")
    await app.branch("y", "b")
    waiting = asyncio.ensure_future(app.register("x", "b", waitMs=30_000))
    while not (await app.api.get(f"{ROW_LOCKS}?xid=y")).body["items"][0]["queueLength"]:
        await asyncio.sleep(0)
    refused = await app.register("y", "a", waitMs=30_000)
    assert refused.refused == (409, "DEADLOCK", [])
    await app.roll_back("y")
    assert (await waiting).status == 201


@pytest.mark.parametrize("mode", ["LCN", "XA"])
async def test_a_branch_held_by_a_connection_names_its_session(app: Application, mode: str) -> None:
    refused = await app.register("x", mode=mode)
    assert refused.refused == (422, "INVALID_FIELD", ["sessionId"])
    ended = await app.register("x", mode=mode, sessionId=1)
    assert ended.refused == (409, "CHANNEL_SESSION_ENDED", [])


async def test_an_xa_branch_that_is_called_elsewhere_needs_no_session(app: Application) -> None:
    assert (await app.register("x", mode="XA", callbacks=INSTANT)).status == 201


async def test_registrations_need_an_active_transaction(app: Application) -> None:
    assert (await app.register("z")).refused == (404, "TRANSACTION_NOT_FOUND", [])
    await app.commit("x")
    refused = await app.register("x")
    assert refused.refused == (409, "TRANSACTION_NOT_ACTIVE", [])
    assert "COMMITTED" in refused.body["detail"]


async def test_a_registration_under_a_key_is_done_once(app: Application) -> None:
    path = f"{TRANSACTIONS}/x/branches"
    body = {"mode": "AT", "resourceId": "db", "lockKeys": {"t": [["a"]]}}
    first = await app.api.post(path, body, Idempotency_Key="k")
    again = await app.api.post(path, body, Idempotency_Key="k")
    assert again.body == first.body
    assert len((await app.show("x"))["branches"]) == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"mode": "MESSAGE"}, "mode"),
        ({"mode": None}, "mode"),
        ({"resourceId": ""}, "resourceId"),
        ({"resourceId": "r" * 257}, "resourceId"),
        ({"resourceId": "a\n"}, "resourceId"),
        ({"locks": [{}]}, "locks[0].lockKeys"),
        ({"locks": [{"lockKeys": {}}]}, "locks[0].lockKeys"),
        ({"lockKeys": {"t": []}}, "lockKeys[...]"),
        ({"lockKeys": {"t": [[]]}}, "lockKeys[...][0]"),
        ({"lockKeys": {"t": [[0] * 17]}}, "lockKeys[...][0]"),
        ({"lockKeys": {"t": [[1.5]]}}, "lockKeys[...][0][0]"),
        ({"lockKeys": {"t": [[{}]]}}, "lockKeys[...][0][0]"),
        ({"lockKeys": {"t": [["k" * 513]]}}, "lockKeys[...][0][0]"),
        ({"lockKeys": {"": [[1]]}}, "lockKeys"),
        ({"lockKeys": {"t" * 257: [[1]]}}, "lockKeys"),
        ({"lockKeys": {f"t{n}": [[1]] for n in range(101)}}, "lockKeys"),
        ({"lockMode": "X"}, "lockMode"),
        ({"waitMs": -1}, "waitMs"),
        ({"waitMs": 3_600_001}, "waitMs"),
        ({"applicationId": ""}, "applicationId"),
        ({"unitId": "u" * 129}, "unitId"),
        ({"sessionId": 0}, "sessionId"),
        ({"applicationData": "d" * 65_536}, "applicationData"),
        ({"callbacks": {"commit": "ftp://a"}}, "callbacks.commit"),
        ({"callbacks": {"rollback": "http://a/ b"}}, "callbacks.rollback"),
        ({"callbacks": {"forward": ""}}, "callbacks.forward"),
        ({"unknown": 1}, "unknown"),
    ],
)
async def test_a_wrong_field_is_named(
    app: Application, body: dict[str, object], field: str
) -> None:
    sent = {"mode": "AT", "resourceId": "db", **body}
    refused = await app.api.post(f"{TRANSACTIONS}/x/branches", sent)
    kind = (413, "REQUEST_TOO_LARGE") if field == "applicationData" else (422, "INVALID_FIELD")
    assert refused.refused == (*kind, [field])
    assert (await app.show("x"))["branches"] == []


async def test_rows_of_a_request_are_bounded_over_all_its_lists(app: Application) -> None:
    half = {"lockKeys": {"t": [[n] for n in range(6_000)]}}
    refused = await app.register("x", locks=[half, half])
    assert refused.refused == (422, "INVALID_FIELD", ["locks[1].lockKeys"])


@pytest.mark.parametrize(
    ("place", "limit", "expected"),
    [
        (row_locks, "GREATEST_HELD", (429, "LOCK_TABLE_FULL", [])),
        (row_locks, "GREATEST_QUEUE", (429, "LOCK_QUEUE_FULL", [])),
        (locking, "GREATEST_WAITS", (429, "LOCK_QUEUE_FULL", [])),
        (participation, "GREATEST_BRANCHES", (422, "INVALID_COMMAND", [])),
    ],
)
async def test_what_is_full_is_refused(
    app: Application,
    place: object,
    limit: str,
    expected: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await app.branch("x", "a")
    monkeypatch.setattr(place, limit, 0)
    assert (await app.register("y", "a", waitMs=9)).refused == expected


# POST and DELETE …/locks


async def change_rows(
    app: Application, method: str, branch: int, *rows: object, xid: str = "x", **more: object
) -> Answered:
    path = f"{TRANSACTIONS}/{xid}/branches/{branch}/locks"
    body = {"locks": [{"lockKeys": {"t": [[row] for row in rows]}}], **more}
    return await app.api.call(method, path, send=body)


async def test_a_branch_locks_rows_statement_by_statement(app: Application) -> None:
    branch = await app.branch("x", "a", mode="TXC", done=False)
    locked = await change_rows(app, "POST", branch, "b", "c")
    assert (locked.status, locked.body) == (200, {"xid": "x", "branchId": branch})
    assert [row["key"] for row in (await app.show("x"))["locks"]] == [["a"], ["b"], ["c"]]
    given_back = await change_rows(app, "DELETE", branch, "c", "z")
    assert given_back.body == {"xid": "x", "branchId": branch, "unlocked": 1}
    assert [row["key"] for row in (await app.show("x"))["locks"]] == [["a"], ["b"]]


async def test_a_row_that_became_exclusive_since_the_savepoint_is_shared_again(
    app: Application,
) -> None:
    branch = await app.branch("x", mode="TXC", done=False)
    for method, mode, held, unlocked in (
        ("POST", "SHARED", "SHARED", None),
        ("POST", "EXCLUSIVE", "EXCLUSIVE", None),
        ("DELETE", "EXCLUSIVE", "SHARED", 1),
        ("DELETE", "EXCLUSIVE", "SHARED", 0),
        ("DELETE", "SHARED", None, 1),
    ):
        path = f"{TRANSACTIONS}/x/branches/{branch}/locks"
        body = {"lockKeys": {"t": [["a"]]}, "lockMode": mode}
        answered = await app.api.call(method, path, send=body)
        assert (answered.status, answered.body.get("unlocked")) == (200, unlocked)
        shown = (await app.api.get(f"{ROW_LOCKS}?xid=x")).body["items"]
        modes = [holder["lockMode"] for row in shown for holder in row["holders"]]
        assert modes == ([held] if held else [])


async def test_a_branch_waits_for_further_rows(app: Application) -> None:
    await app.branch("y", "a")
    branch = await app.branch("x", mode="TXC", done=False)
    refused = await change_rows(app, "POST", branch, "a")
    assert (refused.code, refused.body["holder"]["xid"]) == ("LOCK_CONFLICT", "y")
    waiting = asyncio.ensure_future(change_rows(app, "POST", branch, "a", waitMs=30_000))
    while not (await app.api.get(f"{ROW_LOCKS}?xid=y")).body["items"][0]["queueLength"]:
        await asyncio.sleep(0)
    await app.commit("y")
    assert (await waiting).status == 200


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_rows_change_only_while_the_branch_works(app: Application, method: str) -> None:
    branch = await app.branch("x")
    missing = await change_rows(app, method, 99, "a")
    assert missing.refused == (404, "BRANCH_NOT_FOUND", [])
    missing = await change_rows(app, method, 1, "a", xid="z")
    assert missing.refused == (404, "TRANSACTION_NOT_FOUND", [])
    refused = await change_rows(app, method, branch, "a")
    assert refused.refused == (409, "BRANCH_STATUS_FIXED", [])
    await app.commit("x")
    refused = await change_rows(app, method, branch, "a")
    assert refused.refused == (409, "TRANSACTION_NOT_ACTIVE", [])


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_rows_are_to_be_named(app: Application, method: str) -> None:
    path = f"{TRANSACTIONS}/x/branches/1/locks"
    refused = await app.api.call(method, path, send={})
    assert refused.refused == (422, "INVALID_FIELD", ["locks"])
    for branch in ("0", "-1", "x", str(2**53)):
        odd = await app.api.call(
            method, f"{TRANSACTIONS}/x/branches/{branch}/locks", send={"lockKeys": {"t": [[1]]}}
        )
        assert odd.refused == (422, "INVALID_FIELD", ["branchId"])


# POST …/report


async def test_a_report_is_taken_and_may_come_again(app: Application) -> None:
    branch = await app.branch("x", done=False)
    for _ in range(2):
        reported = await app.report("x", branch, applicationData={"undo": 1})
        assert reported.body == {"xid": "x", "branchId": branch, "status": "PHASE_ONE_DONE"}
    assert (await app.show("x"))["branches"][0]["applicationData"] == {"undo": 1}
    refused = await app.report("x", branch, "PHASE_ONE_FAILED")
    assert refused.refused == (409, "BRANCH_STATUS_FIXED", [])


async def test_a_report_needs_a_branch_that_is_undecided(app: Application) -> None:
    branch = await app.branch("x", done=False)
    assert (await app.report("z", branch)).refused == (404, "TRANSACTION_NOT_FOUND", [])
    assert (await app.report("x", 99)).refused == (404, "BRANCH_NOT_FOUND", [])
    await app.roll_back("x", waitMs=0)
    late = await app.report("x", branch)
    assert late.refused == (409, "TRANSACTION_NOT_ACTIVE", [])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "status"),
        ({"status": "REGISTERED"}, "status"),
        ({"status": "WITHDRAWN", "error": {"type": "t"}}, "error.message"),
        ({"status": "WITHDRAWN", "error": {"type": "t" * 101, "message": ""}}, "error.type"),
        ({"status": "WITHDRAWN", "error": {"type": "", "message": "m" * 1_001}}, "error.message"),
        ({"status": "WITHDRAWN", "error": {"type": "", "message": "", "at": -1}}, "error.at"),
    ],
)
async def test_a_wrong_report_is_refused(
    app: Application, body: dict[str, object], field: str
) -> None:
    refused = await app.api.post(f"{TRANSACTIONS}/x/branches/1/report", body)
    assert refused.refused == (422, "INVALID_FIELD", [field])


# POST …/fence


async def test_the_fence_lets_each_step_through_once(app: Application) -> None:
    branch = await app.branch("x", mode="TCC", done=False)
    path = f"{TRANSACTIONS}/x/branches/{branch}/fence"

    async def verdict(step: str, phase: str) -> str:
        answered = await app.api.post(path, {"step": step, "phase": phase})
        assert answered.status == 200
        return str(answered.body["verdict"])

    assert await verdict("TRY", "ENTER") == "PROCEED"
    assert await verdict("TRY", "DONE") == "PROCEED"
    assert await verdict("CANCEL", "ENTER") == "PROCEED"
    assert await verdict("CANCEL", "DONE") == "PROCEED"
    assert await verdict("CANCEL", "ENTER") == "DONE_ALREADY"
    assert await verdict("TRY", "ENTER") == "REFUSE"


async def test_the_fence_tells_what_it_does_not_know(app: Application) -> None:
    branch = await app.branch("x", mode="TCC", done=False)
    confirm = {"step": "CONFIRM", "phase": "ENTER"}
    path = f"{TRANSACTIONS}/x/branches/{branch}/fence"
    refused = await app.api.post(path, confirm)
    assert refused.refused == (409, "BRANCH_NOT_TRIED", [])
    assert refused.body["retryable"] is True
    missing = await app.api.post(f"{TRANSACTIONS}/x/branches/99/fence", confirm)
    assert missing.refused == (404, "BRANCH_NOT_FOUND", [])
    missing = await app.api.post(f"{TRANSACTIONS}/z/branches/1/fence", confirm)
    assert missing.refused == (404, "TRANSACTION_NOT_FOUND", [])
    for field in ("step", "phase"):
        odd = await app.api.post(path, {**confirm, field: "X"})
        assert odd.refused == (422, "INVALID_FIELD", [field])


# row locks


async def test_rows_can_be_asked_for_before_they_are_locked(app: Application) -> None:
    branch = await app.branch("x", "a", done=False)

    async def query(*rows: str, **more: object) -> Any:
        body = {"resourceId": "db", "lockKeys": {"t": [[row] for row in rows]}, **more}
        answered = await app.api.post(f"{ROW_LOCKS}/query", body)
        assert answered.status == 200
        return answered.body

    assert await query("b") == {"lockable": True, "holder": None}
    assert await query("b", "a") == {
        "lockable": False,
        "holder": {
            "xid": "x",
            "branchId": branch,
            "lockMode": "EXCLUSIVE",
            "since": START_MS,
            "table": "t",
            "key": ["a"],
        },
    }
    assert (await query("a", xid="x"))["lockable"] is True
    assert (await query("a", lockMode="SHARED"))["lockable"] is False


async def test_who_wants_free_rows_can_wait_for_them_and_locks_nothing(app: Application) -> None:
    first, second = await app.branch("x", "a", done=False), await app.branch("x", "b", done=False)
    body = {"resourceId": "db", "lockKeys": {"t": [["a"], ["b"]]}, "waitMs": 60_000}
    asked = asyncio.create_task(app.api.post(f"{ROW_LOCKS}/query", body))
    for branch in (second, first):
        # Other entries do not end the wait, nor does the row that is not waited for.
        await app.begin()
        assert not asked.done()
        await app.report("x", branch, "WITHDRAWN")
    async with asyncio.timeout(20):
        assert (await asked).body == {"lockable": True, "holder": None}
    assert (await app.api.get(ROW_LOCKS)).body["items"] == []


async def test_a_wait_for_free_rows_that_is_over_names_the_holder(app: Application) -> None:
    await app.branch("x", "a", done=False)
    body = {"resourceId": "db", "lockKeys": {"t": [["a"]]}, "waitMs": 30}
    answered = await app.api.post(f"{ROW_LOCKS}/query", body)
    assert (answered.status, answered.body["lockable"]) == (200, False)
    assert answered.body["holder"]["xid"] == "x"
    too_long = await app.api.post(f"{ROW_LOCKS}/query", {**body, "waitMs": 3_600_001})
    assert too_long.refused == (422, "INVALID_FIELD", ["waitMs"])


async def test_a_node_that_stops_answers_who_waits_for_free_rows(
    app: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = asyncio.Event()
    freed = RowLocks._freed

    async def waiting(*arguments: Any) -> None:
        waits.set()
        await freed(*arguments)

    monkeypatch.setattr(RowLocks, "_freed", waiting)
    await app.branch("x", "a", done=False)
    body = {"resourceId": "db", "lockKeys": {"t": [["a"]]}, "waitMs": 60_000}
    asked = asyncio.create_task(app.api.post(f"{ROW_LOCKS}/query", body))
    await waits.wait()
    await app.api.stop()
    async with asyncio.timeout(20):
        assert (await asked).body["lockable"] is False


async def test_locked_rows_are_listed_by_resource_and_by_transaction(app: Application) -> None:
    await app.branch("x", *range(5))
    await app.register("y", "a", resourceId="da")
    await app.register("y", "b", resourceId="db2")
    await app.register("y", "c", resourceId="r" * 256)

    async def listed(query: str) -> list[Any]:
        seen: list[Any] = []
        cursor = ""
        while True:
            page = await app.api.get(f"{ROW_LOCKS}?limit=2&{query}{cursor}")
            assert page.status == 200, page.body
            seen += [row["key"][0] for row in page.body["items"]]
            if page.body["nextCursor"] is None:
                return seen
            cursor = f"&cursor={page.body['nextCursor']}"

    assert await listed("resourceId=db") == [0, 1, 2, 3, 4]
    assert await listed("resourceId=db2") == ["b"]
    assert await listed(f"resourceId={'r' * 256}") == ["c"]
    assert await listed("xid=x") == [0, 1, 2, 3, 4]
    assert await listed("xid=y") == ["a", "b", "c"]
    assert await listed("xid=y&resourceId=db2") == ["b"]
    assert await listed("xid=nobody") == []
    assert sorted(map(str, await listed(""))) == ["0", "1", "2", "3", "4", "a", "b", "c"]


@pytest.mark.parametrize(
    ("query", "field"),
    [("resourceId=", "resourceId"), ("xid=a%20b", "xid"), ("cursor=zz", "cursor"),
     ("xid=x&cursor=00", "cursor"), ("limit=1001", "limit")],
)  # fmt: skip
async def test_a_list_of_rows_that_nobody_can_make_is_refused(
    app: Application, query: str, field: str
) -> None:
    assert (await app.api.get(f"{ROW_LOCKS}?{query}")).refused == (422, "INVALID_FIELD", [field])


# GET /api/v1/audit


async def test_what_operators_did_is_listed_and_proved(app: Application) -> None:
    for action in ("FORGET", "RETRY_NOW", "STOP_RETRY"):
        await app.operate("x", action, reason=f"because of {action}")
    page = (await app.api.get(f"{AUDIT}?limit=2")).body
    assert (page["intact"], page["firstFault"]) == (True, None)
    first, second = page["items"]
    assert (first["number"], first["action"], first["target"]) == (1, "FORGET", "x")
    assert (first["reason"], first["outcome"]) == ("because of FORGET", "OPERATION_NOT_POSSIBLE")
    assert (first["previousDigest"], second["previousDigest"]) == ("", first["digest"])
    rest = (await app.api.get(f"{AUDIT}?cursor={page['nextCursor']}")).body
    assert [item["number"] for item in rest["items"]] == [3]
    assert rest["intact"]


async def test_a_record_that_was_changed_is_pointed_at(app: Application) -> None:
    for _ in range(3):
        await app.operate("x", "FORGET")
    store = app.api.cluster.store
    key, value = next(row for row in store.items() if row[0].startswith(b"Xa"))
    store.put(key, value.replace(b"asked to", b"asked no"))
    page = (await app.api.get(AUDIT)).body
    assert (page["intact"], page["firstFault"]) == (False, 1)


async def test_changes_of_the_cluster_are_recorded_before_they_are_made(app: Application) -> None:
    api = app.api
    member = {"nodeId": "n4", "peerAddress": "10.0.0.4:7200", "apiAddress": "10.0.0.4:7100"}
    assert (await api.post(f"{CLUSTER}/members", member)).status == 201
    assert (await api.call("DELETE", f"{CLUSTER}/members/n3")).status == 200
    assert (await api.post(f"{CLUSTER}/leader/transfer", {"target": "n2"})).status == 200
    assert (await api.call("DELETE", f"{CLUSTER}/members/n9")).status == 404
    records = (await api.get(AUDIT)).body["items"]
    assert [(each["action"], each["target"], each["outcome"]) for each in records] == [
        ("ADD_MEMBER", "n4", "ASKED"),
        ("REMOVE_MEMBER", "n3", "ASKED"),
        ("TRANSFER_LEADERSHIP", "n2", "ASKED"),
        ("REMOVE_MEMBER", "n9", "ASKED"),
    ]
