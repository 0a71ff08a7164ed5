"""Reads the whole state again and again, so that damage is found before somebody needs the row."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from node.storage import LmdbStorage
from statemachine.store import DamagedStateError

_SLICE_BYTES: Final = 256 << 10
_PAUSE_S: Final = 1.0
"""A slice takes about 3 ms: a gigabyte an hour, and less than half a percent of the loop."""


class Scrub:
    def __init__(
        self, storage: LmdbStorage, on_damage: Callable[[DamagedStateError], object]
    ) -> None:
        self._storage = storage
        self._on_damage = on_damage
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="scrub")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        position = b""
        while True:
            await asyncio.sleep(_PAUSE_S)
            try:
                following = self._storage.scrub_step(position or b"\x00", _SLICE_BYTES)
            except DamagedStateError as error:
                self._on_damage(error)
                return
            position = following or b""
