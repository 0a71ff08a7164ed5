"""The journal while its node runs: what the library and the engine see."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from node.consensus.disk import FileDisk
from node.consensus.journal import JournalSettings, SegmentedJournal
from node.consensus.journal_format import RECORD_BYTES, JournalDamagedError
from tests.consensus.faulty_disk import FaultyDisk
from tests.consensus.journal_cases import (
    DISK_ID,
    SMALL,
    add_entries,
    all_entries,
    contents,
    opened,
    reopened,
)

ROOMY = JournalSettings()


@pytest.fixture
def disk() -> FaultyDisk:
    return FaultyDisk()


@pytest.fixture
def journal(disk: FaultyDisk) -> SegmentedJournal:
    return opened(disk)


# As the library's log.


def test_a_new_journal_is_empty_and_knows_no_term_and_no_vote(journal: SegmentedJournal) -> None:
    assert len(journal) == 0
    assert journal.last() == journal.base() == (0, 0)
    assert journal.getCurrentTerm() == 0
    assert journal.getVotedForNodeId() is None
    assert journal.getRaftCommitIndex() == 1
    assert journal[:] == []
    with pytest.raises(IndexError):
        journal[0]


def test_positions_work_as_in_a_list(journal: SegmentedJournal) -> None:
    add_entries(journal, 8, size=8)
    entries = [(b"\x00" + i.to_bytes(4, "big") + bytes(3), i, 1) for i in range(1, 9)]
    for position in range(-8, 8):
        assert journal[position] == entries[position]
    for start in range(-9, 10):
        for stop in range(-9, 10):
            assert journal[start:stop] == entries[start:stop]
        assert journal[start:] == entries[start:]
    for position in (8, -9):
        with pytest.raises(IndexError):
            journal[position]
    with pytest.raises(ValueError, match="no step"):
        journal[::2]


def test_entries_are_tuples_also_when_read_back(journal: SegmentedJournal) -> None:
    add_entries(journal, 30)
    journal.flush_now()
    assert all(type(entry) is tuple for entry in all_entries(journal))
    assert type(journal[0]) is tuple


@pytest.mark.parametrize(
    ("index", "term"), [(3, 1), (5, 1), (4, 0)], ids=["repeated", "gap", "older term"]
)
def test_an_entry_that_cannot_follow_is_refused_and_changes_nothing(
    journal: SegmentedJournal, index: int, term: int
) -> None:
    add_entries(journal, 3)
    before = contents(journal)
    with pytest.raises(ValueError, match="cannot follow 3 of term 1"):
        journal.add(b"x", index, term)
    assert contents(journal) == before


def test_entries_are_removed_from_the_end(journal: SegmentedJournal) -> None:
    add_entries(journal, 5)
    journal.deleteEntriesFrom(3)
    assert journal.last() == (3, 1)
    journal.deleteEntriesFrom(3)
    assert len(journal) == 3
    journal.add(b"other", 4, 2)
    assert journal[-1] == (b"other", 4, 2)


def test_clearing_lets_the_log_begin_anywhere(journal: SegmentedJournal) -> None:
    add_entries(journal, 5)
    journal.clear()
    assert len(journal) == 0
    journal.add(b"a", 70, 9)
    journal.add(b"b", 71, 9)
    journal.flush_now()
    assert journal.base() == (70, 9)
    assert journal.durable_index == 71


def test_compaction_keeps_the_entry_at_the_base(journal: SegmentedJournal) -> None:
    add_entries(journal, 30)
    journal.flush_now()
    journal.compact_to(17)
    assert journal.base() == (17, 1)
    assert [entry[1] for entry in all_entries(journal)] == list(range(17, 31))
    journal.deleteEntriesTo(3)
    assert journal.base() == (20, 1)
    assert journal[0][1] == 20


@pytest.mark.parametrize("index", [0, 31])
def test_compaction_to_an_entry_that_is_not_held_is_refused(
    journal: SegmentedJournal, index: int
) -> None:
    add_entries(journal, 30)
    with pytest.raises(ValueError, match=f"no entry {index} in a journal from"):
        journal.compact_to(index)


def test_compaction_removes_whole_files_once_the_new_base_is_durable(
    disk: FaultyDisk, journal: SegmentedJournal
) -> None:
    for _ in range(10):
        add_entries(journal, 5)
        journal.flush_now()
    before = disk.names()
    journal.compact_to(48)
    assert disk.names() == before
    journal.flush_now()
    assert len(before) > 5
    assert disk.names()[0] == before[-1]
    assert journal.disk_bytes == sum(len(data) for data in disk.contents().values())


def test_terms_are_known_for_held_entries_only(journal: SegmentedJournal) -> None:
    add_entries(journal, 3, term=1)
    add_entries(journal, 3, term=4)
    journal.compact_to(2)
    assert [journal.term_at(index) for index in range(8)] == [
        None, None, 1, 1, 4, 4, 4, None,
    ]  # fmt: skip


def test_the_size_is_that_of_the_entries_from_the_base(journal: SegmentedJournal) -> None:
    assert journal.size_bytes == 0
    add_entries(journal, 10, size=1000)
    journal.flush_now()
    assert 10_000 < journal.size_bytes < 11_000
    journal.compact_to(10)
    assert 1000 < journal.size_bytes < 1300


def test_a_vote_that_is_too_long_is_refused_and_changes_nothing(
    journal: SegmentedJournal,
) -> None:
    journal.setCurrentTerm(2, "n1")
    with pytest.raises(ValueError, match="vote is 256 bytes long"):
        journal.setCurrentTerm(3, "n" * 256)
    assert (journal.getCurrentTerm(), journal.getVotedForNodeId()) == (2, "n1")


# Slices.


def test_an_open_slice_is_bounded_by_bytes_and_has_two_entries_at_least(
    journal: SegmentedJournal,
) -> None:
    add_entries(journal, 3, size=300)
    assert len(journal[0:]) == 2
    assert len(journal[0:3]) == 1
    assert len(journal[2:]) == 1


def test_slices_are_bounded_by_count(journal: SegmentedJournal) -> None:
    journal.add(b"", 1, 1)
    for index in range(2, 30):
        journal.add(b"", index, 1)
    assert len(journal[0:]) == SMALL.max_slice_entries
    assert len(journal[5:29]) == SMALL.max_slice_entries


def test_a_slice_never_exceeds_the_byte_bound_when_more_than_the_least_are_returned() -> None:
    journal = opened(FaultyDisk())
    for index in range(1, 200):
        journal.add(bytes(index * 37 % 200), index, 1)
        if index % 7 == 0:
            journal.flush_now()
    for start in range(len(journal)):
        entries = journal[start:]
        if len(entries) > 2:
            assert sum(len(command) for command, _, _ in entries) <= SMALL.max_slice_bytes


def test_walking_by_slices_meets_every_entry_once(journal: SegmentedJournal) -> None:
    add_entries(journal, 100)
    journal.flush_now()
    assert [entry[1] for entry in all_entries(journal)] == list(range(1, 101))


def test_old_entries_come_from_the_file_and_new_ones_from_memory(
    disk: FaultyDisk, journal: SegmentedJournal
) -> None:
    for _ in range(20):
        add_entries(journal, 5)
        journal.flush_now()
    disk.reads = 0
    assert journal[-1][1] == 100
    assert journal[0][1] == 1
    assert disk.reads == 0
    assert journal[40][1] == 41
    assert disk.reads == 1


def test_an_entry_damaged_after_loading_is_found_when_it_is_read(
    disk: FaultyDisk, journal: SegmentedJournal
) -> None:
    add_entries(journal, 100)
    journal.flush_now()
    (name,) = disk.names()[:1]
    start = journal._log.positions[40]
    for offset in range(start, start + RECORD_BYTES + 20):
        disk.files[name][offset] ^= 0x10
        with pytest.raises(JournalDamagedError, match=rf"{name} at byte {start}: entry 41 cannot"):
            journal[40]
        disk.files[name][offset] ^= 0x10
    assert journal[40][1] == 41


def test_an_entry_found_in_the_place_of_another_is_damage(
    disk: FaultyDisk, journal: SegmentedJournal
) -> None:
    add_entries(journal, 100)
    journal.flush_now()
    (name,) = disk.names()[:1]
    file = disk.files[name]
    length = RECORD_BYTES + 20
    here, there = journal._log.positions[40], journal._log.positions[50]
    file[here : here + length] = file[there : there + length]
    with pytest.raises(JournalDamagedError, match="entry 41 cannot be read back"):
        journal[40]


# Flushing.


def test_nothing_is_written_before_a_flush(disk: FaultyDisk, journal: SegmentedJournal) -> None:
    before = disk.contents()
    add_entries(journal, 3)
    assert journal.dirty
    assert disk.contents() == before
    assert journal.durable_index == 0


def test_a_flush_hands_over_everything_in_one_append_and_reports_when_it_is_durable(
    disk: FaultyDisk, journal: SegmentedJournal
) -> None:
    reports: list[OSError | None] = []
    add_entries(journal, 3)
    journal.setCurrentTerm(1, "n2")
    journal.flush(reports.append)
    assert len(disk.waiting) == 1
    assert (journal.flushing, journal.dirty, journal.durable_index) == (True, False, 0)
    disk.complete()
    assert reports == [None]
    assert (journal.flushing, journal.dirty, journal.durable_index) == (False, False, 3)


def test_what_is_added_during_a_flush_waits_for_the_next(
    disk: FaultyDisk, journal: SegmentedJournal
) -> None:
    add_entries(journal, 3)
    journal.flush(lambda _error: None)
    add_entries(journal, 2)
    assert journal.dirty
    with pytest.raises(RuntimeError, match="in flight"):
        journal.flush(lambda _error: None)
    disk.complete()
    assert journal.durable_index == 3
    journal.flush(lambda _error: None)
    disk.complete()
    assert journal.durable_index == 5


def test_entries_replaced_during_a_flush_do_not_count_as_durable(
    disk: FaultyDisk, journal: SegmentedJournal
) -> None:
    add_entries(journal, 5)
    journal.flush(lambda _error: None)
    journal.deleteEntriesFrom(2)
    add_entries(journal, 3, term=2)
    disk.complete()
    assert journal.last() == (5, 2)
    assert journal.durable_index == 2
    journal.flush_now()
    assert journal.durable_index == 5


def test_entries_cleared_during_a_flush_do_not_count_as_durable(
    disk: FaultyDisk, journal: SegmentedJournal
) -> None:
    add_entries(journal, 5)
    journal.flush(lambda _error: None)
    journal.clear()
    add_entries(journal, 5, term=2)
    disk.complete()
    assert journal.durable_index == 0


def test_flushing_now_includes_what_is_in_flight(
    disk: FaultyDisk, journal: SegmentedJournal
) -> None:
    reports: list[OSError | None] = []
    add_entries(journal, 3)
    journal.flush(reports.append)
    add_entries(journal, 2)
    journal.flush_now()
    assert journal.durable_index == 5
    assert contents(reopened(disk.contents())) == contents(journal)
    disk.complete()
    assert reports == [None]
    assert journal.durable_index == 5


def test_a_failed_flush_is_reported_and_nothing_counts_as_durable(
    disk: FaultyDisk, journal: SegmentedJournal
) -> None:
    reports: list[OSError | None] = []
    add_entries(journal, 3)
    journal.flush(reports.append)
    disk.fail()
    disk.complete()
    assert reports == [disk.error]
    assert journal.durable_index == 0
    with pytest.raises(OSError, match="injected"):
        journal.flush_now()


def test_closing_flushes_and_after_an_error_does_not_try(
    disk: FaultyDisk, journal: SegmentedJournal
) -> None:
    add_entries(journal, 3)
    journal._destroy()
    assert len(reopened(disk.contents())) == 3
    add_entries(journal, 1)
    disk.fail()
    with pytest.raises(OSError, match="injected"):
        journal.flush_now()
    journal._destroy()


def test_a_moving_commit_index_alone_does_not_ask_for_a_flush_but_every_flush_stores_it(
    disk: FaultyDisk, journal: SegmentedJournal
) -> None:
    add_entries(journal, 5)
    journal.flush_now()
    journal.setRaftCommitIndex(4)
    assert not journal.dirty
    journal.add(b"x", 6, 1)
    journal.flush_now()
    assert reopened(disk.contents()).getRaftCommitIndex() == 4
    journal.setRaftCommitIndex(6)
    journal.flush_now()
    assert reopened(disk.contents()).getRaftCommitIndex() == 6


def test_setting_the_same_term_and_vote_again_asks_for_no_flush(
    journal: SegmentedJournal,
) -> None:
    journal.setCurrentTerm(3, "n1")
    journal.flush_now()
    journal.setCurrentTerm(3, "n1")
    assert not journal.dirty


# Hooks.


def test_hooks_see_each_appended_entry_and_each_truncation(journal: SegmentedJournal) -> None:
    seen: list[object] = []
    journal.on_append = lambda command, index, term: seen.append((command, index, term))
    journal.on_truncate = seen.append
    journal.add(b"a", 1, 1)
    journal.add(b"b", 2, 1)
    journal.add(b"c", 3, 2)
    journal.deleteEntriesFrom(1)
    journal.clear()
    assert seen == [(b"a", 1, 1), (b"b", 2, 1), (b"c", 3, 2), 2, 1]


def test_hooks_find_the_journal_already_changed(journal: SegmentedJournal) -> None:
    seen: list[tuple[int, int]] = []
    journal.on_append = lambda _command, _index, _term: seen.append(journal.last())
    journal.on_truncate = lambda _index: seen.append(journal.last())
    add_entries(journal, 2)
    journal.deleteEntriesFrom(1)
    assert seen == [(1, 1), (2, 1), (1, 1)]


def test_configuration_entries_are_listed_through_truncation_compaction_and_restart(
    disk: FaultyDisk, journal: SegmentedJournal
) -> None:
    for index in range(1, 31):
        journal.add(b"\x04voters" if index % 10 == 0 else b"\x00data", index, 1)
    assert journal.configuration_indexes == [10, 20, 30]
    journal.deleteEntriesFrom(29)
    assert journal.configuration_indexes == [10, 20]
    journal.compact_to(11)
    journal.flush_now()
    assert journal.configuration_indexes == [20]
    assert reopened(disk.contents()).configuration_indexes == [20]


# Memory.


def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    disk = FileDisk(tmp_path, lambda _call: None)
    journal = SegmentedJournal(disk, DISK_ID, JournalSettings(cache_bytes=200_000))
    for index in range(1, 300_001):
        if index == 250_000:
            tracemalloc.start()
        journal.add(index.to_bytes(30, "big"), index, 1)
        if index % 5000 == 0:
            journal.flush_now()
    grown, _peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Position, length and term are 20 bytes; arrays keep some room to grow.
    assert grown < 200_000 + 300_000 * 24
    assert journal[123_456] == ((123_457).to_bytes(30, "big"), 123_457, 1)
    disk.close()


def test_the_last_entry_stays_in_memory_even_when_it_alone_exceeds_the_bound(
    disk: FaultyDisk, journal: SegmentedJournal
) -> None:
    add_entries(journal, 3, size=SMALL.cache_bytes)
    journal.flush_now()
    disk.reads = 0
    assert journal[-1][1] == 3
    assert journal.last() == (3, 1)
    assert disk.reads == 0


def test_entries_that_are_not_durable_stay_in_memory_beyond_the_bound(
    disk: FaultyDisk, journal: SegmentedJournal
) -> None:
    add_entries(journal, 100)
    disk.reads = 0
    assert [entry[1] for entry in all_entries(journal)] == list(range(1, 101))
    assert disk.reads == 0
