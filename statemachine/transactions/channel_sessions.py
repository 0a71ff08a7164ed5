"""Channel sessions: a resource manager's process registers, is held by a node, comes back, ends.

A session outlives its connection by a grace, and so the node that held it: the process takes it
along to another node. Whoever holds it is named by node and connection, so that what is said of a
connection that is no longer the session's changes nothing.
"""

from __future__ import annotations

from typing import Final

import msgspec

from statemachine import keys, timers
from statemachine.changes import ChannelChanged
from statemachine.commands.channels import (
    AttachChannel,
    DetachChannels,
    EndChannel,
    RegisterChannel,
)
from statemachine.outcomes import (
    Applied,
    ChannelRegistered,
    ChannelsChanged,
    Outcome,
    Rejected,
    RejectionCode,
)
from statemachine.positions import Position
from statemachine.timers import TimerKind
from statemachine.transactions import cleaning, held_branches
from statemachine.transactions.channel_rows import (
    GREATEST_IDENTITY_BYTES,
    GREATEST_RESOURCE_BYTES,
    ChannelSession,
    change_holder,
    erase_session,
    get_session,
    put_session,
    session_of_instance,
    sessions_of_node,
)
from statemachine.transactions.desk import Desk
from statemachine.transactions.statuses import Mode

GREATEST_SESSIONS: Final = 20_000
"""Of the cluster, those without a node included."""

GREATEST_RESOURCES: Final = 64
GREATEST_CLEAN_BATCH: Final = 200
GREATEST_DETACHED: Final = 1_000
"""Of one command."""

LEAST_GRACE_MS: Final = 1_000
GREATEST_GRACE_MS: Final = 600_000

_DETACHED_AT_ONCE: Final = 200
"""Sessions of a failed node that one firing detaches: apply must not stall."""

_MODES: Final = frozenset(mode.value for mode in Mode) - {Mode.MESSAGE.value}

_IDENTITY_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"applicationId and host are needed, and together with instance they may take "
    f"{GREATEST_IDENTITY_BYTES - 3} bytes.",
)
_RESOURCES_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"resources are up to {GREATEST_RESOURCES} different ids of 1 to "
    f"{GREATEST_RESOURCE_BYTES - 1} bytes.",
)
_MODES_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND, f"modes are one or more of {', '.join(sorted(_MODES))}."
)
_MODES_OF_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    "modesOf has one list for each of resources, of one or more of modes.",
)
_BOUNDS_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"cleanBatch is 1 to {GREATEST_CLEAN_BATCH}, graceMs {LEAST_GRACE_MS} to {GREATEST_GRACE_MS}.",
)
_TOO_MANY: Final = Rejected(
    RejectionCode.TOO_MANY_CHANNELS,
    f"{GREATEST_SESSIONS} resource managers are registered already. Let some of them end first.",
    retryable=True,
)
_TOO_MANY_DETACHED: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"More than {GREATEST_DETACHED} connections are named. Name fewer at once.",
)

ENDED: Final = Rejected(
    RejectionCode.CHANNEL_SESSION_ENDED,
    "The channel session has ended, or there never was one of this id. Register again.",
    retryable=False,
)
TAKEN: Final = Rejected(
    RejectionCode.CHANNEL_SESSION_TAKEN,
    "The channel session belongs to another connection, or to another process.",
    retryable=False,
)


def register(desk: Desk, command: RegisterChannel, place: int) -> Outcome:
    """Attach the session that a process had, or begin one; the newest of an instance wins."""
    refused = _unusable(command)
    if refused is not None:
        return refused
    before = get_session(desk.writes, command.session_id)
    if before is not None and _identity(before) != _identity(command):
        return TAKEN
    state = desk.state
    if before is None:
        if state.channel_count >= GREATEST_SESSIONS:
            return _TOO_MANY
        state.channel_count += 1
        state.last_channel += 1
    session = ChannelSession(
        session_id=state.last_channel if before is None else before.session_id,
        application_id=command.application_id,
        host=command.host,
        instance=command.instance,
        resources=command.resources,
        modes=command.modes,
        clean_batch=command.clean_batch,
        grace_ms=command.grace_ms,
        node_id=command.node_id,
        connection=command.connection,
        since_ms=state.wall_ms,
        modes_of=command.modes_of,
    )
    if before is None:
        _succeed(desk, session, place)
    else:
        _disarm(desk, before)
    put_session(desk.writes, before, session, Position(state.applied_index, place))
    desk.channel_revision += 1
    _note(desk, session, "ATTACHED", place)
    return Applied(ChannelRegistered(session_id=session.session_id, resumed=before is not None))


def _unusable(command: RegisterChannel) -> Rejected | None:
    identity = [len(keys.terminated(part)) for part in _identity(command)]
    if not command.application_id or not command.host or sum(identity) > GREATEST_IDENTITY_BYTES:
        return _IDENTITY_UNUSABLE
    resources = command.resources
    if (
        len(resources) > GREATEST_RESOURCES
        or len(dict.fromkeys(resources)) != len(resources)
        or not all(1 < len(keys.terminated(each)) <= GREATEST_RESOURCE_BYTES for each in resources)
    ):
        return _RESOURCES_UNUSABLE
    modes = command.modes
    if not 0 < len(modes) <= len(_MODES) or not all(mode in _MODES for mode in modes):
        return _MODES_UNUSABLE
    if command.modes_of and len(command.modes_of) != len(resources):
        return _MODES_OF_UNUSABLE
    if not all(
        0 < len(own) <= len(modes) and all(mode in modes for mode in own)
        for own in command.modes_of
    ):
        return _MODES_OF_UNUSABLE
    if not 1 <= command.clean_batch <= GREATEST_CLEAN_BATCH or not (
        LEAST_GRACE_MS <= command.grace_ms <= GREATEST_GRACE_MS
    ):
        return _BOUNDS_UNUSABLE
    usable_node = 1 < len(keys.terminated(command.node_id)) <= keys.GREATEST_NAME_BYTES
    return None if usable_node and _is_number(command.connection) else _BOUNDS_UNUSABLE


