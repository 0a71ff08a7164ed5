"""`/xa` and `/jta` of a node without data sources, and statuses that any node tells."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from statemachine.commands import (
    AcceptExecution,
    AdvanceExecution,
    AnyCommand,
    FinishExecution,
    Progress,
)
from statemachine.outcomes import Position
from tests.integration.serving import Api, serving

ORDER: Final[dict[str, Any]] = {
    "businessType": "COMPLEX_ORDER",
    "businessData": {
        "orderId": "o",
        "customerId": "c",
        "items": [{"sku": "tea", "price": "1.50", "quantity": 2}],
        "payment": {"method": "card", "accountId": "a"},
        "shipping": {"region": "north", "weight": 1},
    },
}
PATHS: Final = ("/xa/execute", "/xa/execute-async", "/jta/execute")


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as api:
        yield api


@pytest.mark.parametrize("path", [*PATHS, *(f"/api/v1{path}" for path in PATHS)])
async def test_a_node_without_sources_says_which_settings_it_wants(api: Api, path: str) -> None:
    refused = await api.post(path, ORDER)
    assert refused.refused == (409, "SERVICES_NOT_CONFIGURED", [])
    for key in ("services.primary.kind", "services.primary.user", "services.secondary"):
        assert key in refused.body["detail"]
    assert refused.body["retryable"] is False
    assert api.cluster.applied_position() == Position(0, 0)


def order(**changed: Any) -> dict[str, Any]:
    return {**ORDER, "businessData": {**ORDER["businessData"], **changed}}


def mapped(**mapping: Any) -> dict[str, Any]:
    return {
        "businessType": "DATA_MIGRATION",
        "businessData": {
            "source": {"dataSource": "primary", "table": "t"},
            "target": {"dataSource": "secondary", "table": "t"},
            "mapping": [{"to": "a", **mapping}],
        },
    }


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({**ORDER, "more": 1}, "more"),
        ({**ORDER, "businessType": ""}, "businessType"),
        ({**ORDER, "businessType": "ORDER"}, "businessType"),
        ({**ORDER, "businessData": None}, "businessData"),
        (order(items=[]), "businessData.items"),
        (order(orderId="o" * 65), "businessData.orderId"),
        (
            order(items=[{"sku": "a", "price": "x", "quantity": 1}]),
            "businessData.items[0].price",
        ),
        (
            order(items=[{"sku": "a", "price": -1, "quantity": 1}]),
            "businessData.items[0].price",
        ),
        (
            order(items=[{"sku": "a", "price": "0.0000001", "quantity": 1}]),
            "businessData.items[0].price",
        ),
        (
            order(shipping={"region": "n", "weight": "NaN"}),
            "businessData.shipping.weight",
        ),
        (order(discounts=[{"type": "GIFT"}]), "businessData.discounts[0].type"),
        (order(discounts=[{"type": "COUPON"}]), "businessData.discounts[0].code"),
        (
            order(discounts=[{"type": "PERCENT", "value": 101}]),
            "businessData.discounts[0].value",
        ),
        (mapped(), "businessData.mapping[0].from"),
        (mapped(**{"from": "a", "convert": "cast"}), "businessData.mapping[0].type"),
        (mapped(**{"from": "a", "convert": "constant"}), "businessData.mapping[0].from"),
        (mapped(**{"from": "a", "value": 1}), "businessData.mapping[0].value"),
    ],
)
async def test_bad_input_is_refused_by_its_field_before_anything_else(
    api: Api, body: dict[str, Any], path: str
) -> None:
    for where in PATHS:
        assert (await api.post(where, body)).refused == (422, "INVALID_FIELD", [path])
    batch = await api.post("/xa/batch-execute", {"transactions": [ORDER, body]})
    assert batch.refused == (422, "INVALID_FIELD", [f"transactions[1].{path}"])
    assert api.cluster.applied_position() == Position(0, 0)


async def test_data_that_is_too_large_is_refused(api: Api) -> None:
    data = {"updates": [], "pad": "x" * (512 * 1024)}
    body = {"businessType": "BATCH_UPDATE", "businessData": data}
    assert (await api.post("/xa/execute", body)).refused == (
        413,
        "REQUEST_TOO_LARGE",
        ["businessData"],
    )


# --- statuses, which need no data sources


async def do(api: Api, *commands: AnyCommand) -> None:
    await api.cluster.propose(commands, timeout_ms=1_000)


def accepted(service: str = "XA") -> AcceptExecution:
    return AcceptExecution(
        service=service,
        business_type="DATA_MIGRATION",
        business_data=b"{}",
        asynchronous=True,
        owner="n1",
        follows=False,
        room=1,
        lease_ms=10_000,
    )


def advanced(jta_status: str, result: bytes | None = None) -> AdvanceExecution:
    return AdvanceExecution(
        execution=Position(1, 0),
        epoch=1,
        jta_status=jta_status,
        xid=f"{NAME}.1",
        progress=Progress(10, 9, 20, 1),
        result=result,
        lease_ms=10_000,
    )


def finished(status: str, jta_status: str, error: str = "") -> FinishExecution:
    return FinishExecution(
        execution=Position(1, 0),
        epoch=1,
        status=status,
        jta_status=jta_status,
        error=error,
        failures=b"",
        keep_ms=60_000,
    )


NAME: Final = "xa-000000000000000100000000"


async def test_a_status_says_how_far_an_execution_is(api: Api) -> None:
    await do(api, accepted())
    waiting = (await api.get(f"/xa/status/{NAME}")).body
    assert (waiting["status"], waiting["jtaStatus"], waiting["finalStatus"]) == (
        "ACCEPTED",
        None,
        None,
    )
    assert waiting["xid"] == f"{NAME}.1"
    await do(api, advanced("ACTIVE", b'{"n":1}'))
    running = (await api.get(f"/api/v1/xa/status/{NAME}")).body
    assert (running["status"], running["jtaStatus"]) == ("RUNNING", "ACTIVE")
    assert running["progress"] == {"read": 10, "written": 9, "total": 20, "batch": 1}
    assert "result" not in running
    await do(api, finished("SUCCESS", "COMMITTED"))
    done = (await api.get(f"/xa/status/{NAME}")).body
    assert (done["status"], done["finalStatus"], done["result"]) == (
        "SUCCESS",
        "COMMITTED",
        {"n": 1},
    )
    assert [step["status"] for step in done["timeline"]] == ["ACCEPTED", "RUNNING", "SUCCESS"]


async def test_an_unknown_end_becomes_known_with_the_coordinator(api: Api) -> None:
    begun = await api.post("/api/v1/transactions", {"xid": f"{NAME}.1"})
    assert begun.status == 201
    await do(api, accepted())
    name = "xa-000000000000000200000000"
    at = Position(2, 0)
    started = AdvanceExecution(
        execution=at,
        epoch=1,
        jta_status="ACTIVE",
        xid=f"{NAME}.1",
        progress=None,
        result=None,
        lease_ms=10_000,
    )
    end = FinishExecution(
        execution=at,
        epoch=1,
        status="ROLLBACK_FAILED",
        jta_status="UNKNOWN",
        error="Not confirmed.",
        failures=b"",
        keep_ms=60_000,
    )
    await do(api, started, end)
    found = (await api.get(f"/xa/status/{name}")).body
    assert (found["status"], found["jtaStatus"]) == ("ROLLBACK_FAILED", "UNKNOWN")
    await api.post(f"/api/v1/transactions/{NAME}.1/rollback", {})
    found = (await api.get(f"/xa/status/{name}")).body
    assert (found["status"], found["jtaStatus"]) == ("ROLLBACK", "ROLLED_BACK")
    assert found["error"] == "Not confirmed."


@pytest.mark.parametrize("name", ["xa-1", "jta-" + "0" * 24, "xa-" + "f" * 24, "%20"])
async def test_a_status_of_nothing_is_not_found(api: Api, name: str) -> None:
    assert (await api.get(f"/xa/status/{name}")).refused == (404, "EXECUTION_NOT_FOUND", [])


async def test_an_execution_of_the_other_service_is_not_found(api: Api) -> None:
    await do(api, accepted("JTA"))
    name = NAME.replace("xa-", "jta-")
    assert (await api.get(f"/jta/status/{name}")).status == 200
    assert (await api.get(f"/xa/status/{name}")).code == "EXECUTION_NOT_FOUND"
    assert (await api.get(f"/xa/status/{NAME}")).code == "EXECUTION_NOT_FOUND"


async def test_an_execution_has_no_second_name(api: Api) -> None:
    await do(api, accepted("XA"))
    assert (await api.get(f"/xa/status/{NAME}")).status == 200
    for path in (f"/xa/status/{NAME.replace('xa-', 'jta-')}", f"/jta/status/{NAME}"):
        assert (await api.get(path)).code == "EXECUTION_NOT_FOUND"
