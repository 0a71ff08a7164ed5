"""The OpenAPI document is valid and leaves nothing out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from openapi_spec_validator import OpenAPIV31SpecValidator

from api import openapi
from api.app import build_app
from api.endpoints import Endpoint
from api.errors import KINDS
from api.metrics import Metrics
from api.replies import Reply
from api.settings import ApiSettings
from tests.integration.local_cluster import LocalCluster, LocalRouting
from tests.integration.serving import serving

SERVED_TWICE = ("/api/v1/xa/", "/api/v1/jta/")
"""Below these, what has shorter paths, which are the ones that are described."""

PROMISED = {
    "/xa/execute": {"post"},
    "/xa/batch-execute": {"post"},
    "/xa/execute-async": {"post"},
    "/xa/status/{transactionId}": {"get"},
    "/jta/execute": {"post"},
    "/jta/status/{transactionId}": {"get"},
    "/api/v1/saga-definitions": {"get"},
    "/api/v1/saga-definitions/{name}": {"put", "get", "delete"},
    "/api/v1/messages": {"post"},
    "/api/v1/messages/{xid}": {"get"},
    "/api/v1/messages/{xid}/submit": {"post"},
    "/api/v1/messages/{xid}/abort": {"post"},
    "/api/v1/topics": {"get"},
    "/api/v1/topics/{topic}/subscribers": {"get"},
    "/api/v1/topics/{topic}/subscribers/{name}": {"put", "delete"},
    "/api/v1/timestamp/event": {"post"},
    "/api/v1/timestamp/sync": {"post"},
    "/api/v1/timestamp/clock/{nodeId}": {"get"},
    "/api/v1/timestamp/events/{eventId}": {"get"},
    "/api/v1/timestamp/events": {"get"},
    "/api/v1/participants": {"post", "get"},
    "/api/v1/participants/{nodeId}": {"delete"},
    "/api/v1/batch": {"post"},
    "/api/v1/hlc/now": {"post"},
    "/api/v1/hlc/observe": {"post"},
    "/api/v1/tso": {"post"},
    "/api/v1/sequences/{name}": {"get"},
    "/api/v1/sequences/{name}/next": {"post"},
    "/api/v1/watch": {"get"},
    "/api/v1/sync/report": {"post"},
    "/api/v1/sync/run": {"post"},
    "/api/v1/sync/ack": {"post"},
    "/api/v1/sync/status": {"get"},
    "/api/v1/consensus/proposals": {"post"},
    "/api/v1/consensus/proposals/{id}": {"get"},
    "/api/v1/consensus/data/{key}": {"get"},
    "/api/v1/version/increment": {"post"},
    "/api/v1/version/merge": {"post"},
    "/api/v1/version/compare": {"post"},
    "/api/v1/version/events": {"get"},
    "/api/v1/version/events/{eventId}": {"get"},
    "/api/v1/version/objects/{key}": {"post", "get"},
    "/api/v1/version/{key}": {"get"},
    "/api/v1/export/space-time": {"get"},
    "/api/v1/recovery": {"get"},
    "/api/v1/vector-clock/compare": {"post"},
    "/api/v1/vector-clock/tick": {"post"},
    "/api/v1/vector-clock/send": {"post"},
    "/api/v1/vector-clock/receive": {"post"},
    "/api/v1/vector-clock/events": {"get"},
    "/api/v1/vector-clock/events/{eventId}": {"get"},
    "/api/v1/vector-clock/{nodeId}": {"get"},
    "/api/v1/locks": {"get"},
    "/api/v1/locks/{name}": {"get"},
    "/api/v1/locks/{name}/acquire": {"post"},
    "/api/v1/locks/{name}/renew": {"post"},
    "/api/v1/locks/{name}/release": {"post"},
    "/api/v1/locks/{name}/abandon": {"post"},
    "/api/v1/locks/{name}/verify": {"post"},
    "/api/v1/rm/channel": {"get"},
    "/api/v1/rm/sessions": {"get"},
    "/api/v1/transactions": {"post", "get"},
    "/api/v1/transactions/exceptions": {"get"},
    "/api/v1/transactions/{xid}": {"get"},
    "/api/v1/transactions/{xid}/commit": {"post"},
    "/api/v1/transactions/{xid}/rollback": {"post"},
    "/api/v1/transactions/{xid}/operations": {"post"},
    "/api/v1/transactions/{xid}/branches": {"post"},
    "/api/v1/transactions/{xid}/branches/{branchId}/locks": {"post", "delete"},
    "/api/v1/transactions/{xid}/branches/{branchId}/report": {"post"},
    "/api/v1/transactions/{xid}/branches/{branchId}/fence": {"post"},
    "/api/v1/sagas": {"post"},
    "/api/v1/sagas/{xid}": {"get"},
    "/api/v1/tcc": {"post"},
    "/api/v1/row-locks": {"get"},
    "/api/v1/row-locks/query": {"post"},
    "/api/v1/audit": {"get"},
    "/api/v1/cluster": {"get"},
    "/api/v1/cluster/routing": {"get"},
    "/api/v1/cluster/members": {"post"},
    "/api/v1/cluster/members/{nodeId}": {"delete"},
    "/api/v1/cluster/leader/transfer": {"post"},
    "/api/v1/cluster/rejoin": {"post"},
    "/health/live": {"get"},
    "/health/ready": {"get"},
    "/health/leader": {"get"},
    "/metrics": {"get"},
    "/openapi.json": {"get"},
    "/docs": {"get"},
}


@pytest.fixture
async def document() -> Any:
    async with serving() as api:
        answered = await api.get("/openapi.json")
        assert answered.headers["Content-Type"] == "application/json"
        return answered.body


def operations(document: Any) -> Iterator[tuple[str, str, Any]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


async def test_the_document_is_valid_openapi_3_1(document: Any) -> None:
    assert document["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(document).validate()


async def test_every_promised_operation_is_described(document: Any) -> None:
    assert {path: set(methods) for path, methods in document["paths"].items()} == PROMISED


async def test_everything_that_is_served_is_described(document: Any) -> None:
    app = build_app(LocalCluster(), ApiSettings(), LocalRouting(), Metrics())
    assert isinstance(app, web.Application)
    for route in app.router.routes():
        assert route.resource is not None
        path = route.resource.canonical
        if path.startswith(SERVED_TWICE):
            path = path.removeprefix("/api/v1")
        if route.method not in ("*", "HEAD"):
            assert route.method.lower() in document["paths"][path]


async def test_every_operation_lists_what_can_go_wrong(document: Any) -> None:
    for path, method, operation in operations(document):
        listed = {int(status) for status in operation["responses"]}
        assert listed & {101, 200, 201, 202}, (path, method)
        expected = {400, 417, 422, 431, 500}
        if path == "/api/v1/cluster/members" and method == "post":
            expected = {201, 422, 500}
        if "requestBody" in operation:
            expected |= {408, 413, 415}
        if method != "get" and not path.endswith(("/rejoin", "/compare")):
            expected |= {503}
        assert expected <= listed, (path, method)


async def test_the_codes_of_a_status_are_listed_under_it(document: Any) -> None:
    for _, _, operation in operations(document):
        for status, response in operation["responses"].items():
            if int(status) < 400:
                continue
            problem = response["content"]["application/problem+json"]["schema"]["allOf"]
            assert problem[0] == {"$ref": "#/components/schemas/ProblemBody"}
            for code in problem[1]["properties"]["code"].get("enum", []):
                assert KINDS[code].status == int(status)
            assert ("Retry-After" in response["headers"]) == (status in ("429", "503"))


async def test_every_write_takes_a_key_and_every_answer_is_stamped(document: Any) -> None:
    for path, method, operation in operations(document):
        names = [parameter["name"] for parameter in operation.get("parameters", [])]
        assert len(set(names)) == len(names)
        assert ("Idempotency-Key" in names) == (method in ("post", "put", "delete")), path
        for response in operation["responses"].values():
            assert {"Tidelock-Node", "Tidelock-Term", "Tidelock-Index"} <= set(response["headers"])


async def test_unknown_fields_of_a_body_are_ruled_out_in_the_document_too(
    document: Any,
) -> None:
    schemas = document["components"]["schemas"]
    for name in (
        "EventBody",
        "SyncBody",
        "JoinBody",
        "BatchBody",
        "MemberBody",
        "EventOperation",
        "AcquireBody",
        "HoldBody",
        "VerifyBody",
    ):
        assert schemas[name]["additionalProperties"] is False


def test_an_operation_that_streams_says_so() -> None:
    async def serve(_: web.Request) -> Reply:
        raise NotImplementedError

    endpoints = [
        Endpoint(
            method="GET",
            path=f"/{operation}",
            operation=operation,
            summary="",
            tag="",
            handler=serve,
            answer=None,
            media_type="text/event-stream",
            streams=operation == "watch",
        )
        for operation in ("watch", "look")
    ]
    paths = openapi.document(endpoints, "1", ApiSettings())["paths"]
    assert paths["/watch"]["get"][openapi.STREAMS] is True
    assert openapi.STREAMS not in paths["/look"]["get"]


async def test_operations_have_names_of_their_own(document: Any) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)


async def test_an_answer_of_each_kind_fits_its_schema() -> None:
    async with serving() as api:
        document = (await api.get("/openapi.json")).body
        event = await api.record()
        schema = document["components"]["schemas"]["Event"]
        assert set(event) == set(schema["required"]) == set(schema["properties"])
        batch = {"operations": [{"op": "timestamp.event", "eventType": "e"}]}
        (result,) = (await api.post("/api/v1/batch", batch)).body["results"]
        assert set(result) == set(document["components"]["schemas"]["EventResult"]["properties"])
