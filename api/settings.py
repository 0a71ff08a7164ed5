"""What an operator can set of the HTTP interface."""

from __future__ import annotations

from typing import Final

import msgspec

from api.destinations import AnyDestination, Destinations

GREATEST_EVENT_DATA_BYTES: Final = 64 * 1024
GREATEST_VALUE_BYTES: Final = 64 * 1024
"""Of a value of an object, and of a message."""

GREATEST_OPERATIONS: Final = 1_000
GREATEST_PAGE: Final = 1_000
DEFAULT_PAGE: Final = 100
GREATEST_NAME_LENGTH: Final = 128

ANY_DESTINATION: Final = AnyDestination()


class ApiSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Limits that protect the node, and how fresh its knowledge must be to call itself ready."""

    greatest_body_bytes: int = 2 * 1024 * 1024
    """Of any request. The entry that a request becomes has a limit of its own, 1 MiB."""
    greatest_header_bytes: int = 8 * 1024
    """Of the request line, and of each header."""
    greatest_headers: int = 64
    body_timeout_s: float = 10.0
    """How long a body may take to arrive once its headers are read."""
    lingering_s: float = 2.0
    """How long a body that nobody wants is read on, so that its sender hears the answer."""
    keep_alive_s: float = 75.0
    """How long an idle connection stays open."""
    idempotency_ttl_ms: int = 24 * 60 * 60 * 1000
    """How long the outcome of a request with an Idempotency-Key is remembered, in elapsed time."""
    max_skew_ms: int = 500
    """How far ahead of the cluster's clock an observed hybrid timestamp may be."""
    default_timeout_ms: int = 5_000
    """Deadline of a request that names none."""
    greatest_timeout_ms: int = 60_000
    """The longest deadline that a request may name."""
    quorum_fresh_ms: int = 1_000
    """A leader that no quorum confirmed for longer does not count as one in /health."""
    greatest_watchers: int = 1_000
    """Streams of /api/v1/watch at a time."""
    watch_heartbeat_s: float = 5.0
    """A watcher hears something at least this often, even when nothing happens."""
    watch_leaderless_s: float = 5.0
    """Without a leader that a quorum confirmed for so long, watchers are sent to other nodes."""
    greatest_channels: int = 2_000
    """Resource managers that are connected at a time."""
    channel_heartbeat_s: float = 5.0
    """A channel on which nothing was heard for so long is pinged, and closed after half as long."""
    channel_leaderless_s: float = 2.0
    """As for watchers, of resource managers."""
    channel_grace_s: float = 10.0
    """How long a resource manager's session outlives its connection, unless it says otherwise."""
    channel_clean_after_s: float = 60.0
    """How long after its end a transaction is still guarded against calls that come late."""
    channel_drain_s: float = 2.0
    """How long a node that stops waits for calls of resource managers that are under way."""
    destinations: Destinations = msgspec.field(default_factory=lambda: ANY_DESTINATION)
    """Where clients may have branches called."""
