"""State for a peer whose log ends before the leader's begins: a resumable, checked stream.

The library is not involved. The leader makes a copy of its durable state, offers it, and the peer
asks for chunk after chunk; when the checksum fits, the peer installs it, resets its journal to the
copy's index, and replication goes on behind it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from node.consensus.appending import Appending
from node.consensus.foundation import Foundation
from node.consensus.messages import Frame, Kind
from node.consensus.replication import Replication
from node.consensus.state import IncomingCopy, StateCopy

logger = logging.getLogger(__name__)

_HOLD_UNUSED_S = 30.0


@dataclass(slots=True)
class _Held:
    """A copy that this node serves."""

    snapshot_id: str
    copy: StateCopy
    term: int
    used_at: float


@dataclass(slots=True)
class ReceivedCopy:
    """A copy that this node receives."""

    peer: str
    snapshot_id: str
    index: int
    entry_term: int
    size: int
    sha256: bytes
    into: IncomingCopy
    written: int = 0
    requested: int = 0
    heard_at: float = 0.0
    complete: bool = False
    """All of it is here; it is being made durable, or was."""
    checked: bool = False
    """It is durable and sound: it may be installed."""


class Snapshots:
    def __init__(
        self,
        base: Foundation,
        replication: Replication,
        appending: Appending,
    ) -> None:
        self._raft = base.raft
        self._journal = base.journal
        self._links = base.links
        self._replication = replication
        self._storage = base.storage
        self._runtime = base.runtime
        self._settings = base.settings
        self._appending = appending
        self._pulse = base.pulse
        self._held: _Held | None = None
        self._copying = False
        self._offered_at: dict[str, float] = {}
        self._incoming: ReceivedCopy | None = None
        self.counters = base.counters

    # --- serving

    def feed(self, now: float) -> None:
        """Offer a copy to the peers that need one; make it first when there is none."""
        self._drop_unused(now)
        self._nudge(now)
        if not self._raft.is_leader:
            self._offered_at.clear()
            return
        wanting = [
            peer for peer in self._replication.wants_snapshot() if self._links.is_connected(peer)
        ]
        if not wanting:
            return
        if self._held is None or self._held.copy.index < self._journal.base()[0]:
            self._make_copy()
            return
        for peer in wanting:
            offered_at = self._offered_at.get(peer)
            if offered_at is None or now - offered_at >= 10 * self._settings.heartbeat_s:
                self._offer(peer, self._held, now)

    def _make_copy(self) -> None:
        if not self._copying:
            self._copying = True
            self._storage.copy(self._on_copied)

    def _on_copied(self, result: StateCopy | Exception) -> None:
        self._copying = False
        if isinstance(result, Exception):
            logger.error("could not copy the state for a peer: %s", result)
            return
        term = self._journal.term_at(result.index)
        if term is None:
            # The log moved on while the copy was made; the next round makes another.
            result.discard()
            return
        if self._held is not None:
            self._held.copy.discard()
        snapshot_id = f"{result.index}-{term}-{result.sha256.hex()[:12]}"
        self._held = _Held(snapshot_id, result, term, self._runtime.monotonic())
        self.counters["snapshots_made"] += 1

    def _offer(self, peer: str, held: _Held, now: float) -> None:
        self._offered_at[peer] = now
        self._links.send(
            peer,
            (
                int(Kind.SNAPSHOT_OFFER),
                self._raft.term,
                held.snapshot_id,
                held.copy.index,
                held.term,
                held.copy.size,
                held.copy.sha256,
            ),
        )

    def on_request(self, peer: str, snapshot_id: str, offset: int) -> None:
        now = self._runtime.monotonic()
        held = self._held
        data = b""
        if held is not None and held.snapshot_id == snapshot_id and 0 <= offset < held.copy.size:
            held.used_at = now
            self._offered_at[peer] = now
            data = held.copy.read(offset, self._settings.snapshot_chunk_bytes)
        self._links.send(peer, (int(Kind.SNAPSHOT_CHUNK), snapshot_id, offset, data))

    def _drop_unused(self, now: float) -> None:
        if self._held is not None and now - self._held.used_at > _HOLD_UNUSED_S:
            self._held.copy.discard()
            self._held = None

    @property
    def oldest_index_held(self) -> int | None:
        """Log behind this index must stay: a peer that installs the copy goes on from there."""
        return self._held.copy.index if self._held is not None else None

    # --- receiving

    def on_offer(self, peer: str, frame: Frame) -> None:
        _, _, snapshot_id, index, entry_term, size, sha256 = frame
        now = self._runtime.monotonic()
        if self._journal.term_at(index) == entry_term:
            # The log holds that very entry, so it is the leader's up to there: say so, or the
            # leader would go on offering what is not needed.
            self._appending.acknowledge_up_to(peer, index)
            return
        if index <= self._raft.last_applied:
            return
        current = self._incoming
        if current is not None and current.complete:
            return
        if current is not None and current.snapshot_id == snapshot_id:
            # The same copy: go on where it stopped, at whoever offers it now.
            current.peer = peer
            current.requested = current.written
            self._request_more(current, now)
            return
        if current is not None:
            current.into.discard()
        self._incoming = ReceivedCopy(
            peer, snapshot_id, index, entry_term, size, sha256, self._storage.receive_copy()
        )
        self._request_more(self._incoming, now)

    def _request_more(self, incoming: ReceivedCopy, now: float) -> None:
        incoming.heard_at = now
        chunk = self._settings.snapshot_chunk_bytes
        limit = incoming.written + chunk * self._settings.snapshot_chunks_in_flight
        while incoming.requested < min(limit, incoming.size):
            self._links.send(
                incoming.peer,
                (int(Kind.SNAPSHOT_REQUEST), incoming.snapshot_id, incoming.requested),
            )
            incoming.requested += chunk

    def on_chunk(self, peer: str, frame: Frame) -> None:
        _, snapshot_id, offset, data = frame
        incoming = self._incoming
        if (
            incoming is None
            or incoming.complete
            or incoming.snapshot_id != snapshot_id
            or incoming.peer != peer
        ):
            return
        if not data:
            incoming.into.discard()
            self._incoming = None
            return
        if offset != incoming.written:
            return
        incoming.into.write(data)
        incoming.written += len(data)
        if incoming.written < incoming.size:
            self._request_more(incoming, self._runtime.monotonic())
            return
        incoming.complete = True
        incoming.into.finish(lambda result: self._on_finished(incoming, result))

    def _on_finished(self, incoming: ReceivedCopy, result: bytes | Exception) -> None:
        if result == incoming.sha256 and incoming.written == incoming.size:
            incoming.checked = True
            self._pulse.kick()
            return
        logger.error("snapshot %s is damaged and is discarded: %r", incoming.snapshot_id, result)
        self.counters["snapshots_damaged"] += 1
        incoming.into.discard()
        self._incoming = None

    def take_checked(self) -> ReceivedCopy | None:
        """Hand out the copy that is to be installed now. Called when no sync is under way."""
        incoming = self._incoming
        if incoming is None or not incoming.checked:
            return None
        self._incoming = None
        held = self._journal.term_at(incoming.index) == incoming.entry_term
        if held or incoming.index <= self._raft.last_applied:
            # The log came up to the copy meanwhile. What lies behind may be acknowledged already,
            # and an installation would cut it.
            incoming.into.discard()
            return None
        self.counters["snapshots_installed"] += 1
        return incoming

    def _nudge(self, now: float) -> None:
        """Ask again for what was asked and did not come."""
        incoming = self._incoming
        if incoming is None or incoming.complete:
            return
        if now - incoming.heard_at > 4 * self._settings.heartbeat_s:
            incoming.requested = incoming.written
            self._request_more(incoming, now)

    def on_connected(self, peer: str) -> None:
        self._offered_at.pop(peer, None)
