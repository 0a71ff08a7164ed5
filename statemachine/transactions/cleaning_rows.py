"""What is stored of branches that are to be cleaned: a note of each, or, beyond a bound, a count.

A *place* is where guards lie: a resource, and the host as well when the resource is a file of one.

Rows of the state, after `keys.CHANNEL_INDEX`:

    c resource\\0 ended ms, xid\\0 branch         -> mode, host: what is to be cleaned
    k resource\\0 host\\0                        -> how many notes there are of a place
    s resource\\0 host\\0 mode\\0                 -> LeftOut: of how many there is none
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import msgspec

from statemachine import keys
from statemachine.store import Reader
from statemachine.transactions.channel_rows import LOCAL_RESOURCE
from statemachine.write_buffer import WriteBuffer

AT_ONCE: Final = 0
"""Instead of the time of its end: of a branch that is cleaned without a delay."""


class Cleaning(msgspec.Struct, frozen=True):
    """A branch of an ended transaction whose guards are no longer needed."""

    resource_id: str
    ended_ms: int
    """In elapsed time, or `AT_ONCE`."""
    xid: str
    branch_id: int
    mode: str
    host: str = ""
    """Of the process that registered it, when that is known."""


class LeftOut(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Branches of one mode that ended and were not noted."""

    count: int
    """0: of none it is known, but a process that may have some was lost."""
    ended_ms: int
    """When the last of them did, in elapsed time."""


class Sweep(msgspec.Struct, frozen=True):
    """A place where guards of branches lie that were not noted."""

    resource_id: str
    host: str
    """Empty, unless the resource is a file."""
    mode: str
    left_out: LeftOut


_GREATEST_HOST_BYTES: Final = 200
"""Terminated; of a longer one a digest stands here, since keys of the state are short."""

_encode: Final = msgspec.msgpack.Encoder().encode
_kept_of_cleaning: Final = msgspec.msgpack.Decoder(tuple[str, str])
_left_out: Final = msgspec.msgpack.Decoder(LeftOut)

_TO_CLEAN: Final = keys.CHANNEL_INDEX + b"c"
_NOTED: Final = keys.CHANNEL_INDEX + b"k"
_LEFT_OUT: Final = keys.CHANNEL_INDEX + b"s"


def _after(prefix: bytes) -> bytes:
    """Return the first key after all that are a terminated name and a number."""
    return keys.stop_of_events(prefix)


def host_of_place(resource_id: str, host: str) -> str:
    """Return the host that belongs to the place of a resource: empty when any serves it."""
    if not resource_id.startswith(LOCAL_RESOURCE):
        return ""
    if len(keys.terminated(host)) <= _GREATEST_HOST_BYTES:
        return host
    return blake2b(host.encode(), digest_size=32).hexdigest()


# --- notes


def put_cleaning(writes: WriteBuffer, cleaning: Cleaning) -> None:
    writes.put(_cleaning_key(cleaning), _encode((cleaning.mode, cleaning.host)))


def delete_cleaning(writes: WriteBuffer, cleaning: Cleaning) -> Cleaning | None:
    """Delete the note of a branch, whatever its mode, and return it; None when there is none."""
    key = _cleaning_key(cleaning)
    row = writes.get(key)
    if row is None:
        return None
    writes.delete(key)
    mode, host = _kept_of_cleaning.decode(row)
    return msgspec.structs.replace(cleaning, mode=mode, host=host)


def resources_to_clean(reader: Reader, after: str, limit: int) -> list[str]:
    """Return resources with something to clean, those behind the name `after`."""
    found: list[str] = []
    begin = _after(_TO_CLEAN + keys.terminated(after)) if after else _TO_CLEAN
    stop = keys.stop_of(_TO_CLEAN)
    while len(found) < limit and (rows := reader.scan(begin, stop, limit=1)):
        rest = rows[0][0][len(_TO_CLEAN) :]
        name = rest[: _terminator(rest) + 1]
        found.append(keys.name_of(name))
        begin = _after(_TO_CLEAN + name)
    return found


def due_cleanings(reader: Reader, resource_id: str, before_ms: int, limit: int) -> list[Cleaning]:
    """Return what ended before an elapsed time on one resource, the first ended first; before all,
    what is cleaned at once.
    """
    prefix = _TO_CLEAN + keys.terminated(resource_id)
    stop = prefix + keys.pack_number(max(AT_ONCE + 1, before_ms))
    rows = reader.scan(prefix, stop, limit=limit)
    return [
        Cleaning(
            resource_id,
            int.from_bytes(key[len(prefix) : len(prefix) + 8], "big"),
            keys.name_of(key[len(prefix) + 8 : -8]),
            int.from_bytes(key[-8:], "big"),
            *_kept_of_cleaning.decode(row),
        )
        for key, row in rows
    ]


def _terminator(name: bytes) -> int:
    """Return where a terminated name ends that something follows."""
    at = name.index(b"\0")
    while name[at + 1 : at + 2] == b"\xff":
        at = name.index(b"\0", at + 1)
    return at


def _cleaning_key(cleaning: Cleaning) -> bytes:
    return (
        _TO_CLEAN
        + keys.terminated(cleaning.resource_id)
        + keys.pack_number(cleaning.ended_ms)
        + keys.terminated(cleaning.xid)
        + keys.pack_number(cleaning.branch_id)
    )


# --- how many there are


def get_noted(reader: Reader, resource_id: str, host: str) -> int:
    """Return how many notes there are of a place."""
    row = reader.get(_NOTED + _place(resource_id, host))
    return 0 if row is None else int.from_bytes(row, "big")


def put_noted(writes: WriteBuffer, resource_id: str, host: str, count: int) -> None:
    key = _NOTED + _place(resource_id, host)
    if count:
        writes.put(key, keys.pack_number(count))
    else:
        writes.delete(key)


# --- what was left out


def get_left_out(reader: Reader, resource_id: str, host: str, mode: str) -> LeftOut | None:
    row = reader.get(_LEFT_OUT + _place(resource_id, host) + keys.terminated(mode))
    return None if row is None else _left_out.decode(row)


def put_left_out(
    writes: WriteBuffer, resource_id: str, host: str, mode: str, left_out: LeftOut
) -> None:
    writes.put(_LEFT_OUT + _place(resource_id, host) + keys.terminated(mode), _encode(left_out))


def delete_left_out(writes: WriteBuffer, resource_id: str, host: str, mode: str) -> None:
    writes.delete(_LEFT_OUT + _place(resource_id, host) + keys.terminated(mode))


def sweeps(reader: Reader, after: bytes, limit: int) -> list[tuple[bytes, Sweep]]:
    """Return where guards lie that are in no note, each with what comes after it."""
    start = _LEFT_OUT + after
    found: list[tuple[bytes, Sweep]] = []
    for key, row in reader.scan(start, keys.stop_of(_LEFT_OUT), limit=limit):
        rest = key[len(_LEFT_OUT) :]
        names: list[str] = []
        while rest:
            end = _terminator(rest) + 1
            names.append(keys.name_of(rest[:end]))
            rest = rest[end:]
        resource_id, host, mode = names
        sweep = Sweep(resource_id, host, mode, _left_out.decode(row))
        found.append((key[len(_LEFT_OUT) :] + b"\0", sweep))
    return found


def _place(resource_id: str, host: str) -> bytes:
    return keys.terminated(resource_id) + keys.terminated(host)
