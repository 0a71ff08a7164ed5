"""Requests to nodes: what is sent, how long is waited for it, and how much is taken in."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

import aiohttp
import msgspec
from yarl import URL

from tidelock.client.access import Access
from tidelock.client.farewells import Farewells
from tidelock.client.nodes import Nodes
from tidelock.errors import ClientClosedError, Problem

GREATEST_TIMEOUT_MS: Final = 60_000
"""What nodes accept in `Tidelock-Timeout-Ms`."""

GREATEST_CONNECTIONS: Final = 256
"""To all nodes together, of each of the two pools."""

GREATEST_ANSWER_BYTES: Final = 64 << 20
"""A full page of the greatest events. What is larger comes from no node."""

GREATEST_PROBLEM_BYTES: Final = 1 << 20

_GRACE_S: Final = 0.25
"""A node says at its deadline that the outcome is unknown; that may take a moment to arrive."""

_WAITING_S: Final = 5.0
"""How long one node is left to wait, before another one is asked to go on with the wait."""

_HURRY_S: Final = 0.5

_CONNECT_S: Final = 1.0
_KEPT_S: Final = 30.0


INHERITED: Final[list[object]] = []
"""What a parent process had open, never freed: closing it would unhook the parent's sockets, for
both processes share the kernel's list of what the parent's loop waits for."""


class NotSentError(Exception):
    """The connection could not be made."""


class NoAnswerError(Exception):
    """The request left, and nothing came back that says what became of it."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One request, however often it is sent."""

    method: str
    path: str
    """Encoded, with its query."""
    body: bytes | None = None
    writes: bool = False
    """It changes something, and takes an idempotency key."""
    remembered: bool = True
    """Of a write: a repetition under its key gets the first answer."""
    waits: bool = False
    """The node may answer late, and going away does not end the wait: it is told no deadline."""
    hurries: bool = False
    """Somebody who leaves says it: a node that does not answer at once is passed over."""
    asks_once: bool = False
    """What a node says holds for itself: it is not asked again."""


class Received(msgspec.Struct, frozen=True):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    rubbish: str = ""
    """Why it cannot be what a node sent; empty when it can."""


class Carrier(Protocol):
    """Another way to a node than by HTTP: the channel of the process's resource manager."""

    @property
    def url(self) -> URL:
        """The node that it leads to."""
        ...

    def takes(self, call: Call) -> bool:
        """Say whether a call can go this way."""
        ...

    async def attempt(
        self, call: Call, key: str, timeout_ms: int | None, within_s: float
    ) -> Received:
        """Ask the node. Raises: NotSentError, NoAnswerError"""
        ...


