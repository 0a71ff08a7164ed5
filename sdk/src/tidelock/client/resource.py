"""What all kinds of things in a cluster have in common for a client.

Everything takes `timeout_ms`, the deadline of the call with all its attempts, and `at`, the address
of a node that alone is asked; any other node is as good unless the answer is about the node itself.
What is raised is drawn in `tidelock.errors`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal, TypedDict, TypeVar, Unpack
from urllib.parse import quote, urlencode

from tidelock.client.answers import Page
from tidelock.client.attempts import JsonOf, Read, call
from tidelock.client.transport import Call, Transport, encode
from tidelock.errors import NodeFailureError, Problem

T = TypeVar("T")
Part = TypeVar("Part", bound=Page[Any])  # of whatever

Consistency = Literal["linearizable", "local"]


class Asking(TypedDict, total=False):
    """What every call takes."""

    timeout_ms: int
    at: str


class Reading(Asking, total=False):
    """What every call takes that reads the state; `local` is what the node has applied so far."""

    consistency: Consistency


class Listing(Reading, total=False):
    """What every list takes; 100 items come with a request unless `page_size` says otherwise."""

    page_size: int


class Writing(Asking, total=False):
    """What every write takes: the key of an earlier call makes it the same call."""

    idempotency_key: str


def asking_of(options: Asking) -> Asking:
    """Return what of the options every call takes."""
    asking: Asking = {}
    if "timeout_ms" in options:
        asking["timeout_ms"] = options["timeout_ms"]
    if "at" in options:
        asking["at"] = options["at"]
    return asking


def reading_of(options: Reading) -> Reading:
    """Return what of the options every read takes."""
    reading: Reading = {}
    if "timeout_ms" in options:
        reading["timeout_ms"] = options["timeout_ms"]
    if "at" in options:
        reading["at"] = options["at"]
    if "consistency" in options:
        reading["consistency"] = options["consistency"]
    return reading


class Resource:
    """One kind."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def _get(
        self,
        path: str,
        answer: type[T],
        query: Mapping[str, object] | None = None,
        **options: Unpack[Reading],
    ) -> T:
        return await self._read(path, JsonOf(answer), query or {}, **options)

    async def _read(
        self, path: str, read: Read[T], query: Mapping[str, object], **options: Unpack[Reading]
    ) -> T:
        given = {**query, "consistency": options.get("consistency")}
        wanted = Call(method="GET", path=path + query_of(given))
        return await call(self._transport, wanted, read, **asking_of(options))

    async def _post(
        self,
        path: str,
        body: Mapping[str, Any],
        answer: type[T],
        check: Callable[[T], bool] | None = None,
        **options: Unpack[Writing],
    ) -> T:
        wanted = Call(method="POST", path=path, body=encode(body), writes=True)
        return await call(self._transport, wanted, JsonOf(answer, check), **options)

    async def _post_waiting(
        self,
        path: str,
        body: Mapping[str, Any],
        answer: type[T],
        check: Callable[[T], bool] | None,
        wait_ms: int,
        **options: Unpack[Writing],
    ) -> T:
        """POST what may be answered up to `wait_ms` late. It goes on though its caller leaves."""
        wanted = Call(method="POST", path=path, body=encode(body), writes=True, waits=wait_ms > 0)
        asked = self._put_off(wait_ms, options)
        return await call(self._transport, wanted, JsonOf(answer, check), **asked)

    def _put_off(self, wait_ms: int, options: Writing) -> Writing:
        """Return the options with a deadline that a wait puts off."""
        timeout_ms = options.get("timeout_ms", self._transport.timeout_ms)
        return {**options, "timeout_ms": timeout_ms + max(0, wait_ms)}

    async def _post_all(
        self, path: str, body: Mapping[str, Any], answer: type[T], **options: Unpack[Writing]
    ) -> T:
        """POST a body of which None is a value."""
        content = encode(body, leave_out_none=False)
        wanted = Call(method="POST", path=path, body=content, writes=True)
        return await call(self._transport, wanted, JsonOf(answer), **options)

    async def _operate(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        answer: type[T],
        **options: Unpack[Writing],
    ) -> T:
        """Change something that is not remembered under its key."""
        content = None if body is None else encode(body)
        wanted = Call(method=method, path=path, body=content, writes=True, remembered=False)
        return await call(self._transport, wanted, JsonOf(answer), **options)

    async def _ask(
        self,
        path: str,
        body: Mapping[str, Any],
        answer: type[T],
        check: Callable[[T], bool] | None = None,
        **options: Unpack[Asking],
    ) -> T:
        """POST what changes nothing, or may be done as often as one likes."""
        wanted = Call(method="POST", path=path, body=encode(body))
        return await call(self._transport, wanted, JsonOf(answer, check), **options)

    async def _write(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        answer: type[T],
        check: Callable[[T], bool] | None = None,
        **options: Unpack[Writing],
    ) -> T:
        """PUT or DELETE."""
        content = None if body is None else encode(body)
        wanted = Call(method=method, path=path, body=content, writes=True)
        return await call(self._transport, wanted, JsonOf(answer, check), **options)

    async def _all(
        self,
        path: str,
        page: type[Page[T]],
        query: Mapping[str, object],
        **options: Unpack[Listing],
    ) -> AsyncIterator[T]:
        """Yield the items of a list, part by part."""
        async with aclosing(self._parts(path, page, query, **options)) as parts:
            async for part in parts:
                for item in part.items:
                    yield item

    async def _parts(
        self,
        path: str,
        page: type[Part],
        query: Mapping[str, object],
        **options: Unpack[Listing],
    ) -> AsyncGenerator[Part, None]:
        """Yield the parts of a list."""
        cursor: str | None = None
        given = {**query, "limit": options.get("page_size")}
        reading = reading_of(options)
        while True:
            part = await self._get(path, page, {**given, "cursor": cursor}, **reading)
            yield part
            if part.next_cursor is None:
                return
            cursor = onwards(cursor, part.next_cursor)


def onwards(cursor: str | None, following: str) -> str:
    """Return the cursor of the next part. Raises: NodeFailureError: it is that of this one."""
    if following == cursor:
        raise NodeFailureError(
            Problem(status=200, code="NOT_A_NODE", detail="a part of a list is followed by itself")
        )
    return following


def part(name: str) -> str:
    """Return a name as one part of a path.

    Raises: ValueError: it is empty, which makes another path.
    """
    if not name:
        raise ValueError("a name must not be empty")
    return quote(name, safe="")


def names(option: str, given: Sequence[str]) -> Sequence[str]:
    """Return what is given. Raises: ValueError: it is one text, not a list of them."""
    if isinstance(given, str):
        raise ValueError(f"{option} must be a list, as [{given!r}]")
    return given


def query_of(given: Mapping[str, object]) -> str:
    """Return the query of what is given, with its question mark."""
    text = urlencode({name: value for name, value in given.items() if value is not None})
    return f"?{text}" if text else ""
