"""The library on the journal: one node that is its own majority."""

from __future__ import annotations

import pytest
from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj import syncobj as library
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from tests.consensus.faulty_disk import FaultyDisk, Files
from tests.consensus.journal_cases import opened


class SoleNode(SyncObj):
    def __init__(self, disk: FaultyDisk, monkeypatch: pytest.MonkeyPatch) -> None:
        self.applied: list[int] = []
        self.journal = opened(disk)
        self.now = 0.0
        monkeypatch.setattr(library, "createJournal", lambda _file: self.journal)
        monkeypatch.setattr(library, "monotonicTime", lambda: self.now)
        conf = SyncObjConf(autoTick=False, appendEntriesUseBatch=True)
        super().__init__(Node("n1"), [], conf, transport=Transport(None, None, None))

    @replicated
    def apply(self, number: int) -> None:
        self.applied.append(number)

    def run(self, ticks: int) -> None:
        for _ in range(ticks):
            self.now += 0.1
            self.doTick()
            self.journal.flush_now()


@pytest.fixture
def first_life(monkeypatch: pytest.MonkeyPatch) -> Files:
    """What is on the disk after a node applied 1 to 30, in the course of two terms."""
    disk = FaultyDisk()
    for life in range(2):
        node = SoleNode(disk, monkeypatch)
        node.run(20)
        for number in range(15 * life + 1, 15 * life + 16):
            node.apply(number)
        node.run(20)
        assert node.applied == list(range(1, 15 * life + 16))
        node.destroy()
        disk = FaultyDisk(disk.contents())
    return disk.contents()


def test_a_restarted_node_finds_its_log_its_term_and_what_was_committed(
    first_life: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = SoleNode(FaultyDisk(first_life), monkeypatch)
    assert node.raftCurrentTerm == 2
    assert node.journal.getVotedForNodeId() == "n1"
    assert node.raftCommitIndex == node.journal.last()[0]
    node.run(10)
    assert node.applied == list(range(1, 31))


def test_bounded_slices_only_spread_the_applying_over_more_ticks(
    first_life: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = SoleNode(FaultyDisk(first_life), monkeypatch)
    node.doTick()
    progress = [len(node.applied)]
    while progress[-1] < 30:
        node.doTick()
        progress.append(len(node.applied))
        assert progress[-1] > progress[-2]
    assert len(progress) > 2
