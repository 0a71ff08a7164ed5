"""The worker as a process: started, spoken to by lines, started again when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

import services
from services.messages import (
    GREATEST_LINE_BYTES,
    Configure,
    FromNode,
    FromWorker,
    Stop,
    from_worker,
    to_line,
)

logger = logging.getLogger(__name__)

_ROOT: Final = str(Path(services.__file__).resolve().parents[1])
_AGAIN_S: Final = (0.2, 1.0, 5.0)
"""How long after its end a worker is started again: the longer the more often it ended."""

_LONG_LIFE_S: Final = 60.0
_END_S: Final = 3.0


class WorkerProcess:
    """Keeps one worker running. `on_message` and `on_end` are called on the loop."""

    def __init__(
        self,
        settings: Callable[[], Configure],
        on_message: Callable[[FromWorker], None],
        on_end: Callable[[str], None],
    ) -> None:
        """`settings` may raise OSError: the worker is not started then, and it is asked again."""
        self._settings = settings
        self._on_message = on_message
        self._on_end = on_end
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep(), name="services worker")

    def send(self, message: FromNode) -> None:
        """Send a message. One to a worker that has just ended is lost with it."""
        process = self._process
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError, RuntimeError):
                process.stdin.write(to_line(message) + b"\n")

    async def close(self) -> None:
        """End the worker, by force when it does not end by itself."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(_END_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def stop(self) -> None:
        """Have it begin nothing more."""
        self.send(Stop())

    async def _keep(self) -> None:
        ends = 0
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                why = await self._live()
            except (OSError, msgspec.MsgspecError, ValueError) as error:
                why = str(error)
            await self._reap()
            ends = 0 if loop.time() - began > _LONG_LIFE_S else ends + 1
            logger.warning("the worker of the services has ended: %s", why)
            self._on_end(why)
            await asyncio.sleep(_AGAIN_S[min(ends, len(_AGAIN_S)) - 1])

    async def _live(self) -> str:
        """Run one worker until it ends; return how it did."""
        settings = self._settings()
        path = os.environ.get("PYTHONPATH")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=GREATEST_LINE_BYTES,
            # A signal to the node's group is for the node, which ends its worker in order.
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": f"{_ROOT}{os.pathsep}{path}" if path else _ROOT},
        )
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        # The password goes through the pipe: arguments and environments can be looked at.
        process.stdin.write(to_line(settings) + b"\n")
        while line := await process.stdout.readline():
            self._on_message(from_worker.decode(line))
        status = await process.wait()
        return f"its status is {status}"

    async def _reap(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
