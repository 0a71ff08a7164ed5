"""The four services as processes of their own, which may be killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from aiohttp import ClientError, ClientSession, ClientTimeout

from scripts.tidelock_scripts.local_cluster import ROOT
from tidelock.crash_points import VARIABLE

READY_WITHIN_S: Final = 90.0
_STOPS_WITHIN_S: Final = 15.0
_POLL_S: Final = 0.02


class ServiceError(Exception):
    """A service does not run; the message has the end of its log."""


class Service:
    """One of them."""

    def __init__(self, name: str, port: int, folder: Path, environment: Mapping[str, str]) -> None:
        """`environment` are the settings of examples/purchase/service.py."""
        self.name = name
        self.port = port
        self.log_file = folder / f"{name}.log"
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._log_from = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, **settings: str) -> None:
        """Start it, with further variables of the environment. Does not wait for it."""
        environment = {
            **{name: value for name, value in os.environ.items() if name != VARIABLE},
            **self._environment,
            **settings,
            "PURCHASE_PORT": str(self.port),
            "PYTHONPATH": str(ROOT),
        }
        # It ends with this process, in whatever way that ends, where there is a way to say so.
        program = ["setpriv", "--pdeathsig=TERM"] if shutil.which("setpriv") else []
        program += [sys.executable, "-P", "-m", f"examples.purchase.{self.name}"]
        with self.log_file.open("ab") as log:
            self._log_from = log.tell()
            self._process = subprocess.Popen(
                program, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def ask_to_end(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def wait_until_ended(self) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(_STOPS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def log_tail(self, lines: int = 15) -> str:
        """Return the end of its log since it was started, under a heading."""
        logged = self.log_file.read_bytes()[self._log_from :] if self.log_file.exists() else b""
        kept = logged.decode(errors="replace").splitlines()[-lines:]
        return "\n".join([f"== {self.log_file}", *kept])


async def wait_until_ready(services: Iterable[Service]) -> None:
    """Return when each of them answers.

    Raises:
        ServiceError: one ended, or does not answer in time.
    """
    ends_at = time.monotonic() + READY_WITHIN_S
    async with ClientSession(timeout=ClientTimeout(total=2)) as session:
        for service in services:
            while not await _answers(session, service):
                if not service.runs:
                    raise ServiceError(f"{service.name} has ended\n{service.log_tail()}")
                if time.monotonic() >= ends_at:
                    raise ServiceError(f"{service.name} does not answer\n{service.log_tail()}")
                await asyncio.sleep(_POLL_S)


async def _answers(session: ClientSession, service: Service) -> bool:
    with contextlib.suppress(ClientError, OSError):  # a timeout is an OSError
        async with session.get(f"{service.url}/health") as response:
            return response.status == 200
    return False


def stop(services: Iterable[Service]) -> None:
    """End them all, together."""
    ending = list(services)
    for service in ending:
        service.ask_to_end()
    for service in ending:
        service.wait_until_ended()
