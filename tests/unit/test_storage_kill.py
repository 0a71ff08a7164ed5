"""A process that writes entries is killed at no particular moment, many times."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from node.storage import LmdbStorage
from statemachine import keys
from statemachine.state import load_state

REPOSITORY = Path(__file__).parents[2]

KEPT_ENTRIES = 10

WRITE_UNTIL_KILLED = """
import itertools, sys
from pathlib import Path
from node.storage import LmdbStorage
from statemachine import keys
from statemachine.state import MachineState, encode_state

directory, kept = Path(sys.argv[1]), int(sys.argv[2])
storage = LmdbStorage.open(directory, checkpoint_interval_ms=2)
for index in itertools.count(storage.durable_index + 1):
    for place in range(20):
        storage.put(b"E%08d%02d" % (index, place), b"%d" % index * 30)
        storage.delete(b"E%08d%02d" % (index - kept, place))
        if place == 10:
            storage.scan(b"E", b"F", limit=3)
    storage.put(b"P", b"%d" % index)
    storage.put(keys.META, encode_state(MachineState(applied_index=index)))
    storage.end_entry()
    if storage.checkpoint():
        print(storage.durable_index, flush=True)
"""


def rows_after(index: int) -> list[tuple[bytes, bytes]]:
    """What the process's state is after the entry `index`, without the machine's scalars."""
    kept = range(max(1, index - KEPT_ENTRIES + 1), index + 1)
    rows = [
        (b"E%08d%02d" % (entry, place), b"%d" % entry * 30)
        for entry, place in itertools.product(kept, range(20))
    ]
    return [*rows, (b"P", b"%d" % index)]


@pytest.mark.parametrize("commits_before_kill", [1, 2, 5, 17, 40])
def test_after_a_kill_the_state_is_that_of_a_whole_entry_and_no_commit_is_lost(
    tmp_path: Path, commits_before_kill: int
) -> None:
    for _ in range(2):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITE_UNTIL_KILLED, tmp_path, str(KEPT_ENTRIES)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
        )
        with writer:
            assert writer.stdout is not None
            reported = [int(next(writer.stdout)) for _ in range(commits_before_kill)]
            writer.kill()
            # Commits which it reported before the signal reached it.
            reported += [int(line) for line in writer.stdout if line.endswith("\n")]

        storage = LmdbStorage.open(tmp_path)
        index = load_state(storage).applied_index
        assert storage.durable_index == index >= reported[-1]
        rows = storage.scan(b"", b"\xff", limit=10_000)
        assert [row for row in rows if row[0] != keys.META] == rows_after(index)
        assert storage.scrub_step(b"", 1 << 30) is None
        storage.close()
