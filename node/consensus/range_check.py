"""A walk through the whole state, a slice at each digest checkpoint, on every node the same.

The machine's digest covers what was ever written; it cannot see a row that a disk lost afterwards.
So at each checkpoint the rows of one slice are read and digested too. Where the next slice begins
is itself part of the state, and all nodes stand at the same entry then, so the digests must agree.
"""

from __future__ import annotations

from typing import Final

from node.consensus.state import StateStorage

CURSOR_KEY: Final = b"\x00range"
"""Where the next slice begins. Rows below `_FIRST_KEY` are the node's own and not compared."""

SLICE_BYTES: Final = 512 << 10
"""Some 5 ms of reading at each checkpoint, which comes every 1,024 entries."""

_FIRST_KEY: Final = b"\x01"
_STOP_KEY: Final = b"\xff" * 8


class RangeCheck:
    def __init__(self, storage: StateStorage) -> None:
        self._storage = storage

    def next_digest(self) -> bytes:
        """Digest the next slice and move on. Called right after a checkpoint was applied."""
        start = self._storage.get(CURSOR_KEY) or _FIRST_KEY
        digest, following = self._storage.range_digest(start, _STOP_KEY, SLICE_BYTES)
        self._storage.put(CURSOR_KEY, following or _FIRST_KEY)
        self._storage.end_entry()
        return digest
