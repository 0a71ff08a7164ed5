"""PySyncObj itself, held by its private parts in one place.

The library is the Raft engine; everything around it is replaced. This module makes the
replacements, lists every private name that we rely on, and refuses to run when one is missing, so
that another version of the library fails at start and not in an election.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgpack
import pysyncobj.syncobj as library
from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.journal import Journal
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from node.consensus.settings import APPEND_BATCH_BYTES, EngineSettings

NO_OP_COMMAND: Final = b"\x01"
CONFIGURATION_COMMAND: Final = 4
"""First byte of our membership records. The library knows types 0 to 3 and skips this one."""

_LEADER: Final = 2
_NEVER: Final = 10**12

_REQUIRED_ATTRIBUTES: Final = (
    "_SyncObj__raftState",
    "_SyncObj__raftCurrentTerm",
    "_SyncObj__raftLeader",
    "_SyncObj__raftElectionDeadline",
    "_SyncObj__raftCommitIndex",
    "_SyncObj__raftLastApplied",
    "_SyncObj__raftNextIndex",
    "_SyncObj__raftMatchIndex",
    "_SyncObj__lastResponseTime",
    "_SyncObj__otherNodes",
    "_SyncObj__readonlyNodes",
    "_SyncObj__connectedNodes",
    "_SyncObj__newAppendEntriesTime",
    "_poller",
)
_REQUIRED_NAMES: Final = (
    "createJournal",
    "createPoller",
    "pickle",
    "PIPE_NOTIFIER_ENABLED",
    "monotonicTime",
    "random",
)


class IncompatibleLibraryError(Exception):
    """The installed PySyncObj lacks a name that the engine relies on."""


class _MsgpackInsteadOfPickle:
    """Stands in for the module `pickle` inside the library; lists come back as tuples."""

    @staticmethod
    def dumps(value: object, protocol: int | None = None) -> bytes:
        return bytes(msgpack.packb(value))

    @staticmethod
    def loads(data: bytes) -> Any:  # the library's own values: whatever it packed
        return msgpack.unpackb(data, use_list=False)


class _NoPoller:
    """The loop polls; the library must not."""

    def poll(self, timeout: float) -> None: ...

    def subscribe(self, *arguments: object) -> None: ...

    def unsubscribe(self, *arguments: object) -> None: ...


def prepare_library() -> None:
    """Replace the library's pickling, polling and journal factory.

    Raises:
        IncompatibleLibraryError
    """
    missing = [name for name in _REQUIRED_NAMES if not hasattr(library, name)]
    if missing:
        raise IncompatibleLibraryError(f"pysyncobj.syncobj lacks {', '.join(missing)}")
    library.pickle = _MsgpackInsteadOfPickle
    library.createPoller = lambda _kind: _NoPoller()
    # The configuration's `journalFile` carries the journal itself.
    library.createJournal = lambda journal: journal
    library.PIPE_NOTIFIER_ENABLED = False


class PeerNode(Node):
    """A node known by its id; there is one object for each id (`Raft.node`).

    The library looks nodes up some dozen times for an entry, so that is left to the interpreter.
    """

    __eq__ = object.__eq__
    __ne__ = object.__ne__
    __hash__ = object.__hash__


class _Nodes(tuple[Node, ...]):
    """Different nodes in one order on every run, for the library, which takes them for a set."""

    __slots__ = ()

    def __or__(self, others: _Nodes) -> _Nodes:
        return _Nodes((*self, *others))

    def copy(self) -> _Nodes:
        return self


def _nobody_applies(index: int, payload: bytes) -> None:
    raise AssertionError(f"entry {index} of {len(payload)} bytes was applied by nobody")


class Raft(SyncObj):
    """One Raft participant. Ticked by the engine; never by a thread of its own."""

    def __init__(
        self,
        node_id: str,
        journal: Journal,
        transport: Transport,
        settings: EngineSettings,
    ) -> None:
        prepare_library()
        self.on_apply: Callable[[int, bytes], None] = _nobody_applies
        """Called with the index and payload of each committed entry, in order."""
        self.on_role_change: Callable[[], None] = lambda: None
        self._nodes: dict[str, Node] = {}
        configuration = SyncObjConf(
            autoTick=False,
            appendEntriesUseBatch=False,
            appendEntriesPeriod=settings.heartbeat_s,
            raftMinTimeout=settings.election_timeout_min_s,
            raftMaxTimeout=settings.election_timeout_max_s,
            connectionTimeout=max(3.5, settings.election_timeout_max_s),
            leaderFallbackTimeout=settings.leader_fallback_s,
            commandsWaitLeader=False,
            dynamicMembershipChange=False,
            fullDumpFile=None,
            journalFile=journal,
            logCompactionMinEntries=_NEVER,
            logCompactionMinTime=_NEVER,
            appendEntriesBatchSizeBytes=APPEND_BATCH_BYTES,
            onStateChanged=lambda _old, _new: self.on_role_change(),
        )
        super().__init__(self.node(node_id), [], configuration, transport=transport)
        missing = [name for name in _REQUIRED_ATTRIBUTES if not hasattr(self, name)]
        if missing:
            raise IncompatibleLibraryError(f"pysyncobj.SyncObj lacks {', '.join(missing)}")
        if journal.getCurrentTerm() < self.term:
            # The library begins in the term of its last entry. So that whoever asks the journal
            # for the term hears the same, that is stored; nobody was voted for in it.
            journal.setCurrentTerm(self.term, None)

    # The library numbers replicated methods by name: there must never be a second one.
    @replicated
    def apply_entry(self, payload: bytes) -> None:
        self.on_apply(self._SyncObj__raftLastApplied + 1, payload)

    def node(self, node_id: str) -> Node:
        node = self._nodes.get(node_id)
        if node is None:
            node = self._nodes[node_id] = PeerNode(node_id)
        return node

    def propose(self, payload: bytes) -> None:
        """Queue an entry for the next tick. Meaningful on a leader only."""
        self.apply_entry(payload)

    def append_queued(self) -> None:
        """Put what was proposed into the log, and send it, without a whole tick."""
        self._checkCommandsToApply()

    def propose_configuration(self, record: bytes) -> None:
        self._applyCommand(record, None, CONFIGURATION_COMMAND)

    # --- state

    @property
    def is_leader(self) -> bool:
        return bool(self._SyncObj__raftState == _LEADER)

    @property
    def term(self) -> int:
        return int(self._SyncObj__raftCurrentTerm)

    @property
    def leader_id(self) -> str | None:
        leader = self._SyncObj__raftLeader
        return None if leader is None else str(leader.id)

    @property
    def commit_index(self) -> int:
        return int(self._SyncObj__raftCommitIndex)

    @property
    def last_applied(self) -> int:
        return int(self._SyncObj__raftLastApplied)

    def restore_applied(self, index: int) -> None:
        """State up to `index` is applied already: by an earlier run, or by a snapshot."""
        self._SyncObj__raftLastApplied = index
        self._SyncObj__raftCommitIndex = max(self._SyncObj__raftCommitIndex, index)

    @property
    def election_deadline(self) -> float:
        return float(self._SyncObj__raftElectionDeadline)

    @election_deadline.setter
    def election_deadline(self, at_s: float) -> None:
        self._SyncObj__raftElectionDeadline = at_s

    # --- peers

    def set_peers(self, voters: Iterable[str], learners: Iterable[str], now: float) -> None:
        """Replicate to all of these; count only the voters. This node itself is left out."""
        own = self.selfNode
        voting = _Nodes(node for peer in sorted(voters) if (node := self.node(peer)) != own)
        learning = _Nodes(
            node
            for peer in sorted(learners)
            if (node := self.node(peer)) != own and node not in voting
        )
        self._SyncObj__otherNodes = voting
        self._SyncObj__readonlyNodes = learning
        next_index = self._SyncObj__raftNextIndex
        match_index = self._SyncObj__raftMatchIndex
        answered = self._SyncObj__lastResponseTime
        # While a snapshot replaces the log there is a moment without one.
        log = self._SyncObj__raftLog
        beyond = log[-1][1] + 1 if len(log) else 1
        for node in voting | learning:
            next_index.setdefault(node, beyond)
            match_index.setdefault(node, 0)
            answered.setdefault(node, now)
        for table in (next_index, match_index, answered):
            for node in [node for node in table if node not in voting and node not in learning]:
                del table[node]

    def next_index(self, peer: str) -> int:
        return int(self._SyncObj__raftNextIndex.get(self.node(peer), 0))

    def set_next_index(self, peer: str, index: int) -> None:
        node = self.node(peer)
        if node in self._SyncObj__raftNextIndex:
            self._SyncObj__raftNextIndex[node] = index

    def match_index(self, peer: str) -> int:
        return int(self._SyncObj__raftMatchIndex.get(self.node(peer), 0))

    def forget_match(self, peer: str) -> None:
        """The peer's disk was replaced: what the old one acknowledged counts no more."""
        node = self.node(peer)
        if node in self._SyncObj__raftMatchIndex:
            self._SyncObj__raftMatchIndex[node] = 0

    def seconds_since_response(self, peer: str, now: float) -> float | None:
        answered = self._SyncObj__lastResponseTime.get(self.node(peer))
        return None if answered is None else now - float(answered)

    def interrupt_sending(self, peer: str) -> None:
        """End the library's send loop for this peer within the current tick."""
        self._SyncObj__connectedNodes.discard(self.node(peer))

    def resume_sending(self, peer: str) -> None:
        self._SyncObj__connectedNodes.add(self.node(peer))

    def heartbeat_soon(self) -> None:
        """Send append_entries in the next tick instead of after the period."""
        self._SyncObj__newAppendEntriesTime = 0.0
