"""The outbox between PySyncObj and the links: merging, numbering, and the durability rule.

Nothing that asserts something about the log leaves before the journal is durable: replies to
append_entries, votes and candidacies are parked until the sync ends. append_entries itself may
leave earlier, because a leader counts itself for an entry only together with an acknowledgement of
another node, and none is read before the sync ends.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol

from pysyncobj.node import Node
from pysyncobj.transport import Transport

from node.consensus.journal import SegmentedJournal
from node.consensus.links import Links
from node.consensus.messages import Frame, Kind
from node.consensus.settings import APPEND_BATCH_BYTES

Message = dict[str, Any]
"""A message of the library, as it is before it becomes a frame."""


class Flow(Protocol):
    """What the outbox asks about append_entries; it is made behind the library."""

    def may_send(self, peer: str, message: Message) -> bool: ...

    def number(self, peer: str) -> int:
        """The next sequence number of a frame to this peer."""

    def wants_answer(self, peer: str) -> bool:
        """Whether append_entries without entries must be answered, to show that the peer lives."""


class RaftTransport(Transport):
    """Takes the library's messages; `flush` turns them into frames."""

    def __init__(self, links: Links, journal: SegmentedJournal, counters: Counter[str]) -> None:
        super().__init__(None, None, None)
        self._links = links
        self._journal = journal
        self.counters = counters
        self.flow: Flow
        self._outbox: dict[str, list[Message]] = {}
        self._parked: list[tuple[str, Frame]] = []
        """Waits for the next sync."""
        self._sealed: list[tuple[str, Frame]] = []
        """Waits for the sync under way."""
        self.answering_sequence = 0
        """Sequence of the append frame that the library is being handed."""
        self.transfer_term = 0
        """While this node campaigns on request of a leader: that leader's term."""

    def send(self, node: Node, message: Message) -> bool:
        """Called by the library. False tells it nothing: it ignores the answer."""
        peer = str(node.id)
        if not self._links.is_connected(peer):
            return False
        kind = message["type"]
        if kind == "append_entries":
            if not self.flow.may_send(peer, message):
                return False
        elif kind == "next_node_idx":
            # The term that the reply speaks of is the term now, not at the flush (D1).
            message["term"] = self._journal.getCurrentTerm()
            message["sequence"] = self.answering_sequence
            message["last_index"] = self._journal.last()[0]
        elif kind not in ("request_vote", "response_vote"):
            # The library would forward a command to a leader; our own batches do that.
            self.counters[f"dropped_{kind}"] += 1
            return False
        self._outbox.setdefault(peer, []).append(message)
        return True

    def inject(self, node: Node, message: Message) -> None:
        """Hand a message to the library."""
        self._onMessageReceived(node, message)

    def reply_append(self, peer: str, frame: Frame) -> None:
        """Park a reply of our own to append_entries until the journal is durable."""
        self._parked.append((peer, frame))

    def discard(self, peer: str) -> None:
        """The connection is gone, and with it what was about to be sent on it."""
        self._outbox.pop(peer, None)

    def flush(self) -> None:
        """Write append_entries now; park everything that must wait for the journal."""
        outbox, self._outbox = self._outbox, {}
        for peer, messages in outbox.items():
            early: list[Frame] = []
            for message in self._merged(messages):
                kind = message["type"]
                if kind == "append_entries":
                    early.append(
                        self._commit_frame(peer, message) or self._append_frame(peer, message)
                    )
                else:
                    self._parked.append((peer, _parked_frame(message, self.transfer_term)))
            if early:
                self._links.send(peer, *early)

    def seal(self) -> None:
        """A sync begins: it covers what was parked until now, and nothing later."""
        if self._parked:
            self._sealed += self._parked
            self._parked = []

    def release(self) -> None:
        """The sync ended: what it covers may leave."""
        if not self._sealed:
            return
        sealed, self._sealed = self._sealed, []
        for peer, frame in sealed:
            self._links.send(peer, frame)

    def _commit_frame(self, peer: str, message: Message) -> Frame | None:
        """The frame of a message that only says what is committed; None when it says more."""
        if message["entries"] or self.flow.wants_answer(peer):
            return None
        index = message["commit_index"]
        term = self._journal.term_at(index)
        if term is None:
            return None
        self.counters["commit_frames"] += 1
        return (int(Kind.COMMIT), message["term"], index, term)

    def _append_frame(self, peer: str, message: Message) -> Frame:
        entries = message["entries"]
        sequence = self.flow.number(peer)
        self.counters["append_frames"] += 1
        self.counters["entries_sent"] += len(entries)
        return (
            int(Kind.APPEND),
            message["term"],
            sequence,
            message["commit_index"],
            message["prevLogIdx"],
            message["prevLogTerm"],
            tuple(entries),
        )

    def _merged(self, messages: list[Message]) -> list[Message]:
        """Join append_entries that continue each other, up to the batch size."""
        if len(messages) == 1:
            return messages
        merged: list[Message] = []
        size = 0
        for message in messages:
            previous = merged[-1] if merged else None
            if (
                message["type"] != "append_entries"
                or previous is None
                or previous["type"] != "append_entries"
                or previous["term"] != message["term"]
                or _end(previous) != message["prevLogIdx"]
                or size > APPEND_BATCH_BYTES
            ):
                size = sum(len(entry[0]) for entry in message.get("entries", ()))
                merged.append(message)
                continue
            previous["entries"] = [*previous["entries"], *message["entries"]]
            previous["commit_index"] = message["commit_index"]
            size += sum(len(entry[0]) for entry in message["entries"])
        return merged


def _end(message: Message) -> int:
    entries = message["entries"]
    return int(entries[-1][1] if entries else message["prevLogIdx"])


def _parked_frame(message: Message, transfer_term: int) -> Frame:
    match message["type"]:
        case "next_node_idx":
            return (
                int(Kind.APPEND_REPLY),
                message["term"],
                message["sequence"],
                message["next_node_idx"],
                message["reset"],
                message["success"],
                message["last_index"],
            )
        case "request_vote":
            return (
                int(Kind.VOTE_REQUEST),
                message["term"],
                message["last_log_index"],
                message["last_log_term"],
                transfer_term if transfer_term == message["term"] - 1 else 0,
            )
        case _:
            return (int(Kind.VOTE), message["term"])
