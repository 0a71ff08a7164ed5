"""Rules that bind several settings together. Each yields what is wrong; none stops at the first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Final

from node.config.address import Address
from node.config.declaring import GREATEST_CLUSTER, MAP_GRANULARITY_BYTES
from node.config.sections import Config
from node.config.values import did_you_mean
from node.delivery.destinations import Destinations

LEAST_KEY_BYTES: Final = 16

Finding = tuple[str, str, str]
"""(key, what is wrong, how to mend it)"""

Check = Callable[[Config], Iterator[Finding]]


@dataclass(frozen=True, slots=True)
class Rule:
    needs: tuple[str, ...]
    """Keys it reads: it is not judged when one of them has no usable value."""
    check: Check


RULES: Final[list[Rule]] = []


def rule(*needs: str) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        RULES.append(Rule(needs, check))
        return check

    return register


@rule("raft.heartbeat_ms", "raft.election_timeout_min_ms")
def heartbeats_come_often_enough(config: Config) -> Iterator[Finding]:
    raft = config.raft
    if raft.election_timeout_min_ms <= 3 * raft.heartbeat_ms:
        yield (
            "raft.election_timeout_min_ms",
            f"{raft.election_timeout_min_ms} is not more than three times raft.heartbeat_ms "
            f"({raft.heartbeat_ms}), so a late heartbeat would cost an election",
            f"Raise it above {3 * raft.heartbeat_ms}, or lower raft.heartbeat_ms",
        )


@rule("raft.election_timeout_min_ms", "raft.election_timeout_max_ms")
def election_timeouts_make_a_range(config: Config) -> Iterator[Finding]:
    raft = config.raft
    if raft.election_timeout_max_ms <= raft.election_timeout_min_ms:
        yield (
            "raft.election_timeout_max_ms",
            f"{raft.election_timeout_max_ms} is not above raft.election_timeout_min_ms "
            f"({raft.election_timeout_min_ms})",
            f"Raise it; {2 * raft.election_timeout_min_ms} is a good value",
        )


@rule("raft.election_timeout_min_ms", "raft.leader_fallback_ms")
def leaders_wait_for_their_followers(config: Config) -> Iterator[Finding]:
    raft = config.raft
    if raft.leader_fallback_ms <= raft.election_timeout_min_ms:
        yield (
            "raft.leader_fallback_ms",
            f"{raft.leader_fallback_ms} is not above raft.election_timeout_min_ms "
            f"({raft.election_timeout_min_ms}), so leaders would step down too early",
            f"Raise it above {raft.election_timeout_min_ms}",
        )


@rule("raft.max_pending_bytes", "raft.max_entry_bytes")
def an_entry_fits_into_the_queue(config: Config) -> Iterator[Finding]:
    raft = config.raft
    if raft.max_pending_bytes < raft.max_entry_bytes:
        yield (
            "raft.max_pending_bytes",
            f"{raft.max_pending_bytes} is below raft.max_entry_bytes ({raft.max_entry_bytes})",
            f"Raise it to at least {raft.max_entry_bytes}",
        )


@rule("storage.journal_segment_bytes", "raft.max_entry_bytes")
def an_entry_fits_into_a_segment(config: Config) -> Iterator[Finding]:
    least = 2 * config.raft.max_entry_bytes
    if config.storage.journal_segment_bytes < least:
        yield (
            "storage.journal_segment_bytes",
            f"{config.storage.journal_segment_bytes} is below twice raft.max_entry_bytes",
            f"Raise it to at least {least}",
        )


@rule("storage.journal_retain_bytes", "storage.journal_compact_bytes")
def laggards_get_no_less_journal(config: Config) -> Iterator[Finding]:
    storage = config.storage
    if storage.journal_retain_bytes < storage.journal_compact_bytes:
        yield (
            "storage.journal_retain_bytes",
            f"{storage.journal_retain_bytes} is below storage.journal_compact_bytes "
            f"({storage.journal_compact_bytes})",
            f"Raise it to at least {storage.journal_compact_bytes}",
        )


@rule("storage.journal_retain_bytes", "storage.journal_segment_bytes")
def a_segment_is_retained(config: Config) -> Iterator[Finding]:
    storage = config.storage
    if storage.journal_retain_bytes < storage.journal_segment_bytes:
        yield (
            "storage.journal_retain_bytes",
            f"{storage.journal_retain_bytes} is below storage.journal_segment_bytes "
            f"({storage.journal_segment_bytes}), and only whole segments are removed",
            f"Raise it to at least {storage.journal_segment_bytes}",
        )


@rule("storage.map_initial_bytes", "storage.map_max_bytes")
def the_map_can_grow(config: Config) -> Iterator[Finding]:
    storage = config.storage
    if storage.map_max_bytes < storage.map_initial_bytes:
        yield (
            "storage.map_max_bytes",
            f"{storage.map_max_bytes} is below storage.map_initial_bytes "
            f"({storage.map_initial_bytes})",
            f"Raise it to at least {storage.map_initial_bytes}",
        )


@rule("storage.map_initial_bytes", "storage.map_max_bytes")
def the_map_consists_of_whole_pages(config: Config) -> Iterator[Finding]:
    for name in ("map_initial_bytes", "map_max_bytes"):
        size: int = getattr(config.storage, name)
        if size % MAP_GRANULARITY_BYTES:
            yield (
                f"storage.{name}",
                f"{size} is not a multiple of {MAP_GRANULARITY_BYTES}",
                f"Write {-(-size // MAP_GRANULARITY_BYTES) * MAP_GRANULARITY_BYTES}",
            )


@rule("http.default_timeout_ms", "http.max_timeout_ms")
def the_default_timeout_is_allowed(config: Config) -> Iterator[Finding]:
    http = config.http
    if http.max_timeout_ms < http.default_timeout_ms:
        yield (
            "http.max_timeout_ms",
            f"{http.max_timeout_ms} is below http.default_timeout_ms ({http.default_timeout_ms})",
            f"Raise it to at least {http.default_timeout_ms}, or lower the default",
        )


@rule("http.idempotency_ttl_ms", "http.max_timeout_ms")
def keys_outlive_requests(config: Config) -> Iterator[Finding]:
    http = config.http
    if http.idempotency_ttl_ms < http.max_timeout_ms:
        yield (
            "http.idempotency_ttl_ms",
            f"{http.idempotency_ttl_ms} is below http.max_timeout_ms ({http.max_timeout_ms}), so a "
            "late copy of a request could be done again",
            f"Raise it to at least {http.max_timeout_ms}",
        )


@rule("health.timeout_ms", "health.interval_ms")
def checks_do_not_overlap(config: Config) -> Iterator[Finding]:
    health = config.health
    if health.timeout_ms > health.interval_ms:
        yield (
            "health.timeout_ms",
            f"{health.timeout_ms} is above health.interval_ms ({health.interval_ms})",
            f"Lower it to at most {health.interval_ms}, or raise the interval",
        )


@rule("health.failures_suspect", "health.failures_failed")
def suspicion_comes_before_failure(config: Config) -> Iterator[Finding]:
    health = config.health
    if health.failures_failed <= health.failures_suspect:
        yield (
            "health.failures_failed",
            f"{health.failures_failed} is not above health.failures_suspect "
            f"({health.failures_suspect})",
            f"Raise it to at least {health.failures_suspect + 1}",
        )


@rule("cluster.nodes")
def the_cluster_has_a_sensible_size(config: Config) -> Iterator[Finding]:
    count = len(config.cluster.nodes)
    if count == 0:
        yield (
            "cluster.nodes",
            "it names no node",
            'List every node: {id = "n1", api = "host:port", peer = "host:port"}',
        )
    if count > GREATEST_CLUSTER:
        yield (
            "cluster.nodes",
            f"{count} nodes are more than {GREATEST_CLUSTER}",
            "Use three, five or seven: more voters make every write slower",
        )


@rule("cluster.nodes")
def nodes_are_told_apart(config: Config) -> Iterator[Finding]:
    for node_id, count in Counter(node.id for node in config.cluster.nodes).items():
        if count > 1:
            wrong = f'the id "{node_id}" stands {count} times'
            yield "cluster.nodes", wrong, "Give every node an id of its own"
    addresses = Counter(at for node in config.cluster.nodes for at in (node.api, node.peer))
    for address, count in addresses.items():
        if count > 1:
            wrong = f"the address {address} stands {count} times"
            yield "cluster.nodes", wrong, "Give every API and every peer address a port of its own"


@rule("cluster.nodes")
def listed_addresses_can_be_dialled(config: Config) -> Iterator[Finding]:
    for place, node in enumerate(config.cluster.nodes):
        for name, address in (("api", node.api), ("peer", node.peer)):
            if address.is_unspecified:
                yield (
                    f"cluster.nodes[{place}].{name}",
                    f"{address} means every interface and cannot be dialled",
                    f"Write the address that others reach, and set node.{name}_address to "
                    f"{address} on that node",
                )


@rule("node.id", "node.advertise_api_address", "node.advertise_peer_address")
def advertised_addresses_can_be_dialled(config: Config) -> Iterator[Finding]:
    if config.own_entry is not None:
        return  # they come from cluster.nodes, where they are judged
    for name in ("advertise_api_address", "advertise_peer_address"):
        address: Address = getattr(config.node, name)
        if address.is_unspecified:
            yield (
                f"node.{name}",
                f"{address} means every interface and cannot be dialled",
                f"Set node.{name} to the address that others reach",
            )


@rule("node.api_address", "node.peer_address")
def api_and_peers_have_ports_of_their_own(config: Config) -> Iterator[Finding]:
    entry = config.own_entry
    if entry is not None and entry.api == entry.peer:
        return  # an address listed twice is judged with the list
    api, peer = config.node.api_address, config.node.peer_address
    same_host = api.host == peer.host or api.is_unspecified or peer.is_unspecified
    if api.port == peer.port and same_host:
        yield "node.peer_address", f"node.api_address ({api}) has its port", "Use another port"


@rule("cluster.nodes", "cluster.dial_overrides", "cluster.api_dial_overrides")
def overrides_name_listed_nodes(config: Config) -> Iterator[Finding]:
    known = [node.id for node in config.cluster.nodes]
    for name in ("dial_overrides", "api_dial_overrides"):
        for node_id, address in getattr(config.cluster, name).items():
            key = f"cluster.{name}.{node_id}"
            if node_id not in known:
                guess = did_you_mean(node_id, known)
                mend = f"Did you mean {guess}? If not, remove it" if guess else "Remove it"
                yield key, "there is no such node in cluster.nodes", mend
            if address.is_unspecified:
                yield key, f"{address} cannot be dialled", "Write the address to dial"


@rule(
    "node.api_address",
    "node.peer_address",
    "gateways.dtm.enabled",
    "gateways.dtm.address",
    "security.insecure",
)
def strangers_are_kept_out(config: Config) -> Iterator[Finding]:
    if config.security.insecure:
        return
    listened = {
        "node.api_address": config.node.api_address,
        "node.peer_address": config.node.peer_address,
    }
    if config.gateways_dtm.enabled:
        listened["gateways.dtm.address"] = config.gateways_dtm.address
    for key, address in listened.items():
        if not address.is_loopback:
            yield (
                key,
                f"other machines can reach {address} without TLS and tokens, which this version "
                "does not offer yet",
                "Listen on a loopback address, or set security.insecure = true "
                "(TIDELOCK_SECURITY_INSECURE=true) where the network itself keeps strangers out",
            )


@rule("delivery.allowed_hosts", "delivery.alert_url", "cluster.nodes")
def branches_can_be_called(config: Config) -> Iterator[Finding]:
    delivery = config.delivery
    addresses = [address for node in config.cluster.nodes for address in (node.api, node.peer)]
    own = [(address.host, address.port) for address in addresses]
    try:
        destinations = Destinations(delivery.allowed_hosts, own)
    except ValueError as error:
        wrong, _, mend = str(error).partition(": ")
        yield "delivery.allowed_hosts", wrong, mend[:1].upper() + mend[1:]
        return
    if delivery.alert_url and (objection := destinations.objection(delivery.alert_url)):
        yield (
            "delivery.alert_url",
            f"it {objection}",
            "Write an http or https URL of a host in delivery.allowed_hosts",
        )


@rule("delivery.ca_file", "delivery.signature_key_file")
def files_of_delivery_can_be_read(config: Config) -> Iterator[Finding]:
    for name in ("ca_file", "signature_key_file"):
        path: Path | None = getattr(config.delivery, name)
        if path is not None and not path.is_file():
            yield f"delivery.{name}", f"there is no file {path}", "Name a file that exists"
    key = config.delivery.signature_key_file
    if key is not None and key.is_file() and key.stat().st_size < LEAST_KEY_BYTES:
        yield (
            "delivery.signature_key_file",
            f"the key in it has less than {LEAST_KEY_BYTES} bytes",
            "Make one of random bytes, as with `openssl rand -hex 32`",
        )


@rule("delivery.max_calls", "delivery.max_calls_per_host")
def one_host_gets_no_more_than_all(config: Config) -> Iterator[Finding]:
    delivery = config.delivery
    if delivery.max_calls < delivery.max_calls_per_host:
        yield (
            "delivery.max_calls_per_host",
            f"{delivery.max_calls_per_host} is above delivery.max_calls ({delivery.max_calls})",
            f"Lower it to at most {delivery.max_calls}",
        )


@rule("gateways.dtm.enabled", "gateways.dtm.address", "node.api_address", "node.peer_address")
def the_gateway_has_a_port_of_its_own(config: Config) -> Iterator[Finding]:
    gateway = config.gateways_dtm
    if not gateway.enabled:
        return
    for name in ("api_address", "peer_address"):
        other: Address = getattr(config.node, name)
        same_host = other.host == gateway.address.host or (
            other.is_unspecified or gateway.address.is_unspecified
        )
        if other.port == gateway.address.port and same_host:
            yield "gateways.dtm.address", f"node.{name} ({other}) has its port", "Use another port"


@rule("gateways.dtm.client_networks", "gateways.dtm.cluster_addresses")
def networks_and_addresses_of_the_gateway_can_be_read(config: Config) -> Iterator[Finding]:
    gateway = config.gateways_dtm
    for text in gateway.client_networks:
        try:
            ip_network(text)
        except ValueError as error:
            yield (
                "gateways.dtm.client_networks",
                f'"{text}" is no network: {error}',
                "Write networks such as 10.0.0.0/8, or single addresses",
            )
    for text in gateway.cluster_addresses:
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
            yield (
                "gateways.dtm.cluster_addresses",
                f'"{text}" is no host:port',
                "Write each as host:port",
            )


@rule(
    *(
        f"services.{source}.{name}"
        for source in ("primary", "secondary")
        for name in ("kind", "user", "database", "password_file", "ca_file")
    )
)
def both_data_sources_can_be_used(config: Config) -> Iterator[Finding]:
    sources = {"primary": config.services_primary, "secondary": config.services_secondary}
    for name, source in sources.items():
        other = "secondary" if name == "primary" else "primary"
        if not source.kind and sources[other].kind:
            yield (
                f"services.{name}.kind",
                f"it is empty, though services.{other}.kind is {sources[other].kind.value!r}",
                "Configure both data sources, or none",
            )
        if not source.kind:
            continue
        for key in ("user", "database"):
            if not getattr(source, key):
                wrong = f"it is empty, though services.{name}.kind is {source.kind.value!r}"
                yield f"services.{name}.{key}", wrong, "Name it"
        for key in ("password_file", "ca_file"):
            path: Path | None = getattr(source, key)
            if path is not None and not path.is_file():
                yield (
                    f"services.{name}.{key}",
                    f"there is no file {path}",
                    "Name a file that exists",
                )


@rule("services.business.batch_update_allowed", "services.business.migration_allowed")
def patterns_of_the_services_have_their_parts(config: Config) -> Iterator[Finding]:
    wanted = {"batch_update_allowed": 3, "migration_allowed": 2}
    forms = {3: "source.table.column", 2: "source.table"}
    for name, parts in wanted.items():
        for pattern in getattr(config.services_business, name):
            if len(pattern.split(".")) != parts or not all(pattern.split(".")):
                yield (
                    f"services.business.{name}",
                    f"{pattern!r} has not the form {forms[parts]}",
                    "Write each part, or * for anything",
                )
