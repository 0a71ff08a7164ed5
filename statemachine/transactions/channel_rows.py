"""What is stored of channel sessions: who can be reached where.

A *channel session* is one process of a resource manager. A node holds it while the process's
channel is open there; the leader reaches it through that node.

Rows of the state, after the prefixes in `statemachine.keys`:

    channel       id                                         -> ChannelSession
    channel index a application\\0 host\\0 id                   sessions of an application on a host
                  b id xid\\0 branch                           LCN branches that a session holds
                  c, k, s                                  see `cleaning_rows`
                  i application\\0 host\\0 instance\\0           -> id: the newest of an instance
                  n node\\0 id                                 sessions that a node holds
                  r resource\\0 id                             -> position of its last registration
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from statemachine import keys
from statemachine.positions import Position
from statemachine.store import Reader
from statemachine.transactions.rows import Branch
from statemachine.transactions.statuses import Mode
from statemachine.write_buffer import WriteBuffer

GREATEST_IDENTITY_BYTES: Final = 400
"""Of application, host and instance together, each terminated."""

GREATEST_RESOURCE_BYTES: Final = 256
"""Of a resource's id, terminated."""

LOCAL_RESOURCE: Final = "sqlite:"
"""With this a resource's id begins that is a file of one host."""

_SEARCHED: Final = 256
"""How many sessions one search looks at."""
_CANDIDATES: Final = 8


class ChannelSession(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True
):
    """One process of a resource manager."""

    session_id: int
    application_id: str
    host: str
    instance: str
    """The newest session of an instance ends the one before; empty: it is nobody's successor."""
    resources: tuple[str, ...]
    modes: tuple[str, ...]
    clean_batch: int
    """How many branches it takes in one message to clean."""
    grace_ms: int
    """How long it may be without a node, in elapsed time."""
    node_id: str
    """Who holds it, or held it last."""
    connection: int
    """The node's number of its connection."""
    since_ms: int
    """When it was attached, or detached; in wall time."""
    ends_ms: int = 0
    """When it ends unless it comes back, in elapsed time; 0 while a node holds it."""
    modes_of: tuple[tuple[str, ...], ...] = ()
    """Of each of `resources` its modes; empty: each has all of `modes`."""

    def serves(self, resource_id: str, mode: str) -> bool:
        """Whether the process can be asked for branches of a mode on a resource.

        Of a resource that it has no more, it can for those that it registered itself.
        """
        if self.modes_of and resource_id in self.resources:
            return mode in self.modes_of[self.resources.index(resource_id)]
        return mode in self.modes

    @property
    def is_attached(self) -> bool:
        return self.ends_ms == 0


_encode: Final = msgspec.msgpack.Encoder().encode
_sessions: Final = msgspec.msgpack.Decoder(ChannelSession)

_OF_HOST: Final = keys.CHANNEL_INDEX + b"a"
_BOUND: Final = keys.CHANNEL_INDEX + b"b"
_OF_INSTANCE: Final = keys.CHANNEL_INDEX + b"i"
_OF_NODE: Final = keys.CHANNEL_INDEX + b"n"
_OF_RESOURCE: Final = keys.CHANNEL_INDEX + b"r"


def _after(prefix: bytes) -> bytes:
    """Return the first key after all that are a terminated name and a number."""
    return keys.stop_of_events(prefix)


# --- sessions


def get_session(reader: Reader, session_id: int) -> ChannelSession | None:
    if not 0 < session_id <= keys.GREATEST_NUMBER:
        return None
    row = reader.get(keys.CHANNEL + keys.pack_number(session_id))
    return None if row is None else _sessions.decode(row)


def list_sessions(reader: Reader, after: int, limit: int) -> list[ChannelSession]:
    """Return sessions in the order in which they began, those behind the id `after`."""
    begin = keys.CHANNEL + keys.pack_number(after + 1)
    rows = reader.scan(begin, keys.stop_of(keys.CHANNEL), limit=limit)
    return [_sessions.decode(row) for _, row in rows]


def sessions_of_node(reader: Reader, node_id: str, limit: int) -> list[ChannelSession]:
    """Return sessions that a node holds."""
    prefix = _OF_NODE + keys.terminated(node_id)
    ids = _ids(reader, prefix, limit)
    return [found for each in ids if (found := get_session(reader, each)) is not None]


def holding_nodes(reader: Reader) -> list[str]:
    """Return the nodes that hold sessions. There are no more of them than there were nodes."""
    found: list[str] = []
    begin, stop = _OF_NODE, keys.stop_of(_OF_NODE)
    while rows := reader.scan(begin, stop, limit=1):
        name = rows[0][0][len(_OF_NODE) : -8]
        found.append(keys.name_of(name))
        begin = _after(_OF_NODE + name)
    return found


def session_of_instance(reader: Reader, session: ChannelSession) -> int:
    """Return the id of the newest session of the instance; 0 when there is none."""
    row = reader.get(_instance_key(session))
    return 0 if row is None else int.from_bytes(row, "big")


def latest_registration(reader: Reader, resource_id: str) -> Position:
    """Return when a session last said that it has the resource; (0, 0) when none has it."""
    prefix = _OF_RESOURCE + keys.terminated(resource_id)
    rows = reader.scan(prefix, _after(prefix), limit=_SEARCHED)
    return max((Position(*keys.unpack_event(row)) for _, row in rows), default=Position(0, 0))


