"""What becomes of a subscriber whose handler fails."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Final

_log: Final = logging.getLogger("tidelock.messages")


async def survive(work: Awaitable[object]) -> bool:
    """Await a handler; whether it succeeded. Its failure is logged, and its message comes again."""
    try:
        await work
    except Exception:
        _log.exception("a message was not handled, and comes again")
        return False
    return True
