"""What the links report: peers that come and go, and their frames.

Frames that assert something about the log wait for the loop, which takes them when no sync is
under way; all others are handled at once.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Final

from node.consensus.bootstrap import Bootstrap
from node.consensus.contacts import Contacts
from node.consensus.digests import Digests
from node.consensus.dispatch import IMMEDIATE_KINDS, Dispatch
from node.consensus.election import Election
from node.consensus.foundation import Foundation
from node.consensus.links import LinkEvents
from node.consensus.messages import Frame, Kind, RefusalReason
from node.consensus.replication import Replication
from node.consensus.snapshots import Snapshots


class Handled(enum.IntEnum):
    """What the frames that were handled may have moved; the greater takes in the smaller."""

    NOTHING = 0
    LOG = 1
    OTHERS = 2


_OF_THE_LOG: Final = frozenset((Kind.APPEND, Kind.APPEND_REPLY, Kind.COMMIT))


class Reception(LinkEvents):
    def __init__(
        self,
        base: Foundation,
        *,
        contacts: Contacts,
        dispatch: Dispatch,
        replication: Replication,
        election: Election,
        snapshots: Snapshots,
        digests: Digests,
        bootstrap: Bootstrap,
    ) -> None:
        self._contacts = contacts
        self._dispatch = dispatch
        self._raft = base.raft
        self._transport = base.transport
        self._replication = replication
        self._election = election
        self._snapshots = snapshots
        self._digests = digests
        self._bootstrap = bootstrap
        self._pulse = base.pulse
        self._inbox: deque[tuple[str, Frame]] = deque()

    # --- peers

    def hello(self, peer: str) -> Frame:
        return self._contacts.hello(peer)

    def admit(self, hello: Frame) -> RefusalReason | None:
        reason = self._contacts.admit(hello)
        if reason is None:
            self._bootstrap.on_contact(str(hello[3]))
        return reason

    def on_connected(self, peer: str) -> None:
        self._transport.discard(peer)
        self._raft.resume_sending(peer)
        self._replication.on_connected(peer)
        self._snapshots.on_connected(peer)
        self._bootstrap.on_contact(peer)
        self._pulse.kick()

    def on_disconnected(self, peer: str) -> None:
        self._transport.discard(peer)
        self._raft.interrupt_sending(peer)
        self._digests.on_disconnected(peer)
        self._election.on_link_lost(peer)
        self._pulse.kick()

    def on_refused(self, peer: str, reason: RefusalReason) -> None:
        self._contacts.refused(peer, reason)

    # --- frames

    def on_frame(self, peer: str, frame: Frame) -> None:
        self._contacts.heard(peer)
        if frame[0] in IMMEDIATE_KINDS:
            self._dispatch(peer, frame)
        else:
            self._inbox.append((peer, frame))

    def on_frames_end(self) -> None:
        self._pulse.kick_for_input()

    def handle_queued(self) -> Handled:
        """Handle what has waited. Called when no sync of the journal is under way."""
        inbox = self._inbox
        handled = Handled.NOTHING
        while inbox:
            peer, frame = inbox.popleft()
            self._dispatch(peer, frame)
            handled = max(handled, Handled.LOG if frame[0] in _OF_THE_LOG else Handled.OTHERS)
        return handled
