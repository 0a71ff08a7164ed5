"""Processes of one application that take part in transactions, some of which are killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from typing import Any

from tests.databases.connections import DIALECT_OF, Database
from tests.meta.documents import ROOT
from tidelock.application import Application
from tidelock.crash_points import VARIABLE, watched
from tidelock.fence.fence_table import fence_ddl
from tidelock.testing import Coordinator
from tidelock.transaction.context import current_xid


class Reached(Database):
    """A database that another process has made."""

    def __init__(self, told: str) -> None:
        found = json.loads(told)
        super().__init__(found["dialect"], None, found["name"])
        self._where: dict[str, Any] = found["where"]

    def where(self) -> dict[str, Any]:
        return self._where


@contextmanager
def overtaken(application: Application, database: Database) -> Iterator[None]:
    """Have the transaction end, and its guards go, when its first step is registered."""

    def guards() -> int:
        with closing(database.connect()) as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT COUNT(*) FROM tidelock_fence")
            return int(cursor.fetchone()[0])

    def end(point: str) -> None:
        xid = current_xid()
        if point == "fence.after-register" and xid is not None:
            application.client.run(lambda client: client.transactions.rollback(xid))
            ends_at = time.monotonic() + 30
            while guards():
                assert time.monotonic() < ends_at, "its guards are not cleaned"
                time.sleep(0.02)

    with watched(end):
        yield


class Shops:
    """Processes of one program, one after the other, with a database."""

    def __init__(
        self,
        coordinator: Coordinator,
        driver: str,
        database: Database,
        *,
        program: str,
        tables: tuple[str, ...],
    ) -> None:
        """`program` is a module: `python -m program URL DRIVER DATABASE-AS-JSON WHAT`.

        WHAT is its own word for what it does, or `serve`: print `serving` when it answers for
        branches, and do so until the input ends.
        """
        self._coordinator = coordinator
        self.database = database
        where = {} if database.server is None else database.where()
        told = {"dialect": database.dialect, "name": database.name, "where": where}
        self._arguments = ("-m", program, coordinator.url, driver, json.dumps(told))
        database.sql(fence_ddl(DIALECT_OF[driver]), *tables)  # type: ignore[arg-type]  # names of dialects

    @asynccontextmanager
    async def process(self, what: str, crash_at: str) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *self._arguments, what),
            env={**os.environ, "PYTHONPATH": str(ROOT)}
            | ({VARIABLE: crash_at} if crash_at else {}),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            if process.returncode is None:
                await process.wait()

    async def killed(self, what: str, crash_at: str) -> None:
        """Run a process that is killed at a point."""
        async with self.process(what, crash_at) as process:
            await process.wait()
            assert process.returncode == -signal.SIGKILL, crash_at

    async def settled(self) -> None:
        """Let another process answer until nothing is left to do."""
        # What nobody has decided times out; the session of who was killed ends.
        self._coordinator.advance(70_000)
        async with self.process("serve", "") as process:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"serving\n"
            ends_at = time.monotonic() + 60
            # The session of who was killed may end late: what it did is then looked for.
            while self.fence_rows() or self._coordinator.leftovers():
                assert time.monotonic() < ends_at, self._coordinator.leftovers()
                await asyncio.to_thread(self._coordinator.advance, 15_000)

    def numbers(self) -> tuple[int, ...]:
        """Return what stands in the stock's row, without its key."""
        ((_, *numbers),) = self.database.sql("SELECT * FROM stock")
        return tuple(int(number) for number in numbers)

    def fence_rows(self) -> int:
        ((count,),) = self.database.sql("SELECT COUNT(*) FROM tidelock_fence")
        return int(count)
