"""PySyncObj as it comes, driven by hand: no sockets, no threads, no clock that matters.

For the hazards that our design makes impossible: they are shown where they exist.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from tests.consensus.harness import restore_library

Message = dict[str, Any]


class _Wire(Transport):
    def __init__(self) -> None:
        super().__init__(None, None, None)
        self.sent: list[tuple[str, Message]] = []

    def send(self, node: Node, message: Message) -> bool:
        self.sent.append((str(node.id), copy.deepcopy(message)))
        return True


class BareNode(SyncObj):
    """One of the nodes a, b and c; the others are played by the test."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        restore_library(monkeypatch)
        self.applied: list[str] = []
        self.wire = _Wire()
        peers = [Node(peer) for peer in "abc" if peer != name]
        configuration = SyncObjConf(autoTick=False, appendEntriesUseBatch=False, **options)
        super().__init__(Node(name), peers, configuration, transport=self.wire)
        for peer in peers:
            self.wire._onNodeConnected(peer)
        self.doTick(0)

    @replicated
    def put(self, value: str) -> str:
        self.applied.append(value)
        return value

    def propose(self, value: str, callback: Callable[[Any, int], None]) -> None:
        # The decorator takes the callback away.
        self.put(value, callback=callback)  # type: ignore[call-arg]

    def receive(self, peer: str, message: Message) -> None:
        self.wire._onMessageReceived(Node(peer), message)

    def entry(self, value: str, index: int, term: int) -> tuple[bytes, int, int]:
        """What `put` becomes in the log."""
        return (b"\x00" + pickle.dumps((0, (value,)), 2), index, term)

    def append(
        self, peer: str, term: int, previous: tuple[int, int], *entries: Any, commit: int = 1
    ) -> None:
        self.receive(
            peer,
            {
                "type": "append_entries",
                "term": term,
                "commit_index": commit,
                "prevLogIdx": previous[0],
                "prevLogTerm": previous[1],
                "entries": list(entries),
            },
        )

    def snapshot_part(
        self, peer: str, term: int, commit: int, part: tuple[bytes, bool, bool]
    ) -> None:
        self.receive(
            peer,
            {
                "type": "append_entries",
                "term": term,
                "commit_index": commit,
                "serialized": part,
            },
        )

    def elect(self, voter: str) -> int:
        self._SyncObj__raftElectionDeadline = 0.0
        self.doTick(0)
        term = int(self.raftCurrentTerm)
        self.receive(voter, {"type": "response_vote", "term": term})
        return term

    def taken(self, kind: str) -> list[Message]:
        """The messages of a kind that were sent since the last call."""
        sent, self.wire.sent = self.wire.sent, []
        return [message for _, message in sent if message["type"] == kind]

    @property
    def log(self) -> list[tuple[int, int]]:
        return [(index, term) for _, index, term in self._SyncObj__raftLog[:]]
