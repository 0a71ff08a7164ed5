"""The application processes of a bank, as who starts them speaks to them."""

from __future__ import annotations

import asyncio
import collections
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from scripts.tidelock_scripts.accounts import teller
from scripts.tidelock_scripts.accounts.teller import Plan
from scripts.tidelock_scripts.local_cluster import ROOT

_ANSWER_WITHIN_S: Final = 30.0
_STOPPED_WITHIN_S: Final = 90.0
"""Longer than a transfer may take whose transaction nobody decides."""


class TellerError(Exception):
    """A process ended by itself, or does not answer."""


class Tellers:
    """All processes of a bank."""

    def __init__(self, processes: Sequence[asyncio.subprocess.Process]) -> None:
        self._processes = processes

    @property
    def pids(self) -> list[int]:
        """The processes."""
        return [process.pid for process in self._processes]

    async def count(self) -> collections.Counter[str]:
        """Return what all of them have done so far. Raises: TellerError"""
        return await self._ask("count", _ANSWER_WITHIN_S)

    async def stop(self) -> collections.Counter[str]:
        """Have the workers end, while the processes live on; return what they have done.

        Raises: TellerError
        """
        return await self._ask("stop", _STOPPED_WITHIN_S)

    async def _ask(self, word: str, within_s: float) -> collections.Counter[str]:
        found: collections.Counter[str] = collections.Counter()
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{word}\n".encode())
        for process in self._processes:
            found.update(msgspec.json.decode(await _line(process, within_s), type=dict[str, int]))
        return found


async def _line(process: asyncio.subprocess.Process, within_s: float) -> bytes:
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), within_s)
    except TimeoutError:
        raise TellerError(f"process {process.pid} does not answer") from None
    if not line:
        raise TellerError(f"process {process.pid} ended by itself: {await process.wait()}")
    return line


@asynccontextmanager
async def running_tellers(plans: Sequence[Plan]) -> AsyncIterator[Tellers]:
    """Start a process for each plan, and give them once they work; end them afterwards.

    Raises: TellerError
    """
    async with AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(_running(plan)) for plan in plans]
        for process in processes:
            await _line(process, _ANSWER_WITHIN_S)
        yield Tellers(processes)


@asynccontextmanager
async def _running(plan: Plan) -> AsyncIterator[asyncio.subprocess.Process]:
    with _log(plan) as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-P", "-m", teller.__name__, msgspec.json.encode(plan).decode()),
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
    assert process.stdin is not None
    try:
        yield process
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _STOPPED_WITHIN_S)
        except TimeoutError:
            process.kill()
            await process.wait()


def _log(plan: Plan) -> BinaryIO:
    return Path(f"{plan.journal}.log" if plan.journal else os.devnull).open("wb")
