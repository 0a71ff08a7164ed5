"""What every request can carry: a body, a deadline, an idempotency key, a consistency, a page."""

from __future__ import annotations

import asyncio
import enum
import re
from hashlib import blake2b
from typing import Final, TypeVar

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from multidict import istr

from api.cluster import Consistency
from api.errors import Problem, refuse_field, refuse_size
from api.settings import (
    DEFAULT_PAGE,
    GREATEST_NAME_LENGTH,
    GREATEST_PAGE,
    ApiSettings,
)
from api.shapes import END, PRINTABLE
from statemachine.commands import IdempotencyKey
from statemachine.keys import GREATEST_NUMBER, GREATEST_PLACE
from statemachine.outcomes import Position

CONTENT_TYPE: Final = istr("Content-Type")
CONTENT_ENCODING: Final = istr("Content-Encoding")
IDEMPOTENCY_KEY: Final = istr("Idempotency-Key")
TIMEOUT: Final = istr("Tidelock-Timeout-Ms")
LAST_EVENT_ID: Final = istr("Last-Event-ID")

POSITION: Final = r"^[0-9]{1,19}\.[0-9]{1,10}$"
"""How a position in the log is written, `entry.place`."""

GREATEST_KEY_LENGTH: Final = 200
KEY_PATTERN: Final = f"^[!-~]{{1,{GREATEST_KEY_LENGTH}}}{END}"
DIGEST_BYTES: Final = 16

Choice = TypeVar("Choice", bound=enum.StrEnum)

PRINCIPAL: Final = ""
"""Whose all idempotency keys are, as long as nobody needs to say who asks."""

_PRINTABLE: Final = re.compile(PRINTABLE)
_VISIBLE_ASCII: Final = re.compile(rf"[!-~]{{1,{GREATEST_KEY_LENGTH}}}")
_POSITION: Final = re.compile(POSITION[1:-1])
_DECIMAL: Final = re.compile(r"[0-9]{1,19}")
_JSON_TYPE: Final = re.compile(
    r"application/json[ \t]*(?:;[ \t]*charset[ \t]*=[ \t]*\"?utf-?8\"?[ \t]*)?;?[ \t]*",
    re.IGNORECASE,
)


def client_has_gone(request: web.Request) -> bool:
    """Tell whether the client has closed the connection that it waits on."""
    transport = request.transport
    return transport is None or transport.is_closing()


async def read_json(request: web.Request, settings: ApiSettings) -> bytes:
    """Return the body, which must be declared as JSON.

    Raises:
        Problem: 415 when it is declared as something else; 408 and 413 as for `read_body`.
    """
    headers = request.headers
    declared = headers.get(CONTENT_TYPE, "")
    if declared != "application/json" and _JSON_TYPE.fullmatch(declared) is None:
        raise Problem(
            "NOT_JSON",
            f"The body is declared as {declared[:100]!r}. Send JSON in UTF-8 with Content-Type: "
            "application/json.",
        )
    encoding = headers.get(CONTENT_ENCODING)
    if encoding is not None and encoding.lower() != "identity":
        raise Problem(
            "NOT_JSON",
            f"The body is compressed ({encoding[:100]!r}). Send it as it is, without "
            "Content-Encoding.",
        )
    return await read_body(request, settings)


async def read_optional_json(request: web.Request, settings: ApiSettings) -> bytes:
    """Return the body as `read_json` does; empty when there is none.

    Raises:
        Problem
    """
    return await read_json(request, settings) if request.body_exists else b""


async def read_body(request: web.Request, settings: ApiSettings) -> bytes:
    """Return the body as it was sent.

    Raises:
        Problem: 413 when it is larger than allowed, 408 when it does not arrive in time, 400 when
            it breaks off.
    """
    try:
        return await _read_body(request, settings)
    except (HttpProcessingError, ConnectionError) as error:
        raise Problem(
            "MALFORMED_REQUEST",
            "The body broke off: its chunks are malformed, or the connection was lost.",
        ) from error


async def _read_body(request: web.Request, settings: ApiSettings) -> bytes:
    content = request.content
    limit = settings.greatest_body_bytes
    if content.is_eof():
        # It came together with the headers, as small ones do: `request.read` would copy it twice.
        body = content.read_nowait()
        if len(body) > limit:
            refuse_size("body", len(body), limit)
        return body
    declared = request.content_length
    if declared is not None and declared > limit:
        refuse_size("body", declared, limit)
    parts = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            while chunk := await content.readany():
                parts += chunk
                if len(parts) > limit:
                    refuse_size("body", len(parts), limit)
    except TimeoutError:
        raise Problem(
            "BODY_TIMEOUT",
            f"The body was not there {settings.body_timeout_s:g} s after its headers.",
        ) from None
    return bytes(parts)


def timeout_ms(request: web.Request, settings: ApiSettings) -> int:
    """Return the request's deadline, milliseconds from now."""
    text = _header(request, TIMEOUT)
    if text is None:
        return settings.default_timeout_ms
    timeout = _number(text)
    greatest = settings.greatest_timeout_ms
    if not 1 <= timeout <= greatest:
        refuse_field(str(TIMEOUT), f"must be an integer from 1 to {greatest}")
    return timeout


