"""Damage on disk is found without anybody asking for the row."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from node import scrub
from node.scrub import Scrub
from node.storage import LmdbStorage
from statemachine.store import DamagedStateError


async def test_a_flipped_bit_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub, "_PAUSE_S", 0.0)
    storage = LmdbStorage.open(tmp_path)
    for number in range(2_000):
        storage.put(b"E%06d" % number, b"value of row %06d" % number)
    storage.end_entry()
    storage.checkpoint(force=True)
    storage.close()
    file = next(tmp_path.glob("*.mdb"))
    content = file.read_bytes()
    at = content.rindex(b"value of row 001234")
    file.write_bytes(content[:at] + b"V" + content[at + 1 :])

    storage = LmdbStorage.open(tmp_path)
    found: asyncio.Future[DamagedStateError] = asyncio.get_running_loop().create_future()
    task = Scrub(storage, found.set_result)
    task.start()
    async with asyncio.timeout(10):
        error = await found
    assert "value of row" not in str(error)
    await task.close()
    storage.close()
