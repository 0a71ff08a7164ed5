"""An answer goes out in one write, and waits for a client that does not read."""

from __future__ import annotations

import asyncio
from unittest.mock import AsyncMock, Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from api.replies import GREATEST_UNSENT_BYTES, Replies
from tests.integration.local_cluster import LocalCluster


class Connection:
    """A request on a connection whose every write is remembered."""

    def __init__(self, *, unsent_bytes: int = 0, closing: bool = False) -> None:
        self.transport = Mock(spec=asyncio.Transport)
        self.transport.is_closing.return_value = closing
        self.transport.get_write_buffer_size.return_value = unsent_bytes
        self.writer = Mock(drain=AsyncMock())
        self.request: web.Request = make_mocked_request(
            "GET", "/", transport=self.transport, writer=self.writer
        )


async def test_head_and_body_are_one_write() -> None:
    connection = Connection()
    reply = Replies(LocalCluster("n7")).success(200, {"a": 1})
    await reply.prepare(connection.request)
    await reply.write_eof()
    ((content,), _) = connection.transport.write.call_args
    assert connection.transport.write.call_count == 1
    head, _, body = content.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Tidelock-Node: n7\r\n" in head
    assert b"Content-Length: 7" in head.split(b"\r\n")
    assert body == b'{"a":1}'
    assert reply.keep_alive


@pytest.mark.parametrize(
    ("unsent_bytes", "waits"), [(0, 0), (GREATEST_UNSENT_BYTES, 0), (GREATEST_UNSENT_BYTES + 1, 1)]
)
async def test_the_next_answer_waits_until_the_client_reads(unsent_bytes: int, waits: int) -> None:
    connection = Connection(unsent_bytes=unsent_bytes)
    await Replies(LocalCluster()).success(200, {}).prepare(connection.request)
    assert connection.writer.drain.await_count == waits


async def test_a_client_that_has_gone_is_sent_nothing() -> None:
    connection = Connection(closing=True)
    with pytest.raises(ConnectionResetError):
        await Replies(LocalCluster()).success(200, {}).prepare(connection.request)
    assert connection.transport.write.call_count == 0
