"""The loop body: read the frames that came, send and sync what is new, commit what is older.

Most rounds follow upon a request, a frame or a sync, and do what that asks for. What is due by time
or hardly ever is looked after by *whole* rounds, of which there are two in each heartbeat and one
after whatever is out of the ordinary.

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
from node.consensus.reception import Handled, Reception
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
        self._whole_was_due = False
        """A round that was to look after everything had to wait for a sync."""
        self._stopped = False

    def run(self) -> None:
        """One round. Whatever goes wrong in it, nobody knows what state is left: stop."""
        whole = self._pulse.began()
        if self._stopped:
            return
        try:
            self._go_round(whole=whole)
        except Exception as error:
            logger.critical("the engine failed", exc_info=True)
            self._runtime.stop(f"the engine failed: {error!r}")

    def stop(self) -> None:
        self._stopped = True

    def _go_round(self, *, whole: bool) -> None:
        now = self._runtime.monotonic()
        if self._pauses.ran(now):
            self._election.after_gap(now)
        self._draws.feed(now)
        self._reads.feed(now)
        if not self._raft.is_leader:
            self._proposals.feed(now)
        if self._durability.syncing:
            self._whole_was_due = whole or self._whole_was_due
            return
        # What the last tick wrote beside a sync has left for the others: no answer to it is judged
        # before it is durable here.
        if self._journal.dirty and not self._durability.sync():
            self._whole_was_due = whole or self._whole_was_due
            return
        handled = self._reception.handle_queued()
        whole = whole or self._whole_was_due or handled is Handled.OTHERS
        self._whole_was_due = False
        if whole:
            received = self._snapshots.take_checked()
            if received is not None:
                self._applying.install(received)
        self._replication.before_tick()
        self._send_and_sync_new(now)
        if self._would_count_itself():
            self._whole_was_due = whole
            return
        ticks = whole or self._would_tick(handled)
        if ticks:
            self._tick(now)
        self._replication.after_tick()
        if whole:
            self._look_after_the_rest(now)
        if self._proposals.can_progress or self._raft.commit_index > self._raft.last_applied:
            self._pulse.kick_for_input()
        if ticks:
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

    def _would_tick(self, handled: Handled) -> bool:
        """Whether a tick would do more than look around: commit, or apply."""
        raft = self._raft
        if raft.commit_index > raft.last_applied or not self._membership.other_voters:
            return True
        # Until everything is committed, any acknowledgement may commit more.
        acknowledged = raft.is_leader and handled is not Handled.NOTHING
        return acknowledged and raft.commit_index < self._journal.last()[0]

    def _tick(self, now: float) -> None:
        raft = self._raft
        if raft.is_leader and not self._membership.other_voters:
            self._proposals.feed(now)
        self._election.before_tick(now)
        term = raft.term
        raft.doTick(0.0)
        if raft.term != term:
            self._election.campaign_started(now)
        self._applying.after_tick(now)
        # What is applied and not committed to the disk takes memory, so this is asked each time.
        self._compaction.after_checkpoint()

    def _look_after_the_rest(self, now: float) -> None:
        """What is in no hurry."""
        self._snapshots.feed(now)
        self._bootstrap.feed()
        self._admission.feed(now)
