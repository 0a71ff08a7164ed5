"""Whether this node leads and may serve, and what holds back its proposals.

A leader serves once it has applied an entry of its own term: only then does it know all that is
committed (Ongaro's thesis, section 6.4).
"""

from __future__ import annotations

import logging

from node.consensus.foundation import Foundation
from node.consensus.stamps import Stamps

logger = logging.getLogger(__name__)


class Leadership:
    def __init__(
        self,
        base: Foundation,
        stamps: Stamps,
    ) -> None:
        self._raft = base.raft
        self._journal = base.journal
        self._stamps = stamps
        self._pulse = base.pulse
        self._notices = base.notices
        self._counters = base.counters
        self.ready = False
        """This node leads and has applied an entry of its own term."""
        self.handing_over = False
        """While leadership moves, nothing new is proposed."""
        self.halted = False
        """The nodes' states differ and nobody can tell who is right: nothing is proposed."""
        self.full = False
        """A member's state or disk is nearly full: what grows it is refused."""

    @property
    def may_propose(self) -> bool:
        return self.ready and not self.handing_over and not self.halted

    def on_applied(self, index: int) -> None:
        """This node leads, and has applied the log up to `index`."""
        if not self.ready and self._journal.term_at(index) == self._raft.term:
            self.ready = True
            self._stamps.lead()
            self._counters["terms_led"] += 1
            logger.info("leads", extra={"term": self._raft.term, "index": index})
            self._notices.role_changed()
            self._pulse.kick()

    def on_role_change(self) -> None:
        """The library's role changed; if this node leads, it is not ready yet."""
        self.ready = False
        self._stamps.follow()
