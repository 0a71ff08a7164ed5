"""What the journal tests share: opening, filling and looking at journals."""

from __future__ import annotations

from typing import NamedTuple

from node.consensus.journal import Entry, JournalSettings, SegmentedJournal
from tests.consensus.faulty_disk import FaultyDisk, Files

DISK_ID = b"disk of node one"
SMALL = JournalSettings(
    segment_bytes=400, cache_bytes=600, max_slice_bytes=500, max_slice_entries=10
)
"""Sizes at which a few entries already roll segments and leave the cache."""


class Contents(NamedTuple):
    """All that a journal must give back after a restart, except the commit index."""

    entries: tuple[Entry, ...]
    term: int
    vote: str | None


def opened(disk: FaultyDisk, settings: JournalSettings = SMALL) -> SegmentedJournal:
    return SegmentedJournal(disk, DISK_ID, settings)


def reopened(files: Files, settings: JournalSettings = SMALL) -> SegmentedJournal:
    return opened(FaultyDisk(files), settings)


def all_entries(journal: SegmentedJournal) -> list[Entry]:
    entries: list[Entry] = []
    while len(entries) < len(journal):
        entries += journal[len(entries) :]
    return entries


def contents(journal: SegmentedJournal) -> Contents:
    return Contents(
        tuple(all_entries(journal)), journal.getCurrentTerm(), journal.getVotedForNodeId()
    )


def add_entries(journal: SegmentedJournal, count: int, term: int = 1, size: int = 20) -> None:
    for _ in range(count):
        index = journal.last()[0] + 1
        journal.add(b"\x00" + index.to_bytes(4, "big") + bytes(size - 5), index, term)
