"""The purchase of docs/SAGA_DEFINITIONS.md on real nodes, as it is written there."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.integration.nodes import Nodes, running_nodes
from tests.integration.participant import Behaviour, Participant
from tests.integration.serving import SAGA_DEFINITIONS, SAGAS

pytestmark = pytest.mark.timeout(180)

DOCUMENT = Path(__file__).parents[2] / "docs" / "SAGA_DEFINITIONS.md"
INPUT = {
    "customer": "c-1",
    "price": 19.5,
    "budget": 100,
    "items": [{"sku": "a", "count": 1}, {"sku": "b", "count": 2}, {"sku": "c", "count": 3}],
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with running_nodes(tmp_path_factory.mktemp("nodes") / "data") as nodes:
        yield nodes


@pytest.fixture
async def nodes(running: Nodes) -> Nodes:
    await running.put_right()
    return running


def saying(answer: Callable[[Any], object], status: int = 200) -> Behaviour:
    async def behave(request: web.Request) -> web.StreamResponse:
        return web.json_response(answer(json.loads(await request.read())), status=status)

    return behave


class Shop(Participant):
    """Makes orders and reserves items; the rest it just accepts."""

    def __init__(self) -> None:
        super().__init__()
        self.answers["order"] = [saying(lambda _: {"id": 7})]
        self.answers["reserve"] = [saying(lambda asked: {"id": f"r-{asked['sku']}"})]

    def bodies(self, xid: str, path: str) -> list[Any]:
        return [call.body for call in self.calls if (call.xid, call.path) == (xid, path)]


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    found = Shop()
    await found.start()
    try:
        yield found
    finally:
        await found.stop()


async def put_purchase(nodes: Nodes, shop: Shop) -> None:
    shown = re.search(r"```json\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert shown is not None
    text = shown[1].replace("http://shop.example/", shop.url(""))
    answered = await nodes.call("n1", "PUT", f"{SAGA_DEFINITIONS}/purchase", json.loads(text))
    assert answered.status == 200, answered


async def buy(nodes: Nodes, node_id: str = "n2", **more: object) -> Any:
    asked = {"definition": "purchase", "waitMs": 20_000, "input": {**INPUT, **more}}
    return await nodes.post(node_id, SAGAS, asked)


def states(saga: Any) -> list[str]:
    return [f"{each['name']} {each['status']}" for each in saga["states"]]


async def test_it_goes_through(nodes: Nodes, shop: Shop) -> None:
    await put_purchase(nodes, shop)
    for node_id in nodes.names:
        saga = await buy(nodes, node_id)
        assert saga["status"] == "COMMITTED"
        assert states(saga) == ["Order SU", "Reserve SU", "WithinBudget SU", "Pay SU", "Done SU"]
        xid = saga["xid"]
        assert shop.bodies(xid, "order") == [{"customer": "c-1", "saga": xid}]
        assert sorted(each["sku"] for each in shop.bodies(xid, "reserve")) == ["a", "b", "c"]
        assert shop.bodies(xid, "pay") == [{"order": 7, "amount": 58.5}]
        reserved = [each["reserved"] for each in saga["variables"]["loopResult"]]
        assert reserved == ["r-a", "r-b", "r-c"]


async def test_what_is_too_dear_is_undone_in_reverse(nodes: Nodes, shop: Shop) -> None:
    await put_purchase(nodes, shop)
    saga = await buy(nodes, budget=58)
    assert saga["status"] == "ROLLED_BACK"
    assert saga["reason"] == "TOO_DEAR: it costs more than it may"
    undone = [call.path for call in shop.calls if call.operation == "ROLLBACK"]
    assert undone == ["release", "release", "release", "order/cancel"]
    assert {each["id"] for each in shop.bodies(saga["xid"], "release")} == {"r-a", "r-b", "r-c"}
    assert shop.bodies(saga["xid"], "order/cancel") == [{"orderId": 7}]


async def test_a_refusal_with_a_code_is_caught_by_it(nodes: Nodes, shop: Shop) -> None:
    await put_purchase(nodes, shop)
    refusal = {"code": "INSUFFICIENT_FUNDS", "detail": "no money"}
    shop.answers["pay"] = [saying(lambda _: refusal, status=409)]
    saga = await buy(nodes)
    assert saga["status"] == "COMMITTED"
    assert states(saga)[-3:] == ["Pay FA", "PayLater SU", "Done SU"]
    assert shop.bodies(saga["xid"], "invoice") == [{"order": 7, "because": "no money"}]


async def test_a_payment_of_which_nobody_knows_is_refunded(nodes: Nodes, shop: Shop) -> None:
    await put_purchase(nodes, shop)
    shop.answers["pay"] = [500]
    saga = await buy(nodes)
    assert saga["status"] == "ROLLED_BACK"
    assert saga["reason"] == "UNPAID: the order could not be paid"
    assert states(saga)[-3:] == ["Pay UN", "GiveUp SU", "Unpaid FA"]
    assert shop.bodies(saga["xid"], "refund") == [{"order": 7, "amount": 58.5}]


async def test_it_goes_on_where_it_stood_when_its_leader_is_killed(
    nodes: Nodes, shop: Shop
) -> None:
    await put_purchase(nodes, shop)
    leader = await nodes.leader()
    others = [node_id for node_id in nodes.names if node_id != leader]
    xids = [f"bought-{number}" for number in range(20)]
    shop.latency_s = 0.1

    async def begin(number: int, xid: str) -> None:
        variables = {**INPUT, "budget": 0 if number % 2 else 100}
        await nodes.post(
            others[0], SAGAS, {"xid": xid, "definition": "purchase", "input": variables}
        )

    await asyncio.gather(*(begin(number, xid) for number, xid in enumerate(xids)))

    async def in_the_middle() -> bool:
        return len({call.xid for call in shop.calls if call.path == "reserve"}) == len(xids)

    await nodes.eventually(in_the_middle)
    nodes.cluster.kill(leader)

    async def all_ended() -> bool:
        shown = [(await nodes.get(others[1], f"{SAGAS}/{xid}"))["status"] for xid in xids]
        return shown == ["COMMITTED", "ROLLED_BACK"] * 10

    await nodes.eventually(all_ended)
    for number, xid in enumerate(xids):
        calls = Counter((call.step, call.operation) for call in shop.calls if call.xid == xid)
        done = {"Order", "Reserve[0]", "Reserve[1]", "Reserve[2]"}
        undone = done if number % 2 else set()
        paid = set() if number % 2 else {"Pay"}
        assert {step for step, operation in calls if operation == "FORWARD"} == done | paid
        assert {step for step, operation in calls if operation == "ROLLBACK"} == undone
        # Once, or again when the leader died before what it learnt was recorded.
        assert max(calls.values()) <= 2
