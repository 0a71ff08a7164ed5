"""Requests that outlive the nodes they are sent to.

A request goes to one node after another until one says what became of it or the deadline passes. A
write is repeated under one `Idempotency-Key`, so that it happens once however often it is sent.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
from yarl import URL

from tidelock.client.idempotency import new_key
from tidelock.client.nodes import Nodes
from tidelock.errors import (
    ClientClosedError,
    OutcomeUnknownError,
    Problem,
    ProblemError,
    UnreachableError,
    of_problem,
)

T = TypeVar("T")

GREATEST_TIMEOUT_MS: Final = 60_000
"""What nodes accept in `Tidelock-Timeout-Ms`."""

_LEAST_PAUSE_S: Final = 0.02
_GREATEST_PAUSE_S: Final = 0.5
_GRACE_S: Final = 0.25
"""A node says at its deadline that the outcome is unknown; that may take a moment to arrive."""

_WAITING_S: Final = 5.0
"""How long one node is left to wait, before another one is asked to go on with the wait."""

_TRY_AGAIN: Final = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses after which another attempt may do better."""
_BUSY: Final = frozenset({408, 429})
"""Those of a node that serves."""

_UNKNOWN_CODES: Final = frozenset({"OUTCOME_UNKNOWN", "TIMED_OUT", "TRANSFER_FAILED"})


class _NotSentError(Exception):
    """The connection could not be made."""


class _NoAnswerError(Exception):
    """The request left, and nothing came back that says what became of it."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One request, however often it is sent."""

    method: str
    path: str
    """Encoded, with its query."""
    body: bytes | None = None
    writes: bool = False
    """It changes something, and takes an idempotency key."""
    waits: bool = False
    """The node may answer late, and going away does not end the wait: it is told no deadline."""


