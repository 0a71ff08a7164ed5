"""What holds for every operation, asked of every one that the document describes."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import pytest

from api.openapi import STREAMS
from api.settings import ApiSettings
from tests.integration.serving import CLOCK, EVENT, PARTICIPANTS, Api, converse, serving

NOW_MS: Final = 1_800_000_000_000
"""Later than any time in an example."""

METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")

KEY: Final = "Idempotency-Key"
KEY_REPLAYED: Final = "Idempotency-Replayed"


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    """With its variables filled in by their examples."""
    described: Any

    @property
    def body(self) -> bytes | None:
        content = self.described.get("requestBody")
        example = content and content["content"]["application/json"]["example"]
        return None if content is None else json.dumps(example).encode()

    @property
    def headers(self) -> set[str]:
        parameters = self.described.get("parameters", ())
        return {part["name"] for part in parameters if part["in"] == "header"}

    @property
    def replays(self) -> bool:
        """It is executed by a node that stands alone, and a repetition is told so."""
        if self.described["tags"][0] in ("xa", "jta"):
            # Without data sources there is nothing to be repeated; tests/databases has some.
            return False
        answers = self.described["responses"]
        return any(KEY_REPLAYED in answers[code]["headers"] for code in answers if code < "3")

    @property
    def ignores_key(self) -> bool:
        parameters = self.described.get("parameters", ())
        return any(part["name"] == KEY and "pattern" not in part["schema"] for part in parameters)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        served.cluster.wall_ms = NOW_MS
        yield served


@pytest.fixture
async def operations(api: Api) -> list[Operation]:
    """Every operation that comes to an end."""
    return list(_operations((await api.get("/openapi.json")).body))


def _operations(document: Any) -> Iterator[Operation]:
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            if STREAMS in described:
                continue
            filled = path
            for part in described.get("parameters", ()):
                if part["in"] == "path":
                    value = quote(str(part["example"]), safe="")
                    filled = filled.replace(f"{{{part['name']}}}", value)
            yield Operation(method.upper(), filled, described)


def writes(operations: list[Operation]) -> list[Operation]:
    found = [one for one in operations if one.method in ("POST", "PUT", "DELETE")]
    assert len(found) > 10
    return found


# Methods and paths


async def test_every_get_answers_head_alike_without_a_body(
    api: Api, operations: list[Operation]
) -> None:
    for one in operations:
        if one.method != "GET":
            continue
        got, headed = await api.get(one.path), await api.call("HEAD", one.path)
        assert headed.status == got.status, one
        assert headed.content == b""
        assert headed.headers["Content-Type"] == got.headers["Content-Type"]
        assert int(headed.headers["Content-Length"]) > 0
        assert headed.headers["Tidelock-Node"] == "n1"


async def test_every_other_method_is_405_and_told_which_are_right(
    api: Api, operations: list[Operation]
) -> None:
    # A word in a path may be a name as well (`/version/{key}` and `/version/events`): what the
    # answer allows must be true of it, and the method that was refused is not among it.
    for path in {one.path for one in operations}:
        for method in METHODS:
            if any(one.path == path and one.method == method for one in operations):
                continue
            answered = await api.call(method, path)
            if answered.status != 405:
                continue
            assert answered.code == "METHOD_NOT_ALLOWED"
            allowed = answered.headers["Allow"].split(", ")
            assert method not in allowed
            for listed in {one.method for one in operations if one.path == path}:
                assert listed in allowed, (path, method)
            assert ("HEAD" in allowed) == ("GET" in allowed)
        assert (await api.call("OPTIONS", path)).status == 405


async def test_a_slash_too_many_is_another_path(api: Api, operations: list[Operation]) -> None:
    for one in operations:
        for path in (f"{one.path}/", f"/{one.path}", one.path.replace("/", "//", 1)):
            answered = await api.call(one.method, path, raw=one.body)
            assert answered.refused == (404, "NOT_FOUND", []), path


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("%6f%72ders", "orders"),
        ("%6F%72ders", "orders"),
        ("a%2Fb", "a/b"),
        ("a%2fb", "a/b"),
        ("a%3Fb%23c", "a?b#c"),
        ("100%25", "100%"),
        ("%252F", "%2F"),
        ("a+b", "a+b"),
        ("a%20b", "a b"),
        ("%E8%AE%A2%E5%8D%95", "订单"),
        ("a;b=c,d", "a;b=c,d"),
        ("..%2F..%2Fhealth%2Flive", "../../health/live"),
    ],
)
async def test_a_name_in_a_path_is_decoded_once(api: Api, written: str, name: str) -> None:
    await api.record(name)
    found = await api.get(f"{CLOCK}/{written}")
    assert found.body == {"nodeId": name, "lamportTimestamp": 1}
    left = await api.call("DELETE", f"{PARTICIPANTS}/{written}")
    assert left.body["nodeId"] == name


# Headers


async def twice(api: Api, one: Operation, name: str, first: str, second: str) -> bytes:
    """Send a header twice, and return the answer as it came."""
    body = one.body or b""
    lines = [
        f"{one.method} {one.path} HTTP/1.1",
        "Host: x",
        "Connection: close",
        f"Content-Length: {len(body)}",
        *(["Content-Type: application/json"] if body else []),
        f"{name}: {first}",
        f"{name.lower()}: {second}",
    ]
    return await converse(api, "\r\n".join(lines).encode() + b"\r\n\r\n" + body)


@pytest.mark.parametrize(
    ("name", "first", "second"), [(KEY, "k-1", "k-2"), ("Tidelock-Timeout-Ms", "100", "200")]
)
async def test_a_header_of_ours_comes_once(
    api: Api, operations: list[Operation], name: str, first: str, second: str
) -> None:
    digest = api.cluster.digest
    for one in operations:
        if name not in one.headers or (name == KEY and one.ignores_key):
            continue
        heard = await twice(api, one, name, first, second)
        assert heard.startswith(b"HTTP/1.1 422 "), (one, heard)
        assert f'"path":"{name}"'.encode() in heard
        assert b"is given more than once" in heard
    assert api.cluster.digest == digest


async def test_the_type_and_the_host_come_once(api: Api, operations: list[Operation]) -> None:
    one = next(one for one in operations if one.path == EVENT)
    for name, value in (("Content-Type", "application/json"), ("Host", "y")):
        heard = await twice(api, one, name, value, value)
        assert heard.startswith(b"HTTP/1.1 400 ")
        assert b"MALFORMED_REQUEST" in heard


# Bodies


def _raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


BOMB: Final = b'{"eventType":"' + b"x" * 8_000_000 + b'"}'
PACKED: Final = {
    "gzip": gzip.compress(BOMB, compresslevel=9),
    "deflate": zlib.compress(BOMB, level=9),
    "Deflate": _raw_deflate(BOMB),
    "br": b"\x8b\x07\x80{}\x03",
    "zstd": b"\x28\xb5\x2f\xfd{}",
    "gzip, gzip": gzip.compress(gzip.compress(b"{}")),
    "identity, gzip": gzip.compress(b"{}"),
    "x-unknown": b"{}",
}


@pytest.mark.parametrize("encoding", PACKED)
async def test_a_compressed_body_is_refused_and_never_unpacked(
    api: Api, operations: list[Operation], encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unpack(*_: object, **__: object) -> Any:
        raise AssertionError("a body was unpacked")

    for unpacker in ("decompress", "decompressobj"):
        monkeypatch.setattr(zlib, unpacker, unpack)
    digest = api.cluster.digest
    for one in operations:
        if one.body is None:
            continue
        answered = await api.call(
            one.method, one.path, raw=PACKED[encoding], headers={"Content-Encoding": encoding}
        )
        assert answered.refused == (415, "NOT_JSON", []), one
    assert api.cluster.digest == digest


async def test_a_body_that_says_it_is_not_encoded_is_read(api: Api) -> None:
    for encoding in ("identity", "Identity"):
        answered = await api.post(EVENT, {"eventType": "e"}, Content_Encoding=encoding)
        assert answered.status == 200


async def test_no_operation_waits_for_a_body_longer_than_it_may() -> None:
    async with serving(settings=ApiSettings(body_timeout_s=0.02, lingering_s=0.01)) as api:
        document = (await api.get("/openapi.json")).body
        digest = api.cluster.digest
        for one in writes(list(_operations(document))):
            head = (
                f"{one.method} {one.path} HTTP/1.1\r\nHost: x\r\n"
                "Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{"
            )
            async with asyncio.timeout(5):
                heard = await converse(api, head.encode())
            assert heard.startswith(b"HTTP/1.1 408 "), (one, heard)
            assert b"BODY_TIMEOUT" in heard
        assert api.cluster.digest == digest


# Idempotency


async def test_every_write_takes_a_key_and_refuses_what_is_none(
    api: Api, operations: list[Operation]
) -> None:
    digest = api.cluster.digest
    for one in writes(operations):
        assert KEY in one.headers, one
        if one.ignores_key:
            continue
        for key in ("", "k" * 201, "a b", "schlüssel"):
            answered = await api.call(one.method, one.path, raw=one.body, headers={KEY: key})
            assert answered.refused == (422, "INVALID_FIELD", [KEY]), one
    assert api.cluster.digest == digest


async def test_every_write_that_remembers_keys_answers_a_repetition_the_same(
    api: Api, operations: list[Operation]
) -> None:
    for number, one in enumerate(one for one in writes(operations) if one.replays):
        headers = {KEY: f"key-{number}"}
        first = await api.call(one.method, one.path, raw=one.body, headers=headers)
        assert KEY_REPLAYED not in first.headers, one
        again = await api.call(one.method, one.path, raw=one.body, headers=headers)
        assert again.headers[KEY_REPLAYED] == "true", one
        assert (again.status, again.content) == (first.status, first.content), one
        assert again.headers["Tidelock-Index"] == first.headers["Tidelock-Index"]


async def test_a_key_belongs_to_the_body_as_it_was_sent(
    api: Api, operations: list[Operation]
) -> None:
    for number, one in enumerate(one for one in writes(operations) if one.replays):
        if one.body is None:
            continue
        headers = {KEY: f"key-{number}"}
        await api.call(one.method, one.path, raw=one.body, headers=headers)
        other = await api.call(one.method, one.path, raw=one.body + b" ", headers=headers)
        assert other.refused == (422, "IDEMPOTENCY_KEY_REUSED", []), one
