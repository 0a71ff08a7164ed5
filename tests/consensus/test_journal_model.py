"""Random lives of a journal, with restarts and crashes, against a plain list."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from node.consensus.journal import Entry, SegmentedJournal
from tests.consensus.faulty_disk import FaultyDisk
from tests.consensus.journal_cases import SMALL, Contents, all_entries, contents, opened


class JournalLife(RuleBasedStateMachine):
    """The list is what the journal must hold; `durable` is what it must hold after a crash."""

    @initialize()
    def begin(self) -> None:
        self.disk = FaultyDisk()
        self.journal: SegmentedJournal = opened(self.disk)
        self.entries: list[Entry] = []
        self.term = 0
        self.vote: str | None = None
        self.durable = self.expected()
        self.in_flight: Contents | None = None

    def expected(self) -> Contents:
        return Contents(tuple(self.entries), self.term, self.vote)

    @rule(
        sizes=st.lists(st.integers(0, 120), min_size=1, max_size=8),
        kind=st.sampled_from([b"\x00", b"\x01", b"\x04"]),
        skip=st.integers(1, 50),
    )
    def add(self, sizes: list[int], kind: bytes, skip: int) -> None:
        for size in sizes:
            index = self.entries[-1][1] + 1 if self.entries else skip
            last_term = self.entries[-1][2] if self.entries else 0
            entry = (kind + bytes([index % 256]) * size, index, max(self.term, last_term))
            self.journal.add(*entry)
            self.entries.append(entry)

    @rule(vote=st.sampled_from([None, "n1", "n2"]), step=st.integers(0, 2))
    def vote_or_enter_a_term(self, vote: str | None, step: int) -> None:
        self.term += step
        self.vote = vote
        self.journal.setCurrentTerm(self.term, vote)

    @precondition(lambda self: self.entries)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        position = data.draw(st.integers(1, len(self.entries)))
        self.journal.deleteEntriesFrom(position)
        del self.entries[position:]

    @precondition(lambda self: self.entries)
    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        position = data.draw(st.integers(0, len(self.entries) - 1))
        self.journal.compact_to(self.entries[position][1])
        del self.entries[:position]

    @rule()
    def clear(self) -> None:
        self.journal.clear()
        self.entries.clear()

    @precondition(lambda self: self.in_flight is None)
    @rule(ahead=st.integers(1, 40))
    def reset(self, ahead: int) -> None:
        index = (self.entries[-1][1] if self.entries else 0) + ahead
        self.journal.reset_to(index, self.term)
        self.entries[:] = [(b"\x01", index, self.term)]
        self.durable = self.expected()

    @precondition(lambda self: self.in_flight is None)
    @rule()
    def flush(self) -> None:
        self.in_flight = self.expected()
        self.journal.flush(self.landed)

    def landed(self, error: OSError | None) -> None:
        assert error is None
        assert self.in_flight is not None
        self.durable = self.in_flight
        self.in_flight = None

    @precondition(lambda self: self.in_flight is not None)
    @rule()
    def finish_the_flush(self) -> None:
        self.disk.complete()

    @precondition(lambda self: self.in_flight is None)
    @rule()
    def flush_now(self) -> None:
        self.journal.flush_now()
        self.durable = self.expected()

    @rule(lost=st.floats(0, 1))
    def crash(self, lost: float) -> None:
        """Restart with what was durable and some beginning of what was being written."""
        files = self.disk.contents()
        if self.disk.waiting:
            name, data, _ = self.disk.waiting[0]
            files[name] = files.get(name, b"") + data[: round(len(data) * lost)]
        self.disk = FaultyDisk(files)
        self.journal = opened(self.disk)
        found = contents(self.journal)
        assert found in (self.durable, self.in_flight)
        if lost == 1 and self.in_flight is not None:
            assert found == self.in_flight
        self.durable = found
        self.in_flight = None
        self.entries = list(found.entries)
        self.term, self.vote = found.term, found.vote
        assert self.journal.durable_index == self.journal.last()[0]

    @invariant()
    def it_holds_what_the_list_holds(self) -> None:
        journal = self.journal
        assert len(journal) == len(self.entries)
        assert all_entries(journal) == self.entries
        assert journal.getCurrentTerm() == self.term
        assert journal.getVotedForNodeId() == self.vote
        assert journal.configuration_indexes == [
            index for command, index, _ in self.entries if command[:1] == b"\x04"
        ]
        if self.entries:
            assert journal.base() == self.entries[0][1:]
            assert journal.last() == self.entries[-1][1:]
            assert journal[0] == self.entries[0]
            assert journal[-1] == self.entries[-1]
            assert journal.durable_index <= journal.last()[0]

    @invariant()
    def entries_counted_as_durable_would_survive_a_crash(self) -> None:
        stored = {entry[1]: entry for entry in self.durable.entries}
        for entry in self.entries:
            if entry[1] <= self.journal.durable_index:
                assert stored[entry[1]] == entry

    @invariant()
    def slices_are_those_of_the_list_up_to_their_bounds(self) -> None:
        count = len(self.entries)
        for start in range(0, count, 5):
            some = self.journal[start:]
            assert min(2, count - start) <= len(some) <= SMALL.max_slice_entries
            assert some == self.entries[start : start + len(some)]

    @invariant()
    def memory_is_bounded_by_the_cache_once_all_is_durable(self) -> None:
        journal = self.journal
        if journal.durable_index == journal.last()[0]:
            assert journal._recent_bytes <= SMALL.cache_bytes


TestJournalLife = JournalLife.TestCase
TestJournalLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