class Transport:
    """A pool of connections to the nodes."""

    def __init__(self, nodes: Nodes, *, timeout_ms: int, attempt_timeout_ms: int) -> None:
        self.nodes = nodes
        self.timeout_ms = timeout_ms
        self.attempt_timeout_ms = attempt_timeout_ms
        self.on_call: Callable[[], None] | None = None
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    def session(self) -> aiohttp.ClientSession:
        """Return the pool; it is made on the loop that uses it first."""
        if self._closed:
            raise ClientClosedError("the client is closed; make another one")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, limit_per_host=256, keepalive_timeout=30),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session

    def use(self) -> aiohttp.ClientSession:
        """Return the pool for a new call, and let the client see whether the nodes have changed."""
        session = self.session()
        if self.on_call is not None:
            self.on_call()
        return session

    async def close(self) -> None:
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def call(
        self,
        call: Call,
        answer: type[T],
        *,
        timeout_ms: int | None = None,
        idempotency_key: str | None = None,
    ) -> T:
        """Return the answer.

        Raises:
            ProblemError: refused, or no node could serve until the deadline.
            UnreachableError: nobody could be asked until the deadline.
            OutcomeUnknownError: a write may have happened.
        """
        budget_ms = self.timeout_ms if timeout_ms is None else timeout_ms
        ends_at = time.monotonic() + budget_ms / 1000
        headers = {"Content-Type": "application/json"} if call.body is not None else {}
        key = idempotency_key or new_key() if call.writes else None
        if key is not None:
            headers["Idempotency-Key"] = key
        self.use()
        attempts = _Attempts(self, call, headers, ends_at)
        content = await attempts.run(key)
        return msgspec.json.decode(content, type=answer)

    async def attempt(
        self, call: Call, url: URL, headers: Mapping[str, str], remaining_s: float
    ) -> tuple[int, bytes]:
        """Send the request to one node; return status and body.

        Raises:
            _NotSentError, _NoAnswerError
        """
        longest_s = _WAITING_S if call.waits else self.attempt_timeout_ms / 1000
        patience_s = min(remaining_s, longest_s)
        sent = dict(headers)
        if not call.waits:
            told_ms = min(GREATEST_TIMEOUT_MS, max(1, int(patience_s * 1000)))
            sent["Tidelock-Timeout-Ms"] = str(told_ms)
        timeout = aiohttp.ClientTimeout(
            total=min(remaining_s, patience_s + _GRACE_S), sock_connect=min(1.0, patience_s)
        )
        target = URL(f"{url}{call.path}", encoded=True)
        try:
            async with self.session().request(
                call.method,
                target,
                data=call.body,
                headers=sent,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                return response.status, await response.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise _NotSentError(f"{url}: {error}") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _NoAnswerError(f"{url}: {type(error).__name__} {error}".rstrip()) from error


class _Attempts:
    """One call on its way through the nodes."""

    def __init__(
        self, transport: Transport, call: Call, headers: Mapping[str, str], ends_at: float
    ) -> None:
        self._transport = transport
        self._call = call
        self._headers = headers
        self._ends_at = ends_at
        self._unknown: str | None = None
        """Why one attempt may have happened."""
        self._last: ProblemError | None = None
        self._unreached = "no time was left to ask anybody"

    @property
    def _remaining_s(self) -> float:
        return self._ends_at - time.monotonic()

    async def run(self, key: str | None) -> bytes:
        """Return the body of a success."""
        pause_s = _LEAST_PAUSE_S
        while self._remaining_s > 0:
            for url in self._transport.nodes.in_order():
                if self._remaining_s <= 0:
                    break
                content = await self._one(url)
                if content is not None:
                    return content
            # Full jitter, so that clients of a node that died do not return together.
            pause_s = min(2 * pause_s, _GREATEST_PAUSE_S)
            await asyncio.sleep(max(0.0, min(random.uniform(0, pause_s), self._remaining_s)))  # noqa: S311
        raise self._gave_up(key)

    async def _one(self, url: URL) -> bytes | None:
        """Ask one node. Return None when another attempt may do better.

        Raises: ProblemError
        """
        nodes = self._transport.nodes
        try:
            status, content = await self._transport.attempt(
                self._call, url, self._headers, self._remaining_s
            )
        except _NotSentError as error:
            nodes.avoid(url)
            self._unreached = str(error)
            return None
        except _NoAnswerError as error:
            nodes.avoid(url)
            self._unknown = str(error)
            return None
        if 200 <= status < 300:
            nodes.answered(url)
            return content
        problem = read_problem(status, content)
        if status not in _TRY_AGAIN and not (status >= 500 and self._unknown):
            raise of_problem(problem)
        if status not in _BUSY:
            nodes.avoid(url)
        if problem.code in _UNKNOWN_CODES or status in (500, 502, 504):
            self._unknown = f"{url}: {problem.code} {problem.detail}"
        self._last = of_problem(problem)
        return None

    def _gave_up(self, key: str | None) -> Exception:
        if self._unknown is not None and self._call.writes:
            return OutcomeUnknownError(
                f"{self._call.method} {self._call.path} may have been done: {self._unknown}", key
            )
        if self._last is not None:
            return self._last
        return UnreachableError(
            f"{self._call.method} {self._call.path}: no node answered before the deadline: "
            f"{self._unknown or self._unreached}"
        )


def read_problem(status: int, content: bytes) -> Problem:
    """Return the problem that a body is, or one for a body that is none."""
    try:
        return msgspec.json.decode(content, type=Problem)
    except msgspec.DecodeError:
        return Problem(
            status=status,
            code="NOT_A_NODE",
            detail=f"the answer is no problem of a node: {content[:100]!r}",
        )


def encode(body: Mapping[str, Any], *, leave_out_none: bool = True) -> bytes:
    """Return the JSON of a body; what is None is left to the node, unless None is a value."""
    if leave_out_none:
        body = {name: value for name, value in body.items() if value is not None}
    return msgspec.json.encode(body)
