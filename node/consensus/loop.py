"""The loop body: read the frames that came, send and sync what is new, commit what is older.

While a thread syncs the journal, Raft frames queue and the body does not run again, because the
library counts itself as soon as an entry is in its log; questions of reads, forwarded requests and
health go on. A quick disk is waited for instead (docs/adr/0024).
"""

from __future__ import annotations

import logging

from node.consensus.admission import Admission
from node.consensus.applying import Applying
from node.consensus.bootstrap import Bootstrap
from node.consensus.compaction import Compaction
from node.consensus.draws import Draws
from node.consensus.durability import Durability
from node.consensus.election import Election
from node.consensus.foundation import Foundation
from node.consensus.pauses import Pauses
from node.consensus.proposals import Proposals
from node.consensus.reads import Reads
from node.consensus.reception import Reception
from node.consensus.replication import Replication
from node.consensus.snapshots import Snapshots

logger = logging.getLogger(__name__)


class Loop:
    def __init__(
        self,
        base: Foundation,
        *,
        reception: Reception,
        durability: Durability,
        replication: Replication,
        election: Election,
        proposals: Proposals,
        reads: Reads,
        draws: Draws,
        pauses: Pauses,
        applying: Applying,
        snapshots: Snapshots,
        compaction: Compaction,
        bootstrap: Bootstrap,
        admission: Admission,
    ) -> None:
        self._runtime = base.runtime
        self._pulse = base.pulse
        self._raft = base.raft
        self._journal = base.journal
        self._membership = base.membership
        self._reception = reception
        self._transport = base.transport
        self._durability = durability
        self._replication = replication
        self._election = election
        self._proposals = proposals
        self._reads = reads
        self._draws = draws
        self._pauses = pauses
        self._applying = applying
        self._snapshots = snapshots
        self._compaction = compaction
        self._bootstrap = bootstrap
        self._admission = admission
        self._stopped = False

    def run(self) -> None:
        """One round. Whatever goes wrong in it, nobody knows what state is left: stop."""
        self._pulse.began()
        if self._stopped:
            return
        try:
            self._go_round()
        except Exception as error:
            logger.critical("the engine failed", exc_info=True)
            self._runtime.stop(f"the engine failed: {error!r}")

    def stop(self) -> None:
        self._stopped = True

    def _go_round(self) -> None:
        now = self._runtime.monotonic()
        if self._pauses.ran(now):
            self._election.after_gap(now)
        self._draws.feed(now)
        self._reads.feed(now)
        if not self._raft.is_leader:
            self._proposals.feed(now)
        if self._durability.syncing:
            return
        # What the last tick wrote beside a sync has left for the others: no answer to it is judged
        # before it is durable here.
        if self._journal.dirty and not self._durability.sync():
            return
        self._reception.handle_queued()
        received = self._snapshots.take_checked()
        if received is not None:
            self._applying.install(received)
        self._replication.before_tick()
        self._send_and_sync_new(now)
        if self._would_count_itself():
            return
        self._tick(now)
        self._transport.flush()
        self._durability.sync()

    def _send_and_sync_new(self, now: float) -> None:
        """Send and sync what is new, before the time is taken to apply what is committed.

        The tick that follows may evaluate the commit index beside this sync: what is being synced
        has just left for the others, so none of them can have acknowledged it.
        """
        if self._raft.is_leader and self._membership.other_voters:
            self._proposals.feed(now)
            self._raft.append_queued()
        self._transport.flush()
        self._durability.sync()

    def _would_count_itself(self) -> bool:
        """Alone, this node is the majority, and may not be one before its own sync ends."""
        return self._durability.syncing and not self._membership.other_voters

    def _tick(self, now: float) -> None:
        raft = self._raft
        if raft.is_leader and not self._membership.other_voters:
            self._proposals.feed(now)
        self._election.before_tick(now)
        term = raft.term
        raft.doTick(0.0)
        self._replication.after_tick()
        if raft.term != term:
            self._election.campaign_started(now)
        self._applying.after_tick(now)
        self._snapshots.feed(now)
        self._bootstrap.feed()
        self._admission.feed(now)
        self._compaction.after_checkpoint()
        if self._proposals.can_progress or raft.commit_index > raft.last_applied:
            self._pulse.kick()
