"""What came when its transaction was over is undone, again and again until it is.

Nobody asks for such work any more: its guards have gone with its transaction. While its process
lives, that one repeats it here; when it has died, a sweep finds it (`tidelock.sql.sweeping`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from tidelock.application import Application
from tidelock.errors import ClientClosedError

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0

_log: Final = logging.getLogger("tidelock.sql")


def take_back_later(
    application: Application, undo: Callable[[], Awaitable[None]], what: str
) -> None:
    """Undo something on the application's loop, in the background, until that succeeds."""
    try:
        application.client.submit(lambda _: _until_undone(undo, what))
    except ClientClosedError:
        _log.error("%s was done too late, and is not undone: the application is closed", what)


async def _until_undone(undo: Callable[[], Awaitable[None]], what: str) -> None:
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            await asyncio.sleep(pause_s)
            await undo()
        except asyncio.CancelledError:
            _log.error("%s was done too late, and is not undone: the application closes", what)
            raise
        except Exception as error:
            _log.warning("%s was done too late, and is not undone yet: %s", what, error)
        else:
            _log.info("%s was done too late, and is undone", what)
            return
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
