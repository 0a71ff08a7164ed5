"""Real clients tell listed hosts of transactions, and nobody else, wherever redirects lead."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
import requests
from aiohttp import ClientSession

from tests.integration.services import running
from tidelock.clocks import LamportClock
from tidelock.participant_clocks import ParticipantClocks
from tidelock.propagation import aiohttp_client, httpx_client, requests_client
from tidelock.propagation.headers import LAMPORT, clock_text
from tidelock.transaction.context import bound

Headers = list[tuple[str, str]]


class Listener:
    """A server that remembers the headers of each request, and redirects to `/to?URL`."""

    def __init__(self) -> None:
        self.heard: list[Headers] = []
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                listener.heard.append(self.headers.items())
                where = self.path.partition("/to?")[2]
                self.send_response(302 if where else 200)
                if where:
                    self.send_header("Location", where)
                self.send_header(LAMPORT, clock_text(LamportClock(40)) or "")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def xids(self) -> list[list[str]]:
        """Of each request, the values of headers that name a transaction."""
        names = ("x-tx-xid", "tx_xid")
        return [[value for name, value in all_ if name.lower() in names] for all_ in self.heard]

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join(timeout=20)
        self._server.server_close()


Get = Callable[..., None]
"""Gets a URL with the hosts and clocks of the client, and headers of the request."""


def by_httpx(url: str, hosts: list[str], headers: Any, clocks: Any) -> None:
    with httpx_client.carry(httpx.Client(), hosts=hosts, clocks=clocks) as client:
        client.get(url, headers=headers, follow_redirects=True)


def by_async_httpx(url: str, hosts: list[str], headers: Any, clocks: Any) -> None:
    async def get() -> None:
        async with httpx_client.carry(httpx.AsyncClient(), hosts=hosts, clocks=clocks) as client:
            await client.get(url, headers=headers, follow_redirects=True)

    asyncio.run(get())


def by_requests(url: str, hosts: list[str], headers: Any, clocks: Any) -> None:
    with requests_client.carry(requests.Session(), hosts=hosts, clocks=clocks) as session:
        session.get(url, headers=headers, timeout=20)


def by_aiohttp(url: str, hosts: list[str], headers: Any, clocks: Any) -> None:
    async def get() -> None:
        carrying = aiohttp_client.carrying(hosts=hosts, clocks=clocks)
        async with (
            ClientSession(middlewares=[carrying]) as session,
            session.get(url, headers=headers),
        ):
            pass

    asyncio.run(get())


@pytest.fixture(params=[by_httpx, by_async_httpx, by_requests, by_aiohttp])
def get(request: pytest.FixtureRequest) -> Get:
    by: Get = request.param

    def got(
        url: str,
        *,
        hosts: list[str],
        headers: dict[str, str] | None = None,
        clocks: ParticipantClocks | None = None,
    ) -> None:
        by(url, hosts, headers, clocks)

    return got


@pytest.fixture
def ours() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.stop()


@pytest.fixture
def theirs() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.stop()


def test_a_listed_host_is_told_while_a_transaction_is_bound(get: Get, ours: Listener) -> None:
    with bound("h:1:1"):
        get(f"http://{ours.host}/", hosts=["127.0.0.1"])
    get(f"http://{ours.host}/", hosts=["127.0.0.1"])
    assert ours.xids == [["h:1:1"], []]


def test_another_host_is_not_told_even_when_the_request_has_the_header(
    get: Get, theirs: Listener
) -> None:
    with bound("h:1:1"):
        get(f"http://{theirs.host}/", hosts=["127.0.0.1:1"])
        get(f"http://{theirs.host}/", hosts=[], headers={"X-TX-XID": "h:1:1", "TX_XID": "h:1:1"})
    assert theirs.xids == [[], []]


def test_a_redirect_to_another_host_leaves_the_header_behind(
    get: Get, ours: Listener, theirs: Listener
) -> None:
    with bound("h:1:1"):
        get(f"http://{ours.host}/to?http://{theirs.host}/", hosts=[ours.host])
        get(f"http://{ours.host}/to?http://{ours.host}/", hosts=[ours.host])
        get(f"http://{theirs.host}/to?http://{ours.host}/", hosts=[ours.host])
    assert ours.xids == [["h:1:1"]] * 4
    assert theirs.xids == [[], []]


def test_a_header_that_was_set_by_hand_is_replaced_by_the_bound_transaction(
    get: Get, ours: Listener
) -> None:
    with bound("h:1:1"):
        get(f"http://{ours.host}/", hosts=[ours.host], headers={"x-tx-xid": "h:1:2"})
    assert ours.xids == [["h:1:1"]]


def test_clocks_are_sent_and_those_of_the_answer_merged(get: Get, ours: Listener) -> None:
    clocks = ParticipantClocks("a")
    get(f"http://{ours.host}/", hosts=[ours.host], clocks=clocks)
    names = {name.lower() for name, _ in ours.heard[0]}
    assert {"tidelock-lamport", "tidelock-vector-clock"} <= names
    assert clocks.read().lamport == LamportClock(41)


def test_requests_tells_nobody_where_a_url_can_be_read_in_two_ways() -> None:
    for url in ["http://127.0.0.1\\@evil.example/", "http://[::1", "http:///a", "http://a:b/"]:
        assert requests_client._place(url) is None
    assert requests_client._place("http://User:pw@A.example:81/") == ("a.example", 81)
    assert requests_client._place("https://[::1]/") == ("::1", 443)


def test_one_xid_passes_through_services_of_three_frameworks() -> None:
    with (
        running.aiohttp_service() as third,
        running.flask_service() as second,
        running.fastapi_service() as first,
    ):
        last = f"http://127.0.0.1:{third}/xid"
        middle = httpx.URL(f"http://127.0.0.1:{second}/next", params={"url": last})
        url = httpx.URL(f"http://127.0.0.1:{first}/next", params={"url": str(middle)})
        with httpx_client.carry(httpx.Client(timeout=20), hosts=["127.0.0.1"]) as client:
            with bound("h:1:1"):
                within = client.get(url).json()
            without = client.get(url).json()
    mine = {"xid": "h:1:1", "role": "PARTICIPANT"}
    nobody = {"xid": None, "role": None}
    assert within == {**mine, "next": {**mine, "next": mine}}
    assert without == {**nobody, "next": {**nobody, "next": nobody}}
