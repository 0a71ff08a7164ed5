"""Saga definitions over HTTP, and sagas that follow them. A driver is played by the test."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from typing import Any

import pytest

from api.saga_definitions import EXAMPLE
from tests.integration.local_cluster import START_MS
from tests.integration.serving import SAGA_DEFINITIONS, SAGAS, TRANSACTIONS, Answered, Api, serving
from tests.integration.transacting import Application

PURCHASE = f"{SAGA_DEFINITIONS}/purchase"


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


@pytest.fixture
def app(api: Api) -> Application:
    return Application(api)


async def put(api: Api, definition: object, path: str = PURCHASE, **headers: str) -> Answered:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await api.call("PUT", path, send=definition, headers=named)


def changed(**changes: object) -> dict[str, Any]:
    return {**copy.deepcopy(EXAMPLE), **changes}


async def begin(api: Api, **more: object) -> Any:
    body = {"definition": "purchase", "input": {"sku": "a-1", "count": 2}, **more}
    answered = await api.post(SAGAS, body)
    assert answered.status == 201, answered.body
    return answered.body


# PUT, GET, DELETE /api/v1/saga-definitions


async def test_a_definition_is_put_shown_and_listed(api: Api) -> None:
    answered = await put(api, EXAMPLE)
    assert answered.status == 200
    assert answered.body == {"name": "purchase", "version": 1, "changed": True}
    shown = await api.get(PURCHASE)
    assert shown.body == {
        "name": "purchase",
        "version": 1,
        "definition": EXAMPLE,
        "versions": [{"version": 1, "createdAt": START_MS, "running": 0}],
    }
    listed = await api.get(SAGA_DEFINITIONS)
    assert listed.body == {"items": [{"name": "purchase", "version": 1}], "nextCursor": None}


async def test_a_definition_that_differs_is_a_new_version_and_the_same_is_none(api: Api) -> None:
    await put(api, EXAMPLE)
    assert (await put(api, EXAMPLE)).body["changed"] is False
    other = await put(api, changed(Comment="another"))
    assert other.body == {"name": "purchase", "version": 2, "changed": True}
    assert (await api.get(PURCHASE)).body["definition"]["Comment"] == "another"


async def test_blanks_make_no_new_version(api: Api) -> None:
    await put(api, {"StartState": "A", "States": {"A": {"Type": "Succeed"}}})
    spaced = b'{ "StartState": "A",\n "States": {"A": {"Type": "Succeed"} } }'
    answered = await api.call("PUT", PURCHASE, raw=spaced)
    assert answered.body == {"name": "purchase", "version": 1, "changed": False}


async def test_the_same_request_under_one_key_is_done_once(api: Api) -> None:
    first = await put(api, EXAMPLE, Idempotency_Key="k")
    again = await put(api, EXAMPLE, Idempotency_Key="k")
    assert again.body == first.body
    assert again.headers["Idempotency-Replayed"] == "true"


async def test_names_are_listed_page_by_page(api: Api) -> None:
    for name in ("c", "a", "b"):
        await put(api, EXAMPLE, f"{SAGA_DEFINITIONS}/{name}")
    page = (await api.get(f"{SAGA_DEFINITIONS}?limit=2")).body
    assert [each["name"] for each in page["items"]] == ["a", "b"]
    rest = (await api.get(f"{SAGA_DEFINITIONS}?limit=2&cursor={page['nextCursor']}")).body
    assert [each["name"] for each in rest["items"]] == ["c"]
    assert rest["nextCursor"] is None


async def test_a_deleted_definition_is_gone_and_can_be_put_again(api: Api) -> None:
    await put(api, EXAMPLE)
    for deleted in (True, False):
        answered = await api.call("DELETE", PURCHASE)
        assert answered.body == {"name": "purchase", "deleted": deleted}
    assert (await api.get(PURCHASE)).code == "SAGA_DEFINITION_NOT_FOUND"
    assert (await put(api, EXAMPLE)).status == 200


async def test_everything_that_is_wrong_is_said_at_once_each_with_its_path(api: Api) -> None:
    wrong = changed(Name="sale", StartState="Nowhere", Unknown=1)
    wrong["States"]["Pay"]["Retry"][0]["MaxAttempts"] = -1
    wrong["States"]["Pay"]["Input"] = ["$.[price] *"]
    wrong["States"]["Reserve"]["Type"] = "Task"
    answered = await put(api, wrong)
    assert answered.refused == (
        422,
        "INVALID_FIELD",
        [
            "Name",
            "States.Reserve.Type",
            "States.Pay.Input[0]",
            "States.Pay.Retry[0].MaxAttempts",
            "Unknown",
        ],
    )
    lost = changed(StartState="Nowhere")
    lost["States"]["Pay"]["Next"] = "Release"
    lost["States"]["GiveUp"]["Next"] = "Pay"
    assert (await put(api, lost)).refused[2] == [
        "StartState",
        "States.Pay.Next",
        "States.GiveUp.Next",
    ]


async def test_urls_are_judged_when_a_definition_is_put(api: Api) -> None:
    wrong = changed()
    wrong["States"]["Pay"]["ServiceUrl"] = "ftp://elsewhere/"
    wrong["States"]["Release"]["ServiceUrl"] = "file:///etc/passwd"
    assert (await put(api, wrong)).refused == (
        422,
        "INVALID_FIELD",
        ["States.Release.ServiceUrl", "States.Pay.ServiceUrl"],
    )


async def test_machines_that_are_called_must_be_there(api: Api) -> None:
    calling = {
        "StartState": "S",
        "States": {"S": {"Type": "SubStateMachine", "StateMachineName": "purchase"}},
    }
    path = f"{SAGA_DEFINITIONS}/shop"
    assert (await put(api, calling, path)).refused == (
        422,
        "INVALID_FIELD",
        ["States.S.StateMachineName"],
    )
    await put(api, EXAMPLE)
    assert (await put(api, calling, path)).status == 200


@pytest.mark.parametrize("raw", [b"[]", b"{}", b'"x"', b'{"StartState": 5, "States": {}}'])
async def test_what_is_no_definition_is_refused(api: Api, raw: bytes) -> None:
    answered = await api.call("PUT", PURCHASE, raw=raw)
    assert answered.refused[:2] == (422, "INVALID_FIELD")


async def test_a_definition_has_a_greatest_size(api: Api) -> None:
    states = {f"S{n}": {"Type": "Succeed", "Comment": "x" * 900} for n in range(400)}
    answered = await put(api, {"StartState": "S0", "States": states})
    assert answered.refused[:2] == (413, "REQUEST_TOO_LARGE")


# POST, GET /api/v1/sagas


async def test_a_saga_follows_a_definition_and_shows_each_state(api: Api, app: Application) -> None:
    await put(api, EXAMPLE)
    begun = await begin(api)
    xid = begun["xid"]
    assert begun["definition"] == {"name": "purchase", "version": 1}
    assert begun["states"] == [
        {
            "name": "Reserve",
            "type": "ServiceTask",
            "status": "RU",
            "beganAt": START_MS,
            "branchIds": [begun["steps"][0]["branchId"]],
        }
    ]
    (call,) = app.calls(xid)
    assert (call.url, call.branch.payload) == (
        "http://127.0.0.1:9000/reserve",
        b'{"sku":"a-1","count":2}',
    )
    await app.told(xid, result=b'{"id": 7, "price": 19.50}')
    (call,) = app.calls(xid)
    assert call.branch.payload == b'{"amount":39.00}'
    await app.told(xid)
    shown = (await api.get(f"{SAGAS}/{xid}")).body
    assert shown["status"] == "COMMITTED"
    assert [(each["name"], each["status"]) for each in shown["states"]] == [
        ("Reserve", "SU"),
        ("Pay", "SU"),
        ("Done", "SU"),
    ]
    assert [(step["name"], step["status"]) for step in shown["steps"]] == [
        ("Reserve", "PHASE_TWO_COMMITTED"),
        ("Pay", "PHASE_TWO_COMMITTED"),
    ]
    assert shown["variables"] == {"sku": "a-1", "count": 2, "reservation": 7, "price": 19.5}
    assert (await api.get(f"{TRANSACTIONS}/{xid}")).body["program"] == "STATE_MACHINE"


async def test_what_failed_and_what_was_undone_can_be_read(api: Api, app: Application) -> None:
    await put(api, EXAMPLE)
    xid = (await begin(api, name="order 7"))["xid"]
    await app.told(xid, result=b'{"id": 7, "price": 1}')
    await app.told(xid, "FAILED")
    (call,) = app.calls(xid)
    assert (call.operation, call.branch.compensation) == ("ROLLBACK", b'{"reservation":7}')
    await app.told(xid)
    shown = (await api.get(f"{SAGAS}/{xid}")).body
    assert (shown["status"], shown["reason"]) == ("ROLLED_BACK", "UNPAID: the account refused")
    assert [(each["name"], each["status"]) for each in shown["states"]] == [
        ("Reserve", "SU"),
        ("Pay", "FA"),
        ("GiveUp", "SU"),
        ("Unpaid", "FA"),
    ]
    assert shown["states"][1]["error"] == {"type": "HTTP_409", "message": "no stock"}
    assert shown["steps"][0]["status"] == "PHASE_TWO_ROLLED_BACK"


async def test_a_saga_keeps_its_version_while_a_newer_one_is_put(
    api: Api, app: Application
) -> None:
    await put(api, EXAMPLE)
    old = (await begin(api))["xid"]
    await put(api, changed(Comment="newer"))
    new = await begin(api)
    assert new["definition"]["version"] == 2
    assert (await api.get(f"{SAGAS}/{old}")).body["definition"]["version"] == 1
    versions = (await api.get(PURCHASE)).body["versions"]
    assert [(each["version"], each["running"]) for each in versions] == [(1, 1), (2, 1)]
    for _ in range(2):
        await app.told(old, result=b'{"id": 7, "price": 1}')
    assert [each["version"] for each in (await api.get(PURCHASE)).body["versions"]] == [2]


async def test_who_waits_is_answered_with_the_end(api: Api) -> None:
    await put(api, {"StartState": "A", "States": {"A": {"Type": "Succeed"}}})
    answered = await api.post(SAGAS, {"definition": "purchase", "waitMs": 1_000})
    assert (answered.status, answered.body["status"]) == (200, "COMMITTED")
    assert answered.body["variables"] == {}


async def test_a_definition_must_be_there(api: Api) -> None:
    answered = await api.post(SAGAS, {"definition": "purchase"})
    assert (answered.status, answered.code) == (404, "SAGA_DEFINITION_NOT_FOUND")


STEP = {"name": "a", "action": "http://participant/a"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "steps"),
        ({"steps": [STEP], "input": {}}, "input"),
        ({"definition": "purchase", "steps": [STEP]}, "steps"),
        ({"definition": "purchase", "concurrent": True}, "concurrent"),
        ({"definition": "purchase", "compensateFailed": True}, "compensateFailed"),
        ({"definition": "purchase", "input": [1]}, "input"),
        ({"definition": "purchase", "input": 5}, "input"),
        ({"definition": ""}, "definition"),
        ({"definition": "purchase", "recovery": "FORWARD", "timeoutMs": 5}, "timeoutMs"),
    ],
)
async def test_a_saga_has_steps_or_a_definition(
    api: Api, body: dict[str, object], field: str
) -> None:
    await put(api, EXAMPLE)
    answered = await api.post(SAGAS, body)
    assert answered.refused == (422, "INVALID_FIELD", [field])


async def test_its_input_has_a_greatest_size(api: Api) -> None:
    await put(api, EXAMPLE)
    answered = await api.post(SAGAS, {"definition": "purchase", "input": {"a": "x" * 70_000}})
    assert answered.refused == (413, "REQUEST_TOO_LARGE", ["input"])
