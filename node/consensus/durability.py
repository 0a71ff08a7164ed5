"""The journal's syncs, and what may leave when one has ended.

One sync at a time. It covers what was parked when it began and nothing later; an error ends the
process, because nobody knows what reached the medium.
"""

from __future__ import annotations

from node.consensus.foundation import Foundation
from node.consensus.pace import Pace


class Durability:
    def __init__(
        self,
        base: Foundation,
        pace: Pace,
    ) -> None:
        self._journal = base.journal
        self._transport = base.transport
        self._runtime = base.runtime
        self._pace = pace
        self._pulse = base.pulse
        self.syncing = False
        self._began_at = 0.0
        self._stopped = False

    def sync(self) -> bool:
        """Make the journal durable, and let go what was parked before that began.

        Returns whether it is durable already; else a sync is under way.
        """
        if self.syncing:
            return False
        self._transport.seal()
        if not self._journal.dirty:
            self._transport.release()
            return True
        self._began_at = self._runtime.monotonic()
        if self._journal.quick:
            self._wait()
            return True
        self.syncing = True
        self._journal.flush(self.on_durable)
        return False

    def _wait(self) -> None:
        """Sync here and now: the disk is done before it could be told of from elsewhere."""
        try:
            self._journal.flush_now()
        except OSError as error:
            self._runtime.stop(f"the journal cannot be written: {error}")
        self._pace.sync_took(self._runtime.monotonic() - self._began_at)
        self._transport.release()

    def on_durable(self, error: OSError | None) -> None:
        if error is not None:
            self._runtime.stop(f"the journal cannot be written: {error}")
        self.syncing = False
        if self._stopped:
            return
        self._pace.sync_took(self._runtime.monotonic() - self._began_at)
        self._transport.release()
        self._pulse.kick_for_input()

    def stop(self) -> None:
        """Wait until all that was added is durable; nothing leaves any more."""
        self._stopped = True
        self._journal.flush_now()
