"""Whatever a client sends: a 4xx problem that says what is wrong, and nothing changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.serving import (
    BATCH,
    CLOCK,
    CLUSTER,
    EVENT,
    EVENTS,
    PARTICIPANTS,
    SYNC,
    Answered,
    Api,
    serving,
)

NO_JSON = {
    "nothing": b"",
    "blanks": b" \n\t",
    "half a word": b"tru",
    "a word": b"hello",
    "an open object": b'{"eventType":"e"',
    "an open text": b'{"eventType":"e',
    "a missing comma": b'{"eventType":"e" "nodeId":"a"}',
    "a comma too many": b'{"eventType":"e",}',
    "something after the end": b'{"eventType":"e"}}',
    "two documents": b'{"eventType":"e"}{"eventType":"e"}',
    "single quotes": b"{'eventType':'e'}",
    "a comment": b'{"eventType":"e"/* no */}',
    "a byte order mark": b'\xef\xbb\xbf{"eventType":"e"}',
    "UTF-16": '{"eventType":"e"}'.encode("utf-16"),
    "Latin-1": '{"eventType":"é"}'.encode("latin-1"),
    "Latin-1 in data": '{"eventType":"e","eventData":"é"}'.encode("latin-1"),
    "Latin-1 in a key": '{"eventType":"e","é":1}'.encode("latin-1"),
    "Latin-1 in a key of data": '{"eventType":"e","eventData":{"é":1}}'.encode("latin-1"),
    "an encoded surrogate": b'{"eventType":"e","eventData":"\xed\xa0\x80"}',
    "an overlong encoding": b'{"eventType":"e","eventData":"\xc0\xaf"}',
    "a lone high surrogate": b'{"eventType":"e","eventData":"\\ud800"}',
    "a high surrogate before text": b'{"eventType":"e","eventData":"\\ud800abcdef"}',
    "a lone low surrogate": b'{"eventType":"e","eventData":"\\udc00"}',
    "a lone surrogate in a key": b'{"eventType":"e","eventData":{"\\ud800":1}}',
    "a lone surrogate in a name": b'{"eventType":"\\udfff"}',
    "a control character": b'{"eventType":"e","eventData":"\x01"}',
    "a zero byte": b'{"eventType":"e"}\x00',
    "an unknown escape": b'{"eventType":"e","eventData":"\\x41"}',
    "NaN": b'{"eventType":"e","eventData":NaN}',
    "Infinity": b'{"eventType":"e","eventData":[-Infinity]}',
    "hexadecimal": b'{"eventType":"e","eventData":0x10}',
    "a leading zero": b'{"eventType":"e","eventData":007}',
    "a leading plus": b'{"eventType":"e","eventData":+7}',
    "a bare point": b'{"eventType":"e","eventData":.5}',
    "a malformed field after an invalid one": b'{"eventType":5,"nodeId":nope}',
}

REPEATED = {
    "eventType": b'{"eventType":"a","eventType":"b"}',
    "nodeId": b'{"nodeId":"a","eventType":"b","nodeId":"a"}',
    "eventData.a": b'{"eventType":"e","eventData":{"a":1,"a":2}}',
    "eventData[1].b.c": b'{"eventType":"x:y","eventData":[{},{"b":{"c":1,"\\u0063":3}}]}',
}

INVALID = {
    "no object": (b"[]", ""),
    "a text": (b'"eventType"', ""),
    "null": (b"null", ""),
    "a number": (b"12", ""),
    "a number beyond 64 bits": (b"9" * 100, ""),
    "nothing given": (b"{}", "eventType"),
    "null for a type": (b'{"eventType":null}', "eventType"),
    "a number for a type": (b'{"eventType":5}', "eventType"),
    "an object for a type": (b'{"eventType":{"a":1}}', "eventType"),
    "an empty type": (b'{"eventType":""}', "eventType"),
    "a type too long": (b'{"eventType":"' + b"x" * 129 + b'"}', "eventType"),
    "a type too long in bytes": ('{"eventType":"' + "é" * 65 + '"}', "eventType"),
    "an unprintable type": (b'{"eventType":"a\\nb"}', "eventType"),
    "a zero character": (b'{"eventType":"a\\u0000"}', "eventType"),
    "a direction mark": (b'{"eventType":"a\\u202e"}', "eventType"),
    "an empty participant": (b'{"eventType":"e","nodeId":""}', "nodeId"),
    "a boolean participant": (b'{"eventType":"e","nodeId":true}', "nodeId"),
    "an unknown field": (b'{"eventType":"e","nodeID":"a"}', "nodeID"),
    "an unknown field before a missing one": (b'{"nodeid":"a"}', "nodeid"),
    "a field of the answer": (b'{"eventType":"e","lamportTimestamp":5}', "lamportTimestamp"),
    "a large integer": (b'{"eventType":"e","eventData":18446744073709551616}', "eventData"),
    "a large negative integer": (
        b'{"eventType":"e","eventData":{"a":[1,-9223372036854775809]}}',
        "eventData.a[1]",
    ),
    "a huge integer": (b'{"eventType":"e","eventData":[' + b"9" * 5000 + b"]}", "eventData[0]"),
    "a huge float": (b'{"eventType":"e","eventData":{"x":1e999}}', "eventData.x"),
}


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        await served.record()
        yield served


async def send(api: Api, raw: bytes | str, path: str = EVENT) -> Answered:
    """Send what must be refused, and see that it changed nothing."""
    digest = api.cluster.digest
    answered = await api.call("POST", path, raw=raw.encode() if isinstance(raw, str) else raw)
    assert api.cluster.digest == digest
    return answered


@pytest.mark.parametrize("raw", NO_JSON.values(), ids=NO_JSON.keys())
async def test_what_is_not_json_is_400(api: Api, raw: bytes) -> None:
    assert (await send(api, raw)).refused == (400, "MALFORMED_JSON", [])


@pytest.mark.parametrize("path", REPEATED)
async def test_a_key_that_comes_twice_is_400_and_named(api: Api, path: str) -> None:
    assert (await send(api, REPEATED[path])).refused == (400, "DUPLICATE_KEY", [path])


@pytest.mark.parametrize(("raw", "path"), INVALID.values(), ids=INVALID.keys())
async def test_a_field_that_is_invalid_is_422_and_named(
    api: Api, raw: bytes | str, path: str
) -> None:
    assert (await send(api, raw)).refused == (422, "INVALID_FIELD", [path])


@pytest.mark.parametrize("depth", [64, 900, 1_000, 30_000])
async def test_nesting_without_end_is_422(api: Api, depth: int) -> None:
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        inner = "1" if closing == "}" else ""
        data = opening * depth + inner + closing * depth
        status, code, (path,) = (await send(api, f'{{"eventType":"e","eventData":{data}}}')).refused
        assert (status, code) == (422, "INVALID_FIELD")
        assert path.startswith("eventData")


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (SYNC, {"sourceNodeId": "a"}, "timestamp"),
        (SYNC, {"timestamp": 1}, "sourceNodeId"),
        (SYNC, {"sourceNodeId": "a", "timestamp": -1}, "timestamp"),
        (SYNC, {"sourceNodeId": "a", "timestamp": 2**63}, "timestamp"),
        (SYNC, {"sourceNodeId": "a", "timestamp": 2**64}, "timestamp"),
        (SYNC, {"sourceNodeId": "a", "timestamp": 10**400}, "timestamp"),
        (SYNC, {"sourceNodeId": "a", "timestamp": 1.5}, "timestamp"),
        (SYNC, {"sourceNodeId": "a", "timestamp": "1"}, "timestamp"),
        (SYNC, {"sourceNodeId": "a", "timestamp": True}, "timestamp"),
        (SYNC, {"sourceNodeId": "a", "timestamp": None}, "timestamp"),
        (SYNC, {"sourceNodeId": "", "timestamp": 1}, "sourceNodeId"),
        (SYNC, {"sourceNodeId": "a\r\n", "timestamp": 1}, "sourceNodeId"),
        (SYNC, {"sourceNodeId": "a", "sourceEventId": "", "timestamp": 1}, "sourceEventId"),
        (SYNC, {"sourceNodeId": "a", "sourceEventId": 7, "timestamp": 1}, "sourceEventId"),
        (SYNC, {"sourceNodeId": "a", "timestamp": 1, "eventType": "\t"}, "eventType"),
        (SYNC, {"sourceNodeId": "a", "timestamp": 1, "source": "a"}, "source"),
        (PARTICIPANTS, {}, "nodeId"),
        (PARTICIPANTS, {"nodeId": None}, "nodeId"),
        (PARTICIPANTS, {"nodeId": "x" * 129}, "nodeId"),
        (PARTICIPANTS, {"nodeId": "a", "active": True}, "active"),
        (BATCH, {}, "operations"),
        (BATCH, {"operations": {}}, "operations"),
        (BATCH, {"operations": None}, "operations"),
        (BATCH, {"operations": [], "atomic": True}, "operations"),
        (f"{CLUSTER}/rejoin", {"nodeId": 5}, "nodeId"),
        (f"{CLUSTER}/rejoin", {"node": "n1"}, "node"),
        (f"{CLUSTER}/leader/transfer", {"target": ""}, "target"),
        (f"{CLUSTER}/leader/transfer", {"to": "n2"}, "to"),
        (f"{CLUSTER}/members", {"nodeId": "n4"}, "peerAddress"),
    ],
)
async def test_every_other_body_is_as_strict(api: Api, path: str, body: object, field: str) -> None:
    digest = api.cluster.digest
    answered = await api.post(path, body)
    assert answered.refused == (422, "INVALID_FIELD", [field])
    assert api.cluster.digest == digest


async def test_a_field_name_without_end_is_not_sent_back_whole(api: Api) -> None:
    answered = await send(api, b'{"eventType":"e","' + b"x" * 100_000 + b'":1}')
    assert answered.status == 422
    assert len(answered.content) < 2_000


@pytest.mark.parametrize(
    "path",
    [
        f"{CLOCK}/%00",
        f"{CLOCK}/%ff",
        f"{CLOCK}/%C0%AF",
        f"{CLOCK}/%ED%A0%80",
        f"{CLOCK}/{'x' * 4_000}",
        f"{CLOCK}/",
        f"{CLOCK}/a/b",
        f"{EVENTS}/%2E%2E%2F",
        f"{EVENTS}?%ff=%ff",
        f"{EVENTS}?nodeId=%ff%00",
        f"{EVENTS}?cursor=%ff",
        f"{EVENTS}?cursor={'x' * 4_000}",
        f"{EVENTS}?&&=&limit",
        "/api/v1/../../etc/passwd",
        "//health/live",
        "/%",
        "/api/v1/timestamp/events/..%00",
    ],
)
async def test_a_strange_path_is_a_problem_of_the_client(api: Api, path: str) -> None:
    answered = await api.get(path)
    assert 400 <= answered.status < 500 or answered.status == 200
    if answered.status != 200:
        assert answered.code


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class TestAnything:
    """One server for many examples."""

    @given(
        path=st.sampled_from(
            [EVENT, SYNC, PARTICIPANTS, BATCH, f"{CLUSTER}/members", f"{CLUSTER}/rejoin"]
        ),
        raw=st.binary(max_size=200),
    )
    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    def test_bytes_are_never_an_internal_error(self, path: str, raw: bytes) -> None:
        asyncio.run(self._refused(path, raw))

    async def _refused(self, path: str, raw: bytes) -> None:
        async with serving() as api:
            answered = await send(api, raw, path)
            if answered.status != 200:
                assert answered.code
                assert 400 <= answered.status < 500

    @given(
        fields=st.dictionaries(
            st.sampled_from(
                ["nodeId", "eventType", "eventData", "sourceNodeId", "timestamp", "operations"]
            ),
            JSON,
        ),
        path=st.sampled_from([EVENT, SYNC, PARTICIPANTS, BATCH]),
    )
    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    def test_json_is_done_or_refused_but_never_an_internal_error(
        self, fields: dict[str, object], path: str
    ) -> None:
        asyncio.run(self._answered(fields, path))

    async def _answered(self, fields: dict[str, object], path: str) -> None:
        async with serving() as api:
            digest = api.cluster.digest
            answered = await api.post(path, fields)
            if answered.status != 200:
                assert answered.code
                assert 400 <= answered.status < 500
                assert api.cluster.digest == digest
