"""What the steps of DTM's workflows came to: kept for their clients, who run them again from there.

progress      xid\\0  number           -> Progress
"""

from __future__ import annotations

from typing import Final

import msgspec

from statemachine import keys
from statemachine.store import Reader
from statemachine.write_buffer import WriteBuffer

GREATEST_PROGRESSES: Final = 1_000
"""Of one workflow."""


class Progress(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A row."""

    branch_id: str
    op: str
    status: str
    data: bytes
    at_ms: int
    """In wall time."""


_encode: Final = msgspec.msgpack.Encoder().encode
_rows: Final = msgspec.msgpack.Decoder(Progress)


def get_progresses(reader: Reader, xid: str) -> list[Progress]:
    """Return what was recorded, in order."""
    prefix = keys.DTM_PROGRESS + keys.terminated(xid)
    rows = reader.scan(prefix, prefix[:-1] + b"\x01", limit=GREATEST_PROGRESSES)
    return [_rows.decode(row) for _, row in rows]


def put_progress(writes: WriteBuffer, xid: str, number: int, progress: Progress) -> None:
    key = keys.DTM_PROGRESS + keys.terminated(xid) + keys.pack_number(number)
    writes.put(key, _encode(progress))
