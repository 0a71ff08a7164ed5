"""Every setting of a node: its type, default, bounds and meaning. Nothing else declares settings,
but for `transaction_sections`, whose sections are among these.

The reader, the environment's names, the annotated `cluster.conf` and the table in
docs/CONFIGURATION.md all follow from the declarations here.
"""

# ruff: noqa: RUF009 - the calls below make dataclass fields, which is what a default may be

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from node.config.address import Address
from node.config.declaring import (
    DAY_MS,
    GIB,
    GREATEST_CLUSTER,
    HOUR_MS,
    KIB,
    MIB,
    MINUTE_MS,
    TIB,
    derived,
    required,
    setting,
)
from node.config.transaction_sections import (
    DeliveryConfig,
    DtmGatewayConfig,
    PrimarySourceConfig,
    SecondarySourceConfig,
    ServicesConfig,
    SyncConfig,
    TransactionsConfig,
)
from statemachine.commands import MAX_ENTRY_BYTES
from statemachine.transactions.channel_sessions import GREATEST_GRACE_MS, LEAST_GRACE_MS


class LogFormat(enum.StrEnum):
    JSON = "json"
    TEXT = "text"


class LogLevel(enum.StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """This node: who it is, where it keeps its data and where it listens."""

    id: str = derived(
        "the only entry of `cluster.nodes` whose host is this machine",
        "Which node of `cluster.nodes` this process is: 1 to 32 letters, digits, `.`, `_`, `-`. "
        "Usually given as `--node-id`, so that one file serves all nodes.",
    )
    data_dir: Path = derived(
        "`.tidelock/` and the node's id, beside the file",
        "Where the journal, the state and snapshots are kept. Each node needs its own. A relative "
        "path in the file starts at the file's folder; one from the command line or the "
        "environment starts at the working directory.",
    )
    api_address: Address = derived(
        "`advertise_api_address`",
        "Where the HTTP API listens. `0.0.0.0:port` listens on every interface.",
    )
    peer_address: Address = derived(
        "`advertise_peer_address`",
        "Where the node listens for the other nodes.",
    )
    advertise_api_address: Address = derived(
        "the node's `api` in `cluster.nodes`, else `api_address`",
        "Where clients and the other nodes' health checks reach the API. Set it only for a node "
        "that is not in `cluster.nodes`.",
    )
    advertise_peer_address: Address = derived(
        "the node's `peer` in `cluster.nodes`, else `peer_address`",
        "Where the other nodes reach this one. Set it only for a node that is not in "
        "`cluster.nodes`.",
    )
    uvloop: bool = setting(
        True,
        "Run on uvloop, which takes about an eighth less processor time for a request than "
        "asyncio's own loop.",
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClusterNode:
    """One node of the cluster as the others reach it."""

    id: str = required("The node's name, which it keeps for ever.")
    api: Address = required("Where its HTTP API is reached, as `host:port`.")
    peer: Address = required("Where the other nodes reach it, as `host:port`.")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """The nodes that form the cluster when it is bootstrapped, and how they are reached."""

    nodes: tuple[ClusterNode, ...] = required(
        "The nodes, as tables of `id`, `api` and `peer`, or as `host:port` texts: then the text is "
        "the peer address, ids are `n1`, `n2`, … in order, and the API's port is the peer port "
        f"less 100. At most {GREATEST_CLUSTER}. In the environment: a TOML list, or `host:port` "
        "texts parted by commas. It decides who votes only when the cluster is bootstrapped; "
        "afterwards membership is part of the replicated log."
    )
    dial_overrides: Mapping[str, Address] = setting(
        MappingProxyType({}),
        "Reach a node's peer address through another one, as behind address translation: a table "
        "from node id to `host:port`. In the environment: `n2=host:port,n3=host:port`.",
    )
    api_dial_overrides: Mapping[str, Address] = setting(
        MappingProxyType({}),
        "The same for a node's API address, which health checks call.",
    )
    auto_replace: bool = setting(
        True,
        "When a node of a known id comes back with an empty disk, the leader replaces its old self "
        "without an operator.",
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RaftConfig:
    """Consensus: how fast a lost leader is noticed, and how much may wait."""

    heartbeat_ms: int = setting(
        50,
        "How often a leader makes itself heard. Less than a third of `election_timeout_min_ms`.",
        minimum=5,
        maximum=10_000,
    )
    election_timeout_min_ms: int = setting(
        300,
        "A follower that hears no leader for a random time between this and "
        "`election_timeout_max_ms` asks for an election. Longer than any pause that a healthy node "
        "may make.",
        minimum=20,
        maximum=MINUTE_MS,
    )
    election_timeout_max_ms: int = setting(
        600,
        "The upper end of that range. The wider the range, the rarer two nodes campaign at once.",
        minimum=21,
        maximum=2 * MINUTE_MS,
    )
    leader_fallback_ms: int = setting(
        700,
        "A leader without answers from a majority for this long steps down. More than "
        "`election_timeout_min_ms`.",
        minimum=21,
        maximum=5 * MINUTE_MS,
    )
    max_entry_bytes: int = setting(
        MAX_ENTRY_BYTES,
        "The greatest encoded size of one log entry, and so of one request or batch; what is "
        "larger is refused with 413.",
        minimum=128 * KIB,
        maximum=MAX_ENTRY_BYTES,
    )
    max_pending_requests: int = setting(
        20_000,
        "Requests that may wait at this node to be proposed; beyond it they are refused with 429.",
        minimum=1,
        maximum=1_000_000,
    )
    max_pending_bytes: int = setting(
        64 * MIB,
        "The size of those requests. At least `max_entry_bytes`.",
        minimum=128 * KIB,
        maximum=16 * GIB,
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StorageConfig:
    """The state in LMDB and the journal beside it."""

    map_initial_bytes: int = setting(
        256 * MIB,
        "The address space of the state at first start. It takes no room on disk until it is "
        "used, and grows by itself at start and at checkpoints. A multiple of 65536.",
        minimum=1 * MIB,
        maximum=16 * TIB,
    )
    map_max_bytes: int = setting(
        64 * GIB,
        "How far it may grow. At least `map_initial_bytes`; a multiple of 65536.",
        minimum=1 * MIB,
        maximum=16 * TIB,
    )
    full_percent: int = setting(
        85,
        "How full the fullest node's state or disk may be before the leader refuses what would "
        "make it grow (507). Evictions, releases and decisions still pass.",
        minimum=10,
        maximum=95,
    )
    checkpoint_interval_ms: int = setting(
        50,
        "How often the state is committed to disk. Until then the journal holds what was "
        "acknowledged, so it sets the length of a replay after a crash and not what is durable.",
        minimum=1,
        maximum=MINUTE_MS,
    )
    journal_segment_bytes: int = setting(
        16 * MIB,
        "The size of one file of the journal. At least twice `raft.max_entry_bytes`.",
        minimum=256 * KIB,
        maximum=1 * GIB,
    )
    journal_compact_bytes: int = setting(
        16 * MIB,
        "How much journal is kept when no node lags.",
        minimum=256 * KIB,
        maximum=1 * TIB,
    )
    journal_retain_bytes: int = setting(
        64 * MIB,
        "How much journal is kept for connected nodes that lag; one that lags further is sent a "
        "snapshot. At least `journal_compact_bytes` and `journal_segment_bytes`.",
        minimum=256 * KIB,
        maximum=1 * TIB,
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    """Limits of the HTTP API."""

    max_body_bytes: int = setting(
        2 * MIB,
        "The greatest request body, after decompression; larger ones are refused with 413.",
        minimum=64 * KIB,
        maximum=64 * MIB,
    )
    max_header_bytes: int = setting(
        8190,
        "The longest request line, and so the longest path with its query, and the longest single "
        "header.",
        minimum=512,
        maximum=64 * KIB,
    )
    max_headers: int = setting(
        128,
        "The most headers of one request.",
        minimum=16,
        maximum=1024,
    )
    default_timeout_ms: int = setting(
        5000,
        "How long a request may take that does not say so itself in `Tidelock-Timeout-Ms`.",
        minimum=1,
        maximum=HOUR_MS,
    )
    max_timeout_ms: int = setting(
        MINUTE_MS,
        "The longest time that a request may ask for. At least `default_timeout_ms`.",
        minimum=1,
        maximum=10 * MINUTE_MS,
    )
    idempotency_ttl_ms: int = setting(
        DAY_MS,
        "How long the answer to an `Idempotency-Key` is remembered. At least `max_timeout_ms`, so "
        "that no copy of a request outlives its key.",
        minimum=1000,
        maximum=30 * DAY_MS,
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EventsConfig:
    """Stored events: timestamps, versions, vectors."""

    retention_ms: int = setting(
        0,
        "How long events are kept; 0 keeps them for ever. The leader's value counts. An event "
        "stays longer while a retry may be answered from it, and so does all that follows it: 24 "
        "hours for received messages with an id, `http.idempotency_ttl_ms` for requests with a "
        "key.",
        minimum=0,
        maximum=36_500 * DAY_MS,
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WatchConfig:
    """Watches, and the change log that they read."""

    retention_ms: int = setting(
        HOUR_MS,
        "How long changes are kept for watchers that come back. The leader's value counts. Stored "
        "events are another thing: `events.retention_ms`.",
        minimum=MINUTE_MS,
        maximum=365 * DAY_MS,
    )
    retention_count: int = setting(
        1_000_000,
        "How many changes are kept at most, whatever their age.",
        minimum=1_000,
        maximum=1_000_000_000,
    )
    max_watchers: int = setting(
        1_000,
        "How many may watch this node at a time; more are refused with 429.",
        minimum=1,
        maximum=100_000,
    )
    heartbeat_ms: int = setting(
        5_000,
        "How often a watcher hears something at least. Timeouts of whatever stands between it and "
        "the node must be longer.",
        minimum=100,
        maximum=MINUTE_MS,
    )
    leaderless_ms: int = setting(
        5_000,
        "How long this node may be without a leader that a majority confirms before it ends its "
        "watches, so that their clients turn to other nodes.",
        minimum=1_000,
        maximum=10 * MINUTE_MS,
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChannelsConfig:
    """Channels of resource managers: `GET /api/v1/rm/channel`."""

    max_channels: int = setting(
        2_000,
        "How many resource managers may be connected to this node at a time; more are refused "
        "with 429.",
        minimum=1,
        maximum=10_000,
    )
    heartbeat_ms: int = setting(
        5_000,
        "A channel on which nothing was heard for so long is pinged, and closed when that is not "
        "answered within half of it.",
        minimum=200,
        maximum=MINUTE_MS,
    )
    leaderless_ms: int = setting(
        2_000,
        "How long this node may be without a leader that a majority confirms before it sends its "
        "resource managers to other nodes.",
        minimum=500,
        maximum=10 * MINUTE_MS,
    )
    grace_ms: int = setting(
        10_000,
        "How long the session of a resource manager outlives its connection, in the time of the "
        "cluster, unless it asks for another. LCN branches of a session that ends are lost.",
        minimum=LEAST_GRACE_MS,
        maximum=GREATEST_GRACE_MS,
    )
    call_timeout_ms: int = setting(
        30_000,
        "How long the leader waits for a resource manager's answer before it asks again.",
        minimum=100,
        maximum=10 * MINUTE_MS,
    )
    clean_after_ms: int = setting(
        MINUTE_MS,
        "How long after the end of a transaction resource managers are told that they may forget "
        "branches that had not reported the end of their first phase. What such a branch still "
        "does then, since its process was slow, finds no guard any more. Branches that had are "
        "forgotten at once.",
        minimum=0,
        maximum=DAY_MS,
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HealthConfig:
    """The failure detector: each node checks every other one over HTTP."""

    interval_ms: int = setting(
        1000,
        "How often each other node is checked.",
        minimum=50,
        maximum=10 * MINUTE_MS,
    )
    timeout_ms: int = setting(
        500,
        "How long a check may take before it counts as missed. At most `interval_ms`.",
        minimum=10,
        maximum=10 * MINUTE_MS,
    )
    failures_suspect: int = setting(
        1,
        "Missed checks in a row after which a node is SUSPECT. It stays in rotation.",
        minimum=1,
        maximum=100,
    )
    failures_failed: int = setting(
        3,
        "Missed checks in a row after which a node is FAILED and leaves the rotation. More than "
        "`failures_suspect`.",
        minimum=2,
        maximum=1000,
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClockConfig:
    """The wall clock, which stamps events and drives the hybrid clock."""

    max_skew_ms: int = setting(
        500,
        "How far this node's wall clock may be from the cluster's median before its stamps are "
        "held at that distance, and how far ahead a received hybrid timestamp may be.",
        minimum=1,
        maximum=HOUR_MS,
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """What the node writes to its standard error."""

    level: LogLevel = setting(LogLevel.INFO, "The least severity that is written.")
    format: LogFormat = setting(
        LogFormat.TEXT,
        "`text` for people, `json` for programs: one object a line.",
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SecurityConfig:
    """Who may reach the node."""

    insecure: bool = setting(
        False,
        "Allow addresses that other machines can reach, without TLS and tokens. Whoever reaches "
        "them can then read and change everything, so set it only on a network that keeps "
        "strangers out by itself.",
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration of one process, checked and complete."""

    node: NodeConfig
    cluster: ClusterConfig
    raft: RaftConfig = dataclasses.field(default_factory=RaftConfig)
    storage: StorageConfig = dataclasses.field(default_factory=StorageConfig)
    http: HttpConfig = dataclasses.field(default_factory=HttpConfig)
    events: EventsConfig = dataclasses.field(default_factory=EventsConfig)
    watch: WatchConfig = dataclasses.field(default_factory=WatchConfig)
    channels: ChannelsConfig = dataclasses.field(default_factory=ChannelsConfig)
    sync: SyncConfig = dataclasses.field(default_factory=SyncConfig)
    transactions: TransactionsConfig = dataclasses.field(default_factory=TransactionsConfig)
    delivery: DeliveryConfig = dataclasses.field(default_factory=DeliveryConfig)
    gateways_dtm: DtmGatewayConfig = dataclasses.field(default_factory=DtmGatewayConfig)
    services_primary: PrimarySourceConfig = dataclasses.field(default_factory=PrimarySourceConfig)
    services_secondary: SecondarySourceConfig = dataclasses.field(
        default_factory=SecondarySourceConfig
    )
    services_business: ServicesConfig = dataclasses.field(default_factory=ServicesConfig)
    health: HealthConfig = dataclasses.field(default_factory=HealthConfig)
    clock: ClockConfig = dataclasses.field(default_factory=ClockConfig)
    log: LogConfig = dataclasses.field(default_factory=LogConfig)
    security: SecurityConfig = dataclasses.field(default_factory=SecurityConfig)

    @property
    def own_entry(self) -> ClusterNode | None:
        """This node in `cluster.nodes`; None for one that joins an existing cluster."""
        return next((node for node in self.cluster.nodes if node.id == self.node.id), None)
