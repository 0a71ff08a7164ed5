"""The scripts' reader of server-sent events does what the HTML standard says."""

from __future__ import annotations

import pytest

from scripts.tidelock_scripts.event_source import Event, EventParser


def parse(text: str) -> list[tuple[str, str, str]]:
    return [(event.name, event.data, event.last_id) for event in EventParser().feed(text.encode())]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        ("data: one\n\n", [("message", "one", "")]),
        ("data:one\n\n", [("message", "one", "")]),
        ("data:  one\n\n", [("message", " one", "")]),
        ("data: one\rdata: two\r\ndata\n\n", [("message", "one\ntwo\n", "")]),
        ("event: add\ndata: 1\n\ndata: 2\n\n", [("add", "1", ""), ("message", "2", "")]),
        ("id: 1\ndata: a\n\ndata: b\n\n", [("message", "a", "1"), ("message", "b", "1")]),
        ("id: 1\n\ndata: b\n\n", [("message", "b", "1")]),
        ("id: 1\ndata: a\n\nid\ndata: b\n\n", [("message", "a", "1"), ("message", "b", "")]),
        ("id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n", [("message", "a", "1"), ("message", "b", "1")]),
        (": only\n\nevent: x\n\ndata: a\n\n", [("message", "a", "")]),
        ("data: cut\nid: 9\n", []),
    ],
)
def test_a_stream_is_read_as_the_standard_says(
    stream: str, events: list[tuple[str, str, str]]
) -> None:
    assert parse(stream) == events


def test_it_does_not_matter_where_the_bytes_are_cut() -> None:
    stream = "id: 1\r\nevent: é\r\ndata: 汉\r\n\r\n: c\r\ndata: 2\r\n\r\n".encode()
    whole = EventParser().feed(stream)
    assert whole == [Event("é", "汉", "1"), Event("message", "2", "1")]
    for cut in range(len(stream) + 1):
        parser = EventParser()
        assert parser.feed(stream[:cut]) + parser.feed(stream[cut:]) == whole, cut
    parser = EventParser()
    assert [event for byte in stream for event in parser.feed(bytes((byte,)))] == whole


def test_an_id_counts_once_its_event_is_complete() -> None:
    parser = EventParser("1")
    parser.feed(b"id: 2\ndata: a\n")
    assert parser.last_id == "1"
    parser.feed(b"\n")
    assert parser.last_id == "2"


def test_a_hint_and_comments_are_no_events() -> None:
    parser = EventParser()
    assert parser.feed(b"retry: 1500\n\n: hello\n:\n\nretry: soon\n\n") == []
    assert (parser.retry_ms, parser.comments) == (1500, 2)
