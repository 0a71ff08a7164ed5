"""`/openapi.json` and `/docs`: examples that are true, commands that work, a page that is safe."""

from __future__ import annotations

import gzip
import re
import shlex
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from copy import deepcopy
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

import jsonschema_rs
import pytest

from api.docs_page.curl import ORIGIN, command
from api.docs_page.page import render
from api.openapi import STREAMS
from tests.integration.serving import Answered, Api, serving

NOW_MS = 1_800_000_000_000
"""Later than any time in an example."""


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


@pytest.fixture
async def document(api: Api) -> Any:
    return (await api.get("/openapi.json")).body


def operations(document: Any) -> Iterator[tuple[str, str, Any]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def examples(document: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield every example with where it stands and its schema."""
    for method, path, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            if "example" in parameter:
                place = f"{method} {path} {parameter['name']}"
                yield place, parameter["schema"], parameter["example"]
        contents = [operation["requestBody"]] if "requestBody" in operation else []
        for part in (*contents, *operation["responses"].values()):
            for content in part["content"].values():
                if "example" in content:
                    yield f"{method} {path}", content["schema"], content["example"]


# The document


def test_every_example_fits_its_schema(document: Any) -> None:
    found = list(examples(document))
    assert len(found) > len(document["paths"])
    for place, schema, example in found:
        whole = {**schema, "components": document["components"]}
        errors = list(jsonschema_rs.validator_for(whole).iter_errors(example))
        assert not errors, (place, example, [error.message for error in errors])


def test_every_body_and_json_answer_has_an_example(document: Any) -> None:
    for _, path, operation in operations(document):
        if "requestBody" in operation:
            assert "example" in operation["requestBody"]["content"]["application/json"], path
        for response in operation["responses"].values():
            content = response["content"].get("application/json", {"example": None})
            assert "example" in content, path


def test_a_problem_s_example_is_the_problem(document: Any) -> None:
    problems = document["components"]["examples"]
    assert problems["NO_QUORUM"]["value"]["status"] == 503
    assert problems["NO_QUORUM"]["value"]["retryable"] is True
    for _, _, operation in operations(document):
        for status, response in operation["responses"].items():
            listed = response["content"].get("application/problem+json", {}).get("examples", {})
            for code, reference in listed.items():
                assert reference == {"$ref": f"#/components/examples/{code}"}
                assert problems[code]["value"]["code"] == code
                assert problems[code]["value"]["status"] == int(status)


def test_every_tag_says_what_it_is_about(document: Any) -> None:
    described = {tag["name"]: tag["description"] for tag in document["tags"]}
    used = [operation["tags"] for _, _, operation in operations(document)]
    assert {tag for tags in used for tag in tags} == set(described)
    assert described["timestamps"] == "Lamport timestamps: events, synchronisation, clocks."
    assert all(text.endswith(".") for text in described.values())


def test_what_the_source_says_of_a_field_is_in_the_document(document: Any) -> None:
    schemas = document["components"]["schemas"]
    said = schemas["EventBody"]["properties"]["nodeId"]["description"]
    assert said.startswith("The participant whose clock ticks")
    inherited = schemas["EventOperation"]["properties"]["nodeId"]["description"]
    assert inherited == said
    assert "in the order of commit" in schemas["Event"]["properties"]["eventId"]["description"]


def test_what_an_answer_always_has_is_required(document: Any) -> None:
    schemas = document["components"]["schemas"]
    assert "status" in schemas["EventResult"]["required"]
    assert "sourceNodeId" not in schemas["EventWithSource"]["required"]
    assert "errors" not in schemas["ProblemBody"]["required"]
    assert schemas["EventBody"]["required"] == ["eventType"]


# The commands


async def run(api: Api, line: str) -> Answered:
    """Do what curl would do."""
    words = iter(shlex.split(line.replace("\\\n", " ")))
    assert next(words) == "curl"
    method, url, body = "GET", "", None
    headers: dict[str, str] = {}
    for word in words:
        match word:
            case "-X":
                method = next(words)
            case "-H":
                name, value = next(words).split(": ", 1)
                headers[name] = value
            case "-d":
                body = next(words).encode()
            case _:
                assert not url
                url = word
    assert url.startswith(f"{ORIGIN}/")
    target = urlsplit(url)
    path = f"{target.path}?{target.query}" if target.query else target.path
    return await api.call(method, path, raw=body, headers=headers)


async def test_every_command_is_understood(api: Api, document: Any) -> None:
    api.cluster.wall_ms = NOW_MS
    refusals = []
    for method, path, operation in operations(document):
        if STREAMS in operation:
            continue
        api.cluster.leader = "n1"  # one command hands over
        answered = await run(api, command(method, path, operation))
        if answered.status in (400, 405, 415, 422, 431) or answered.status >= 500:
            refusals.append((method, path, answered.body))
        elif answered.status == 404:
            assert answered.code != "NOT_FOUND", path
    assert refusals == []


async def test_a_command_does_what_it_says(api: Api, document: Any) -> None:
    operation = document["paths"]["/api/v1/timestamp/event"]["post"]
    line = command("POST", "/api/v1/timestamp/event", operation)
    first, again = await run(api, line), await run(api, line)
    assert (first.status, first.body["nodeId"]) == (200, "orders")
    assert again.headers["Idempotency-Replayed"] == "true"


def test_a_command_survives_quotes() -> None:
    content = {"application/json": {"example": {"text": "it's; rm -rf $HOME `id`"}}}
    line = command("POST", "/x", {"requestBody": {"content": content}})
    words = shlex.split(line.replace("\\\n", " "))
    assert words[-1] == '{"text": "it\'s; rm -rf $HOME `id`"}'


# The page


def policy(headers: Any) -> dict[str, list[str]]:
    directives = headers["Content-Security-Policy"].split("; ")
    return {name: values for name, *values in (directive.split() for directive in directives)}


async def test_the_page_may_run_and_load_nothing_but_itself(api: Api) -> None:
    answered = await api.call("GET", "/docs", headers={"Accept-Encoding": "identity"})
    page = answered.content.decode()
    rules = policy(answered.headers)
    assert rules["default-src"] == ["'none'"]
    for element, rule in (("script", "script-src"), ("style", "style-src")):
        (inline,) = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        digest = b64encode(sha256(inline.encode()).digest()).decode()
        assert rules[rule] == [f"'sha256-{digest}'"]
    assert not re.search(r'\s(src|style|on\w+)="', page)
    assert "https://" not in page
    shown = {ORIGIN, "http://www.w3.org", "http://127.0.0.1:9000"}  # the last one in examples
    assert set(re.findall(r'http://[^/"<]+', page)) <= shown
    for rule in ("base-uri", "form-action", "frame-ancestors"):
        assert rules[rule] == ["'none'"]
    assert answered.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answered.headers["X-Content-Type-Options"] == "nosniff"


async def test_the_page_comes_compressed_to_who_can_read_that(api: Api) -> None:
    plain = await api.call("GET", "/docs", headers={"Accept-Encoding": "identity"})
    packed = await api.call("GET", "/docs", headers={"Accept-Encoding": "br, gzip"})
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.content) == plain.content
    assert plain.headers["Vary"] == packed.headers["Vary"] == "Accept-Encoding"


def test_no_text_of_the_document_becomes_markup(document: Any) -> None:
    attack = "</script><script>alert(1)</script>'\"><img src=x onerror=alert(1)>"

    hostile = deepcopy(document)
    operation = hostile["paths"]["/api/v1/timestamp/event"]["post"]
    operation["summary"] = attack
    operation["parameters"][0]["description"] = f"`{attack}`"
    hostile["info"]["title"] = attack
    hostile["tags"][0]["description"] = attack
    hostile["components"]["schemas"]["EventBody"]["properties"][attack] = {"enum": [attack]}
    content = operation["requestBody"]["content"]["application/json"]
    content["example"] = {attack: attack}
    hostile["paths"][f"/{attack}"] = hostile["paths"].pop("/health/live")
    page = render(hostile).content.decode()
    assert "<img" not in page
    assert page.count("<script>") == 1
    assert page.count("&lt;img") >= 8