def _is_number(number: int) -> bool:
    return 0 <= number <= keys.GREATEST_NUMBER


def _identity(named: RegisterChannel | ChannelSession) -> tuple[str, str, str]:
    return named.application_id, named.host, named.instance


def _succeed(desk: Desk, session: ChannelSession, place: int) -> None:
    if not session.instance:
        return
    before = get_session(desk.writes, session_of_instance(desk.writes, session))
    if before is not None:
        _end(desk, before, "a newer session of its instance registered", place)


def attach(desk: Desk, command: AttachChannel, place: int) -> Outcome:
    """Give a session back to the connection that it had."""
    session = get_session(desk.writes, command.session_id)
    if session is None:
        return ENDED
    if (session.node_id, session.connection) != (command.node_id, command.connection):
        return TAKEN
    if session.is_attached:
        return Applied(ChannelsChanged(count=0))
    _disarm(desk, session)
    attached = msgspec.structs.replace(session, ends_ms=0, since_ms=desk.state.wall_ms)
    change_holder(desk.writes, session, attached)
    _note(desk, attached, "ATTACHED", place)
    return Applied(ChannelsChanged(count=1))


def detach(desk: Desk, command: DetachChannels, place: int) -> Outcome:
    """Let sessions wait for their processes to come back."""
    if len(command.connections) > GREATEST_DETACHED:
        return _TOO_MANY_DETACHED
    count = 0
    for session_id, connection in command.connections:
        session = get_session(desk.writes, session_id)
        held = session is not None and session.is_attached
        if session is None or not held or session.connection != connection:
            continue
        if session.node_id == command.node_id:
            _detach(desk, session, place)
            count += 1
    return Applied(ChannelsChanged(count=count))


def _detach(desk: Desk, session: ChannelSession, place: int) -> None:
    state = desk.state
    detached = msgspec.structs.replace(
        session, ends_ms=state.elapsed_ms + session.grace_ms, since_ms=state.wall_ms
    )
    change_holder(desk.writes, session, detached)
    packed = keys.pack_number(session.session_id)
    timers.arm(desk.writes, detached.ends_ms, TimerKind.CHANNEL_END, packed)
    _note(desk, detached, "DETACHED", place)


def _disarm(desk: Desk, session: ChannelSession) -> None:
    if not session.is_attached:
        packed = keys.pack_number(session.session_id)
        timers.disarm(desk.writes, session.ends_ms, TimerKind.CHANNEL_END, packed)


def end(desk: Desk, command: EndChannel, place: int) -> Outcome:
    """End a session at its process's own wish. One that has ended stays so."""
    session = get_session(desk.writes, command.session_id)
    if session is None or session.connection != command.connection:
        return Applied(ChannelsChanged(count=0))
    _end(desk, session, "its resource manager left", place)
    return Applied(ChannelsChanged(count=1))


def _end(desk: Desk, session: ChannelSession, reason: str, place: int) -> None:
    """End a session; what it held alone ends with it, the rest of a large number a little later."""
    _disarm(desk, session)
    erase_session(desk.writes, session)
    desk.state.channel_count -= 1
    _note(desk, session, "ENDED", place, reason)
    _lose_branches(desk, session.session_id, place)


def _lose_branches(desk: Desk, session_id: int, place: int) -> None:
    if held_branches.lose(desk, session_id, place):
        packed = keys.pack_number(session_id)
        timers.arm(desk.writes, desk.state.elapsed_ms, TimerKind.CHANNEL_END, packed)


def _note(desk: Desk, session: ChannelSession, state: str, place: int, reason: str = "") -> None:
    desk.log.note(
        place,
        ChannelChanged(
            session_id=session.session_id,
            application_id=session.application_id,
            host=session.host,
            node_id=session.node_id,
            state=state,
            reason=reason,
        ),
    )


# --- time, and nodes that fail


def pass_grace(desk: Desk, due_ms: int, timer_id: bytes, place: int) -> None:
    """End a session whose process did not come back, or go on with what an end left over."""
    timers.disarm(desk.writes, due_ms, TimerKind.CHANNEL_END, timer_id)
    session_id = int.from_bytes(timer_id, "big")
    session = get_session(desk.writes, session_id)
    if session is None:
        _lose_branches(desk, session_id, place)
    elif session.ends_ms == due_ms:
        _end(desk, session, "its resource manager did not come back in time", place)
        cleaning.note_lost(desk.state, desk.writes, session)


def lose_node(desk: Desk, node_id: str) -> None:
    """A node has failed: its sessions are detached, soon and a few at a time."""
    if sessions_of_node(desk.writes, node_id, 1):
        name = keys.terminated(node_id)
        timers.arm(desk.writes, desk.state.elapsed_ms, TimerKind.CHANNEL_NODE_LOST, name)


def detach_node(desk: Desk, due_ms: int, timer_id: bytes, place: int) -> None:
    """Detach sessions of a node that has failed. Connections that it still has come back."""
    timers.disarm(desk.writes, due_ms, TimerKind.CHANNEL_NODE_LOST, timer_id)
    node_id = keys.name_of(timer_id)
    for session in sessions_of_node(desk.writes, node_id, _DETACHED_AT_ONCE):
        _detach(desk, session, place)
    lose_node(desk, node_id)
