"""Which part of the journal is needed no more.

State that LMDB made durable needs no journal. A tail is kept for members that lag, up to a limit;
whoever lags further takes a snapshot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from node.consensus.journal import SegmentedJournal
from node.consensus.raft import Raft
from node.consensus.replication import Replication
from node.consensus.settings import EngineSettings
from node.consensus.snapshots import Snapshots


class Compaction:
    def __init__(
        self,
        raft: Raft,
        journal: SegmentedJournal,
        replication: Replication,
        snapshots: Snapshots,
        settings: EngineSettings,
        counters: Counter[str],
    ) -> None:
        self._raft = raft
        self._journal = journal
        self._replication = replication
        self._snapshots = snapshots
        self._settings = settings
        self._counters = counters

    def run(self, durable_index: int, peers: Iterable[str]) -> None:
        """Drop what may go, when there is enough of it. Called after a checkpoint."""
        settings = self._settings
        size = self._journal.size_bytes
        if size < 2 * settings.journal_compact_bytes:
            return
        base = self._journal.base()[0]
        target = min(durable_index, self._raft.last_applied)
        if self._raft.is_leader and size < settings.journal_retain_bytes:
            for peer in peers:
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
