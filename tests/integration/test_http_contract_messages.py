"""Two-phase messages and topics over HTTP: prepared, submitted, aborted, delivered to all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from api.cluster import NoQuorumError
from statemachine.state import MachineState
from tests.integration.serving import MESSAGES, TOPICS, TRANSACTIONS, Answered, Api, serving
from tests.integration.transacting import MADE_XID, Application

QUERY = "http://participant:9000/query"
LEDGER = "http://participant:9000/ledger"


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


@pytest.fixture
def app(api: Api) -> Application:
    return Application(api)


def to(url: str = LEDGER, payload: object = None) -> dict[str, object]:
    return {"action": url, "payload": payload}


async def prepare(api: Api, *steps: object, **more: object) -> Answered:
    return await api.post(MESSAGES, {"query": QUERY, "steps": list(steps or (to(),)), **more})


async def prepared(api: Api, *steps: object, **more: object) -> str:
    answered = await prepare(api, *steps, **more)
    assert answered.status == 201, answered.body
    return str(answered.body["xid"])


async def submit(api: Api, xid: str, **body: object) -> Answered:
    return await api.post(f"{MESSAGES}/{xid}/submit", body)


async def abort(api: Api, xid: str, **body: object) -> Answered:
    return await api.post(f"{MESSAGES}/{xid}/abort", body)


async def show(api: Api, xid: str) -> Any:
    answered = await api.get(f"{MESSAGES}/{xid}")
    assert answered.status == 200, answered.body
    return answered.body


async def subscribe(api: Api, topic: str, name: str, url: str = LEDGER, **more: object) -> Answered:
    path = f"{TOPICS}/{topic}/subscribers/{name}"
    return await api.call("PUT", path, send={"url": url, **more})


# POST /api/v1/messages


async def test_a_message_is_kept_until_it_is_submitted(api: Api) -> None:
    answered = await prepare(api, to(payload={"orderId": 7}), name="paid")
    assert answered.status == 201
    xid = answered.body["xid"]
    assert answered.body == {"xid": xid, "status": "BEGIN", "reason": ""}
    assert MADE_XID.fullmatch(xid)
    shown = await show(api, xid)
    assert (shown["name"], shown["submitted"], shown["status"]) == ("paid", False, "BEGIN")
    assert shown["query"]["url"] == QUERY
    assert shown["steps"] == [
        {
            "name": "01",
            "action": LEDGER,
            "topic": None,
            "status": "PREPARED",
            "attempts": 0,
            "nextAttemptAt": None,
            "error": None,
        }
    ]


async def test_its_sender_is_asked_after_the_timeout(api: Api) -> None:
    xid = await prepared(api, timeoutMs=5_000)
    shown = await show(api, xid)
    begun_at = (await api.get(f"{TRANSACTIONS}/{xid}")).body["begunAt"]
    assert shown["query"]["nextAttemptAt"] == begun_at + 5_000


async def test_a_key_makes_a_repeated_preparation_one(api: Api) -> None:
    body = {"query": QUERY, "steps": [to()]}
    first = await api.post(MESSAGES, body, Idempotency_Key="k")
    again = await api.post(MESSAGES, body, Idempotency_Key="k")
    assert again.body == first.body
    assert again.headers["Idempotency-Replayed"] == "true"


async def test_an_xid_is_taken_once(api: Api) -> None:
    assert await prepared(api, xid="mine") == "mine"
    assert (await prepare(api, xid="mine")).refused == (409, "TRANSACTION_EXISTS", [])


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"steps": [{"action": LEDGER}]}, ["query"]),
        ({"query": "", "steps": [{"action": LEDGER}]}, ["query"]),
        ({"query": "ftp://x/", "steps": [{"action": LEDGER}]}, ["query"]),
        ({"query": QUERY}, ["steps"]),
        ({"query": QUERY, "steps": []}, ["steps"]),
        ({"query": QUERY, "steps": [{}]}, ["steps[0]"]),
        ({"query": QUERY, "steps": [to(), {"action": LEDGER, "topic": "t"}]}, ["steps[1]"]),
        ({"query": QUERY, "steps": [{"action": "no"}]}, ["steps[0].action"]),
        ({"query": QUERY, "steps": [{"topic": "\u0007"}]}, ["steps[0].topic"]),
        ({"query": QUERY, "steps": [{"topic": "é" * 100}]}, ["steps[0].topic"]),
        ({"query": QUERY, "steps": [to()], "delayMs": -1}, ["delayMs"]),
        ({"query": QUERY, "steps": [to()], "timeoutMs": 0}, ["timeoutMs"]),
        ({"query": QUERY, "steps": [to()], "xid": "a b"}, ["xid"]),
        ({"query": QUERY, "steps": [to()], "more": 1}, ["more"]),
    ],
)
async def test_what_is_wrong_is_named_and_nothing_is_kept(
    api: Api, body: object, fields: list[str]
) -> None:
    assert (await api.post(MESSAGES, body)).refused == (422, "INVALID_FIELD", fields)
    assert (await api.get(TRANSACTIONS)).body["items"] == []


async def test_more_deliveries_than_a_message_may_have_are_refused(api: Api) -> None:
    answered = await prepare(api, *({"topic": f"t{number}"} for number in range(11)))
    assert answered.refused == (422, "INVALID_FIELD", ["steps"])


# submit and abort


async def test_a_submitted_message_is_delivered_to_everybody(api: Api, app: Application) -> None:
    xid = await prepared(api, to(payload=[1, 2]), to(payload={"a": 1}))
    submitted = await submit(api, xid)
    assert (submitted.status, submitted.body["status"]) == (200, "BEGIN")
    assert [(call.operation, call.branch.payload) for call in app.calls(xid)] == [
        ("FORWARD", b"[1, 2]"),
        ("FORWARD", b'{"a": 1}'),
    ]
    await app.told(xid, name="02")
    statuses = [step["status"] for step in (await show(api, xid))["steps"]]
    assert statuses == ["REGISTERED", "PHASE_ONE_DONE"]
    await app.told(xid, name="01")
    assert (await show(api, xid))["status"] == "COMMITTED"
    assert (await show(api, xid))["query"]["nextAttemptAt"] is None


async def test_a_refused_delivery_is_shown_and_made_again(api: Api, app: Application) -> None:
    xid = await prepared(api)
    await submit(api, xid)
    await app.told(xid, "FAILED")
    (step,) = (await show(api, xid))["steps"]
    assert (step["attempts"], step["error"]["message"]) == (1, "no stock")
    assert step["nextAttemptAt"] is not None
    assert app.calls(xid)


async def test_a_submission_may_wait_for_the_end(api: Api, app: Application) -> None:
    xid = await prepared(api)
    waiting = asyncio.create_task(submit(api, xid, waitMs=10_000))
    while not (await show(api, xid))["submitted"]:
        await asyncio.sleep(0.01)
    await app.told(xid)
    assert (await waiting).body["status"] == "COMMITTED"


async def test_an_aborted_message_stays_undelivered(api: Api, app: Application) -> None:
    xid = await prepared(api)
    assert (await abort(api, xid, reason="no money")).body == {
        "xid": xid,
        "status": "ROLLED_BACK",
        "reason": "no money",
    }
    assert (await abort(api, xid)).status == 200
    assert (await submit(api, xid)).refused == (409, "TRANSACTION_DECIDED", [])
    assert app.calls(xid) == []


async def test_what_is_submitted_cannot_be_aborted(api: Api) -> None:
    xid = await prepared(api)
    await submit(api, xid)
    assert (await submit(api, xid)).status == 200
    assert (await abort(api, xid)).refused == (409, "TRANSACTION_DECIDED", [])


@pytest.mark.parametrize("what", ["submit", "abort"])
async def test_only_a_message_is_submitted_or_aborted(
    api: Api, app: Application, what: str
) -> None:
    xid = await app.begin()
    for each in (xid, "never"):
        answered = await api.post(f"{MESSAGES}/{each}/{what}", {})
        assert answered.refused == (404, "TRANSACTION_NOT_FOUND", [])
    assert (await app.show(xid))["status"] == "BEGIN"
    assert (await api.get(f"{MESSAGES}/{xid}")).refused == (404, "TRANSACTION_NOT_FOUND", [])


@pytest.mark.parametrize(
    ("what", "body", "field"),
    [("submit", {"waitMs": -1}, "waitMs"), ("abort", {"reason": "\n"}, "reason")],
)
async def test_a_wrong_decision_changes_nothing(
    api: Api, what: str, body: object, field: str
) -> None:
    xid = await prepared(api)
    answered = await api.post(f"{MESSAGES}/{xid}/{what}", body)
    assert answered.refused == (422, "INVALID_FIELD", [field])
    assert not (await show(api, xid))["submitted"]


async def test_after_its_retention_a_message_still_says_how_it_ended(
    api: Api, app: Application
) -> None:
    xid = await prepared(api, name="paid")
    await submit(api, xid)
    await app.told(xid)
    api.cluster.let_pass(MachineState().retention_ms)
    shown = await show(api, xid)
    assert (shown["status"], shown["submitted"], shown["name"]) == ("COMMITTED", True, "paid")
    assert (shown["query"], shown["steps"]) == (None, [])
    assert (await submit(api, xid)).body["status"] == "COMMITTED"
    assert (await abort(api, xid)).refused == (409, "TRANSACTION_DECIDED", [])


async def test_without_a_leader_nothing_is_prepared(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise NoQuorumError("nobody leads")

    monkeypatch.setattr(api.cluster, "propose", fail)
    assert (await prepare(api)).refused == (503, "NO_QUORUM", [])


# Topics


async def test_subscribers_come_and_go(api: Api) -> None:
    added = await subscribe(api, "paid", "mail", remark="to customers")
    assert added.status == 200
    assert added.body == {"topic": "paid", "name": "mail", "changed": True, "subscriberCount": 1}
    assert not (await subscribe(api, "paid", "mail", remark="to customers")).body["changed"]
    await subscribe(api, "paid", "audit")
    shown = (await api.get(f"{TOPICS}/paid/subscribers")).body
    assert [(each["name"], each["remark"]) for each in shown["subscribers"]] == [
        ("audit", ""),
        ("mail", "to customers"),
    ]
    gone = await api.call("DELETE", f"{TOPICS}/paid/subscribers/mail")
    assert gone.body == {"topic": "paid", "name": "mail", "changed": True, "subscriberCount": 1}
    assert not (await api.call("DELETE", f"{TOPICS}/paid/subscribers/mail")).body["changed"]
    assert (await api.get(f"{TOPICS}/none/subscribers")).body["subscribers"] == []


async def test_topics_are_listed_in_pages(api: Api) -> None:
    for topic in ("b", "a", "c"):
        await subscribe(api, topic, "s")
    first = (await api.get(f"{TOPICS}?limit=2")).body
    assert [each["topic"] for each in first["items"]] == ["a", "b"]
    rest = (await api.get(f"{TOPICS}?limit=2&cursor={first['nextCursor']}")).body
    assert ([each["topic"] for each in rest["items"]], rest["nextCursor"]) == (["c"], None)
    assert (await api.get(f"{TOPICS}?cursor=x")).refused == (422, "INVALID_FIELD", ["cursor"])
    assert (await api.get(f"{TOPICS}?cursor={'ff' * 400}")).status == 200


async def test_a_message_reaches_the_subscribers_of_its_topic(api: Api, app: Application) -> None:
    await subscribe(api, "paid", "mail", "http://mail:1/")
    xid = await prepared(api, {"topic": "paid", "payload": 1})
    (step,) = (await show(api, xid))["steps"]
    assert (step["topic"], step["action"]) == ("paid", None)
    await subscribe(api, "paid", "audit", "http://audit:1/")
    await submit(api, xid)
    assert [call.url for call in app.calls(xid)] == ["http://audit:1/", "http://mail:1/"]
    names = [step["name"] for step in (await show(api, xid))["steps"]]
    assert names == ["01-01", "01-02"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "url"),
        ({"url": ""}, "url"),
        ({"url": "mail"}, "url"),
        ({"url": LEDGER, "remark": "\u0007"}, "remark"),
        ({"url": LEDGER, "more": 1}, "more"),
    ],
)
async def test_a_wrong_subscription_is_refused(api: Api, body: object, field: str) -> None:
    answered = await api.call("PUT", f"{TOPICS}/paid/subscribers/mail", send=body)
    assert answered.refused == (422, "INVALID_FIELD", [field])
    assert (await api.get(TOPICS)).body["items"] == []


async def test_a_topic_has_only_so_many_subscribers(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("statemachine.transactions.topics.GREATEST_SUBSCRIBERS", 1)
    await subscribe(api, "paid", "mail")
    assert (await subscribe(api, "paid", "audit")).refused == (429, "SUBSCRIBERS_FULL", [])
