"""Idempotency keys: UUIDs of version 7 (RFC 9562), which the cluster writes in order of time."""

from __future__ import annotations

import os
import re
import time
import uuid
from typing import Final

_KEY: Final = re.compile(r"[!-~]{1,200}")


def is_key(text: str) -> bool:
    """Tell whether nodes take this as a key."""
    return _KEY.fullmatch(text) is not None


def new_key() -> str:
    """Return a fresh key."""
    stamp_ms = time.time_ns() // 1_000_000 & (1 << 48) - 1
    chance = int.from_bytes(os.urandom(10), "big")
    high, low = chance >> 62 & 0xFFF, chance & (1 << 62) - 1
    return str(uuid.UUID(int=stamp_ms << 80 | 7 << 76 | high << 64 | 0b10 << 62 | low))
