"""How far each peer is, as its leader knows it: flow control, rewinding, and who needs a snapshot.

The library keeps a next index for each peer and sends whatever lies behind it. This module decides
what that index may be: it never falls below what the peer acknowledged (D4), a rejection counts
only for frames sent since the last rewinding (D17), and a peer whose log ends before ours begins
is served a snapshot.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from node.consensus.foundation import Foundation
from node.consensus.messages import Frame, Kind, RefusalReason
from node.consensus.transport import Message

logger = logging.getLogger(__name__)

_LONG_AGO = float("-inf")


@dataclass(slots=True)
class Progress:
    """One peer, as long as the connection and the term last."""

    sequence: int = 0
    """Of the last append frame that was written to the peer."""
    rewound_at: int = 0
    """A rejection of a frame with a lower sequence is stale."""
    resume_at: int = 0
    """While the peer is congested: the first index that was held back. 0: not congested."""
    queued_bytes: int = 0
    """Of entries handed over in the current tick."""
    asked_at: float = _LONG_AGO
    """When the last append frame was written: each is answered."""
    needs_snapshot: bool = False
    regressed: bool = False
    """Its log ended before what it had acknowledged: nothing it says counts any more."""


class Replication:
    def __init__(
        self,
        base: Foundation,
    ) -> None:
        self._raft = base.raft
        self._journal = base.journal
        self._links = base.links
        self._transport = base.transport
        self._settings = base.settings
        self._runtime = base.runtime
        self._progress: dict[str, Progress] = {}
        self._interrupted: list[str] = []
        self.counters = base.counters

    def progress(self, peer: str) -> Progress:
        progress = self._progress.get(peer)
        if progress is None:
            progress = self._progress[peer] = Progress()
        return progress

    def reset(self) -> None:
        """The role or term changed: sequences go on, everything else starts over."""
        for progress in self._progress.values():
            progress.rewound_at = progress.sequence + 1
            progress.resume_at = 0
            progress.asked_at = _LONG_AGO
            progress.needs_snapshot = False
            progress.regressed = False

    def forget(self, peer: str) -> None:
        """The node came back with another disk: what the old one acknowledged counts no more."""
        sequence = self.progress(peer).sequence
        self._progress[peer] = Progress(sequence=sequence, rewound_at=sequence + 1)
        self._raft.forget_match(peer)

    def drop(self, peer: str) -> None:
        """Nobody keeps in contact with the node any more."""
        self._progress.pop(peer, None)

    def on_connected(self, peer: str) -> None:
        """Frames of the old connection may be lost: go on behind what was acknowledged."""
        progress = self.progress(peer)
        progress.resume_at = 0
        progress.asked_at = _LONG_AGO
        if self._raft.is_leader:
            # Of a peer that has acknowledged nothing yet, its first rejection says where it is.
            matched = self._raft.match_index(peer) or self._journal.last()[0]
            self._rewind(peer, matched + 1)

    # --- sending

    def number(self, peer: str) -> int:
        progress = self.progress(peer)
        progress.sequence += 1
        progress.asked_at = self._runtime.monotonic()
        return progress.sequence

    def wants_answer(self, peer: str) -> bool:
        asked_at = self.progress(peer).asked_at
        return self._runtime.monotonic() - asked_at >= self._settings.heartbeat_s / 2

    def may_send(self, peer: str, message: Message) -> bool:
        """Whether the library's append_entries may go to the peer's outbox."""
        progress = self.progress(peer)
        if "prevLogIdx" not in message:
            # The library wants to ship its own kind of snapshot.
            progress.needs_snapshot = True
            self._interrupt(peer)
            return False
        entries = message["entries"]
        if progress.resume_at:
            return False
        if not entries:
            return True
        if progress.needs_snapshot or progress.regressed:
            self._interrupt(peer)
            return False
        if (
            progress.queued_bytes + self._links.buffered_bytes(peer)
            > self._settings.congested_bytes
        ):
            progress.resume_at = message["prevLogIdx"] + 1
            self.counters["congested"] += 1
            self._interrupt(peer)
            return False
        progress.queued_bytes += sum(len(entry[0]) for entry in entries)
        return True

    def _interrupt(self, peer: str) -> None:
        self._raft.interrupt_sending(peer)
        self._interrupted.append(peer)

    def before_tick(self) -> None:
        """Let drained peers go on, and give the library nothing to send to the others."""
        beyond = self._journal.last()[0] + 1
        for peer, progress in self._progress.items():
            if progress.resume_at:
                drained = self._links.buffered_bytes(peer) * 4 < self._settings.congested_bytes
                if drained and self._links.is_connected(peer):
                    resume_at, progress.resume_at = progress.resume_at, 0
                    self._rewind(peer, resume_at)
                else:
                    self._raft.set_next_index(peer, beyond)
            elif progress.needs_snapshot or progress.regressed:
                self._raft.set_next_index(peer, beyond)

    def after_tick(self) -> None:
        for peer in self._interrupted:
            if self._links.is_connected(peer):
                self._raft.resume_sending(peer)
        self._interrupted.clear()
        for progress in self._progress.values():
            progress.queued_bytes = 0

    # --- replies

    def on_append_reply(self, peer: str, frame: Frame) -> None:
        """Judge a reply of the current term from a member in force, and tell the library."""
        _, _, sequence, next_index, reset, success, last_index = frame
        progress = self.progress(peer)
        matched = self._raft.match_index(peer)
        if progress.regressed:
            return
        if last_index < matched:
            progress.regressed = True
            logger.error(
                "member lost acknowledged entries",
                extra={"peer": peer, "acknowledged": matched, "holds": last_index},
            )
            self._links.send(peer, (int(Kind.REFUSED), str(RefusalReason.REGRESSED)))
            return
        before = self._raft.next_index(peer)
        if success:
            if next_index - 1 > self._journal.last()[0]:
                self.counters["impossible_reply"] += 1
                return
            self._tell_library(peer, next_index, reset=False, success=True)
            # The library rewinds to the reply even when more is under way already (D4).
            self._raft.set_next_index(peer, max(before, next_index))
            if progress.needs_snapshot and next_index > self._journal.base()[0]:
                progress.needs_snapshot = False
                self._rewind(peer, next_index)
            return
        # Any answer shows that the peer lives, so the library hears of it; the index is ours.
        self._tell_library(peer, before, reset=True, success=False)
        if reset and sequence >= progress.rewound_at and not progress.resume_at:
            self._rewind(peer, max(next_index, matched + 1))
        else:
            self.counters["stale_rejections"] += 1

    def _rewind(self, peer: str, next_index: int) -> None:
        progress = self.progress(peer)
        progress.rewound_at = progress.sequence + 1
        progress.needs_snapshot = next_index <= self._journal.base()[0]
        if progress.needs_snapshot:
            next_index = self._journal.last()[0] + 1
        self.counters["rewinds"] += 1
        self._raft.set_next_index(peer, next_index)

    def _tell_library(self, peer: str, next_index: int, *, reset: bool, success: bool) -> None:
        self._transport.inject(
            self._raft.node(peer),
            {
                "type": "next_node_idx",
                "next_node_idx": next_index,
                "reset": reset,
                "success": success,
            },
        )

    def on_compacted(self) -> None:
        """The log begins later now: whoever needed what is gone needs a snapshot."""
        if not self._raft.is_leader:
            return
        base = self._journal.base()[0]
        for peer, progress in self._progress.items():
            if progress.resume_at and progress.resume_at <= base:
                progress.resume_at = 0
                progress.needs_snapshot = True
            elif 0 < self._raft.next_index(peer) <= base:
                progress.needs_snapshot = True

    def wants_snapshot(self) -> list[str]:
        return [peer for peer, progress in self._progress.items() if progress.needs_snapshot]
