"""What every request can rely on: problems, idempotency, deadlines, consistency, headers, lists."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from api.cluster import (
    Consistency,
    NoQuorumError,
    OutcomeUnknownError,
    OverloadedError,
    RequestTooLargeError,
    StorageFullError,
)
from api.settings import ApiSettings
from statemachine.store import DamagedStateError
from tests.integration.local_cluster import LocalCluster
from tests.integration.serving import CLOCK, EVENT, EVENTS, PARTICIPANTS, Api, converse, serving


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


async def test_every_answer_says_which_node_gave_it_at_which_term_and_index(api: Api) -> None:
    await api.record()
    for path in (f"{CLOCK}/orders", "/health/live", "/metrics", "/openapi.json", "/nowhere"):
        answered = await api.get(path)
        assert answered.headers["Tidelock-Node"] == "n1"
        assert answered.headers["Tidelock-Term"] == "3"
        assert answered.headers["Tidelock-Index"] == "1.0"


async def test_a_write_answers_with_its_own_index(api: Api) -> None:
    indexes = []
    for _ in range(3):
        answered = await api.post(EVENT, {"eventType": "e"})
        indexes.append(answered.headers["Tidelock-Index"])
    assert indexes == ["1.0", "2.0", "3.0"]


async def test_an_answer_has_a_date_and_names_no_library(api: Api) -> None:
    answered = await api.get("/health/live")
    assert answered.headers["Date"].endswith("GMT")
    assert answered.headers["Server"] == "Tidelock"


async def test_an_unknown_path_is_404(api: Api) -> None:
    for path in ("/", "/api/v1/timestamp", "/api/v1/timestamp/event/", "/api/v2/timestamp/event"):
        assert (await api.get(path)).refused == (404, "NOT_FOUND", [])


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", EVENT, "POST"),
        ("PUT", EVENT, "POST"),
        ("POST", f"{CLOCK}/n1", "GET, HEAD"),
        ("DELETE", PARTICIPANTS, "POST, GET, HEAD"),
        ("PATCH", f"{PARTICIPANTS}/p", "DELETE"),
        ("OPTIONS", "/health/live", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_405_and_told_which_are_right(
    api: Api, method: str, path: str, allowed: str
) -> None:
    answered = await api.call(method, path)
    assert answered.refused == (405, "METHOD_NOT_ALLOWED", [])
    assert answered.headers["Allow"] == allowed


async def test_head_answers_the_headers_of_get_without_its_body(api: Api) -> None:
    got, headed = await api.get("/health/ready"), await api.call("HEAD", "/health/ready")
    assert headed.status == 200
    assert headed.content == b""
    assert headed.headers["Content-Length"] == str(len(got.content))


# Idempotency


async def test_the_same_key_and_body_do_it_once_and_answer_the_same(api: Api) -> None:
    body = {"nodeId": "orders", "eventType": "paid", "eventData": {"amount": 3}}
    first = await api.post(EVENT, body, Idempotency_Key="k-1")
    again = await api.post(EVENT, body, Idempotency_Key="k-1")
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.status == 200
    assert again.content == first.content
    assert again.headers["Tidelock-Index"] == first.headers["Tidelock-Index"]
    assert (await api.get(f"{CLOCK}/orders")).body["lamportTimestamp"] == 1


async def test_without_a_key_the_same_body_is_another_event(api: Api) -> None:
    first, second = await api.record(), await api.record()
    assert first["eventId"] != second["eventId"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (EVENT, {"nodeId": "orders", "eventType": "shipped"}),
        ("/api/v1/timestamp/sync", {"nodeId": "orders", "sourceNodeId": "s", "timestamp": 4}),
        (PARTICIPANTS, {"nodeId": "orders"}),
    ],
)
async def test_a_key_belongs_to_one_request(api: Api, path: str, body: object) -> None:
    await api.post(EVENT, {"nodeId": "orders", "eventType": "paid"}, Idempotency_Key="k-1")
    reused = await api.post(path, body, Idempotency_Key="k-1")
    assert reused.refused == (422, "IDEMPOTENCY_KEY_REUSED", [])
    assert (await api.get(f"{CLOCK}/orders")).body["lamportTimestamp"] == 1


async def test_a_key_belongs_to_one_path(api: Api) -> None:
    key = {"Idempotency-Key": "k-1"}
    for node_id in ("a", "b"):
        await api.post(PARTICIPANTS, {"nodeId": node_id})
    first = await api.call("DELETE", f"{PARTICIPANTS}/a", headers=key)
    assert first.body["nodeId"] == "a"
    other = await api.call("DELETE", f"{PARTICIPANTS}/b", headers=key)
    assert other.refused == (422, "IDEMPOTENCY_KEY_REUSED", [])


async def test_a_retry_through_another_node_is_the_same_request() -> None:
    cluster = LocalCluster("n1")
    body = {"eventType": "paid"}
    async with serving(cluster) as api:
        first = await api.post(EVENT, body, Idempotency_Key="k-1")
    cluster.node_id = "n2"
    async with serving(cluster) as api:
        again = await api.post(EVENT, body, Idempotency_Key="k-1")
    assert first.body["nodeId"] == "n1"
    assert again.content == first.content
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Tidelock-Node"] == "n2"


async def test_a_retry_after_an_unknown_outcome_learns_it(api: Api) -> None:
    api.cluster.fault, api.cluster.lose_answers = OutcomeUnknownError(), True
    lost = await api.post(EVENT, {"eventType": "paid"}, Idempotency_Key="k-1")
    assert lost.refused == (503, "OUTCOME_UNKNOWN", [])
    api.cluster.fault = None
    found = await api.post(EVENT, {"eventType": "paid"}, Idempotency_Key="k-1")
    assert found.headers["Idempotency-Replayed"] == "true"
    assert found.body["lamportTimestamp"] == 1


async def test_rejections_are_remembered_too(api: Api) -> None:
    for replayed in (None, "true"):
        answered = await api.call(
            "DELETE", f"{PARTICIPANTS}/nobody", headers={"Idempotency-Key": "k-1"}
        )
        assert answered.refused == (404, "PARTICIPANT_NOT_FOUND", [])
        assert answered.headers.get("Idempotency-Replayed") == replayed


@pytest.mark.parametrize("key", ["", "with space", "tab\tinside", "k" * 201, "schlüssel"])
async def test_a_key_that_is_none_is_refused_by_name(api: Api, key: str) -> None:
    answered = await api.post(EVENT, {"eventType": "e"}, Idempotency_Key=key)
    assert answered.refused == (422, "INVALID_FIELD", ["Idempotency-Key"])


async def test_a_key_has_up_to_200_visible_characters(api: Api) -> None:
    for key in ("!", "~" * 200):
        answered = await api.post(EVENT, {"eventType": "e"}, Idempotency_Key=key)
        assert answered.status == 200


# Deadlines and consistency


async def test_the_deadline_is_5_s_unless_the_request_says_otherwise(api: Api) -> None:
    await api.post(EVENT, {"eventType": "e"})
    await api.post(EVENT, {"eventType": "e"}, Tidelock_Timeout_Ms="250")
    await api.get(f"{CLOCK}/n1")
    await api.call("GET", f"{CLOCK}/n1", headers={"Tidelock-Timeout-Ms": "60000"})
    assert api.cluster.timeouts_ms == [5_000, 250, 5_000, 60_000]


@pytest.mark.parametrize("timeout", ["0", "60001", "-1", "1.5", "1e3", "soon", "", "9" * 40, "٣"])
async def test_a_deadline_that_is_none_is_refused_by_name(api: Api, timeout: str) -> None:
    refused = (422, "INVALID_FIELD", ["Tidelock-Timeout-Ms"])
    headers = {"Tidelock-Timeout-Ms": timeout}
    written = await api.call("POST", EVENT, send={"eventType": "e"}, headers=headers)
    assert written.refused == refused
    assert (await api.call("GET", f"{CLOCK}/n1", headers=headers)).refused == refused


async def test_reads_are_linearizable_unless_local_is_asked_for(api: Api) -> None:
    for path in (f"{CLOCK}/n1", EVENTS, PARTICIPANTS):
        await api.get(path)
        await api.get(f"{path}?consistency=local")
        await api.get(f"{path}?consistency=linearizable")
    wanted = [Consistency.LINEARIZABLE, Consistency.LOCAL, Consistency.LINEARIZABLE]
    assert api.cluster.consistencies == wanted * 3


# What goes wrong behind the interface


@pytest.mark.parametrize(
    ("fault", "status", "code", "retryable"),
    [
        (OutcomeUnknownError(), 503, "OUTCOME_UNKNOWN", True),
        (NoQuorumError(), 503, "NO_QUORUM", True),
        (OverloadedError(), 429, "OVERLOADED", True),
        (StorageFullError(), 507, "STORAGE_FULL", False),
        (RequestTooLargeError(), 413, "REQUEST_TOO_LARGE", False),
    ],
)
async def test_a_write_that_fails_says_how(
    api: Api, fault: Exception, status: int, code: str, retryable: bool
) -> None:
    api.cluster.fault = fault
    answered = await api.post(EVENT, {"eventType": "e"})
    assert answered.refused == (status, code, [])
    assert answered.body["retryable"] is retryable
    assert ("Retry-After" in answered.headers) == (status in (429, 503))


@pytest.mark.parametrize(
    ("fault", "code"), [(NoQuorumError(), "NO_QUORUM"), (DamagedStateError(), "STATE_DAMAGED")]
)
async def test_a_read_that_fails_says_how(api: Api, fault: Exception, code: str) -> None:
    api.cluster.fault = fault
    for path in (f"{CLOCK}/n1", EVENTS, f"{EVENTS}/{'0' * 24}", PARTICIPANTS):
        answered = await api.get(path)
        assert answered.refused == (503, code, [])
        assert answered.headers["Retry-After"] == "1"


async def test_a_request_that_expired_was_not_applied_and_may_be_sent_again(api: Api) -> None:
    await api.record()
    api.cluster.lifetime_ms = -1
    answered = await api.post(EVENT, {"nodeId": "orders", "eventType": "e"})
    assert answered.refused == (503, "REQUEST_EXPIRED", [])
    assert answered.body["retryable"] is True
    assert answered.headers["Retry-After"] == "1"
    assert (await api.get(f"{CLOCK}/orders")).body["lamportTimestamp"] == 1


async def test_our_own_failure_is_logged_and_not_shown(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    api.cluster.fault = ZeroDivisionError("the secret")
    with caplog.at_level(logging.ERROR):
        answered = await api.get(f"{CLOCK}/n1")
    assert answered.refused == (500, "INTERNAL_ERROR", [])
    assert b"secret" not in answered.content
    assert "getClock failed" in caplog.text
    assert "the secret" in caplog.text


# Bodies, connections and limits


async def test_a_body_that_is_not_declared_as_json_is_415(api: Api) -> None:
    for declared in ("text/plain", "application/x-www-form-urlencoded", "", "application/jsonx"):
        answered = await api.call(
            "POST", EVENT, raw=b'{"eventType":"e"}', headers={"Content-Type": declared}
        )
        assert answered.refused == (415, "NOT_JSON", [])
    latin = {"Content-Type": "application/json; charset=latin-1"}
    assert (await api.call("POST", EVENT, raw=b"{}", headers=latin)).status == 415


async def test_json_may_be_declared_with_its_charset(api: Api) -> None:
    for declared in ("application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"'):
        answered = await api.call(
            "POST", EVENT, raw=b'{"eventType":"e"}', headers={"Content-Type": declared}
        )
        assert answered.status == 200


async def test_a_compressed_body_is_415(api: Api) -> None:
    answered = await api.call("POST", EVENT, raw=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    assert answered.refused == (415, "NOT_JSON", [])


@pytest.fixture
async def narrow() -> AsyncIterator[Api]:
    """Takes bodies of up to 1,000 bytes."""
    async with serving(settings=ApiSettings(greatest_body_bytes=1_000)) as served:
        yield served


LARGE = b'{"eventType":"e","eventData":"' + b"x" * 1_000 + b'"}'
HEAD = b"POST /api/v1/timestamp/event HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


async def test_a_body_beyond_the_limit_is_413(narrow: Api) -> None:
    answered = await narrow.call("POST", EVENT, raw=LARGE)
    assert answered.refused == (413, "REQUEST_TOO_LARGE", ["body"])
    assert (await narrow.get(f"{CLOCK}/n1")).body["lamportTimestamp"] == 0


async def test_a_body_that_is_declared_too_large_is_not_waited_for(narrow: Api) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", narrow.port)
    writer.write(HEAD + b"Content-Length: 5000000000\r\n\r\n")
    async with asyncio.timeout(5):
        assert await reader.readline() == b"HTTP/1.1 413 Request Entity Too Large\r\n"
    writer.close()
    await writer.wait_closed()


async def test_a_body_that_never_ends_is_413_once_it_is_too_large(narrow: Api) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", narrow.port)
    writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    writer.write(b"%x\r\n%b\r\n" % (len(LARGE), LARGE))
    async with asyncio.timeout(5):
        assert await reader.readline() == b"HTTP/1.1 413 Request Entity Too Large\r\n"
    writer.close()
    await writer.wait_closed()


async def test_a_body_may_arrive_in_pieces(api: Api) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    body = b'{"nodeId":"slow","eventType":"e"}'
    writer.write(
        b"POST /api/v1/timestamp/event HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    for piece in (body[:5], body[5:]):
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(piece)
    assert b'"lamportTimestamp":1' in await reader.read()
    writer.close()
    await writer.wait_closed()


async def test_a_body_that_does_not_arrive_is_408() -> None:
    async with serving(settings=ApiSettings(body_timeout_s=0.05)) as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(
            b"POST /api/v1/timestamp/event HTTP/1.1\r\nHost: x\r\n"
            b"Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{"
        )
        assert (await reader.readline()) == b"HTTP/1.1 408 Request Timeout\r\n"
        writer.close()
        await writer.wait_closed()


async def test_a_client_may_wait_for_leave_to_send_its_body(api: Api) -> None:
    head = (
        b"POST /api/v1/timestamp/event HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: 17\r\nExpect: %b\r\n\r\n"
    )
    granted = await converse(api, head % b"100-continue", b'{"eventType":"e"}')
    assert granted.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    denied = await converse(api, head % b"a-miracle", b'{"eventType":"e"}')
    assert denied.startswith(b"HTTP/1.1 417 ")
    assert b"EXPECTATION_FAILED" in denied


async def test_a_connection_stays_open_as_the_client_wishes(api: Api) -> None:
    get = b"GET /health/live HTTP/1.%b\r\nHost: x\r\n%b\r\n"
    closed = await converse(api, get % (b"1", b"") + get % (b"1", b"Connection: close\r\n"))
    assert closed.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert closed.count(b"Connection: close\r\n") == 1
    old = await converse(api, get % (b"0", b"Connection: keep-alive\r\n") + get % (b"0", b""))
    assert old.count(b" 200 OK\r\n") == 2
    assert old.count(b"Connection: keep-alive\r\n") == 1


async def test_pipelined_requests_are_answered_in_order(api: Api) -> None:
    asked = b"".join(
        b"GET /api/v1/timestamp/clock/p%d HTTP/1.1\r\nHost: x\r\n%b\r\n"
        % (at, b"Connection: close\r\n" if at == 19 else b"")
        for at in range(20)
    )
    answered = await converse(api, asked)
    places = [answered.index(b'"nodeId":"p%d"' % at) for at in range(20)]
    assert places == sorted(places)


# Lists


async def test_a_list_comes_in_pages_that_join_without_gap_or_repetition(api: Api) -> None:
    for at in range(25):
        await api.record(f"p{at % 5}")
    for path, total in ((EVENTS, 25), (PARTICIPANTS, 5), (f"{EVENTS}?nodeId=p1", 5)):
        whole = (await api.get(path)).body
        assert whole["nextCursor"] is None
        assert len(whole["items"]) == total
        joined = []
        cursor = ""
        while True:
            separator = "&" if "?" in path else "?"
            page = (await api.get(f"{path}{separator}limit=2{cursor}")).body
            assert len(page["items"]) <= 2
            joined += page["items"]
            if page["nextCursor"] is None:
                break
            cursor = f"&cursor={page['nextCursor']}"
        assert joined == whole["items"]


async def test_a_page_has_100_items_unless_asked_for_up_to_1000(api: Api) -> None:
    for _ in range(101):
        await api.record()
    assert len((await api.get(EVENTS)).body["items"]) == 100
    assert len((await api.get(f"{EVENTS}?limit=1000")).body["items"]) == 101


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=many", "limit"),
        ("limit=1&limit=2", "limit"),
        ("cursor=nonsense", "cursor"),
        ("cursor=" + "00" * 600, "cursor"),
        ("consistency=eventual", "consistency"),
        ("consistency=", "consistency"),
        ("colour=red", "colour"),
        ("Limit=5", "Limit"),
    ],
)
async def test_a_parameter_that_is_wrong_is_refused_by_name(
    api: Api, query: str, field: str
) -> None:
    for path in (EVENTS, PARTICIPANTS):
        assert (await api.get(f"{path}?{query}")).refused == (422, "INVALID_FIELD", [field])


async def test_a_write_takes_no_parameters(api: Api) -> None:
    answered = await api.post(f"{EVENT}?nodeId=orders", {"eventType": "e"})
    assert answered.refused == (422, "INVALID_FIELD", ["nodeId"])
