"""Making the state durable now and then, and which part of the journal is needed no more.

State that LMDB made durable needs no journal. A tail is kept for members that lag, up to a limit;
whoever lags further takes a snapshot.
"""

from __future__ import annotations

from node.consensus.foundation import Foundation
from node.consensus.replication import Replication
from node.consensus.snapshots import Snapshots


class Compaction:
    def __init__(
        self,
        base: Foundation,
        replication: Replication,
        snapshots: Snapshots,
    ) -> None:
        self._storage = base.storage
        self._raft = base.raft
        self._journal = base.journal
        self._membership = base.membership
        self._replication = replication
        self._snapshots = snapshots
        self._settings = base.settings
        self._counters = base.counters

    def after_checkpoint(self) -> None:
        """Make the state durable when it is time to; if it was, drop what may go."""
        if self._storage.checkpoint():
            self._drop(self._storage.durable_index)

    def _drop(self, durable_index: int) -> None:
        """Drop what may go, when there is enough of it."""
        settings = self._settings
        size = self._journal.size_bytes
        if size < 2 * settings.journal_compact_bytes:
            return
        base = self._journal.base()[0]
        target = min(durable_index, self._raft.last_applied)
        if self._raft.is_leader and size < settings.journal_retain_bytes:
            for peer in self._membership.other_members:
                target = min(target, max(self._raft.match_index(peer), base))
        held = self._snapshots.oldest_index_held
        if held is not None and size < 4 * settings.journal_retain_bytes:
            # Whoever installs the copy goes on from its index.
            target = min(target, max(held, base))
        target = min(target, self._index_before_bytes(settings.journal_compact_bytes))
        if target > base:
            self._journal.compact_to(target)
            self._replication.on_compacted()
            self._counters["compactions"] += 1

    def _index_before_bytes(self, kept_bytes: int) -> int:
        """The index behind which about `kept_bytes` of journal lie, by the average entry."""
        base, last = self._journal.base()[0], self._journal.last()[0]
        average = max(1, self._journal.size_bytes // max(1, last - base + 1))
        return max(base, last - kept_bytes // average)
