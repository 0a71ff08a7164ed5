"""What is not HTTP, or says two things at once: one problem, the end of the connection, no noise.

Whatever two programs on the way can read differently is refused, so that no proxy and node ever
disagree where a request ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from unittest.mock import Mock

import pytest

from api.app import build_app
from api.connections import ApiRunner
from api.metrics import Metrics
from api.settings import ApiSettings
from tests.integration.local_cluster import LocalCluster, LocalRouting
from tests.integration.serving import CLOCK, Answered, Api, converse, serving

POST = b"POST /api/v1/timestamp/event HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
GET = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"
EVENT = b'{"nodeId":"a","eventType":"e"}'
SIZED = b"Content-Length: 30\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNK = b"1e\r\n" + EVENT + b"\r\n0\r\n\r\n"

NO_HTTP = {
    "a word": b"hello\r\n\r\n",
    "a word after empty lines": b"\r\n\r\n\r\nhello\r\n\r\n",
    "a method alone": b"GET\r\n\r\n",
    "a method in small letters": b"get / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a method that nobody has": b"FROB / HTTP/1.1\r\nHost: x\r\n\r\n",
    "an unknown version": b"GET /health/live HTTP/9.9\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a blank in the path": b"GET /health live HTTP/1.1\r\nHost: x\r\n\r\n",
    "no path": b"GET  HTTP/1.1\r\nHost: x\r\n\r\n",
    "a relative path": b"GET health/live HTTP/1.1\r\nHost: x\r\n\r\n",
    "no host": b"GET /health/live HTTP/1.1\r\n\r\n",
    "two hosts": GET + b"Host: y\r\n\r\n",
    "a header without colon": GET + b"A\r\n\r\n",
    "a header without name": GET + b": x\r\n\r\n",
    "a blank before the colon": GET + b"A : x\r\n\r\n",
    "a zero byte in a header": GET + b"A: x\x00y\r\n\r\n",
    "a carriage return in a header": GET + b"A: x\ry\r\n\r\n",
    "a bare line feed": b"GET /health/live HTTP/1.1\nHost: x\n\n",
}

AMBIGUOUS = {
    "a length below zero": POST + b"Content-Length: -5\r\n\r\n",
    "a length with a sign": POST + b"Content-Length: +30\r\n\r\n" + EVENT,
    "a length in hexadecimal": POST + b"Content-Length: 0x1e\r\n\r\n" + EVENT,
    "a length without end": POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n",
    "no length": POST + b"Content-Length: \r\n\r\n" + EVENT,
    "a list of lengths": POST + b"Content-Length: 30, 30\r\n\r\n" + EVENT,
    "two lengths": POST + SIZED + b"Content-Length: 31\r\n\r\n" + EVENT,
    "the same length twice": POST + SIZED + SIZED + b"\r\n" + EVENT,
    "a length and chunks": POST + SIZED + CHUNKED + b"\r\n" + CHUNK,
    "chunks and a length": POST + CHUNKED + SIZED + b"\r\n" + CHUNK,
    "chunks twice": POST + CHUNKED + CHUNKED + b"\r\n" + CHUNK,
    "an unknown coding": POST + b"Transfer-Encoding: cow\r\n\r\n" + CHUNK,
    "chunks inside of something": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + CHUNK,
    "nearly chunks": POST + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNK,
    "chunks in quotes": POST + b'Transfer-Encoding: "chunked"\r\n\r\n' + CHUNK,
    "a length with a blank before the colon": POST + b"Content-Length : 30\r\n\r\n" + EVENT,
    "chunks with a blank before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n" + CHUNK,
    "a size that is none": POST + CHUNKED + b"\r\nzz\r\n" + EVENT,
    "a size with a sign": POST + CHUNKED + b"\r\n+1e\r\n" + EVENT + b"\r\n0\r\n\r\n",
    "a size with 0x": POST + CHUNKED + b"\r\n0x1e\r\n" + EVENT + b"\r\n0\r\n\r\n",
    "a size beyond 64 bits": POST + CHUNKED + b"\r\nf1e000000000000001e\r\n" + EVENT,
    "a size after a line feed": POST + CHUNKED + b"\r\n1e\n" + EVENT + b"\r\n0\r\n\r\n",
    "a chunk longer than its size": POST + CHUNKED + b"\r\n1d\r\n" + EVENT + b"\r\n0\r\n\r\n",
}

TOO_LARGE = {
    "a path": b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a path that never ends": b"GET /" + b"x" * 20_000,
    "a header": GET + b"A: " + b"x" * 20_000 + b"\r\n\r\n",
    "a header that never ends": GET + b"A: " + b"x" * 20_000,
    "a name of a header": GET + b"x" * 20_000 + b": A\r\n\r\n",
    "100 headers": GET + b"A: x\r\n" * 100 + b"\r\n",
}


@pytest.fixture
async def api(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Api]:
    """Whatever a client sends is no failure of the node, so nothing of it is logged as one."""
    with caplog.at_level(logging.WARNING):
        async with serving() as served:
            yield served
    assert not caplog.records


def parse(heard: bytes) -> list[Answered]:
    """Return the answers that came back, each with its problem checked."""
    answers = []
    while heard:
        head, separator, rest = heard.partition(b"\r\n\r\n")
        assert separator
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        length = int(headers["Content-Length"])
        answers.append(Answered(int(status.split()[1]), headers, rest[:length]))
        heard = rest[length:]
    return answers


async def refused(api: Api, *said: bytes) -> Answered:
    """Return the only answer, which ends the connection; and see that nothing changed."""
    digest = api.cluster.digest
    (answered,) = parse(await converse(api, *said))
    assert answered.headers["Connection"] == "close"
    assert answered.headers["Tidelock-Node"] == "n1"
    assert api.cluster.digest == digest
    assert (await api.get("/health/live")).status == 200
    return answered


@pytest.mark.parametrize("said", NO_HTTP.values(), ids=NO_HTTP.keys())
async def test_what_is_not_http_is_a_problem(api: Api, said: bytes) -> None:
    assert (await refused(api, said)).refused == (400, "MALFORMED_REQUEST", [])


@pytest.mark.parametrize("said", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
async def test_a_body_whose_end_is_open_to_interpretation_is_a_problem(
    api: Api, said: bytes
) -> None:
    assert (await refused(api, said)).refused == (400, "MALFORMED_REQUEST", [])


@pytest.mark.parametrize("said", TOO_LARGE.values(), ids=TOO_LARGE.keys())
async def test_the_head_of_a_request_has_a_limit(api: Api, said: bytes) -> None:
    answered = await refused(api, said)
    assert answered.refused == (431, "HEAD_TOO_LARGE", [])
    assert "8192 bytes" in answered.body["detail"]
    assert "64 headers" in answered.body["detail"]


async def test_who_speaks_tls_is_told_so(api: Api) -> None:
    answered = await refused(api, NO_HTTP["TLS"])
    assert answered.body["detail"] == "Received HTTPS traffic on an HTTP port."


async def test_the_detail_is_a_sentence_and_does_not_repeat_the_bytes(api: Api) -> None:
    for said in (*NO_HTTP.values(), *AMBIGUOUS.values()):
        detail = (await refused(api, said)).body["detail"]
        assert "\n" not in detail
        assert "b'" not in detail
        assert detail.endswith(".")


async def test_what_was_asked_before_is_answered_before(api: Api) -> None:
    heard = parse(await converse(api, GET + b"\r\n", b"nonsense\r\n\r\n" + GET + b"\r\n"))
    assert [answered.status for answered in heard] == [200, 400]
    assert [answered.headers.get("Connection") for answered in heard] == [None, "close"]
    assert heard[1].code == "MALFORMED_REQUEST"


async def test_what_follows_an_ambiguous_body_is_never_served(api: Api) -> None:
    """The second request is inside of the first one's body, or after it: that is the attack."""
    hidden = b"POST /api/v1/participants HTTP/1.1\r\nHost: x\r\n\r\n"
    for said in (
        POST + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n" + hidden,
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + hidden,
        POST + b"Content-Length: 0\r\nContent-Length: 60\r\n\r\n" + hidden,
        POST + b"Transfer-Encoding: chunked\r\nTransfer-encoding: cow\r\n\r\n0\r\n\r\n" + hidden,
    ):
        assert (await refused(api, said)).refused == (400, "MALFORMED_REQUEST", [])


