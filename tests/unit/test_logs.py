"""Logs: one line a record, fields kept, secrets left out, and never a stop for a slow reader."""

from __future__ import annotations

import io
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from node.logs import QueuedHandler, configure_logging, is_secret_name, redact

logger = logging.getLogger("node.example")


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    level, library_level = root.level, logging.getLogger("pysyncobj").level
    yield
    for handler in [known for known in root.handlers if isinstance(known, QueuedHandler)]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)
    logging.getLogger("pysyncobj").setLevel(library_level)
    logging.captureWarnings(False)


def written(emit: Callable[[], None], *, as_json: bool = True, level: str = "info") -> str:
    stream = io.StringIO()
    handler = configure_logging(level=level, json=as_json, node_id="n1", stream=stream)
    emit()
    handler.flush()
    return stream.getvalue()


def logged(emit: Callable[[], None]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written(emit).splitlines()]


def test_a_record_is_one_json_object_with_its_fields() -> None:
    def emit() -> None:
        logger.info("became %s", "leader", extra={"term": 7, "index": 4012, "xid": "n1:7101:5"})

    (line,) = logged(emit)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("ts"))
    assert line == {
        "level": "info",
        "logger": "node.example",
        "node": "n1",
        "msg": "became leader",
        "term": 7,
        "index": 4012,
        "xid": "n1:7101:5",
    }


def test_a_record_is_one_line_of_text() -> None:
    text = written(
        lambda: logger.warning("slow disk", extra={"sync_ms": 41, "path": "a b"}), as_json=False
    )
    assert re.fullmatch(r'\S+Z WARNING  n1 node\.example: slow disk sync_ms=41 path="a b"\n', text)


@pytest.mark.parametrize("as_json", [True, False])
def test_what_a_client_sent_cannot_begin_a_line_or_steer_a_terminal(as_json: bool) -> None:
    def emit() -> None:
        logger.info("event %s", "a\nFORGED\u2028x\x1b[2J", extra={"name_of": "b\r\nFORGED"})

    text = written(emit, as_json=as_json)
    assert text.count("\n") == 1
    assert "\x1b" not in text
    assert "\r" not in text


def test_a_field_cannot_replace_what_the_record_says_of_itself() -> None:
    (line,) = logged(lambda: logger.info("x", extra={"level": "none", "node": "n9", "exc": 1}))
    assert (line["level"], line["node"]) == ("info", "n1")
    assert (line["level_"], line["node_"], line["exc_"]) == ("none", "n9", 1)


def test_an_exception_is_told_with_its_traceback() -> None:
    def emit() -> None:
        try:
            raise ValueError("the disk lies")
        except ValueError:
            logger.exception("failed")

    (line,) = logged(emit)
    assert "ValueError: the disk lies" in line["exc"]
    assert "Traceback" in line["exc"]
    text = written(emit, as_json=False)
    assert all(row.startswith("    ") for row in text.splitlines()[1:])
    assert len(text.splitlines()) > 2


@pytest.mark.parametrize(
    "value", [b"\x00\xff", {"nested": [1, (2, b"\x01")]}, 2**80, object(), "\udcff", {1: 2}, None]
)
@pytest.mark.parametrize("as_json", [True, False])
def test_any_value_can_be_a_field(value: object, as_json: bool) -> None:
    text = written(lambda: logger.info("x", extra={"field": value}), as_json=as_json)
    assert "field" in text
    assert text.count("\n") == 1


def test_arguments_that_do_not_fit_the_message_do_not_lose_it() -> None:
    stream = io.StringIO()
    handler = configure_logging(level="info", json=True, node_id="n1", stream=stream)
    handler.handle(logging.makeLogRecord({"msg": "%d nodes", "args": ("three",)}))
    handler.flush()
    line = json.loads(stream.getvalue())
    assert "%d nodes" in line["msg"]
    assert "three" in line["msg"]


def test_a_long_message_is_cut() -> None:
    (line,) = logged(lambda: logger.info("x" * 1_000_000, extra={"field": "y" * 1_000_000}))
    assert len(line["msg"]) == 16_384
    assert len(line["field"]) == 16_384


@pytest.mark.parametrize(
    "name",
    ["authorization", "Authorization", "Proxy-Authorization", "token", "accessToken", "api_key",
     "X-Api-Key", "cookie", "Set-Cookie", "password", "client_secret", "tokens", "signature",
     "Tidelock-Signature", "privateKey"],
)  # fmt: skip
def test_a_field_that_holds_a_credential_is_left_out(name: str) -> None:
    assert is_secret_name(name)
    (line,) = logged(
        lambda: logger.info("x", extra={name: "s3cret", "headers": {name: "s3cret", "Host": "h"}})
    )
    assert "s3cret" not in json.dumps(line)
    assert name not in line
    assert line["headers"] == {"Host": "h"}


