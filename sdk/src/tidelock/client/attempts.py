"""Calls that outlive the nodes they are sent to.

A call goes to one node after another until one says what became of it or the deadline passes. A
write is repeated under one `Idempotency-Key`, so that it happens once however often it is sent.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import msgspec
from yarl import URL

from tidelock.client.idempotency import is_key, new_key
from tidelock.client.transport import (
    Call,
    NoAnswerError,
    NotSentError,
    Received,
    Transport,
    read_problem,
    rubbish,
)
from tidelock.errors import (
    OutcomeUnknownError,
    Problem,
    ProblemError,
    UnreachableError,
    of_problem,
)

T = TypeVar("T")

Read = Callable[[Received], T]
"""Makes a value of a success. Raises: ValueError, RecursionError: it is none that a node sends."""

_LEAST_PAUSE_S: Final = 0.02
_GREATEST_PAUSE_S: Final = 0.5

_LEAST_ATTEMPT_S: Final = 0.05
"""With less time than this left, another attempt would only make an outcome unknown."""

_TRY_AGAIN: Final = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses after which another attempt may do better."""
_BUSY: Final = frozenset({408, 429})
"""Those of a node that serves."""
_NOT_OF_THE_LOG: Final = frozenset({401, 403})
"""Refusals that say nothing of what an earlier attempt did."""

_UNKNOWN_CODES: Final = frozenset({"OUTCOME_UNKNOWN", "TIMED_OUT", "TRANSFER_FAILED"})


class JsonOf(Generic[T]):
    """Reads answers of one type. What fails the check is none that a node sends."""

    def __init__(self, answer: type[T], check: Callable[[T], bool] | None = None) -> None:
        self.answer = answer
        self._check = check

    def __call__(self, received: Received) -> T:
        value = msgspec.json.decode(received.content, type=self.answer)
        if self._check is not None and not self._check(value):
            raise ValueError("it does not answer what was asked")
        return value


async def call(
    transport: Transport,
    wanted: Call,
    read: Read[T],
    *,
    timeout_ms: int | None = None,
    idempotency_key: str | None = None,
    at: str | None = None,
    farewell: bool = False,
) -> T:
    """Return the answer of any node, or of the one `at` an address.

    Raises:
        ProblemError: refused, or no node could serve until the deadline.
        UnreachableError: nobody could be asked until the deadline.
        OutcomeUnknownError: a write may have happened.
        ClientClosedError, ValueError
    """
    if idempotency_key is not None and not is_key(idempotency_key):
        raise ValueError("idempotency_key must be 1 to 200 visible ASCII characters")
    only = None if at is None else transport.nodes.parse(at)
    if not farewell:
        transport.use()
    budget_ms = transport.timeout_ms if timeout_ms is None else timeout_ms
    key = idempotency_key or new_key() if wanted.writes else None
    attempts = _Attempts(transport, wanted, read, key, time.monotonic() + budget_ms / 1000, only)
    return await attempts.run()


class _Attempts(Generic[T]):
    """One call on its way through the nodes."""

    def __init__(
        self,
        transport: Transport,
        wanted: Call,
        read: Read[T],
        key: str | None,
        ends_at: float,
        only: URL | None,
    ) -> None:
        self._transport = transport
        self._call = wanted
        self._read = read
        self._key = key
        self._ends_at = ends_at
        self._only = only
        self._headers = {} if wanted.body is None else {"Content-Type": "application/json"}
        if key is not None:
            self._headers["Idempotency-Key"] = key
        self._unknown: str | None = None
        """Why one attempt may have happened."""
        self._last: ProblemError | None = None
        self._unreached = "no time was left to ask anybody"

    @property
    def _remaining_s(self) -> float:
        return self._ends_at - time.monotonic()

    async def run(self) -> T:
        pause_s = _LEAST_PAUSE_S
        least_s = 0.0
        while self._remaining_s > least_s:
            nodes = self._transport.in_order(self._call) if self._only is None else [self._only]
            for url in nodes:
                if self._remaining_s <= least_s:
                    break
                least_s = _LEAST_ATTEMPT_S
                found = await self._one(url)
                if found:
                    return found[0]
            if self._call.asks_once:
                break
            # Full jitter, so that clients of a node that died do not return together.
            pause_s = min(2 * pause_s, _GREATEST_PAUSE_S)
            await asyncio.sleep(max(0.0, min(random.uniform(0, pause_s), self._remaining_s)))  # noqa: S311
        raise self._gave_up()

    async def _one(self, url: URL) -> tuple[T] | tuple[()]:
        """Ask one node. Return the answer, or nothing when another attempt may do better.

        Raises: ProblemError, OutcomeUnknownError
        """
        nodes = self._transport.nodes
        try:
            answer = await self._transport.attempt(
                self._call, url, self._headers, self._remaining_s
            )
        except NotSentError as error:
            nodes.avoid(url)
            self._unreached = str(error)
            return ()
        except NoAnswerError as error:
            nodes.avoid(url)
            self._unknown = str(error)
            return ()
        if 200 <= answer.status < 300:
            try:
                if answer.rubbish:
                    raise ValueError(answer.rubbish)
                value = self._read(answer)
            except (ValueError, RecursionError) as error:
                self._note(url, rubbish(answer, str(error)))
                return ()
            nodes.answered(url)
            return (value,)
        problem = read_problem(answer)
        if problem is None:
            self._note(url, rubbish(answer))
        elif problem.status in _TRY_AGAIN or (problem.status >= 500 and self._unknown):
            self._note(url, problem)
        elif self._unknown and self._call.writes and not self._decides(problem):
            self._last = of_problem(problem)
            raise self._gave_up()
        else:
            raise of_problem(problem)
        return ()

    def _decides(self, problem: Problem) -> bool:
        """Tell whether a refusal also says what became of earlier attempts."""
        return self._call.remembered and problem.status not in _NOT_OF_THE_LOG

    def _note(self, url: URL, problem: Problem) -> None:
        """Take note of an answer that decides nothing."""
        status = problem.status
        if status not in _BUSY:
            self._transport.nodes.avoid(url)
        may_have_happened = status in (500, 502, 504) or 200 <= status < 300
        if problem.code in _UNKNOWN_CODES or may_have_happened:
            self._unknown = f"{url}: {problem.code} {problem.detail}"
        self._last = of_problem(problem)

    def _gave_up(self) -> Exception:
        wanted = f"{self._call.method} {self._call.path}"
        if self._unknown is not None and self._call.writes:
            further = f"; then {self._last}" if self._last is not None else ""
            return OutcomeUnknownError(
                f"{wanted} may have been done: {self._unknown}{further}",
                self._key if self._call.remembered else None,
            )
        if self._last is not None:
            return self._last
        return UnreachableError(
            f"{wanted}: no node answered before the deadline: {self._unknown or self._unreached}"
        )