async def test_a_body_may_come_in_chunks(api: Api) -> None:
    heard = await converse(api, POST + CHUNKED + b"Connection: close\r\n\r\n" + CHUNK)
    assert heard.startswith(b"HTTP/1.1 200 ")
    assert (await api.get(f"{CLOCK}/a")).body["lamportTimestamp"] == 1


@pytest.mark.parametrize("broken", [b"zz\r\n", b"5\r\nabcdefgh", b"-1\r\n"])
async def test_chunks_that_break_off_in_the_middle_are_answered_at_once(
    api: Api, broken: bytes
) -> None:
    """Well before the body's timeout, and once."""
    asked = POST + CHUNKED + b"Expect: 100-continue\r\n\r\n"
    digest = api.cluster.digest
    heard = await converse(api, asked, b"3\r\n{  \r\n" + broken)
    proceed, answer = heard.split(b"\r\n\r\n", 1)
    assert proceed == b"HTTP/1.1 100 Continue"
    (answered,) = parse(answer)
    assert answered.refused == (400, "MALFORMED_REQUEST", [])
    assert answered.headers["Connection"] == "close"
    assert api.cluster.digest == digest


@pytest.mark.parametrize("steps", range(8))
async def test_they_are_answered_wherever_the_request_is_on_its_way(steps: int) -> None:
    """In the queue, between queue and handler, or with its handler: so many steps of the loop."""
    runner = ApiRunner(build_app(LocalCluster(), ApiSettings(), LocalRouting(), Metrics()))
    await runner.setup()
    assert runner.server is not None
    connection = runner.server()
    client = Mock(spec=asyncio.Transport)
    client.is_closing.return_value = False
    client.get_write_buffer_size.return_value = 0
    connection.connection_made(client)
    await asyncio.sleep(0)
    connection.data_received(POST + CHUNKED + b"\r\n3\r\n{  \r\n")
    for _ in range(steps):
        await asyncio.sleep(0)
    connection.data_received(b"zz\r\n")
    async with asyncio.timeout(5):
        while not client.close.called:
            await asyncio.sleep(0)
    heard = b"".join(call.args[0] for call in client.write.call_args_list)
    (answered,) = parse(heard)
    assert answered.refused == (400, "MALFORMED_REQUEST", [])
    await runner.cleanup()


