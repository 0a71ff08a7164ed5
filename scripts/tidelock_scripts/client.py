"""A small asyncio client of the cluster for scripts: keep-alive, deadlines, retries that are safe.

A request ends in one of three ways: an `Answer`, `NotDoneError` (it certainly did not happen) or
`OutcomeUnknownError`. Writes carry an `Idempotency-Key`, so that one whose outcome is unknown can
be repeated through another node and still happens once.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec

_PAUSE_BETWEEN_ROUNDS_S = 0.02
_TRY_AGAIN = frozenset({429, 502, 503, 504})
"""502 and 504 are no node's answers: a balancer in front of them says that there was none."""


class NotDoneError(Exception):
    """No node took the request before the deadline; it did not happen."""


class OutcomeUnknownError(Exception):
    """The deadline passed after the request was sent at least once without a final answer."""


class _NotSentError(Exception):
    """The connection could not be made."""


class _NoAnswerError(Exception):
    """The request left, and no answer came back."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Any  # whatever JSON the server sent
    node_id: str
    """The node that answered."""
    attempts: int = 1
    """1 when the first node that was asked answered."""

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    data: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def new_idempotency_key() -> str:
    """Return a UUIDv7: its rows are written in the order of time."""
    stamp = time.time_ns() // 1_000_000
    chance = int.from_bytes(os.urandom(10), "big")
    low = (chance & ((1 << 62) - 1)) | (0b10 << 62)
    number = (stamp & ((1 << 48) - 1)) << 80 | 0x7 << 76 | (chance >> 68) << 64 | low
    digits = f"{number:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


class ClusterClient:
    """Talks to the nodes at `addresses` (node id → `host:port`)."""

    def __init__(self, addresses: Mapping[str, str], *, attempt_timeout_s: float = 2.0) -> None:
        """`attempt_timeout_s` is how long one node may take before another one is asked."""
        self._addresses = dict(addresses)
        self._attempt_timeout_s = attempt_timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0),
            trust_env=False,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str, *, via: str, deadline_s: float = 10.0) -> Answer:
        """Read through `via`, or through the others when it does not answer.

        Raises:
            NotDoneError: nobody answered before the deadline.
        """
        try:
            return await self._persist(
                _Request("GET", path), via, deadline_s, self._attempt_timeout_s
            )
        except OutcomeUnknownError as error:
            raise NotDoneError(str(error)) from error

    async def post(
        self,
        path: str,
        body: object,
        *,
        via: str,
        deadline_s: float = 10.0,
        idempotency_key: str | None = None,
        retry: bool = True,
        attempt_timeout_s: float | None = None,
    ) -> Answer:
        """Write through `via`; repeat it through the others, under its key, when unknown.

        With `retry=False` it is sent at most once: whatever leaves the outcome open is raised.
        `attempt_timeout_s` is for a request that waits at a node longer than others do.

        Raises:
            NotDoneError, OutcomeUnknownError
        """
        key = idempotency_key or new_idempotency_key()
        request = _Request("POST", path, msgspec.json.encode(body), {"Idempotency-Key": key})
        attempt_timeout_s = attempt_timeout_s or self._attempt_timeout_s
        if retry:
            return await self._persist(request, via, deadline_s, attempt_timeout_s)
        try:
            answer = await self._attempt(request, via, min(deadline_s, attempt_timeout_s))
        except _NotSentError as error:
            raise NotDoneError(str(error)) from error
        except _NoAnswerError as error:
            raise OutcomeUnknownError(str(error)) from error
        if answer.status in _TRY_AGAIN:
            raise _left_open(answer)
        return answer

    async def ask(self, node_id: str, path: str, *, timeout_s: float = 1.0) -> Answer | None:
        """GET from exactly this node, once; None when it does not answer."""
        try:
            return await self._attempt(_Request("GET", path), node_id, timeout_s)
        except (_NotSentError, _NoAnswerError):
            return None

    async def _persist(
        self, request: _Request, via: str, deadline_s: float, attempt_timeout_s: float
    ) -> Answer:
        nodes = [via, *(node for node in self._addresses if node != via)]
        ends_at = time.monotonic() + deadline_s
        attempts = 0
        sent: Exception | None = None
        refused: Exception | None = None
        while (remaining_s := ends_at - time.monotonic()) > 0:
            node_id = nodes[attempts % len(nodes)]
            attempts += 1
            try:
                answer = await self._attempt(request, node_id, min(remaining_s, attempt_timeout_s))
            except _NotSentError as error:
                refused = error
            except _NoAnswerError as error:
                sent = error
            else:
                if answer.status not in _TRY_AGAIN:
                    return replace(answer, attempts=attempts)
                outcome = _left_open(answer)
                if isinstance(outcome, OutcomeUnknownError):
                    sent = outcome
                else:
                    refused = outcome
            if attempts % len(nodes) == 0:
                await asyncio.sleep(_PAUSE_BETWEEN_ROUNDS_S)
        what = f"{request.method} {request.path}"
        if sent is not None:
            raise OutcomeUnknownError(f"{what}: {sent}") from sent
        raise NotDoneError(f"{what}: {refused}") from refused

    async def _attempt(self, request: _Request, node_id: str, timeout_s: float) -> Answer:
        if self._session is None:
            raise RuntimeError("the client is used outside of its `async with`")
        # The server gives up a little earlier than we do, so that its answer still reaches us.
        headers = {**request.headers, "Tidelock-Timeout-Ms": str(max(int(timeout_s * 900), 1))}
        if request.data is not None:
            headers["Content-Type"] = "application/json"
        try:
            async with self._session.request(
                request.method,
                f"http://{self._addresses[node_id]}{request.path}",
                data=request.data,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=False,
            ) as response:
                content = await response.read()
        except aiohttp.ClientConnectorError as error:
            raise _NotSentError(f"{node_id}: {error}") from error
        except (aiohttp.ClientError, OSError) as error:  # a timeout is an OSError
            raise _NoAnswerError(f"{node_id}: {type(error).__name__} {error}") from error
        return Answer(response.status, _decoded(content), node_id)


def _decoded(content: bytes) -> Any:
    try:
        return msgspec.json.decode(content) if content else None
    except msgspec.DecodeError:
        return content.decode(errors="replace")


def _left_open(answer: Answer) -> NotDoneError | OutcomeUnknownError:
    """Read an answer that settles nothing: 429 and NO_QUORUM say that nothing was proposed."""
    code = answer.body.get("code") if isinstance(answer.body, dict) else None
    text = f"{answer.node_id} answered {answer.status} {code}"
    if answer.status == 429 or code == "NO_QUORUM":
        return NotDoneError(text)
    return OutcomeUnknownError(text)
