"""Timing and size settings of the engine, with their bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from statemachine.commands import MAX_ENTRY_BYTES

APPEND_BATCH_BYTES: Final = 4 * MAX_ENTRY_BYTES
"""The library splits an entry as large as its batch and wedges on it (D13), so a batch is always
several times the greatest entry."""

MAX_FRAME_BYTES: Final = 4 * APPEND_BATCH_BYTES
"""A peer that announces a longer frame is disconnected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Durations are in seconds, as PySyncObj takes them."""

    heartbeat_s: float = 0.05
    """How often a leader makes itself heard; below a third of `election_timeout_min_s`."""
    election_timeout_min_s: float = 0.3
    election_timeout_max_s: float = 0.6
    leader_fallback_s: float = 0.7
    """A leader without answers from a majority for this long steps down."""
    max_pending_requests: int = 20_000
    """Requests that wait at this node to be proposed; more are refused as overload."""
    max_pending_bytes: int = 64 << 20
    units_in_flight: int = 4
    """Batches of this node that may be under way at once."""
    requests_worth_an_entry: int = 48
    """Beside units under way, fewer requests than this wait until one of those is settled: every
    entry costs every node a round, a sync and two wake-ups, more than some dozen requests do."""
    max_unit_bytes: int = MAX_ENTRY_BYTES - 4096
    """An entry has room for its stamps beside one full unit."""
    congested_bytes: int = 16 << 20
    """Unsent bytes to one peer above which replication to it pauses until they drain."""
    journal_retain_bytes: int = 64 << 20
    """How much journal is kept for members that lag; a longer lag takes a snapshot."""
    journal_compact_bytes: int = 16 << 20
    """How much journal is kept when nobody lags."""
    snapshot_chunk_bytes: int = 256 << 10
    snapshot_chunks_in_flight: int = 4
    timestamp_window_ms: int = 3_000
    """How far ahead of physical time a leader that gives out timestamps reserves them. It reserves
    again when half is left; a failover may carry the timestamps so far ahead."""
    auto_replace: bool = True
    """Whether the leader replaces a member of the same node id that returns with an empty disk."""
    max_fill_ratio: float = 0.85
    """How full the fullest member's state or disk may be before what grows it is refused."""
