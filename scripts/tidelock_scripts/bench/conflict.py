"""A former leader that comes back with a long tail which nobody else has."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from pathlib import Path

from node.consensus.disk import FileDisk
from node.consensus.journal import SegmentedJournal
from scripts.tidelock_scripts.bench.figures import Figure, at_most
from scripts.tidelock_scripts.bench.load import measure
from scripts.tidelock_scripts.bench.setting import Bench

TAIL_BYTES = 100 * 1000 * 1000

_SMALL_BYTES = 200
_LARGE_BYTES = 200_000
_CATCHES_UP_S = at_most(10.0)
_READY_WITHIN_S = 120.0
_LOAD_S = 1.0
_QUIET_S = 2.0


async def conflict(bench: Bench) -> None:
    """kill -9 of the leader, 100 MB of its own in its journal, and its return under load."""
    async with bench.cluster() as running:
        leader = await running.leader()
        await measure([running.event_target(leader)], seconds=_LOAD_S)
        # An entry that is on its way when the leader dies may be at the others and not on its own
        # disk. The forged tail would then claim that index in the same term, which no real log
        # can do; so nothing may be on its way.
        await asyncio.sleep(_QUIET_S)
        running.cluster.kill(leader)
        bench.say("appending 100 MB that nobody else has")
        entries = await asyncio.to_thread(
            _append_tail, running.cluster.places[leader].data_dir, TAIL_BYTES
        )
        others = running.followers(leader)
        await running.cluster.wait_until_ready(others)
        await measure([running.event_target(others[0])], seconds=_LOAD_S)
        begun = time.perf_counter()
        running.cluster.start(leader)
        await running.cluster.wait_until_ready([leader], timeout_s=_READY_WITHIN_S)
        took_s = time.perf_counter() - begun
        details = {"tailBytes": TAIL_BYTES, "tailEntries": entries}
        bench.add(
            Figure(
                "former leader with a conflicting tail of 100 MB",
                took_s,
                "s",
                _CATCHES_UP_S,
                details,
            )
        )


def _append_tail(data_dir: Path, size: int) -> int:
    """Write entries of the stopped node's own term behind its log, half of them small ones."""
    identity = uuid.UUID(json.loads((data_dir / "identity.json").read_text())["diskUuid"])
    disk = FileDisk(data_dir / "journal", lambda call: call())
    journal = SegmentedJournal(disk, identity.bytes)
    index, term = journal.last()
    written = entries = 0
    while written < size:
        length = _SMALL_BYTES if written < size // 2 else _LARGE_BYTES
        index += 1
        journal.add(b"\x00" + b"x" * (length - 1), index, term)
        written += length
        entries += 1
        if entries % 10_000 == 0 or length == _LARGE_BYTES:
            journal.flush_now()
    journal.flush_now()
    disk.close()
    return entries