class Transport:
    """Connections to the nodes.

    There are two pools: requests that wait, and watches, occupy their connections for long, and
    must not keep the renewal of a lease waiting for one.
    """

    def __init__(
        self, nodes: Nodes, access: Access, *, timeout_ms: int, attempt_timeout_ms: int
    ) -> None:
        if timeout_ms <= 0 or attempt_timeout_ms <= 0:
            raise ValueError("timeout_ms and attempt_timeout_ms must be greater than 0")
        self.nodes = nodes
        self.access = access
        self.timeout_ms = timeout_ms
        self.attempt_timeout_ms = attempt_timeout_ms
        self.on_call: Callable[[], None] | None = None
        self.looked: Callable[[float], Awaitable[None]] | None = None
        """Waits for so long until it is known which nodes there are, if that is being asked."""
        self.carrier: Carrier | None = None
        """Is asked first, while there is one."""
        self.farewells = Farewells()
        self.closing = False
        """Only farewells are still sent."""
        self.waiting: set[asyncio.Future[Any]] = set()  # whatever they return
        """Acquisitions, which are ended before the client is closed."""
        self._closed = False
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0

    def session(self, *, waits: bool) -> aiohttp.ClientSession:
        """Return a pool; it is made on the loop that uses it first.

        Raises:
            ClientClosedError
            RuntimeError: it belongs to another loop, or to the parent of this process.
        """
        if self._closed:
            raise ClientClosedError("the client is closed; make another one")
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop, self._pid = loop, os.getpid()
        elif os.getpid() != self._pid:
            raise RuntimeError("the client was used before the fork; make one in this process")
        elif self._loop is not loop:
            raise RuntimeError("the client belongs to another event loop; make one for this loop")
        session = self._sessions.get(waits)
        if session is None:
            session = self._sessions[waits] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=GREATEST_CONNECTIONS,
                    keepalive_timeout=_KEPT_S,
                    ssl=self.access.ssl_context or True,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,
            )
        return session

    def use(self) -> None:
        """Begin a new call, and let the client see whether the nodes have changed.

        Raises: as `session`.
        """
        if self.closing:
            raise ClientClosedError("the client is closed; make another one")
        self.session(waits=False)
        if self.on_call is not None:
            self.on_call()

    async def close(self) -> None:
        """End the acquisitions, say what is still to be said, and close the connections."""
        self.closing = True
        if self._loop is not None and self._pid != os.getpid():
            INHERITED.append(self)
            self._closed = True
            return
        try:
            waiting = list(self.waiting)
            for each in waiting:
                each.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            await self.farewells.finish()
        finally:
            self._closed = True
            for session in self._sessions.values():
                await session.close()

    def in_order(self, call: Call) -> list[URL]:
        """Return all nodes, best first: that of the carrier, unless it failed lately."""
        nodes, carrier = self.nodes.in_order(), self._carrier_of(call)
        if carrier is None:
            return nodes
        return [carrier.url, *(url for url in nodes if url != carrier.url)]

    def _carrier_of(self, call: Call) -> Carrier | None:
        """Return the other way for a call. After a failure the same node is asked over HTTP."""
        carrier = self.carrier
        if carrier is None or not carrier.takes(call) or self.nodes.is_avoided(carrier.url):
            return None
        return carrier

    async def attempt(
        self, call: Call, url: URL, headers: Mapping[str, str], remaining_s: float
    ) -> Received:
        """Send the request to one node.

        Raises:
            NotSentError, NoAnswerError
        """
        patience_s = min(remaining_s, self._longest_s(call))
        carrier = self._carrier_of(call)
        if carrier is not None and carrier.url == url:
            told = None if call.waits else _told_ms(patience_s)
            within_s = min(remaining_s, patience_s + _GRACE_S)
            return await carrier.attempt(call, headers.get("Idempotency-Key", ""), told, within_s)
        sent = {**headers, **self.access.headers(), "Accept-Encoding": "identity"}
        if not call.waits:
            sent["Tidelock-Timeout-Ms"] = str(_told_ms(patience_s))
        total_s = min(remaining_s, patience_s + _GRACE_S)
        timeout = aiohttp.ClientTimeout(
            total=total_s,
            # For a place in the pool and a connection: a little less, so that it is known that
            # nothing was sent.
            connect=total_s * 0.95,
            sock_connect=min(_CONNECT_S, patience_s),
            ceil_threshold=math.inf,
        )
        target = URL(f"{url}{call.path}", encoded=True)
        try:
            async with self.session(waits=call.waits).request(
                call.method,
                target,
                data=call.body,
                headers=sent,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                return await received(response)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NotSentError(f"{url}: {error}") from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NoAnswerError(f"{url}: {type(error).__name__} {error}".rstrip()) from None

    def _longest_s(self, call: Call) -> float:
        """How long one node may take."""
        if call.waits:
            return _WAITING_S
        regular_s = self.attempt_timeout_ms / 1000
        return min(regular_s, _HURRY_S) if call.hurries else regular_s


def _told_ms(patience_s: float) -> int:
    return min(GREATEST_TIMEOUT_MS, max(1, int(patience_s * 1000)))


async def received(response: aiohttp.ClientResponse) -> Received:
    """Return an answer with its body, of which no more is read than a node can send.

    Raises: as aiohttp does.
    """
    ok = 200 <= response.status < 300
    bound = GREATEST_ANSWER_BYTES if ok else GREATEST_PROBLEM_BYTES
    status, headers = response.status, response.headers
    encoding = headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        return Received(status, headers, b"", f"it is compressed ({encoding[:40]!r})")
    content = bytearray()
    async for part in response.content.iter_any():
        content += part
        if len(content) > bound:
            return Received(status, headers, b"", f"it has more than {bound} bytes")
    return Received(status, headers, bytes(content))


def read_problem(answer: Received) -> Problem | None:
    """Return the problem that an answer is, None when it is none of a node's."""
    if answer.rubbish:
        return None
    try:
        problem = msgspec.json.decode(answer.content, type=Problem)
    except (ValueError, RecursionError):
        return None
    return problem if problem.status == answer.status else None


def rubbish(answer: Received, why: str = "") -> Problem:
    """Return the problem of an answer that is none of a node's."""
    reason = answer.rubbish or why or f"it begins {answer.content[:100]!r}"
    return Problem(
        status=answer.status,
        code="NOT_A_NODE",
        detail=f"something else than a node answered, or a broken one: {reason}",
    )


def encode(body: Mapping[str, Any], *, leave_out_none: bool = True) -> bytes:
    """Return the JSON of a body; what is None is left to the node, unless None is a value.

    Raises: ValueError, TypeError: no JSON can say this.
    """
    if leave_out_none:
        body = {name: value for name, value in body.items() if value is not None}
    content = msgspec.json.encode(body)
    if b"null" in content:
        _refuse_what_is_no_number(body)
    return content


def _refuse_what_is_no_number(value: object) -> None:
    """Raise unless all numbers are numbers in JSON too; others would silently become null.

    Raises: ValueError
    """
    match value:
        case float() if not math.isfinite(value):
            raise ValueError(f"{value} is no number in JSON")
        case dict():
            for each in value.values():
                _refuse_what_is_no_number(each)
        case list() | tuple():
            for each in value:
                _refuse_what_is_no_number(each)
        case msgspec.Struct():
            _refuse_what_is_no_number(msgspec.structs.astuple(value))
