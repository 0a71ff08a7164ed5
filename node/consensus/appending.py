"""The follower's side of append_entries: what reaches the library, and what is answered for it.

The library cuts its log behind the previous entry of *every* message; handed an old or repeated
one, it would remove entries that it has acknowledged (D3). So it is only ever handed what
continues the log or truly conflicts with it.
"""

from __future__ import annotations

from node.consensus.foundation import Foundation
from node.consensus.messages import Frame, Kind

Entry = tuple[bytes, int, int]
"""(command, index, term) as the library stores it."""


class Appending:
    def __init__(
        self,
        base: Foundation,
    ) -> None:
        self._raft = base.raft
        self._journal = base.journal
        self._transport = base.transport
        self._runtime = base.runtime
        self._counters = base.counters

    def on_append(self, peer: str, frame: Frame) -> None:
        """Handle append_entries of a term that is not older than ours."""
        _, term, sequence, commit, previous_index, previous_term, entries = frame
        base_index, base_term = self._journal.base()
        if previous_index < base_index:
            # Everything up to our base is committed and the same everywhere.
            entries = entries[base_index - previous_index :]
            previous_index, previous_term = base_index, base_term
        if self._journal.term_at(previous_index) != previous_term:
            self._heartbeat(peer, term)
            self._reject(peer, sequence)
            return
        known = self._length_of_known_prefix(entries)
        if known:
            _, previous_index, previous_term = entries[known - 1]
            entries = entries[known:]
            self._counters["entries_known"] += known
        last_index = self._journal.last()[0]
        if not entries and previous_index < last_index:
            # Nothing new, and our log goes on: the library would cut it here.
            self._heartbeat(peer, term, min(commit, previous_index))
            self._acknowledge(peer, sequence, previous_index + 1)
            return
        if previous_index < last_index and previous_index < self._raft.last_applied:
            self._runtime.stop(
                f"leader {peer} of term {term} conflicts with the applied entry"
                f" {previous_index + 1} (applied up to {self._raft.last_applied})"
            )
        self._transport.answering_sequence = sequence
        self._transport.inject(
            self._raft.node(peer),
            {
                "type": "append_entries",
                "term": term,
                "commit_index": commit,
                "prevLogIdx": previous_index,
                "prevLogTerm": previous_term,
                "entries": entries,
            },
        )

    def on_commit(self, peer: str, frame: Frame) -> None:
        """Take note of what is committed, as far as the log is known to be the leader's.

        Two logs with the same term at an index are the same up to it (Raft's log matching).
        """
        _, term, index, entry_term = frame
        known = self._journal.term_at(index) == entry_term
        self._heartbeat(peer, term, index if known else 0)

    def _length_of_known_prefix(self, entries: tuple[Entry, ...]) -> int:
        known = 0
        for _, index, term in entries:
            if self._journal.term_at(index) != term:
                break
            known += 1
        return known

    def _heartbeat(self, peer: str, term: int, commit: int = 0) -> None:
        """Let the library learn of the leader without touching the log or, at 0, the commit."""
        self._transport.inject(
            self._raft.node(peer),
            {"type": "append_entries", "term": term, "commit_index": commit, "entries": ()},
        )

    def _reject(self, peer: str, sequence: int) -> None:
        """Point the leader behind our commit index: up to there the logs are the same (D21)."""
        self._counters["rejections"] += 1
        self._transport.reply_append(
            peer,
            (
                int(Kind.APPEND_REPLY),
                self._raft.term,
                sequence,
                max(self._raft.commit_index, self._journal.base()[0]) + 1,
                True,
                False,
                self._journal.last()[0],
            ),
        )

    def acknowledge_up_to(self, peer: str, index: int) -> None:
        """Tell a leader that the log is its own up to `index`, once that is durable here."""
        self._acknowledge(peer, 0, index + 1)

    def _acknowledge(self, peer: str, sequence: int, next_index: int) -> None:
        self._transport.reply_append(
            peer,
            (
                int(Kind.APPEND_REPLY),
                self._raft.term,
                sequence,
                next_index,
                False,
                True,
                self._journal.last()[0],
            ),
        )
