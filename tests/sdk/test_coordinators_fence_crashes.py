"""A process is killed around the coordinator's fence; another one goes on.

Without a database each thing is done at least once, and in the end as the transaction was decided.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.meta.documents import ROOT
from tests.sdk.seats import UNDONE, Seats
from tests.sdk.test_tcc_crashes import OF_THE_COORDINATORS_FENCE
from tidelock.crash_points import VARIABLE
from tidelock.testing import Coordinator

pytestmark = pytest.mark.timeout(120)

QUICK = ("TCC", "commit", "fence.before-fence-done", 1)


def cases() -> list[object]:
    return [
        pytest.param(
            mode,
            ends,
            f"{point}:{nth}",
            marks=() if (mode, ends, point, nth) == QUICK else (pytest.mark.long,),
        )
        for mode in ("TCC", "SAGA")
        for ends in ("commit", "rollback")
        for point in OF_THE_COORDINATORS_FENCE
        # A step of SAGA that is committed is not asked for again.
        for nth in ((1,) if (mode, ends) == ("SAGA", "commit") else (1, 2))
    ]


@asynccontextmanager
async def process(
    coordinator: Coordinator, file: Path, mode: str, what: str, crash_at: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    made = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.sdk.seats", coordinator.url, str(file), mode, what),
        env={**os.environ, "PYTHONPATH": str(ROOT)} | ({VARIABLE: crash_at} if crash_at else {}),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield made
    finally:
        assert made.stdin is not None
        made.stdin.close()
        if made.returncode is None:
            await made.wait()


@pytest.mark.parametrize(("mode", "ends", "point"), cases())
async def test_what_was_begun_ends_as_its_transaction_did(
    tidelock_coordinator: Coordinator, tmp_path: Path, mode: str, ends: str, point: str
) -> None:
    file = tmp_path / "ran"
    async with process(tidelock_coordinator, file, mode, ends, point) as dying:
        assert await dying.wait() == -signal.SIGKILL
    # What nobody has decided times out; the session of who was killed ends.
    tidelock_coordinator.advance(70_000)
    async with process(tidelock_coordinator, file, mode, "serve", "") as serving:
        assert serving.stdout is not None
        assert await serving.stdout.readline() == b"serving\n"
        await asyncio.to_thread(tidelock_coordinator.assert_clean, 60.0)
    (transaction,) = tidelock_coordinator.transactions()
    with tidelock_coordinator.application("looking") as looking:
        seats = Seats(looking, mode=mode, file=file)
        assert seats.is_whole(is_committed=transaction.status == "COMMITTED"), seats.ran
        assert ends == "commit" or UNDONE in seats.ran or seats.ran == []
