"""Sagas and TCC over HTTP. Who is called is a driver's to do; here it is told what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from api.destinations import Destinations
from api.settings import ApiSettings
from statemachine.state import MachineState
from statemachine.transactions import desk
from tests.integration.local_cluster import START_MS
from tests.integration.serving import SAGAS, TCC, TRANSACTIONS, Api, serving
from tests.integration.transacting import MADE_XID, Application

URL = "http://participant/"


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


@pytest.fixture
def app(api: Api) -> Application:
    return Application(api)


def step(at: str, *depends_on: str, **more: object) -> dict[str, object]:
    body: dict[str, object] = {
        "name": at,
        "action": f"{URL}{at}",
        "compensation": f"{URL}{at}/undo",
        **more,
    }
    if depends_on:
        body["dependsOn"] = list(depends_on)
    return body


async def begin(api: Api, *steps: dict[str, object], **more: object) -> str:
    answered = await api.post(SAGAS, {"steps": list(steps), **more})
    assert answered.status == 201, answered.body
    return str(answered.body["xid"])


async def show(api: Api, xid: str) -> Any:
    answered = await api.get(f"{SAGAS}/{xid}")
    assert answered.status == 200, answered.body
    return answered.body


def called(app: Application, xid: str) -> list[str]:
    """Whom the driver would call now, and for what."""
    return [f"{call.branch.name} {call.operation}" for call in app.calls(xid)]


async def statuses(api: Api, xid: str) -> dict[str, str]:
    return {step["name"]: step["status"] for step in (await show(api, xid))["steps"]}


# POST /api/v1/sagas


async def test_a_saga_is_begun_and_shown(api: Api) -> None:
    answered = await api.post(SAGAS, {"steps": [step("a"), step("b")], "name": "trip"})
    assert answered.status == 201
    begun = answered.body
    xid = begun["xid"]
    assert MADE_XID.fullmatch(xid)
    first, second = begun.pop("steps")
    assert begun == {"xid": xid, "status": "BEGIN", "reason": ""}
    assert first == {
        "name": "a",
        "branchId": first["branchId"],
        "status": "REGISTERED",
        "attempts": 0,
    }
    assert second["name"] == "b"
    assert (await show(api, xid))["steps"] == [first, second]
    assert (await api.get(f"{TRANSACTIONS}/{xid}")).body["program"] == "SAGA"


async def test_steps_follow_each_other_and_all_done_commits(api: Api, app: Application) -> None:
    xid = await begin(api, step("a"), step("b"))
    assert called(app, xid) == ["a FORWARD"]
    await app.told(xid, result=b'{"id": 7}')
    assert called(app, xid) == ["b FORWARD"]
    assert (await show(api, xid))["steps"][0]["result"] == {"id": 7}
    await app.told(xid)
    shown = await show(api, xid)
    assert shown["status"] == "COMMITTED"
    assert [each["status"] for each in shown["steps"]] == ["PHASE_TWO_COMMITTED"] * 2


async def test_a_step_that_refuses_has_those_before_it_compensated(
    api: Api, app: Application
) -> None:
    xid = await begin(api, step("a"), step("b"), step("c"), step("d"))
    for _ in "ab":
        await app.told(xid)
    await app.told(xid, "FAILED")
    assert called(app, xid) == ["b ROLLBACK"]
    await app.told(xid)
    assert called(app, xid) == ["a ROLLBACK"]
    await app.told(xid)
    shown = await show(api, xid)
    assert (shown["status"], shown["reason"]) == ("ROLLED_BACK", "step c failed: no stock")
    assert await statuses(api, xid) == {
        "a": "PHASE_TWO_ROLLED_BACK",
        "b": "PHASE_TWO_ROLLED_BACK",
        "c": "WITHDRAWN",
        "d": "WITHDRAWN",
    }
    assert shown["steps"][2]["error"] == {
        "type": "HTTP_409",
        "message": "no stock",
        "at": START_MS,
    }


async def test_a_step_of_which_nobody_knows_is_compensated_too(api: Api, app: Application) -> None:
    xid = await begin(api, step("a"), step("b", retry={"limit": 1}))
    await app.told(xid)
    for _ in range(2):
        await app.told(xid, "RETRY")
    assert called(app, xid) == ["b ROLLBACK"]


async def test_one_that_refused_is_compensated_when_it_is_asked_for(
    api: Api, app: Application
) -> None:
    xid = await begin(api, step("a"), compensateFailed=True)
    await app.told(xid, "FAILED")
    assert called(app, xid) == ["a ROLLBACK"]


async def test_recovery_forward_repeats_what_fails(api: Api, app: Application) -> None:
    xid = await begin(api, step("a", retry={"limit": 0}), recovery="FORWARD")
    for verdict in ("FAILED", "RETRY"):
        await app.told(xid, verdict)
    assert called(app, xid) == ["a FORWARD"]


async def test_concurrent_steps_are_called_together(api: Api, app: Application) -> None:
    xid = await begin(api, step("a"), step("b"), step("c"), concurrent=True)
    assert called(app, xid) == ["a FORWARD", "b FORWARD", "c FORWARD"]


@pytest.mark.parametrize("concurrent", [False, True])
async def test_a_graph_runs_as_far_as_it_can_and_back_in_reverse(
    api: Api, app: Application, concurrent: bool
) -> None:
    graph = [step("d", "b", "c"), step("b", "a"), step("a"), step("c", "a"), step("e")]
    xid = await begin(api, *graph, concurrent=concurrent)
    assert set(called(app, xid)) == {"a FORWARD", "e FORWARD"}
    await app.told(xid, name="a")
    assert set(called(app, xid)) == {"b FORWARD", "c FORWARD", "e FORWARD"}
    for name in "bce":
        await app.told(xid, name=name)
    await app.told(xid, "FAILED", name="d")
    assert set(called(app, xid)) == {"b ROLLBACK", "c ROLLBACK", "e ROLLBACK"}
    for name in "bc":
        await app.told(xid, name=name)
    assert set(called(app, xid)) == {"a ROLLBACK", "e ROLLBACK"}


async def test_what_nobody_has_to_do_is_done_at_once(api: Api) -> None:
    answered = await api.post(SAGAS, {"steps": [{"name": "a", "action": ""}]})
    assert (answered.status, answered.body["status"]) == (200, "COMMITTED")


async def test_the_answer_may_wait_for_the_end(api: Api, app: Application) -> None:
    waiting = asyncio.ensure_future(
        api.post(SAGAS, {"xid": "x", "steps": [step("a")], "waitMs": 30_000})
    )
    while (await api.get(f"{SAGAS}/x")).status != 200:
        await asyncio.sleep(0)
    await app.told("x", result=b"[1]")
    answered = await waiting
    assert (answered.status, answered.body["status"]) == (200, "COMMITTED")
    assert answered.body["steps"][0]["result"] == [1]


async def test_the_answer_waits_no_longer_than_it_is_to(api: Api) -> None:
    body = {"steps": [step("a")], "waitMs": 30_000}
    answered = await api.post(SAGAS, body, Tidelock_Timeout_Ms="20")
    assert (answered.status, answered.body["status"]) == (201, "BEGIN")


async def test_a_saga_past_its_timeout_is_rolled_back(api: Api, app: Application) -> None:
    xid = await begin(api, step("a"), step("b"), timeoutMs=1_000)
    await app.told(xid)
    api.cluster.let_pass(1_000)
    assert set(called(app, xid)) == {"b ROLLBACK"}
    assert (await show(api, xid))["status"] == "TIMEOUT_ROLLING_BACK"


async def test_under_a_key_it_is_run_once(api: Api) -> None:
    body = {"steps": [step("a")]}
    first = await api.post(SAGAS, body, Idempotency_Key="k")
    again = await api.post(SAGAS, body, Idempotency_Key="k")
    assert again.body == first.body
    assert again.headers["Idempotency-Replayed"] == "true"


async def test_an_xid_is_used_once(api: Api) -> None:
    await begin(api, step("a"), xid="x")
    for path, body in ((SAGAS, {"steps": [step("a")]}), (TCC, {"branches": [branch("a")]})):
        refused = await api.post(path, {"xid": "x", **body})
        assert refused.refused == (409, "TRANSACTION_EXISTS", [])


async def test_no_more_are_under_way_than_may(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "GREATEST_GLOBALS", 0)
    for path, body in ((SAGAS, {"steps": [step("a")]}), (TCC, {"branches": [branch("a")]})):
        assert (await api.post(path, body)).refused == (429, "TOO_MANY_TRANSACTIONS", [])


async def test_a_saga_is_not_committed_by_a_client_but_may_be_stopped(
    api: Api, app: Application
) -> None:
    xid = await begin(api, step("a"))
    assert (await app.commit(xid)).refused == (409, "OPERATION_NOT_POSSIBLE", [])
    assert (await app.register(xid)).refused == (409, "TRANSACTION_NOT_ACTIVE", [])
    assert (await app.roll_back(xid, waitMs=0)).body["status"] == "ROLLING_BACK"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "steps"),
        ({"steps": []}, "steps"),
        ({"steps": [step(f"s{n}") for n in range(1_001)]}, "steps"),
        ({"steps": [{"name": "a"}]}, "steps[0].action"),
        ({"steps": [{"action": ""}]}, "steps[0].name"),
        ({"steps": [step("")]}, "steps[0].name"),
        ({"steps": [step("a.b")]}, "steps[0].name"),
        ({"steps": [step("n" * 65)]}, "steps[0].name"),
        ({"steps": [step("a"), step("b", name="b\n")]}, "steps[1].name"),
        ({"steps": [step("a"), step("b"), step("a")]}, "steps[2].name"),
        ({"steps": [step("a", action="ftp://x")]}, "steps[0].action"),
        ({"steps": [step("a", action="http://" + "x" * 2_048)]}, "steps[0].action"),
        ({"steps": [step("a", compensation="x")]}, "steps[0].compensation"),
        ({"steps": [step("a", "b")]}, "steps[0].dependsOn[0]"),
        ({"steps": [step("a", "a")]}, "steps[0].dependsOn"),
        ({"steps": [step("a"), step("b", "c"), step("c", "b")]}, "steps[1].dependsOn"),
        ({"steps": [step("a", payload="p" * 65_536)]}, "steps[0].payload"),
        ({"steps": [step("a", payload={"$ref": "b.id"}), step("b")]}, "steps[0].payload"),
        ({"steps": [step("a", payload={"$ref": "a"})]}, "steps[0].payload"),
        ({"steps": [step("a"), step("b", payload={"$ref": 7})]}, "steps[1].payload"),
        (
            {"steps": [step("a"), step("b", payload={"$ref": "a"})], "concurrent": True},
            "steps[1].payload",
        ),
        ({"steps": [step("a", timeoutMs=0)]}, "steps[0].timeoutMs"),
        ({"steps": [step("a", retry={"limit": -1})]}, "steps[0].retry.limit"),
        ({"steps": [step("a", retry={"intervalMs": 0})]}, "steps[0].retry.intervalMs"),
        ({"steps": [step("a")], "recovery": "SIDEWAYS"}, "recovery"),
        ({"steps": [step("a")], "recovery": "FORWARD", "timeoutMs": 5}, "timeoutMs"),
        ({"steps": [step("a")], "xid": "a b"}, "xid"),
        ({"steps": [step("a")], "name": ""}, "name"),
        ({"steps": [step("a")], "waitMs": -1}, "waitMs"),
        ({"steps": [step("a")], "timeoutMs": 0}, "timeoutMs"),
        ({"steps": [step("a")], "odd": 1}, "odd"),
    ],
)
async def test_a_wrong_field_is_named(api: Api, body: dict[str, object], field: str) -> None:
    refused = await api.post(SAGAS, body)
    large = field.endswith("payload") and refused.status == 413
    expected = (413, "REQUEST_TOO_LARGE") if large else (422, "INVALID_FIELD")
    assert refused.refused == (*expected, [field])
    assert (await api.get(TRANSACTIONS)).body["items"] == []


async def test_a_cycle_is_spelled_out(api: Api) -> None:
    steps = [step("a"), step("b", "d"), step("c", "b"), step("d", "c")]
    refused = await api.post(SAGAS, {"steps": steps})
    assert "b needs d needs c needs b" in refused.body["detail"]


async def test_results_may_feed_steps_that_come_after_them(api: Api) -> None:
    fed = step("c", payload={"of": [{"$ref": "a.id"}, {"$ref": "b"}]})
    await begin(api, step("a"), step("b"), fed)


async def test_together_payloads_fit_an_entry(api: Api) -> None:
    steps = [step(f"s{n}", payload="p" * 60_000) for n in range(18)]
    assert (await api.post(SAGAS, {"steps": steps})).refused == (413, "REQUEST_TOO_LARGE", [])


async def test_a_saga_that_is_unknown_or_none_is_not_found(api: Api, app: Application) -> None:
    xid = await app.begin()
    for missing in ("none", xid):
        assert (await api.get(f"{SAGAS}/{missing}")).refused == (404, "TRANSACTION_NOT_FOUND", [])
    assert (await api.get(f"{SAGAS}/a%20b")).refused == (422, "INVALID_FIELD", ["xid"])


async def test_of_a_saga_that_ended_long_ago_its_end_is_known(api: Api, app: Application) -> None:
    xid = await begin(api, step("a"))
    await app.told(xid)
    api.cluster.let_pass(MachineState().retention_ms)
    assert await show(api, xid) == {
        "xid": xid, "status": "COMMITTED", "reason": "", "steps": []
    }  # fmt: skip


# POST /api/v1/tcc


def branch(at: str, **more: object) -> dict[str, object]:
    return {**{call: f"{URL}{at}/{call}" for call in ("try", "confirm", "cancel")}, **more}


async def test_try_is_called_of_all_then_confirm(api: Api, app: Application) -> None:
    answered = await api.post(TCC, {"branches": [branch("a", payload={"n": 1}), branch("b")]})
    assert answered.status == 201
    xid = answered.body["xid"]
    assert [each["name"] for each in answered.body["steps"]] == ["1", "2"]
    assert [call.url for call in app.calls(xid)] == [f"{URL}a/try", f"{URL}b/try"]
    await app.told(xid)
    assert [call.url for call in app.calls(xid)] == [f"{URL}a/confirm", f"{URL}b/confirm"]
    await app.told(xid)
    assert (await app.show(xid))["status"] == "COMMITTED"


async def test_one_that_refuses_has_all_others_cancelled(api: Api, app: Application) -> None:
    body = {"branches": [branch("a", name="a"), branch("b", name="b")]}
    xid = (await api.post(TCC, body)).body["xid"]
    await app.told(xid, name="a")
    await app.told(xid, "FAILED", name="b")
    assert [call.url for call in app.calls(xid)] == [f"{URL}a/cancel"]
    await app.told(xid)
    shown = await app.show(xid)
    assert (shown["status"], shown["reason"]) == ("ROLLED_BACK", "step b failed: no stock")


async def test_in_order_cancel_is_called_in_reverse(api: Api, app: Application) -> None:
    body = {"branches": [branch("a"), branch("b"), branch("c")], "inOrder": True}
    xid = (await api.post(TCC, body)).body["xid"]
    await app.told(xid, name="1")
    await app.told(xid, name="2")
    await app.told(xid, "FAILED", name="3")
    assert [call.url for call in app.calls(xid)] == [f"{URL}b/cancel"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "branches"),
        ({"branches": []}, "branches"),
        ({"branches": [{"try": "", "confirm": ""}]}, "branches[0].cancel"),
        ({"branches": [branch("a", **{"try": "x"})]}, "branches[0].try"),
        ({"branches": [branch("a", confirm="ftp://a")]}, "branches[0].confirm"),
        ({"branches": [branch("a", cancel=None)]}, "branches[0].cancel"),
        ({"branches": [branch("a", name="")]}, "branches[0].name"),
        ({"branches": [branch("a", name="x"), branch("b", name="x")]}, "branches[1].name"),
        ({"branches": [branch("a", payload="p" * 65_536)]}, "branches[0].payload"),
        ({"branches": [branch("a", timeoutMs=600_001)]}, "branches[0].timeoutMs"),
        ({"branches": [branch("a")], "timeoutMs": 0}, "timeoutMs"),
        ({"branches": [branch("a")], "waitMs": 3_600_001}, "waitMs"),
        ({"branches": [branch("a")], "steps": []}, "steps"),
    ],
)
async def test_a_wrong_field_of_tcc_is_named(api: Api, body: dict[str, object], field: str) -> None:
    refused = await api.post(TCC, body)
    expected = (413, "REQUEST_TOO_LARGE") if field.endswith("payload") else (422, "INVALID_FIELD")
    assert refused.refused == (*expected, [field])


# destinations


class Nobody:
    """Rules that let nobody be called but one."""

    def objection(self, url: str) -> str | None:
        return None if url == f"{URL}allowed" else "leads to a host that is not allowed"


async def test_every_url_is_judged_when_it_is_submitted() -> None:
    rules: Destinations = Nobody()
    good = f"{URL}allowed"
    async with serving(settings=ApiSettings(destinations=rules)) as api:
        app = Application(api)
        xid = await app.begin()
        branches = f"{TRANSACTIONS}/{xid}/branches"
        for path, body, field in (
            (SAGAS, {"steps": [step("a", action=good)]}, "steps[0].compensation"),
            (SAGAS, {"steps": [step("a", compensation="")]}, "steps[0].action"),
            (TCC, {"branches": [branch("a", **{"try": good})]}, "branches[0].confirm"),
            (
                branches,
                {"mode": "TCC", "resourceId": "r", "callbacks": {"rollback": URL}},
                "callbacks.rollback",
            ),
        ):
            refused = await api.post(path, body)
            assert refused.refused == (422, "INVALID_FIELD", [field])
            assert "not allowed" in refused.body["detail"]
        assert (await api.post(SAGAS, {"steps": [{"name": "a", "action": good}]})).status == 201