async def test_a_client_that_goes_away_in_the_middle_of_a_body_is_no_failure(api: Api) -> None:
    digest = api.cluster.digest
    for framing in (SIZED + b"\r\n{", CHUNKED + b"\r\n3\r\n{  \r\n"):
        _, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(POST + framing)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    async with asyncio.timeout(10):
        while True:
            metrics = (await api.get("/metrics")).content.decode()
            counted = [line for line in metrics.splitlines() if 'status="400"' in line]
            if any("_count" in line and line.endswith(" 2.0") for line in counted):
                break
            await asyncio.sleep(0.01)
    assert api.cluster.digest == digest


async def test_a_body_that_is_late_ends_the_connection() -> None:
    async with serving(settings=ApiSettings(body_timeout_s=0.05, lingering_s=0.05)) as api:
        answered = await refused(api, POST + SIZED + b"\r\n{")
        assert answered.refused == (408, "BODY_TIMEOUT", [])


async def test_a_connection_that_asks_nothing_is_closed() -> None:
    async with serving(settings=ApiSettings(keep_alive_s=0.05)) as api:
        for said in (b"", b"GET /health/li"):
            assert await converse(api, said) == b""
        served = await converse(api, GET + b"\r\n" + b"GET /hea")
        assert [answered.status for answered in parse(served)] == [200]


@pytest.mark.parametrize("target", [b"*", b"x:80", b"http://x/nowhere", b"http://x"])
async def test_a_target_that_is_no_path_is_404_or_malformed(api: Api, target: bytes) -> None:
    for method in (b"GET", b"OPTIONS", b"CONNECT"):
        asked = method + b" " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        (answered,) = parse(await converse(api, asked))
        assert (answered.status, answered.code) in (
            (404, "NOT_FOUND"),
            (400, "MALFORMED_REQUEST"),
        )


async def test_a_whole_url_is_a_target_too(api: Api) -> None:
    asked = b"GET http://x/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    (answered,) = parse(await converse(api, asked))
    assert answered.status == 200


async def test_malformed_requests_are_counted(api: Api) -> None:
    for _ in range(3):
        await refused(api, b"nonsense\r\n\r\n")
    metrics = (await api.get("/metrics")).content.decode()
    count = 'tidelock_http_request_duration_seconds_count{method="*",route="*",status="400"}'
    assert f"{count} 3.0" in metrics
