"""Calls of the cluster as requests and answers of any framework (docs/BRANCH_CALLS.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from tidelock.errors import TidelockError
from tidelock.saga.arguments import Arguments

GREATEST_BODY_BYTES: Final = 1024 * 1024
"""Of a payload with what it refers to."""

_GREATEST_MESSAGE: Final = 500


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A call, with the path behind the place where the service is mounted."""

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """Its answer."""

    status: int
    body: bytes
    """JSON."""


class PayloadError(TidelockError):
    """A payload is not what the step takes."""


def failed(status: int, code: str, message: str) -> Reply:
    """Return an answer that says what is wrong."""
    return Reply(status=status, body=_said(code, message).encode())


def refusal_of(error: Exception) -> str:
    """Return what is answered to a call that a step refuses, as JSON."""
    code = getattr(error, "code", None)
    return _said(code if isinstance(code, str) else type(error).__name__, str(error))


def _said(code: str, message: str) -> str:
    return msgspec.json.encode({"code": code, "message": message[:_GREATEST_MESSAGE]}).decode()


_PAYLOAD: Final = msgspec.json.Decoder(dict[str, msgspec.Raw] | list[msgspec.Raw] | None)


def read_payload(body: bytes) -> dict[str, msgspec.Raw] | list[msgspec.Raw]:
    """Return the members of a payload, or its elements.

    Raises:
        PayloadError: it has none.
    """
    if not body.strip():
        return {}
    try:
        return _PAYLOAD.decode(body) or {}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PayloadError(f"the payload is no object with arguments by name: {error}") from None


def arguments_of(
    names: Arguments,
    payload: Mapping[str, msgspec.Raw] | list[msgspec.Raw],
    *,
    exactly: bool,
) -> dict[str, Any]:
    """Return the arguments of a function by name. What else there is, is refused if `exactly`.

    Raises:
        PayloadError: something is missing, or of another type.
    """
    if isinstance(payload, list):
        if exactly and len(payload) > len(names.names):
            raise PayloadError(f"{len(payload)} arguments, of which {len(names.names)} are known")
        payload = dict(zip(names.names, payload, strict=False))
    try:
        if exactly:
            names.check_names(payload)
        return names.read(payload)
    except ValueError as error:
        raise PayloadError(str(error)) from None
