"""The bytes of the log and of stored outcomes: msgpack arrays, never changed once released.

Requests are encoded once, where they arrive. A batcher splices them into a unit and the leader
splices units into an entry, neither of them decoding what it carries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from statemachine.commands import ENTRY_FORMAT, Entry, Request, Unit
from statemachine.outcomes import RequestOutcome


class MalformedEntryError(Exception):
    """These bytes are not an entry, or not a unit, of a format that this version knows.

    A unit that a peer forwards is refused with it before it is proposed. Met in apply it means that
    the log is damaged or newer than this program: the process must stop.
    """


_encode: Final = msgspec.msgpack.Encoder().encode
_entries: Final = msgspec.msgpack.Decoder(Entry)
_units: Final = msgspec.msgpack.Decoder(Unit)
_outcomes: Final = msgspec.msgpack.Decoder(tuple[RequestOutcome, ...])
_formats: Final = msgspec.msgpack.Decoder(list[msgspec.Raw])

# Text that is not UTF-8 and arrays nested without end are errors of Python, not of msgspec.
_UNDECODABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def encode_request(request: Request) -> bytes:
    return _encode(request)


def encode_unit(session: bytes, sequence: int, watermark: int, requests: Sequence[bytes]) -> bytes:
    """Return the unit of requests that are encoded already."""
    return _encode((session, sequence, watermark, list(map(msgspec.Raw, requests))))


def encode_entry(wall_ms: int, elapsed_ms: int, units: Sequence[bytes]) -> bytes:
    """Return the entry of units that are encoded already, with the leader's stamps."""
    return _encode((ENTRY_FORMAT, wall_ms, elapsed_ms, list(map(msgspec.Raw, units))))


def decode_entry(payload: bytes) -> Entry:
    """Raises: MalformedEntryError"""
    try:
        entry = _entries.decode(payload)
    except _UNDECODABLE as error:
        raise MalformedEntryError(_why_not_an_entry(payload, error)) from error
    if entry.format != ENTRY_FORMAT:
        raise MalformedEntryError(_unknown_format(entry.format))
    return entry


def decode_unit(payload: bytes) -> Unit:
    """Raises: MalformedEntryError"""
    try:
        return _units.decode(payload)
    except _UNDECODABLE as error:
        raise MalformedEntryError(f"not a unit: {error}") from error


def encode_outcomes(outcomes: tuple[RequestOutcome, ...]) -> bytes:
    """Return the outcomes of a unit as they are kept until the submitter has settled it."""
    return _encode(outcomes)


def decode_outcomes(payload: bytes) -> tuple[RequestOutcome, ...]:
    """Raises: msgspec.DecodeError: only rows that `encode_outcomes` made may come here."""
    return _outcomes.decode(payload)


def _why_not_an_entry(payload: bytes, error: Exception) -> str:
    """Say which format it has, when it has one: the shape may differ in all the rest."""
    try:
        found = msgspec.msgpack.decode(_formats.decode(payload)[0], type=int)
    except (*_UNDECODABLE, IndexError):
        return f"not an entry: {error}"
    return _unknown_format(found) if found != ENTRY_FORMAT else f"not an entry: {error}"


def _unknown_format(found: int) -> str:
    return f"entry format {found} is unknown; this version reads format {ENTRY_FORMAT}"