def waiting_timeout_ms(request: web.Request, settings: ApiSettings, wait_ms: int) -> int:
    """Return the deadline of a request that may wait so long for its turn."""
    asked_ms = timeout_ms(request, settings)
    return asked_ms if TIMEOUT in request.headers else asked_ms + wait_ms


def idempotency(request: web.Request, body: bytes, settings: ApiSettings) -> IdempotencyKey | None:
    """Return the client's key with the digest of what was asked, None when it sent no key.

    The digest is over the body as sent, before defaults are filled in: a retry through another
    node is the same request although that node's defaults differ.
    """
    key = idempotency_key(request)
    if key is None:
        return None
    asked = blake2b(f"{request.method} {request.path}\n".encode(), digest_size=DIGEST_BYTES)
    asked.update(body)
    return IdempotencyKey(
        principal=PRINCIPAL, key=key, digest=asked.digest(), ttl_ms=settings.idempotency_ttl_ms
    )


def idempotency_key(request: web.Request) -> str | None:
    """Return the client's key, None when it sent none."""
    key = _header(request, IDEMPOTENCY_KEY)
    if key is not None and _VISIBLE_ASCII.fullmatch(key) is None:
        refuse_field(
            str(IDEMPOTENCY_KEY), f"must be 1 to {GREATEST_KEY_LENGTH} visible ASCII characters"
        )
    return key


def _header(request: web.Request, name: istr) -> str | None:
    """Return a header that may be given once: of two, another program may heed the other."""
    values = request.headers.getall(name, ())
    if len(values) > 1:
        refuse_field(str(name), "is given more than once")
    return values[0] if values else None


def refuse_unknown_parameters(request: web.Request, known: frozenset[str]) -> None:
    """Raise unless the query names each of its parameters once and all are known."""
    query = request.query
    for name in query:
        if name not in known:
            refuse_field(name[:GREATEST_NAME_LENGTH], "is not a parameter of this request")
        if len(query.getall(name)) > 1:
            refuse_field(name, "is given more than once")


def consistency(request: web.Request) -> Consistency:
    """Return how fresh a read must be; linearizable unless the query says otherwise."""
    if "?" not in request.raw_path:
        return Consistency.LINEARIZABLE
    text = request.query.get("consistency")
    if text is None:
        return Consistency.LINEARIZABLE
    try:
        return Consistency(text)
    except ValueError:
        refuse_field("consistency", "must be linearizable or local")


def page(request: web.Request) -> tuple[int, str | None]:
    """Return the limit and the cursor of a list."""
    limit = integer(request, "limit", DEFAULT_PAGE, least=1, greatest=GREATEST_PAGE)
    return limit, request.query.get("cursor")


def integer(request: web.Request, name: str, default: int, *, least: int, greatest: int) -> int:
    """Return an integer of the query."""
    text = request.query.get(name)
    if text is None:
        return default
    number = _number(text)
    if not least <= number <= greatest:
        refuse_field(name, f"must be an integer from {least} to {greatest}")
    return number


def choice(request: web.Request, name: str, choices: type[Choice]) -> Choice | None:
    """Return a word of the query that must be one of an enumeration, None when it is not given."""
    text = request.query.get(name)
    if text is None:
        return None
    try:
        return choices(text)
    except ValueError:
        refuse_field(name, f"must be one of {', '.join(choices)}")


def position(name: str, text: str) -> Position:
    """Return a position in the log. `name` is what gives it: a parameter or a header."""
    entry, _, place = text.partition(".")
    found = _POSITION.fullmatch(text)
    if found is None or int(entry) > GREATEST_NUMBER or int(place) > GREATEST_PLACE:
        refuse_field(name, "must be a position in the log: entry and place with a dot, as in 12.0")
    return Position(int(entry), int(place))


def _number(text: str) -> int:
    """Return a decimal number, or -1, which no bound here admits, when it is none."""
    return -1 if _DECIMAL.fullmatch(text) is None else int(text)


def name(path: str, text: str, greatest: int = GREATEST_NAME_LENGTH) -> str:
    """Return `text` when it can be a name: of a participant, a kind of event, a source.

    Length is checked again in bytes: the state keeps names in keys of bounded size.
    """
    if not text or not (text.isprintable() or _PRINTABLE.match(text)):
        refuse_field(path, "must be 1 or more printable characters")
    if len(text) > greatest or (
        not text.isascii() and len(text.encode(errors="replace")) > greatest
    ):
        refuse_field(path, f"must be at most {greatest} bytes of UTF-8")
    return text


def query_name(request: web.Request, path: str) -> str | None:
    """Return a name of the query, None when it is not given."""
    text = request.query.get(path)
    return None if text is None else name(path, text)


def path_name(request: web.Request, path: str) -> str:
    """Return a name of the path."""
    return name(path, request.match_info[path])
