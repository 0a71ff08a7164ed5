"""A watcher of numbered events sees what is missing, what comes twice and what is out of place."""

from __future__ import annotations

from unittest.mock import MagicMock

from scripts.tidelock_scripts.chaos.numbered_events import NumberedWatcher

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
BEGIN = b'retry: 1000\n\nevent: position\nid: 0.0\ndata: {"id":"0.0"}\n\n'


def block(*numbers: int) -> bytes:
    changes = ",".join(f'{{"kind":"timestamp.event","eventData":[{number}]}}' for number in numbers)
    position = f"{numbers[0]}.{len(numbers)}"
    return f'id: {position}\ndata: {{"id":"{position}","changes":[{changes}]}}\n\n'.encode()


def connected() -> tuple[NumberedWatcher, MagicMock]:
    watcher, transport = NumberedWatcher([1, 2]), MagicMock()
    watcher.connection_made(transport)
    return watcher, transport


def told(*pieces: bytes) -> NumberedWatcher:
    watcher, _ = connected()
    for piece in pieces:
        watcher.data_received(piece)
    return watcher


def test_what_comes_in_order_is_counted_however_it_is_cut() -> None:
    stream = HEAD + BEGIN + block(0, 1, 2) + b": lives\n\n" + block(3) + block(4, 5)
    for size in (1, 7, 100, len(stream)):
        watcher = told(*(stream[at : at + size] for at in range(0, len(stream), size)))
        assert (watcher.seen, watcher.wrong) == (6, [])


def test_what_is_missing_comes_twice_or_is_out_of_place_is_seen() -> None:
    for wrong in (block(0, 2), block(1), block(0, 0), block(1, 0), block(0) + block(0)):
        assert told(HEAD, BEGIN + wrong).wrong != []


def test_it_goes_on_behind_the_last_whole_message() -> None:
    watcher, _ = connected()
    watcher.data_received(HEAD + BEGIN + block(0, 1) + block(2)[:-1])
    watcher._closed = True  # nobody is to connect for it
    watcher.connection_lost(None)
    transport = MagicMock()
    watcher.connection_made(transport)
    assert b"Last-Event-ID: 0.2\r\n" in transport.write.call_args[0][0]
    watcher.data_received(HEAD + block(2))
    assert (watcher.seen, watcher.wrong) == (3, [])


def test_it_goes_elsewhere_when_a_node_has_no_room_and_says_when_it_is_refused() -> None:
    watcher, transport = connected()
    watcher.data_received(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
    assert transport.abort.called
    assert (watcher.port, watcher.wrong) == (2, [])
    watcher, _ = connected()
    watcher.data_received(b"HTTP/1.1 410 Gone\r\n\r\n")
    assert watcher.wrong != []


def test_one_that_does_not_read_takes_nothing_until_it_is_told_to() -> None:
    watcher, transport = NumberedWatcher([1], reads=False), MagicMock()
    watcher.connection_made(transport)
    assert transport.pause_reading.called
    watcher.begin_to_read()
    assert transport.resume_reading.called
