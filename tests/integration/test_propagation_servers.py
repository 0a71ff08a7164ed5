"""Real servers bind what requests bring, for as long as they serve them and no longer."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.integration.services.running import SERVICES

PARTICIPANT = {"xid": "h:1:1", "role": "PARTICIPANT"}
NOBODY = {"xid": None, "role": None}


class Caller:
    """One connection to a service, kept for all its requests."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def get(self, path: str, **headers: str) -> http.client.HTTPResponse:
        """Ask; names of headers have dashes for double underscores."""
        named = {name.replace("__", "-"): value for name, value in headers.items()}
        self._connection.request("GET", path, headers=named)
        return self._connection.getresponse()

    def json(self, path: str, **headers: str) -> Any:
        return json.loads(self.get(path, **headers).read())

    def lines(self, path: str, **headers: str) -> list[str]:
        return self.get(path, **headers).read().decode().splitlines()

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module", params=SERVICES)
def served(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    name: str = request.param
    with SERVICES[name]() as port:
        yield name, port


@pytest.fixture
def service(served: tuple[str, int]) -> Iterator[Caller]:
    caller = Caller(*served)
    yield caller
    caller.close()


def test_a_request_is_served_within_its_transaction_and_the_next_one_is_not(
    service: Caller,
) -> None:
    for _ in range(3):
        assert service.json("/xid", X__Tx__Xid="h:1:1") == PARTICIPANT
        assert service.json("/xid") == NOBODY


def test_the_other_header_is_read_where_the_server_lets_it_through(service: Caller) -> None:
    # Others drop headers with an underscore, werkzeug and Django among them.
    lets_through = service.name in ("fastapi-uvicorn", "aiohttp")
    assert service.json("/xid", TX_XID="h:1:1") == (PARTICIPANT if lets_through else NOBODY)


def test_threads_and_coroutines_of_one_server_work_for_their_own_transactions(
    service: Caller,
) -> None:
    paths = {"fastapi-uvicorn": ["/xid", "/thread"], "django-uvicorn": ["/xid", "/later"]}

    def ask(number: int) -> bool:
        caller = Caller(service.name, service.port)
        path = paths.get(service.name, ["/xid"])[number % 2 - 1]
        try:
            return bool(caller.json(path, X__Tx__Xid=f"h:1:{number}")["xid"] == f"h:1:{number}")
        finally:
            caller.close()

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(40)))


def test_a_streamed_answer_is_made_within_the_transaction(service: Caller) -> None:
    paths = ["/stream"]
    if service.name.startswith("django"):
        paths = ["/stream-later" if service.name == "django-uvicorn" else "/stream"]
    for path in paths:
        assert service.lines(path, X__Tx__Xid="h:1:1") == ["h:1:1"] * 3
        assert service.lines(path) == ["None"] * 3


def test_nothing_stays_bound_after_a_failure(service: Caller) -> None:
    answer = service.get("/fail", X__Tx__Xid="h:1:1")
    answer.read()
    assert answer.status == 500
    service.close()
    assert service.json("/xid") == NOBODY


def test_nothing_stays_bound_when_the_caller_leaves_while_an_answer_is_streamed(
    service: Caller,
) -> None:
    path = "/stream-later" if service.name == "django-uvicorn" else "/stream"
    for _ in range(4):
        leaving = Caller(service.name, service.port)
        answer = leaving.get(f"{path}?parts=100000", X__Tx__Xid="h:1:1")
        assert answer.read(6) == b"h:1:1\n"
        answer.close()
        leaving.close()
    for _ in range(8):
        assert service.json("/xid") == NOBODY


def test_a_malformed_xid_is_answered_400_with_a_problem(service: Caller) -> None:
    answer = service.get("/xid", X__Tx__Xid="no xid")
    problem = json.loads(answer.read())
    assert answer.status == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert problem["code"] == "XID_MALFORMED"
    assert "'no xid' is no xid" in problem["detail"]
    assert service.json("/xid") == NOBODY
