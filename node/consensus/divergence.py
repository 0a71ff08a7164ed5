"""Do all nodes hold the same state? Each publishes its digest at the same indexes.

A node whose digest differs from what a majority agrees on has applied something wrongly, or reads
damaged data: it must stop serving and rebuild its state. When no majority agrees, nobody can tell
who is right, and all stop writing.
"""

from __future__ import annotations

import enum
from collections import Counter

from node.consensus.membership import Membership

_KEPT_INDEXES = 64


class Verdict(enum.Enum):
    AGREED = "agreed"
    MINORITY = "minority"
    """This node differs from a majority."""
    SPLIT = "split"
    """Enough nodes reported, and no majority agrees."""


class Divergence:
    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._reports: dict[int, dict[str, bytes]] = {}

    def report(self, node_id: str, index: int, digest: bytes) -> Verdict:
        """Take one node's digest, and judge what is known about that index."""
        reports = self._reports.setdefault(index, {})
        reports[node_id] = digest
        while len(self._reports) > _KEPT_INDEXES:
            del self._reports[min(self._reports)]
        own = reports.get(self._membership.node_id)
        counted = [value for node, value in reports.items() if self._membership.votes(node)]
        if own is None or not counted or len(set(reports.values())) == 1:
            return Verdict.AGREED
        most_common, _ = Counter(counted).most_common(1)[0]
        holders = [node for node, value in reports.items() if value == most_common]
        if self._membership.is_quorum(holders):
            return Verdict.AGREED if own == most_common else Verdict.MINORITY
        if self._membership.is_quorum(list(reports)):
            return Verdict.SPLIT
        return Verdict.AGREED

    def forget(self) -> None:
        """The state was replaced: what this node reported before is not its state any more."""
        for reports in self._reports.values():
            reports.pop(self._membership.node_id, None)
