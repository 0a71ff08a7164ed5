"""The journal after crashes and damage: what was durable returns, or the journal refuses."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import pytest

from node.consensus.journal import SegmentedJournal
from node.consensus.journal_format import (
    ENTRY,
    RECORD_BYTES,
    SEAL,
    SEGMENT_HEADER_BYTES,
    JournalDamagedError,
    JournalError,
    JournalFormatError,
    State,
    checksum_seed,
    encode_record,
    encode_segment_header,
    encode_state,
    segment_name,
    segment_number,
)
from tests.consensus.faulty_disk import FaultyDisk, Files, Write
from tests.consensus.journal_cases import (
    DISK_ID,
    SMALL,
    Contents,
    add_entries,
    contents,
    opened,
    reopened,
)


def filled() -> tuple[FaultyDisk, list[Contents]]:
    """Return a disk with several segments, and the contents after each flush."""
    disk = FaultyDisk()
    journal = opened(disk)
    states = [contents(journal)]
    for term in range(1, 7):
        journal.setCurrentTerm(term, f"n{term % 3}")
        add_entries(journal, 3, term=term)
        journal.flush_now()
        states.append(contents(journal))
    return disk, states


# Restarts.


def test_everything_flushed_is_there_after_a_restart() -> None:
    disk, states = filled()
    journal = reopened(disk.contents())
    assert contents(journal) == states[-1]
    assert journal.durable_index == 18
    assert not journal.dirty


def test_a_restarted_journal_goes_on() -> None:
    disk, _ = filled()
    for _ in range(5):
        disk = FaultyDisk(disk.contents())
        journal = opened(disk)
        before = contents(journal)
        add_entries(journal, 4, term=9)
        journal.flush_now()
        assert contents(reopened(disk.contents())).entries[: len(before.entries)] == before.entries
        assert contents(reopened(disk.contents())) == contents(journal)
    assert journal.last() == (38, 9)


def test_what_was_not_flushed_is_gone_after_a_crash() -> None:
    disk, states = filled()
    journal = opened(disk)
    add_entries(journal, 2, term=7)
    journal.setCurrentTerm(8, "n1")
    assert contents(reopened(disk.contents())) == states[-1]


def test_truncation_clearing_and_compaction_survive_a_restart() -> None:
    disk, _ = filled()
    journal = opened(disk)
    journal.deleteEntriesFrom(12)
    add_entries(journal, 2, term=7)
    journal.compact_to(8)
    journal.flush_now()
    journal = reopened(disk.contents())
    assert journal.base() == (8, 3)
    assert journal.last() == (14, 7)
    assert [journal.term_at(index) for index in (12, 13)] == [4, 7]
    journal.clear()
    journal.add(b"x", 99, 8)
    journal.flush_now()
    assert journal.base() == journal.last() == (99, 8)


def test_truncating_entries_of_older_segments_survives_a_restart_after_compaction() -> None:
    disk = FaultyDisk()
    journal = opened(disk)
    for _ in range(6):
        add_entries(journal, 6)
        journal.flush_now()
    journal.deleteEntriesFrom(9)
    add_entries(journal, 12, term=2)
    journal.flush_now()
    journal.compact_to(12)
    journal.flush_now()
    expected = contents(journal)
    assert journal.base() == (12, 2)
    assert contents(reopened(disk.contents())) == expected


def test_a_reset_leaves_one_committed_placeholder_and_keeps_term_and_vote() -> None:
    disk, _ = filled()
    journal = SegmentedJournal(disk, DISK_ID)
    journal.reset_to(500, 6)
    assert len(disk.names()) == 1
    assert journal.disk_bytes < 300
    for each in (journal, reopened(disk.contents())):
        assert contents(each) == Contents(((b"\x01", 500, 6),), 6, "n0")
        assert each.base() == each.last() == (500, 6)
        assert each.getRaftCommitIndex() == 500
        assert each.durable_index == 500


def test_the_commit_index_read_back_lies_within_the_log() -> None:
    disk = FaultyDisk()
    journal = opened(disk)
    add_entries(journal, 10)
    journal.setRaftCommitIndex(10)
    journal.flush_now()
    journal.deleteEntriesFrom(7)
    journal.flush_now()
    assert reopened(disk.contents()).getRaftCommitIndex() == 7


def test_loading_makes_durable_what_a_killed_process_only_wrote() -> None:
    disk, _ = filled()
    again = FaultyDisk(disk.contents())
    rewritten: list[tuple[str, int]] = []
    again.rewrite = lambda name, offset: rewritten.append((name, offset))  # type: ignore[method-assign]
    opened(again)
    last = again.names()[-1]
    ((name, offset),) = rewritten
    assert name == last
    assert SEGMENT_HEADER_BYTES <= offset < again.size(last) or offset == 0


# Torn tails.


def test_a_last_group_torn_at_any_byte_leaves_all_earlier_groups_whole() -> None:
    disk, states = filled()
    before, after = states[-2], states[-1]
    write = disk.effects[-2]
    assert isinstance(write, Write)
    whole = disk.contents()[write.name]
    start = len(whole) - len(write.data)
    seal_starts = len(whole) - RECORD_BYTES
    for length in range(start, len(whole)):
        journal = reopened({**disk.contents(), write.name: whole[:length]})
        assert contents(journal) == (after if length >= seal_starts else before)
        add_entries(journal, 1, term=9)
        journal.flush_now()


def test_a_torn_tail_that_reads_as_zeros_is_cut_as_well() -> None:
    disk, states = filled()
    name = disk.names()[-1]
    whole = disk.contents()[name]
    for kept in range(len(whole) - RECORD_BYTES - 60, len(whole) - RECORD_BYTES - 40):
        files = {**disk.contents(), name: whole[:kept] + bytes(len(whole) - kept + 4096)}
        assert contents(reopened(files)) == states[-2]


def test_the_cut_is_durable_before_the_journal_goes_on() -> None:
    disk, states = filled()
    name = disk.names()[-1]
    torn = FaultyDisk({**disk.contents(), name: disk.contents()[name][:-60]})
    journal = opened(torn)
    assert contents(journal) == states[-2]
    add_entries(journal, 3, term=9)
    journal.flush_now()
    assert contents(reopened(torn.contents())) == contents(journal)


@pytest.mark.parametrize("kept", [0, 1, SEGMENT_HEADER_BYTES - 1, SEGMENT_HEADER_BYTES])
def test_a_new_segment_torn_in_its_creation_is_removed(kept: int) -> None:
    disk, states = filled()
    number = segment_number(disk.names()[-1])
    assert number is not None
    successor = segment_name(number + 1)
    header = disk.contents()[disk.names()[0]][:kept]
    torn = FaultyDisk({**disk.contents(), successor: header})
    if kept == SEGMENT_HEADER_BYTES:
        with pytest.raises(JournalDamagedError, match="the file holds segment 1"):
            opened(torn)
        return
    journal = opened(torn)
    assert contents(journal) == states[-1]
    assert successor not in torn.names()


def test_a_torn_very_first_segment_is_an_empty_journal() -> None:
    disk = FaultyDisk()
    opened(disk)
    name = segment_name(1)
    whole = disk.contents()[name]
    for length in range(len(whole)):
        assert len(reopened({name: whole[:length]})) == 0


# Damage.


def test_a_flip_of_any_byte_is_found_and_never_costs_an_entry() -> None:
    disk, states = filled()
    for name, data in disk.contents().items():
        for offset in range(len(data)):
            damaged = bytearray(data)
            damaged[offset] ^= 0x40
            files = {**disk.contents(), name: bytes(damaged)}
            last_seal = name == disk.names()[-1] and offset >= len(data) - RECORD_BYTES
            if last_seal:
                # The seal holds nothing; without it the group is complete all the same.
                assert contents(reopened(files)) == states[-1]
                continue
            with pytest.raises(JournalError):
                reopened(files)


def test_a_flip_in_a_journal_of_one_flush_is_found() -> None:
    disk = FaultyDisk()
    journal = opened(disk)
    journal.setCurrentTerm(4, "n2")
    journal.flush_now()
    name = disk.names()[0]
    data = disk.contents()[name]
    for offset in range(len(data)):
        damaged = bytearray(data)
        damaged[offset] ^= 0x01
        try:
            journal = reopened({name: bytes(damaged)})
        except JournalDamagedError:
            continue
        assert (journal.getCurrentTerm(), journal.getVotedForNodeId()) == (4, "n2")


def test_an_unreadable_vote_never_leaves_the_vote_open() -> None:
    disk = FaultyDisk()
    journal = opened(disk)
    journal.setCurrentTerm(7, "n1")
    journal.flush_now()
    end_of_vote = disk.size(disk.names()[0])
    journal.setCurrentTerm(7, "n1")
    add_entries(journal, 3, term=7)
    journal.flush_now()
    name = disk.names()[0]
    for offset in range(end_of_vote):
        damaged = bytearray(disk.contents()[name])
        damaged[offset] = 0xFF - damaged[offset]
        with pytest.raises(JournalError):
            reopened({name: bytes(damaged)})


def test_the_error_names_file_offset_and_reason() -> None:
    disk, _ = filled()
    name = disk.names()[-1]
    damaged = bytearray(disk.contents()[name])
    damaged[SEGMENT_HEADER_BYTES + RECORD_BYTES] ^= 1
    with pytest.raises(JournalDamagedError) as caught:
        reopened({**disk.contents(), name: bytes(damaged)})
    assert caught.value.file == name
    assert caught.value.offset == SEGMENT_HEADER_BYTES
    assert "cannot be read" in caught.value.reason
    assert str(caught.value).startswith(f"journal damaged: {name} at byte {SEGMENT_HEADER_BYTES}: ")


def test_damage_below_the_synced_point_is_reported_as_such() -> None:
    disk = FaultyDisk()
    journal = SegmentedJournal(disk, DISK_ID)
    for _ in range(4):
        add_entries(journal, 2)
        journal.flush_now()
    (name,) = disk.names()
    damaged = bytearray(disk.contents()[name])
    damaged[400] ^= 1
    with pytest.raises(JournalDamagedError, match=r"records up to \d+ were synced"):
        reopened({name: bytes(damaged)})


def test_a_missing_segment_is_damage() -> None:
    disk, _ = filled()
    names = disk.names()
    assert len(names) > 3
    for missing in names[:-1]:
        files = disk.contents()
        del files[missing]
        with pytest.raises(JournalDamagedError, match="the file is missing"):
            reopened(files)


def test_segments_below_the_base_are_removed_unread() -> None:
    disk, _ = filled()
    old = disk.contents()
    journal = opened(disk)
    journal.compact_to(17)
    journal.flush_now()
    expected = contents(journal)
    for name in old:
        if name not in disk.files:
            left_over = FaultyDisk({**disk.contents(), name: b"anything"})
            assert contents(opened(left_over)) == expected
            assert left_over.names() == disk.names()


def test_a_tail_cut_off_in_a_segment_that_has_a_successor_is_damage() -> None:
    disk, _ = filled()
    name = disk.names()[1]
    whole = disk.contents()[name]
    reasons: list[str] = []
    for length in range(len(whole)):
        with pytest.raises(JournalDamagedError) as caught:
            reopened({**disk.contents(), name: whole[:length]})
        reasons.append(caught.value.reason)
    assert "has a successor" in reasons[-1]
    assert "has a successor" in reasons[len(whole) // 2]


def test_a_tail_cut_off_before_a_torn_new_segment_is_damage() -> None:
    disk, _ = filled()
    name = disk.names()[-1]
    number = segment_number(name)
    assert number is not None
    files = {**disk.contents(), segment_name(number + 1): b"", name: disk.contents()[name][:-1]}
    with pytest.raises(JournalDamagedError, match="has a successor"):
        reopened(files)


def test_a_group_taken_out_of_the_middle_is_damage() -> None:
    disk = FaultyDisk()
    journal = SegmentedJournal(disk, DISK_ID)
    for term in range(1, 5):
        journal.setCurrentTerm(term, None)
        journal.flush_now()
    writes = [effect.data for effect in disk.effects if isinstance(effect, Write)]
    del writes[2]
    with pytest.raises(JournalDamagedError, match=r"record 7, expected 5"):
        reopened({segment_name(1): b"".join(writes)})


def test_records_of_another_disk_are_not_taken_for_own() -> None:
    own, other = FaultyDisk(), FaultyDisk()
    opened(own)
    journal = SegmentedJournal(other, b"another disk, id", SMALL)
    journal.setCurrentTerm(3, "n9")
    journal.flush_now()
    (name,) = own.names()
    mixed = own.read(name)[:SEGMENT_HEADER_BYTES] + other.read(name)[SEGMENT_HEADER_BYTES:]
    with pytest.raises(JournalDamagedError, match="no readable group"):
        reopened({name: mixed})


def crafted(*records: tuple[int, int]) -> Files:
    """Return a first segment with these records (kind, index) and a STATE for base 1."""
    seed = checksum_seed(DISK_ID)
    data = encode_segment_header(1, 1, DISK_ID)
    for sequence, (kind, index) in enumerate(records, start=1):
        data += encode_record(kind, sequence, index, 0, b"x", seed=seed)
    return {segment_name(1): data + encode_state(State(1, 0), len(records) + 1, seed)}


@pytest.mark.parametrize(
    ("records", "error", "message"),
    [
        ([(ENTRY, 1), (ENTRY, 3)], JournalDamagedError, "entry 3 follows entry 1"),
        ([(ENTRY, 2), (ENTRY, 3)], JournalDamagedError, "the base entry 1 is missing"),
        ([(ENTRY, 1), (SEAL + 1, 0)], JournalFormatError, "unknown record kind 6"),
    ],
)
def test_whole_records_that_make_no_sense_are_refused(
    records: list[tuple[int, int]], error: type[JournalError], message: str
) -> None:
    assert len(reopened(crafted((ENTRY, 1), (ENTRY, 2)))) == 2
    with pytest.raises(error, match=message):
        reopened(crafted(*records))


def test_a_sole_segment_that_cannot_be_read_is_damage_when_it_was_not_the_first() -> None:
    disk, _ = filled()
    journal = opened(disk)
    journal.reset_to(500, 6)
    (name,) = disk.names()
    with pytest.raises(JournalDamagedError, match="no readable group"):
        reopened({name: b""})


def test_a_first_segment_full_of_zeros_is_damage() -> None:
    with pytest.raises(JournalDamagedError, match="no readable group"):
        reopened({segment_name(1): bytes(4096)})


def test_segments_exchanged_with_each_other_are_damage() -> None:
    disk, _ = filled()
    first, second, *_ = disk.names()
    files = disk.contents()
    files[first], files[second] = files[second], files[first]
    with pytest.raises(JournalDamagedError, match="the file holds segment"):
        reopened(files)


def test_a_segment_from_another_point_in_time_is_damage() -> None:
    disk, _ = filled()
    old = disk.contents()
    names = disk.names()
    replaced = FaultyDisk({names[0]: old[names[0]]})
    journal = opened(replaced)
    while replaced.names() != names:
        add_entries(journal, 2, term=8, size=40)
        journal.flush_now()
    for name in names[1:]:
        with pytest.raises(JournalDamagedError, match=r"begins at record \d+, not \d+|has a succ"):
            reopened({**replaced.contents(), name: old[name]})


def test_the_journal_of_another_disk_is_refused() -> None:
    disk, _ = filled()
    with pytest.raises(JournalFormatError, match="belongs to disk"):
        SegmentedJournal(FaultyDisk(disk.contents()), b"another disk's id"[:16], SMALL)


def test_an_unknown_format_version_is_refused_with_both_versions() -> None:
    disk, _ = filled()
    name = disk.names()[-1]
    data = bytearray(disk.contents()[name])
    data[8] = 2
    head = SEGMENT_HEADER_BYTES - 4
    data[head:SEGMENT_HEADER_BYTES] = zlib.crc32(data[:head]).to_bytes(4, "little")
    with pytest.raises(JournalFormatError, match="format version 2; this program knows 1 only"):
        reopened({**disk.contents(), name: bytes(data)})


def test_other_files_in_the_directory_are_left_alone() -> None:
    disk, states = filled()
    other = FaultyDisk({**disk.contents(), "notes.txt": b"mine", "journal-1": b"?"})
    assert contents(opened(other)) == states[-1]
    assert other.contents()["notes.txt"] == b"mine"


def test_a_command_that_looks_like_records_does_not_turn_a_torn_tail_into_damage() -> None:
    donor = FaultyDisk()
    other = SegmentedJournal(donor, b"another disk, id")
    add_entries(other, 2)
    other.flush_now()
    (records,) = donor.contents().values()
    disk, states = filled()
    journal = opened(disk)
    journal.add(records, 19, 6)
    journal.flush_now()
    name = disk.names()[-1]
    whole = disk.contents()[name]
    for lost in range(1, RECORD_BYTES * 4):
        journal = reopened({**disk.contents(), name: whole[:-lost]})
        assert contents(journal).entries[:18] == states[-1].entries


# Crashes at every step of the operations that touch several files.


def roll(journal: SegmentedJournal) -> None:
    add_entries(journal, 20, term=6)
    journal.flush_now()
    add_entries(journal, 1, term=6)


def compact(journal: SegmentedJournal) -> None:
    journal.compact_to(16)


def compact_and_truncate(journal: SegmentedJournal) -> None:
    journal.compact_to(10)
    journal.deleteEntriesFrom(4)
    add_entries(journal, 2, term=8)


def clear(journal: SegmentedJournal) -> None:
    journal.clear()
    journal.add(b"a", 40, 6)
    journal.add(b"b", 41, 6)


def reset(journal: SegmentedJournal) -> None:
    journal.reset_to(500, 6)


@pytest.mark.parametrize("operation", [roll, compact, compact_and_truncate, clear, reset])
def test_a_crash_at_any_step_leaves_the_contents_before_or_after(
    operation: Callable[[SegmentedJournal], None],
) -> None:
    filled_disk, _ = filled()
    disk = FaultyDisk(filled_disk.contents())
    journal = opened(disk)
    allowed = [contents(journal)]
    write_now = journal._write_now

    def observed_write() -> None:
        # What this write makes durable is what the journal holds when it begins.
        allowed.append(contents(journal))
        write_now()

    journal._write_now = observed_write  # type: ignore[method-assign]
    operation(journal)
    journal.flush_now()
    found = []
    for point in disk.crash_points():
        for files in disk.after_crash(point):
            found.append(contents(reopened(files)))
            assert found[-1] in allowed
            crash_while_loading(files)
    assert found[0] == allowed[0]
    assert found[-1] == allowed[-1]


def crash_while_loading(files: Files) -> None:
    disk = FaultyDisk(files)
    expected = contents(opened(disk))
    if len(disk.effects) > 1:
        for point in disk.crash_points():
            for image in disk.after_crash(point):
                assert contents(reopened(image)) == expected


def test_a_crash_after_each_flush_of_a_long_life_returns_exactly_that_flush() -> None:
    disk = FaultyDisk()
    journal = opened(disk)
    states = {len(disk.effects): contents(journal)}
    for step in range(40):
        match step % 8:
            case 5:
                journal.deleteEntriesFrom(len(journal) - 2)
            case 6:
                journal.compact_to(journal.last()[0] - 4)
            case 7:
                journal.setCurrentTerm(step, "n1")
            case _:
                add_entries(journal, 4, term=step)
        journal.flush_now()
        states[len(disk.effects)] = contents(journal)
    for point, expected in states.items():
        for files in disk.after_crash(point):
            assert contents(reopened(files)) == expected