@pytest.mark.parametrize("name", ["fencing_token", "fencingToken", "tokenizer", "key", "secretary"])
def test_a_field_that_only_sounds_secret_stays(name: str) -> None:
    (line,) = logged(lambda: logger.info("x", extra={name: 33}))
    assert line[name] == 33


@pytest.mark.parametrize(
    "text",
    ["Authorization: Bearer s3cret", "authorization=Basic s3cret", "got Bearer s3cret from",
     "GET /x?access_token=s3cret&a=1", "{'token': 's3cret'}", '{"password":"s3cret"}',
     "Cookie: a=1; b=s3cret", "accessToken: s3cret", "Authorization: Digest s3cret, realm=x",
     "X-Api-Key: s3cret", "api_key=s3cret", "AUTHORIZATION: s3cret", '"Authorization": "s3cret"'],
)  # fmt: skip
def test_a_credential_within_a_text_is_blanked_out(text: str) -> None:
    assert "s3cret" not in redact(text)

    def emit() -> None:
        try:
            raise ValueError(text)
        except ValueError:
            logger.exception("message %s", text, extra={"detail": text, "many": [text]})

    assert "s3cret" not in written(emit)
    assert "s3cret" not in written(emit, as_json=False)


@pytest.mark.parametrize(
    "text", ["fencing_token=33", "fencingToken: 33", "the token is stale", "tokens: many"]
)
def test_a_harmless_text_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("text", ["a-" * 8000, "token" * 3000, "cookie " * 2000, "bearer" * 2500])
def test_no_text_takes_long_to_redact(text: str) -> None:
    started_s = time.perf_counter()
    redact(text)
    assert time.perf_counter() - started_s < 0.5


def test_less_severe_records_are_left_out() -> None:
    def emit() -> None:
        logger.info("quiet")
        logger.warning("loud")

    assert "quiet" not in written(emit, level="warning")
    assert "loud" in written(emit, level="warning")


def test_a_library_with_a_handler_of_its_own_is_not_written_twice() -> None:
    library = logging.getLogger("pysyncobj.syncobj")
    own_stream = io.StringIO()
    library.addHandler(logging.StreamHandler(own_stream))
    library.propagate = False

    def emit() -> None:
        library.info("chatter")
        library.warning("something")

    assert [line["msg"] for line in logged(emit)] == ["something"]
    assert own_stream.getvalue() == ""


def test_configuring_again_replaces_the_first_configuration() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure_logging(level="info", json=True, node_id="n1", stream=first)
    handler = configure_logging(level="info", json=True, node_id="n1", stream=second)
    logger.info("once")
    handler.flush()
    assert [h for h in logging.getLogger().handlers if isinstance(h, QueuedHandler)] == [handler]
    assert first.getvalue() == ""
    assert second.getvalue().count("\n") == 1


def test_closing_writes_what_is_queued() -> None:
    stream = io.StringIO()
    handler = configure_logging(level="info", json=True, node_id="n1", stream=stream)
    for number in range(500):
        logger.info("record %d", number)
    handler.close()
    assert stream.getvalue().count("\n") == 500


class StuckStream(io.StringIO):
    """A pipe that nobody reads until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = threading.Event()

    def write(self, text: str) -> int:
        self.opened.wait()
        return super().write(text)


def test_a_reader_that_does_not_read_stops_nobody_and_losses_are_counted() -> None:
    stream = StuckStream()
    handler = QueuedHandler(stream, capacity=10)
    started_s = time.monotonic()
    example = logging.Logger("example")
    example.addHandler(handler)
    for number in range(1000):
        example.warning("record %d", number)
    assert time.monotonic() - started_s < 1
    stream.opened.set()
    handler.flush()
    example.warning("after")
    handler.close()
    lines = stream.getvalue().splitlines()
    assert 10 <= len(lines) <= 13
    assert lines[-2] == "log records were dropped"
    assert lines[-1] == "after"


def test_a_stream_that_is_gone_does_no_harm() -> None:
    stream = io.StringIO()
    handler = QueuedHandler(stream)
    stream.close()
    handler.handle(logging.makeLogRecord({"msg": "x"}))
    handler.close()
