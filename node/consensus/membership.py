"""Who is in the cluster: our own configuration records in the Raft log.

A record is in force from the moment it is appended and undone when it is cut from the log again
(Ongaro's thesis, section 4.1). One voter changes at a time. A member is a node id *and* the uuid
of its disk, so that a node which comes back with an empty disk is somebody else until it has been
admitted again. The library's own membership changes are not used (D19).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable

import msgspec

from node.consensus.raft import CONFIGURATION_COMMAND
from statemachine.store import Store

logger = logging.getLogger(__name__)

CONFIGURATION_KEY = b"\x00configuration"
"""Where the state keeps the last committed record, so that a snapshot carries it."""

_ADMITTED_KEY = b"\x00admitted"
"""Where the state keeps the uuid of this node's disk once it was a member. A copy of another node's
state brings that one's."""

_RECORD_FORMAT = 1


class MemberRecord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    node_id: str
    disk_uuid: bytes
    peer_address: str
    api_address: str


class Configuration(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One membership record."""

    format: int
    cluster_id: bytes
    voters: tuple[MemberRecord, ...]
    learners: tuple[MemberRecord, ...]

    def member(self, node_id: str) -> MemberRecord | None:
        for member in (*self.voters, *self.learners):
            if member.node_id == node_id:
                return member
        return None

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self)

    def without(self, node_id: str) -> Configuration:
        return Configuration(
            self.format,
            self.cluster_id,
            tuple(member for member in self.voters if member.node_id != node_id),
            tuple(member for member in self.learners if member.node_id != node_id),
        )

    def with_learner(self, member: MemberRecord) -> Configuration:
        rest = self.without(member.node_id)
        return Configuration(self.format, self.cluster_id, rest.voters, (*rest.learners, member))

    def with_voter(self, member: MemberRecord) -> Configuration:
        rest = self.without(member.node_id)
        voters = tuple(sorted((*rest.voters, member), key=lambda voter: voter.node_id))
        return Configuration(self.format, self.cluster_id, voters, rest.learners)


_decoder = msgspec.msgpack.Decoder(Configuration)


def first_configuration(cluster_id: bytes, voters: Iterable[MemberRecord]) -> Configuration:
    ordered = tuple(sorted(voters, key=lambda voter: voter.node_id))
    return Configuration(_RECORD_FORMAT, cluster_id, ordered, ())


def decode_configuration(record: bytes) -> Configuration:
    """Raises: ValueError: the bytes are no membership record."""
    try:
        configuration = _decoder.decode(record)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ValueError(f"malformed membership record: {error}") from error
    if configuration.format != _RECORD_FORMAT:
        raise ValueError(f"membership record of unknown format {configuration.format}")
    if not configuration.voters:
        raise ValueError("a membership record names at least one voter")
    return configuration


class Membership:
    """The configuration in force, and its history as far as the log holds it."""

    def __init__(self, node_id: str, disk_uuid: bytes) -> None:
        self.node_id = node_id
        self.disk_uuid = disk_uuid
        self.on_change: Callable[[Configuration], None] = lambda _configuration: None
        """Called when another record is in force."""
        self._committed: tuple[int, Configuration] | None = None
        self._appended: list[tuple[int, Configuration]] = []
        """Records in the log behind the committed one, oldest first."""
        self.was_member = False
        """A committed record has named this disk, be it long ago. A disk that was only handed the
        log, with a record of its admission that was cut off again, is still a new one."""
        self._derive()

    def restore(self, store: Store, logged: Iterable[tuple[bytes, int]]) -> None:
        """Take up what an earlier run left: the state's record, then the log's, in order."""
        stored = store.get(CONFIGURATION_KEY)
        if stored is not None:
            index, record = msgspec.msgpack.decode(stored, type=tuple[int, bytes])
            self._committed = (index, decode_configuration(record))
        floor = self._committed[0] if self._committed else 0
        for command, index in logged:
            if index > floor:
                self._appended.append((index, decode_configuration(command[1:])))
        if store.get(_ADMITTED_KEY) == self.disk_uuid or self._commits_this_disk:
            self.was_member = True
        self._changed()

    # --- following the log

    def on_append(self, command: bytes, index: int) -> None:
        """An entry was appended; called for every entry of our own command type."""
        self._appended.append((index, decode_configuration(command[1:])))
        self._changed()

    def on_truncate(self, first_removed: int) -> None:
        kept = [pair for pair in self._appended if pair[0] < first_removed]
        if len(kept) != len(self._appended):
            self._appended = kept
            self._changed()

    def on_applied(self, applied_index: int, store: Store) -> bool:
        """Move committed records into the state. True when there was one."""
        moved = False
        while self._appended and self._appended[0][0] <= applied_index:
            index, configuration = self._committed = self._appended.pop(0)
            store.put(CONFIGURATION_KEY, msgspec.msgpack.encode((index, configuration.encode())))
            if self._commits_this_disk:
                self._note_admission(store)
            moved = True
        if moved:
            self._derive()
        return moved

    def on_snapshot(self, store: Store) -> None:
        """The state was replaced, and the log with it."""
        self._committed = None
        self._appended = []
        self.restore(store, ())
        if self.was_member:
            self._note_admission(store)

    @property
    def _commits_this_disk(self) -> bool:
        if self._committed is None:
            return False
        own = self._committed[1].member(self.node_id)
        return own is not None and own.disk_uuid == self.disk_uuid

    def _note_admission(self, store: Store) -> None:
        self.was_member = True
        store.put(_ADMITTED_KEY, self.disk_uuid)

    def _changed(self) -> None:
        self._derive()
        if self.in_force is not None:
            self.on_change(self.in_force)

    def _derive(self) -> None:
        if self._appended:
            self.in_force: Configuration | None = self._appended[-1][1]
        else:
            self.in_force = self._committed[1] if self._committed else None
        voters = self.in_force.voters if self.in_force else ()
        members = (*voters, *(self.in_force.learners if self.in_force else ()))
        self._pairs = {member.node_id: member.disk_uuid for member in members}
        self._voter_ids = frozenset(voter.node_id for voter in voters)
        self.other_voters = tuple(
            voter.node_id for voter in voters if voter.node_id != self.node_id
        )
        self.other_members = tuple(
            member.node_id for member in members if member.node_id != self.node_id
        )
        self.is_member = self._pairs.get(self.node_id) == self.disk_uuid
        self.is_voter = self.is_member and self.node_id in self._voter_ids

    # --- asking

    @property
    def cluster_id(self) -> bytes | None:
        return self.in_force.cluster_id if self.in_force else None

    @property
    def change_pending(self) -> bool:
        """Whether a record is appended that is not committed and applied yet."""
        return bool(self._appended)

    def is_pair(self, node_id: str, disk_uuid: bytes) -> bool:
        return self._pairs.get(node_id) == disk_uuid

    def names(self, node_id: str) -> bool:
        """Whether a member has this id, on whatever disk."""
        return node_id in self._pairs

    def votes(self, node_id: str) -> bool:
        return node_id in self._voter_ids

    def is_quorum(self, node_ids: Collection[str]) -> bool:
        counted = sum(1 for voter in self._voter_ids if voter in node_ids)
        return bool(self._voter_ids) and counted * 2 > len(self._voter_ids)


def configuration_command(configuration: Configuration) -> bytes:
    """The log command that carries the record."""
    return bytes((CONFIGURATION_COMMAND,)) + configuration.encode()
