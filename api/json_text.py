"""JSON that is accepted must mean the same to everybody who reads it later.

What decodes into a request is checked once more as plain JSON: text that is not UTF-8, a key named
twice, a number that 64 bits cannot hold, nesting beyond reason. Some of it hides in parts that are
stored and returned as the client wrote them, where no type looks.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from api.errors import FieldError, Problem, of_invalid_json

GREATEST_DEPTH: Final = 64
"""Objects and arrays within each other, the body itself included."""

LEAST_INTEGER: Final = -(2**63)
GREATEST_INTEGER: Final = 2**64 - 1

_MANY: Final = 32

_SPACED: Final = re.compile(rb'"[ \t\n\r]+:')

T = TypeVar("T")

_decode_anything: Final[Callable[[bytes], Any]] = msgspec.json.Decoder().decode


class _BeyondLimitsError(Exception):
    """The JSON is well-formed but holds what we do not take; `_Scan` finds where."""


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Return the request that `body` holds.

    Raises:
        Problem: 400 when it is not JSON or names a key twice, 422 when a field is invalid.
    """
    try:
        keys = _count_keys(_decode_anything(body))
        if keys != body.count(b":") and not _names_only(keys, body) and _repeats_a_key(body):
            raise _BeyondLimitsError
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _Scan(body).fault() or of_invalid_json(error) from None
    except (_BeyondLimitsError, RecursionError):
        raise _Scan(body).fault() or _malformed("the nesting cannot be followed") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _malformed(str(error)) from None


def _names_only(keys: int, body: bytes) -> bool:
    """Return whether each `":` belongs to another one of so many keys.

    There are colons in URLs and xids, but hardly any behind a quote. Where nobody writes space
    before the colon of a key, there is one of these for each key that is written, and perhaps some
    in texts.
    """
    return keys == body.count(b'":') and _SPACED.search(body) is None


def _malformed(reason: str) -> Problem:
    return Problem("MALFORMED_JSON", f"The body is not JSON in UTF-8: {reason}.")


def _count_keys(tree: Any) -> int:
    """Return how many keys all objects have together.

    It descends level by level, so depth costs no stack.
    """
    keys = 0
    level = [tree]
    for _ in range(GREATEST_DEPTH):
        below: list[Any] = []
        for node in level:
            values: Any
            if type(node) is dict:
                keys += len(node)
                values = node.values()
            else:
                values = node if type(node) is list else (node,)
            # Many numbers beside each other are a vector: one look at all of them.
            if len(values) > _MANY and set(map(type, values)) == {int}:
                if min(values) < LEAST_INTEGER or max(values) > GREATEST_INTEGER:
                    raise _BeyondLimitsError
                continue
            for value in values:
                kind = type(value)
                if kind is dict or kind is list:
                    below.append(value)
                elif kind is int and not LEAST_INTEGER <= value <= GREATEST_INTEGER:
                    raise _BeyondLimitsError
        if not below:
            return keys
        level = below
    raise _BeyondLimitsError


def _ignore(_: str) -> None:
    """Numbers do not matter to who looks for keys, and Python refuses the longest."""


class _RepeatedKeyError(Exception):
    pass


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise _RepeatedKeyError


_keys_only: Final = json.JSONDecoder(
    object_pairs_hook=_refuse_repeated, parse_int=_ignore, parse_float=_ignore
)


def _repeats_a_key(body: bytes) -> bool:
    """Return whether an object names a key twice.

    Asked when there are more colons than keys: a text may contain one, or a decoder that keeps the
    last of two equal keys counted only that.
    """
    try:
        _keys_only.decode(body.decode())
    except _RepeatedKeyError:
        return True
    return False


_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[-0-9][-+.0-9eE]*', re.DOTALL)


class _Container:
    """An object or array that a scan is inside of."""

    __slots__ = ("is_object", "keys", "label")

    def __init__(self, is_object: bool) -> None:
        self.is_object = is_object
        self.keys: set[str] = set()
        self.label: str | int = "" if is_object else 0
        """The key or index that the scan is at."""


class _Scan:
    """Finds the first thing that is well-formed and yet refused. Slow, for what failed already."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._inside: list[_Container] = []

    def fault(self) -> Problem | None:
        key: bytes | None = None
        for match in _TOKEN.finditer(self._body):
            token = match[0]
            first = token[:1]
            if first in b"{[":
                self._inside.append(_Container(first == b"{"))
                if len(self._inside) > GREATEST_DEPTH:
                    self._inside.pop()
                    return self._invalid(f"is nested deeper than {GREATEST_DEPTH} levels")
            elif not self._inside:
                if first != b'"' and _is_beyond_64_bits(token):
                    return self._invalid("is a number beyond 64 bits; send it as a string")
            elif first in b"]}":
                self._inside.pop()
            elif first == b'"':
                key = token
            elif first == b":":
                if key is None or self._repeats(key):
                    return self._repeated()
            elif first == b",":
                self._next()
            elif _is_beyond_64_bits(token):
                return self._invalid("is a number beyond 64 bits; send it as a string")
        return None

    def _repeats(self, key: bytes) -> bool:
        container = self._inside[-1]
        name = _text_of(key)
        container.label = name
        if name in container.keys:
            return True
        container.keys.add(name)
        return False

    def _next(self) -> None:
        container = self._inside[-1]
        if isinstance(container.label, int):
            container.label += 1

    def _path(self) -> str:
        path = ""
        for container in self._inside:
            label = container.label
            path += f"[{label}]" if isinstance(label, int) else f".{label}"
        return path.removeprefix(".")[:200]

    def _invalid(self, message: str) -> Problem:
        path = self._path()
        return Problem(
            "INVALID_FIELD",
            f"{path}: {message}" if path else f"The body {message}",
            errors=[FieldError(path, message)],
        )

    def _repeated(self) -> Problem:
        path = self._path()
        message = "is named twice in one object"
        return Problem("DUPLICATE_KEY", f"{path}: {message}", errors=[FieldError(path, message)])


def _text_of(token: bytes) -> str:
    """Return the text of a JSON string; equal keys may be escaped differently."""
    try:
        return str(msgspec.json.decode(token))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return token.decode(errors="replace")


def _is_beyond_64_bits(token: bytes) -> bool:
    if token.lstrip(b"-").isdigit():
        digits = token.lstrip(b"-")
        if len(digits) > 20:
            return True
        return not LEAST_INTEGER <= int(token) <= GREATEST_INTEGER
    try:
        return math.isinf(float(token))
    except ValueError:
        return False