def put_session(
    writes: WriteBuffer, before: ChannelSession | None, session: ChannelSession, at: Position
) -> None:
    """Write a session with all that leads to it; `at` is when it was registered."""
    if before is not None:
        _delete_references(writes, before)
    packed = keys.pack_number(session.session_id)
    writes.put(keys.CHANNEL + packed, _encode(session))
    writes.put(_host_prefix(session.application_id, session.host) + packed, b"")
    for resource in session.resources:
        key = _OF_RESOURCE + keys.terminated(resource) + packed
        writes.put(key, keys.pack_event(at.entry, at.place))
    if session.is_attached:
        writes.put(_OF_NODE + keys.terminated(session.node_id) + packed, b"")
    if session.instance:
        writes.put(_instance_key(session), packed)


def change_holder(writes: WriteBuffer, before: ChannelSession, session: ChannelSession) -> None:
    """Write a session that was attached or detached, and is otherwise the same."""
    packed = keys.pack_number(session.session_id)
    writes.put(keys.CHANNEL + packed, _encode(session))
    if before.is_attached:
        writes.delete(_OF_NODE + keys.terminated(before.node_id) + packed)
    if session.is_attached:
        writes.put(_OF_NODE + keys.terminated(session.node_id) + packed, b"")


def erase_session(writes: WriteBuffer, session: ChannelSession) -> None:
    _delete_references(writes, session)
    packed = keys.pack_number(session.session_id)
    if session.instance and writes.get(_instance_key(session)) == packed:
        writes.delete(_instance_key(session))
    writes.delete(keys.CHANNEL + packed)


def _delete_references(writes: WriteBuffer, session: ChannelSession) -> None:
    packed = keys.pack_number(session.session_id)
    writes.delete(_host_prefix(session.application_id, session.host) + packed)
    for resource in session.resources:
        writes.delete(_OF_RESOURCE + keys.terminated(resource) + packed)
    if session.is_attached:
        writes.delete(_OF_NODE + keys.terminated(session.node_id) + packed)


def _host_prefix(application_id: str, host: str) -> bytes:
    return _OF_HOST + keys.terminated(application_id) + keys.terminated(host)


def _instance_key(session: ChannelSession) -> bytes:
    identity = (session.application_id, session.host, session.instance)
    return _OF_INSTANCE + b"".join(map(keys.terminated, identity))


def _ids(reader: Reader, prefix: bytes, limit: int) -> list[int]:
    rows = reader.scan(prefix, _after(prefix), limit=limit)
    return [int.from_bytes(key[-8:], "big") for key, _ in rows]


# --- who can do phase two


def reachable_sessions(reader: Reader, branch: Branch) -> list[ChannelSession]:
    """Return the attached sessions that may be told of a branch's phase two, the best first.

    The one that registered it; else one of the same application and host; else any that has the
    resource. An LCN branch is a connection of one process, and a file belongs to one host.
    """
    found: dict[int, ChannelSession] = {}
    for session in _candidates(reader, branch):
        if session.is_attached and session.serves(branch.resource_id, branch.mode.value):
            found.setdefault(session.session_id, session)
            if len(found) >= _CANDIDATES:
                break
    return list(found.values())


def _candidates(reader: Reader, branch: Branch) -> Iterator[ChannelSession]:
    own = get_session(reader, branch.session_id)
    if own is not None:
        yield own
    if branch.mode is Mode.LCN or not branch.resource_id:
        return
    if branch.host:
        prefix = _host_prefix(branch.application_id, branch.host)
        for session in _having(reader, _ids(reader, prefix, _SEARCHED), branch.branch_id):
            if branch.resource_id in session.resources:
                yield session
    yield from _of_resource(reader, branch.resource_id, branch.host, branch.branch_id)


def _of_resource(
    reader: Reader, resource_id: str, host: str, spread: int
) -> Iterator[ChannelSession]:
    local = resource_id.startswith(LOCAL_RESOURCE)
    prefix = _OF_RESOURCE + keys.terminated(resource_id)
    for session in _having(reader, _ids(reader, prefix, _SEARCHED), spread):
        if not local or session.host == host:
            yield session


def session_to_clean(
    reader: Reader, resource_id: str, mode: str, host: str, spread: int
) -> ChannelSession | None:
    """Return an attached session that can clean what branches of a mode left on a resource.

    `host` counts for files only. Another `spread` makes it another session.
    """
    for session in _of_resource(reader, resource_id, host, spread):
        if session.is_attached and session.serves(resource_id, mode):
            return session
    return None


def _having(reader: Reader, ids: Sequence[int], spread: int) -> Iterator[ChannelSession]:
    """Yield the sessions, from one on that differs with `spread`: so work is shared out."""
    first = spread % len(ids) if ids else 0
    for session_id in (*ids[first:], *ids[:first]):
        session = get_session(reader, session_id)
        if session is not None:
            yield session


# --- LCN branches that a session holds


def bind_branch(writes: WriteBuffer, session_id: int, xid: str, branch_id: int) -> None:
    writes.put(_bound_key(session_id, xid, branch_id), b"")


def unbind_branch(writes: WriteBuffer, session_id: int, xid: str, branch_id: int) -> None:
    writes.delete(_bound_key(session_id, xid, branch_id))


def bound_branches(reader: Reader, session_id: int, limit: int) -> list[tuple[str, int]]:
    """Return xid and branch id of LCN branches that a session holds, or held when it ended."""
    prefix = _BOUND + keys.pack_number(session_id)
    stop = _BOUND + keys.pack_number(session_id + 1)
    rows = reader.scan(prefix, stop, limit=limit)
    return [
        (keys.name_of(key[len(prefix) : -8]), int.from_bytes(key[-8:], "big")) for key, _ in rows
    ]


def _bound_key(session_id: int, xid: str, branch_id: int) -> bytes:
    return (
        _BOUND + keys.pack_number(session_id) + keys.terminated(xid) + keys.pack_number(branch_id)
    )
