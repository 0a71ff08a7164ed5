"""From committed entries to the state, and from copies of another node's state to this one's.

Whatever fails here breaks an invariant, so it stops the process.
"""

from __future__ import annotations

import logging

from node.consensus.digests import Digests
from node.consensus.foundation import Foundation
from node.consensus.journal import SegmentedJournal
from node.consensus.leadership import Leadership
from node.consensus.proposals import Proposals
from node.consensus.reads import Reads
from node.consensus.snapshots import ReceivedCopy
from statemachine.machine import Machine
from statemachine.outcomes import UnitOutcome
from statemachine.store import DamagedStateError

logger = logging.getLogger(__name__)


class StateBehindJournalError(Exception):
    """The state is older than the journal's base: this disk cannot be continued."""


def align_journal(journal: SegmentedJournal, machine: Machine) -> None:
    """State and journal were written separately: make the journal continue the state.

    Raises:
        StateBehindJournalError
    """
    applied, base = machine.applied_index, journal.base()[0]
    if base > max(applied, 1):
        raise StateBehindJournalError(
            f"the journal begins at {base} and the state ends at {applied}: what lies between "
            "is lost here; empty the data directory, and the node is rebuilt from the others"
        )
    if applied and journal.term_at(applied) != machine.applied_term:
        # A snapshot was installed, or entries were committed and applied before they were
        # synced here. The state is the cluster's: the journal goes on behind it.
        journal.reset_to(applied, machine.applied_term)


class Applying:
    def __init__(
        self,
        base: Foundation,
        leadership: Leadership,
        proposals: Proposals,
        reads: Reads,
        digests: Digests,
    ) -> None:
        self._machine = base.machine
        self._storage = base.storage
        self._journal = base.journal
        self._raft = base.raft
        self._membership = base.membership
        self._leadership = leadership
        self._proposals = proposals
        self._reads = reads
        self._digests = digests
        self._runtime = base.runtime
        self._notices = base.notices
        self._announced_index = 0

    def apply(self, index: int, payload: bytes) -> None:
        """Apply one committed entry, and answer the callers whose requests are in it."""
        try:
            term = self._journal.term_at(index)
            if term is None:
                raise AssertionError(f"applied entry {index} is not in the journal")
            outcomes = self._machine.apply(index, term, payload)
            self._storage.end_entry()
            self._digests.note_applied(index)
        except DamagedStateError as error:
            logger.critical("a row that entry %d needs is damaged: %s", index, error)
            self._notices.on_diverged()
            self._runtime.stop("the state is damaged")
        except Exception as error:
            logger.critical("apply failed", exc_info=True, extra={"index": index})
            self._runtime.stop(f"entry {index} cannot be applied: {error!r}")
        self._settle(outcomes)

    def _settle(self, outcomes: tuple[UnitOutcome, ...]) -> None:
        if outcomes:
            self._proposals.on_applied(outcomes)

    def after_tick(self, now: float) -> None:
        """What follows once the library has applied all that it knows to be committed."""
        applied = self._raft.last_applied
        if self._membership.on_applied(applied, self._storage):
            self._storage.end_entry()
        if self._raft.is_leader:
            self._leadership.on_applied(applied)
            self._reads.keep_confirmed(now)
        self._reads.on_applied(applied)
        self._announce(applied)
        self._digests.publish()

    def _announce(self, applied: int) -> None:
        if applied != self._announced_index:
            self._announced_index = applied
            self._notices.applied()

    def install(self, received: ReceivedCopy) -> None:
        """Replace the state by a received copy: first the state, then the journal."""
        index, term = received.index, received.entry_term
        try:
            self._storage.install_copy(received.into)
            self._machine.reload()
            if self._machine.applied_index != index:
                raise AssertionError(
                    f"the copy holds index {self._machine.applied_index}, not {index}"
                )
            self._journal.reset_to(index, term)
        except Exception as error:
            logger.critical("snapshot installation failed", exc_info=True)
            self._runtime.stop(f"the snapshot cannot be installed: {error!r}")
        self._raft.restore_applied(index)
        self._membership.on_snapshot(self._storage)
        self._storage.end_entry()
        self._digests.forget()
        self._proposals.on_snapshot(self._machine.outcome_of)
        self._reads.on_applied(index)
        self._announce(index)
        logger.info("snapshot installed", extra={"index": index, "term": term})
