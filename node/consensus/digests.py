"""This node's digests: published at each checkpoint, judged with the others', compared on request.

`divergence` says who is right; here is what is sent for it, and what follows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from node.consensus.divergence import Divergence, Verdict
from node.consensus.foundation import Foundation
from node.consensus.leadership import Leadership
from node.consensus.messages import Frame, Kind
from node.consensus.range_check import RangeCheck

logger = logging.getLogger(__name__)

_KEPT_OWN_DIGESTS = 4096

OnCompared = Callable[[bool | None, int], None]
"""Called with same, different or None for unknown, and the index at which it was compared."""


class Digests:
    def __init__(
        self,
        base: Foundation,
        range_check: RangeCheck,
        leadership: Leadership,
    ) -> None:
        self._machine = base.machine
        self._range_check = range_check
        self._membership = base.membership
        self._links = base.links
        self._leadership = leadership
        self._notices = base.notices
        self._divergence = Divergence(base.membership)
        self._due: bytes | None = None
        self._own: dict[int, bytes] = {}
        """After each of the last entries."""
        self._waiting: dict[str, list[OnCompared]] = {}

    def note_applied(self, index: int) -> None:
        """The machine has applied the entry at `index`."""
        machine = self._machine
        self._own[index] = machine.digest
        if len(self._own) > _KEPT_OWN_DIGESTS:
            del self._own[next(iter(self._own))]
        if machine.checkpoint[0] == index:
            self._due = machine.checkpoint[1] + self._range_check.next_digest()

    def forget(self) -> None:
        """The state was replaced: what this node reported before is not its state any more."""
        self._own.clear()
        self._due = None
        self._divergence.forget()

    # --- everybody, at each checkpoint

    def publish(self) -> None:
        """Send the digest of the checkpoint that was just passed, if there was one."""
        if self._due is None:
            return
        digest, self._due = self._due, None
        index = self._machine.checkpoint[0]
        for peer in self._membership.other_voters:
            self._links.send(peer, (int(Kind.DIGEST), index, digest))
        self.judge(self._membership.node_id, index, digest)

    def judge(self, node_id: str, index: int, digest: bytes) -> None:
        """Take a member's digest; stop or halt when the states differ."""
        match self._divergence.report(node_id, index, digest):
            case Verdict.AGREED:
                self._leadership.halted = False
            case Verdict.MINORITY:
                logger.critical("this node's state differs from the majority's at %d", index)
                self._notices.on_diverged()
            case Verdict.SPLIT:
                logger.critical("the nodes' states differ at %d and none has a majority", index)
                self._leadership.halted = True

    # --- with one node, when somebody asks

    def compare(self, peer: str, on_result: OnCompared) -> None:
        """Ask a peer for its digest and compare it with this node's at the same index.

        The result is None when this node does not know its own digest there, or the peer is gone.
        """
        if not self._links.is_connected(peer):
            on_result(None, 0)
            return
        waiting = self._waiting.setdefault(peer, [])
        waiting.append(on_result)
        if len(waiting) == 1:
            self._links.send(peer, (int(Kind.DIGEST_REQUEST),))

    def on_request(self, peer: str, frame: Frame) -> None:
        del frame
        machine = self._machine
        self._links.send(peer, (int(Kind.DIGEST_REPLY), machine.applied_index, machine.digest))

    def on_reply(self, peer: str, frame: Frame) -> None:
        _, index, digest = frame
        own = self._own.get(index)
        for on_result in self._waiting.pop(peer, []):
            on_result(None if own is None else own == digest, index)

    def on_disconnected(self, peer: str) -> None:
        for on_result in self._waiting.pop(peer, []):
            on_result(None, 0)
