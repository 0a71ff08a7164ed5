"""What leaves a node, and what is made of what comes back."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from node.delivery.calls import BranchRequest, Reply
from node.delivery.destinations import Destinations
from node.delivery.http import GREATEST_BODY_BYTES, HttpSender, signature


class Names(AbstractResolver):
    """Says what names mean, another thing each time when there are several."""

    def __init__(self, meanings: Mapping[str, Sequence[str | Sequence[str]]]) -> None:
        self._meanings = {name: list(each) for name, each in meanings.items()}
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        self.asked.append(host)
        meanings = self._meanings.get(host)
        if not meanings:
            raise OSError(f"{host} is unknown")
        meaning = meanings.pop(0) if len(meanings) > 1 else meanings[0]
        addresses = [meaning] if isinstance(meaning, str) else meaning
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        return


@asynccontextmanager
async def server(
    *responses: web.Response, context: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[int, list[web.Request]]]:
    """Give a port, and the requests that arrive there."""
    seen: list[web.Request] = []
    answers = list(responses) or [web.Response()]

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request, web.BaseRequest)
        seen.append(request)  # type: ignore[arg-type]  # nothing of the router is looked at
        await request.read()
        return answers.pop(0) if len(answers) > 1 else answers[0]

    runner = web.ServerRunner(web.Server(answer), shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    try:
        yield runner.addresses[0][1], seen
    finally:
        await runner.cleanup()


def sender(
    *allowed: str,
    own: Sequence[tuple[str, int]] = (),
    names: Mapping[str, Sequence[str | Sequence[str]]] | None = None,
    key: bytes = b"",
    context: ssl.SSLContext | None = None,
) -> HttpSender:
    return HttpSender(
        Destinations(allowed or ("*", "127.0.0.0/8", "::1"), own),
        timeout_ms=5_000,
        resolver=Names(names or {}),
        key=key,
        context=context,
    )


async def exchange(via: HttpSender, url: str, **fields: object) -> Reply:
    try:
        return await via.exchange(BranchRequest(url=url, **fields))  # type: ignore[arg-type]
    finally:
        await via.close()


async def test_a_request_arrives_as_it_was_made() -> None:
    async with server(web.Response(status=201, body=b"done")) as (port, seen):
        url = f"http://127.0.0.1:{port}/a%20b?c=d"
        headers = (("X-Tenant", "t"),)
        reply = await exchange(sender(), url, body=b"payload", headers=headers)
    assert reply == Reply(status=201, body=b"done")
    (request,) = seen
    assert (request.method, request.raw_path) == ("POST", "/a%20b?c=d")
    assert request.headers["X-Tenant"] == "t"
    assert request.headers["Accept-Encoding"] == "identity"
    assert "Tidelock-Signature" not in request.headers


async def test_environment_proxies_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with server() as (port, _):
        assert (await exchange(sender(), f"http://127.0.0.1:{port}/")).status == 200


async def test_a_name_that_leads_to_the_cluster_is_not_called() -> None:
    async with server() as (port, seen):
        via = sender(own=[("127.0.0.1", port)], names={"shop.example": ["127.0.0.1"]})
        reply = await exchange(via, f"http://shop.example:{port}/api/v1/transactions")
    assert reply.failure_type == "DESTINATION_REFUSED"
    assert "cluster itself" in reply.failure_message
    assert seen == []


async def test_a_name_that_means_something_else_the_second_time_leads_nowhere_new() -> None:
    """Rebinding: what was judged before says nothing of what is connected to."""
    async with server() as (port, seen):
        names = Names({"shop.example": ["127.0.0.1", "169.254.169.254"]})
        via = HttpSender(Destinations(["*", "127.0.0.1"], []), timeout_ms=5_000, resolver=names)
        url = f"http://shop.example:{port}/"
        try:
            first = await via.exchange(BranchRequest(url=url, headers=(("Connection", "close"),)))
            connector = via._opened().connector
            connector.clear_dns_cache()  # type: ignore[union-attr]
            second = await via.exchange(BranchRequest(url=url))
        finally:
            await via.close()
    assert (first.status, second.failure_type) == (200, "DESTINATION_REFUSED")
    assert "link-local" in second.failure_message
    assert len(seen) == 1


async def test_of_several_addresses_only_those_are_used_that_may_be() -> None:
    async with server() as (port, seen):
        via = sender(names={"shop.example": [["169.254.169.254", "::ffff:127.0.0.1", "127.0.0.1"]]})
        reply = await exchange(via, f"http://shop.example:{port}/")
    assert reply.status == 200
    assert len(seen) == 1


async def test_a_socket_is_made_for_no_address_that_has_become_forbidden_since() -> None:
    """Names are kept for some seconds, in which a node may have joined there."""
    async with server() as (port, seen):
        rules = Destinations(["*", "127.0.0.1"], [])
        names = Names({"shop.example": ["127.0.0.1"]})
        via = HttpSender(rules, timeout_ms=5_000, resolver=names)
        url = f"http://shop.example:{port}/"
        headers = (("Connection", "close"),)
        try:
            first = await via.exchange(BranchRequest(url=url, headers=headers))
            rules.set_members([("127.0.0.1", port)])
            second = await via.exchange(BranchRequest(url=url, headers=headers))
        finally:
            await via.close()
    assert names.asked == ["shop.example"]
    assert (first.status, second.failure_type) == (200, "DESTINATION_REFUSED")
    assert len(seen) == 1


async def test_a_member_that_is_known_by_name_is_not_called_by_its_address() -> None:
    async with server() as (port, seen):
        names = {"tc.internal": ["127.0.0.1"], "shop.example": ["127.0.0.1"]}
        via = sender(own=[("tc.internal", port)], names=names)
        reply = await exchange(via, f"http://shop.example:{port}/")
    assert reply.failure_type == "DESTINATION_REFUSED"
    assert seen == []


async def test_what_is_too_large_is_cut_off_and_the_status_counts() -> None:
    large = web.Response(status=409, body=b"x" * (GREATEST_BODY_BYTES + 1))
    exact = web.Response(body=b"x" * GREATEST_BODY_BYTES)
    async with server(large, exact) as (port, _):
        via = sender()
        request = BranchRequest(url=f"http://127.0.0.1:{port}/")
        try:
            first, second = await via.exchange(request), await via.exchange(request)
        finally:
            await via.close()
    assert first == Reply(status=409, cut=True)
    assert len(second.body) == GREATEST_BODY_BYTES


async def test_a_participant_that_does_not_answer_in_time_is_given_up() -> None:
    release = asyncio.Event()

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.close()

    listening = await asyncio.start_server(never, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    reply = await exchange(sender(), f"http://127.0.0.1:{port}/", timeout_ms=30)
    assert (reply.status, reply.failure_type) == (0, "TIMEOUT")
    assert "30 ms" in reply.failure_message
    release.set()
    listening.close()


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", b"\0\0\r\n"]
)
async def test_an_answer_that_breaks_off_says_nothing(said: bytes) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        writer.close()

    listening = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    reply = await exchange(sender(), f"http://127.0.0.1:{port}/")
    assert (reply.status, reply.failure_type) == (0, "BROKEN_OFF")
    listening.close()


async def test_nobody_there_and_no_such_name_are_told_apart_from_refusals() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert (await exchange(sender(), f"http://127.0.0.1:{port}/")).failure_type == "UNREACHABLE"
    assert (await exchange(sender(), "http://nobody.example/")).failure_type == "UNREACHABLE"
    assert (await exchange(sender(), "ftp://x/")).failure_type == "DESTINATION_REFUSED"


async def test_nothing_is_sent_once_this_node_may_lead_no_more() -> None:
    async with server() as (port, seen):
        via = sender()
        replies: list[Reply] = []
        request = BranchRequest(url=f"http://127.0.0.1:{port}/")
        leads = [True, False]
        via.send(request, lambda: leads.pop(0), replies.append)
        via.send(request, lambda: leads.pop(0), replies.append)
        async with asyncio.timeout(10):
            while len(replies) < 2:
                await asyncio.sleep(0.001)
        await via.close()
    assert sorted(reply.failure_type for reply in replies) == ["", "NOT_SENT"]
    assert len(seen) == 1


async def test_a_call_that_is_cancelled_is_heard_of_no_more() -> None:
    async with server() as (port, _):
        via = sender()
        replies: list[Reply] = []
        cancel = via.send(
            BranchRequest(url=f"http://127.0.0.1:{port}/"), lambda: True, replies.append
        )
        cancel()
        await via.close()
    assert replies == []


async def test_a_signature_covers_time_and_body() -> None:
    async with server() as (port, seen):
        await exchange(sender(key=b"k" * 16), f"http://127.0.0.1:{port}/", body=b"payload")
    sent = seen[0].headers["Tidelock-Signature"]
    at_s = int(sent.partition(",")[0].removeprefix("t="))
    assert sent == signature(b"k" * 16, at_s, b"payload")
    assert sent != signature(b"k" * 16, at_s + 1, b"payload")
    assert sent != signature(b"k" * 16, at_s, b"payloae")


# This value was computed with `openssl dgst -sha256 -hmac`.
def test_a_signature_is_what_others_compute() -> None:
    assert signature(b"key", 1, b"{}") == (
        "t=1,v1=" + "1ba6b8171186efc613e8bcc0cbdab2748f24984d7c5a84faa2637afa0e40d224"
    )


async def test_a_participant_is_known_by_its_certificate(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", str(key), "-out", str(certificate), "-days", "2",
         "-subj", "/CN=shop.example", "-addext", "subjectAltName=DNS:shop.example"],
        check=True, capture_output=True,
    )  # fmt: skip
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(certificate, key)
    names = {"shop.example": ["127.0.0.1"], "other.example": ["127.0.0.1"]}
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with server(context=served) as (port, seen):
        known = await exchange(
            sender(names=names, context=trusting), f"https://shop.example:{port}/"
        )
        stranger = await exchange(
            sender(names=names, context=trusting), f"https://other.example:{port}/"
        )
        unknown = await exchange(sender(names=names), f"https://shop.example:{port}/")
    assert known.status == 200
    assert (stranger.failure_type, unknown.failure_type) == ("TLS", "TLS")
    assert len(seen) == 1
