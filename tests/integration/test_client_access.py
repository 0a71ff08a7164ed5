"""How the SDK's client reaches nodes: over TLS, and with a token that shows up nowhere."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.integration.fake_node import (
    FakeNode,
    Hangup,
    Heard,
    answer_of,
    listening,
    problem_of,
)
from tests.integration.serving import Api, serving
from tidelock.client import Applied, BlockingClient, Client
from tidelock.client.access import Access
from tidelock.client.nodes import Nodes
from tidelock.errors import InvalidRequestError, OutcomeUnknownError, UnreachableError

CERTIFICATES = Path(__file__).parent / "certificates"
AUTHORITY = CERTIFICATES / "authority.pem"
TOKEN = "a-secret-that-nobody-must-see"


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while content := await reader.read(65_536):
            writer.write(content)
            await writer.drain()
    writer.close()


async def first_of(told: AsyncIterator[Applied]) -> Applied:
    return await anext(told)


@asynccontextmanager
async def over_tls(api: Api) -> AsyncIterator[int]:
    """Give the port of something that ends TLS in front of a node."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATES / "node.pem", CERTIFICATES / "node-key.pem")
    copying: set[asyncio.Task[None]] = set()

    def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        copying.add(asyncio.create_task(pass_on(reader, writer)))

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        node_reader, node_writer = await asyncio.open_connection("127.0.0.1", api.port)
        try:
            await asyncio.gather(copy(reader, node_writer), copy(node_reader, writer))
        finally:
            for each in (writer, node_writer):
                each.transport.abort()

    server = await asyncio.start_server(pipe, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for each in copying:
            each.cancel()
        await asyncio.gather(*copying, return_exceptions=True)
        await server.wait_closed()


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with serving() as api, over_tls(api) as tls_port:
        yield tls_port


async def test_a_certificate_is_checked_against_a_file(port: int) -> None:
    for address in (f"https://127.0.0.1:{port}", f"127.0.0.1:{port}"):
        async with Client([address], discover=False, ca_file=AUTHORITY) as client:
            assert (await client.hlc.now()).encoded > 0
            assert client.nodes == [f"https://127.0.0.1:{port}"]


async def test_a_certificate_is_checked_as_a_context_says(port: int) -> None:
    context = ssl.create_default_context(cafile=AUTHORITY)
    async with Client([f"127.0.0.1:{port}"], discover=False, ssl_context=context) as client:
        assert (await client.sequences.next("s")).first == 1
        await client.events.record("e", 7)
        told = await first_of(client.watch(after="0", kinds=["timestamp.event"]))
        assert told.changes[0]["eventData"] == 7


@pytest.mark.parametrize("ca_file", [None, CERTIFICATES / "stranger.pem"], ids=["none", "other"])
async def test_a_certificate_of_a_stranger_is_not_believed(port: int, ca_file: Path | None) -> None:
    address = f"https://127.0.0.1:{port}"
    async with Client([address], discover=False, ca_file=ca_file, timeout_ms=300) as client:
        with pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
            await client.sequences.next("s")


async def test_a_certificate_of_another_host_is_not_believed(port: int) -> None:
    address = f"https://localhost:{port}"
    async with Client([address], discover=False, ca_file=AUTHORITY, timeout_ms=300) as client:
        with pytest.raises(UnreachableError, match="Hostname mismatch"):
            await client.sequences.next("s")


async def test_the_blocking_client_speaks_tls_too(port: int) -> None:
    def work() -> int:
        with BlockingClient([f"127.0.0.1:{port}"], discover=False, ca_file=AUTHORITY) as client:
            return client.next_numbers("s").first

    assert await asyncio.to_thread(work) == 1


def test_options_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    context = ssl.create_default_context()
    with pytest.raises(ValueError, match="not both"):
        Client(["h:1"], ssl_context=context, ca_file=AUTHORITY)
    with pytest.raises(ValueError, match="not https"):
        Client(["http://127.0.0.1:1"], ca_file=AUTHORITY)
    with pytest.raises(OSError, match="No such file"):
        Client(["h:1"], ca_file=tmp_path / "none.pem")
    (tmp_path / "empty.pem").write_text("nothing", encoding="utf-8")
    with pytest.raises(OSError, match=r"NO_CERTIFICATE_OR_CRL_FOUND|no certificate"):
        BlockingClient(["h:1"], ca_file=tmp_path / "empty.pem")


# The token


async def refusing(_: Heard, writer: asyncio.StreamWriter) -> None:
    writer.write(problem_of(422, "INVALID_FIELD"))


async def losing(_: Heard, writer: asyncio.StreamWriter) -> None:
    raise Hangup


def with_token(node: FakeNode, **more: int) -> Client:
    return Client([node.address], discover=False, token=TOKEN, timeout_ms=more.get("ms", 5_000))


async def test_a_token_goes_along_with_every_request() -> None:
    async def answer(heard: Heard, writer: asyncio.StreamWriter) -> None:
        if "watch" in heard.path:
            raise Hangup
        await refusing(heard, writer)

    async with listening(answer) as node, with_token(node) as client:
        with pytest.raises(InvalidRequestError):
            await client.timestamp()
        with pytest.raises(InvalidRequestError):
            await client.locks.acquire("l", "a", ttl_ms=100, wait_ms=100)
        watching = asyncio.create_task(first_of(client.watch()))
        async with asyncio.timeout(10):
            while not any("watch" in heard.path for heard in node.heard):
                await asyncio.sleep(0.01)
        watching.cancel()
        await asyncio.wait([watching])
        assert {heard.headers["authorization"] for heard in node.heard} == {f"Bearer {TOKEN}"}


async def test_a_token_shows_up_in_no_message(caplog: pytest.LogCaptureFixture) -> None:
    """Not in the text of errors, not in what stands around them, not in what is logged."""
    caplog.set_level(logging.DEBUG)
    asyncio.get_running_loop().set_debug(True)
    said = []
    async with listening(losing) as node, with_token(node, ms=300) as client:
        try:
            await client.sequences.next("s")
        except OutcomeUnknownError as error:
            told = traceback.TracebackException.from_exception(error, capture_locals=True)
            said += [repr(error), str(error), *told.format()]
        said += [repr(client), str(client), repr(vars(client)), repr(vars(client._transport))]
        said += [repr(vars(client._transport.access)), repr(client.nodes)]
    blocking = BlockingClient(["127.0.0.1:1"], token=TOKEN)
    said += [repr(blocking), repr(vars(blocking))]
    said += [repr(each.cell_contents) for each in blocking._make.__closure__ or ()]
    said += [record.getMessage() for record in caplog.records]
    assert len(said) > 10
    assert not [text for text in said if TOKEN in text]


async def test_a_token_does_not_follow_a_redirection() -> None:
    async with listening(refusing) as elsewhere:

        async def redirect(_: Heard, writer: asyncio.StreamWriter) -> None:
            writer.write(answer_of(307, b"", f"Location: {elsewhere.address}/"))

        async with listening(redirect) as node, with_token(node, ms=200) as client:
            with pytest.raises(Exception, match="NOT_A_NODE"):
                await client.sequences.next("s")
        assert elsewhere.heard == []


@pytest.mark.parametrize("address", ["http://10.0.0.1:1", "http://node.example:1", "h:1"])
def test_a_token_is_not_sent_in_clear_text_to_another_machine(address: str) -> None:
    with pytest.raises(ValueError, match="clear text") as refused:
        Client([address], token=TOKEN)
    assert TOKEN not in str(refused.value)
    Client([address], token=TOKEN, insecure=True)
    Client([address])


def test_nor_when_the_cluster_names_one() -> None:
    nodes = Nodes(["http://127.0.0.1:1"], access=Access(token=TOKEN))
    nodes.follow([("10.0.0.1:2", True), ("[::1]:3", True), ("localhost:4", True)])
    assert {url.port for url in nodes.in_order()} == {1, 3, 4}


@pytest.mark.parametrize("token", ["", "two words", "a\r\nX-Injected: 1", "名", "t" * 9_000])
def test_what_cannot_be_a_token_is_refused_without_repeating_it(token: str) -> None:
    with pytest.raises(ValueError, match="token must be") as refused:
        Client(["127.0.0.1:1"], token=token)
    assert not token or token not in str(refused.value)
