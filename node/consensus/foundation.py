"""What every part of the engine stands on: who this node is, its log and state, and the library."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from node.consensus.journal import SegmentedJournal
from node.consensus.links import Links
from node.consensus.membership import Membership
from node.consensus.notices import Notices
from node.consensus.pulse import Pulse
from node.consensus.raft import Raft
from node.consensus.runtime import Runtime
from node.consensus.settings import EngineSettings
from node.consensus.state import StateStorage
from node.consensus.transport import RaftTransport
from statemachine.machine import Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this node is, and on which disk."""

    node_id: str
    disk_uuid: bytes
    """16 bytes, made when the data directory was."""
    peer_address: str
    api_address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Foundation:
    identity: Identity
    session: bytes
    """Drawn at each start: units of requests are numbered in it."""
    runtime: Runtime
    settings: EngineSettings
    links: Links
    storage: StateStorage
    machine: Machine
    journal: SegmentedJournal
    membership: Membership
    transport: RaftTransport
    raft: Raft
    pulse: Pulse
    notices: Notices
    counters: Counter[str]
