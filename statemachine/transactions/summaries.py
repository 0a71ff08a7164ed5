"""What stays of a transaction that is no longer kept in full: that it ended, when and how.

summary       xid\\0                   -> Summary
"""

from __future__ import annotations

from typing import Final

import msgspec

from statemachine import keys
from statemachine.outcomes import TransactionStanding
from statemachine.store import Reader
from statemachine.transactions.rows import GREATEST_XID_BYTES
from statemachine.write_buffer import WriteBuffer


class Summary(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True
):
    """What is known of it for good."""

    status: str
    reason: str
    name: str
    program: str
    mode: str
    begun_ms: int
    """In wall time, as the next."""
    ended_ms: int
    branches: int
    over_ms: int
    """When it ended, in elapsed time."""

    def standing(self, xid: str) -> TransactionStanding:
        """Return the same for who cannot have what was asked of it."""
        return TransactionStanding(
            xid=xid, status=self.status, reason=self.reason, ended_ms=self.ended_ms
        )


_encode: Final = msgspec.msgpack.Encoder().encode
_summaries: Final = msgspec.msgpack.Decoder(Summary)


def get_summary(reader: Reader, xid: str) -> Summary | None:
    if len(xid) > GREATEST_XID_BYTES:
        return None
    row = reader.get(keys.SUMMARY + keys.terminated(xid))
    return None if row is None else _summaries.decode(row)


def put_summary(writes: WriteBuffer, xid: str, summary: Summary) -> None:
    writes.put(keys.SUMMARY + keys.terminated(xid), _encode(summary))


def erase_summary(writes: WriteBuffer, xid: str) -> None:
    writes.delete(keys.SUMMARY + keys.terminated(xid))
