"""Configuration: rules that bind settings together, and the refusal of open addresses."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.config import Address, Config, ConfigError, load

NODES = """
[cluster]
nodes = ["127.0.0.1:7201", "127.0.0.1:7202", "127.0.0.1:7203"]
"""


def load_text(folder: Path, text: str, node_id: str = "n1") -> Config:
    file = folder / "cluster.conf"
    file.write_text(text, encoding="utf-8")
    return load(file, overrides={"node.id": node_id})


def faults(folder: Path, text: str, node_id: str = "n1") -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load_text(folder, text, node_id)
    return {problem.key: str(problem) for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[raft]\nheartbeat_ms = 100", "raft.election_timeout_min_ms"),
        ("[raft]\nelection_timeout_max_ms = 300", "raft.election_timeout_max_ms"),
        ("[raft]\nleader_fallback_ms = 300", "raft.leader_fallback_ms"),
        ("[raft]\nmax_pending_bytes = 1048575", "raft.max_pending_bytes"),
        ("[storage]\njournal_segment_bytes = 2097151", "storage.journal_segment_bytes"),
        ("[storage]\njournal_compact_bytes = 67108865", "storage.journal_retain_bytes"),
        ("[storage]\njournal_segment_bytes = 67108865", "storage.journal_retain_bytes"),
        ("[storage]\nmap_max_bytes = 268369920", "storage.map_max_bytes"),
        ("[storage]\nmap_initial_bytes = 10000000", "storage.map_initial_bytes"),
        ("[storage]\nmap_max_bytes = 68719476737", "storage.map_max_bytes"),
        ("[http]\ndefault_timeout_ms = 60001", "http.max_timeout_ms"),
        ("[http]\nidempotency_ttl_ms = 59999", "http.idempotency_ttl_ms"),
        ("[health]\ntimeout_ms = 1001", "health.timeout_ms"),
        ("[health]\nfailures_suspect = 3", "health.failures_failed"),
        ('[gateways.dtm]\nclient_networks = ["10.0.0.0/33"]', "gateways.dtm.client_networks"),
        ('[gateways.dtm]\ncluster_addresses = ["here"]', "gateways.dtm.cluster_addresses"),
        (
            '[gateways.dtm]\nenabled = true\naddress = "127.0.0.1:7101"',
            "gateways.dtm.address",
        ),
        ('[gateways.dtm]\nenabled = true\naddress = "0.0.0.0:36789"', "gateways.dtm.address"),
        (
            '[services.primary]\nkind = "mariadb"\nuser = "u"\ndatabase = "d"',
            "services.secondary.kind",
        ),
        (
            '[services.primary]\nkind = "mariadb"\nuser = "u"\ndatabase = "d"\n'
            '[services.secondary]\nkind = "postgresql"\nuser = "u"',
            "services.secondary.database",
        ),
        (
            '[services.primary]\nkind = "mariadb"\nuser = "u"\ndatabase = "d"\n'
            '[services.secondary]\nkind = "postgresql"\nuser = "u"\ndatabase = "d"\n'
            'password_file = "nowhere"',
            "services.secondary.password_file",
        ),
        (
            '[services.business]\nbatch_update_allowed = ["primary.stock"]',
            "services.business.batch_update_allowed",
        ),
        (
            '[services.business]\nmigration_allowed = ["primary..x"]',
            "services.business.migration_allowed",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    tmp_path: Path, text: str, key: str
) -> None:
    assert set(faults(tmp_path, NODES + text)) == {key}


@pytest.mark.parametrize(
    "text",
    [
        "[raft]\nheartbeat_ms = 99",
        "[raft]\nelection_timeout_max_ms = 301",
        "[raft]\nleader_fallback_ms = 301",
        "[raft]\nmax_pending_bytes = 1048576",
        "[storage]\njournal_segment_bytes = 2097152",
        "[storage]\nmap_initial_bytes = 10027008",
        "[http]\nidempotency_ttl_ms = 60000",
        "[health]\ntimeout_ms = 1000",
        "[health]\nfailures_suspect = 2",
    ],
)
def test_settings_at_the_edge_of_a_rule_are_accepted(tmp_path: Path, text: str) -> None:
    load_text(tmp_path, NODES + text)


def test_a_rule_is_not_judged_by_a_value_that_could_not_be_read(tmp_path: Path) -> None:
    text = "[raft]\nheartbeat_ms = 'x'\nelection_timeout_min_ms = 20\nleader_fallback_ms = 700"
    assert set(faults(tmp_path, NODES + text)) == {"raft.heartbeat_ms"}


@pytest.mark.parametrize(
    ("nodes", "wrong"),
    [
        ('{id="n1", api="h:1", peer="h:2"}, {id="n1", api="h:3", peer="h:4"}', 'id "n1" stands 2'),
        ('{id="n1", api="h:1", peer="h:2"}, {id="n2", api="h:2", peer="h:4"}', "h:2 stands 2"),
        ('{id="n1", api="h:1", peer="h:1"}', "h:1 stands 2"),
        ("", "names no node"),
        (",".join(f'"h:{port}"' for port in range(201, 217)), "16 nodes are more than 15"),
    ],
)
def test_a_list_of_nodes_that_makes_no_cluster_is_refused(
    tmp_path: Path, nodes: str, wrong: str
) -> None:
    text = f"[cluster]\nnodes = [{nodes}]\n[security]\ninsecure = true"
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, text)
    assert wrong in str(caught.value)


def test_an_address_that_means_every_interface_is_not_for_dialling(tmp_path: Path) -> None:
    text = """
    [cluster]
    nodes = [{ id = "n1", api = "0.0.0.0:7101", peer = "[::]:7201" }]
    dial_overrides = { n1 = "[::ffff:0.0.0.0]:1" }
    [security]
    insecure = true
    """
    assert set(faults(tmp_path, text)) == {
        "cluster.nodes[0].api",
        "cluster.nodes[0].peer",
        "cluster.dial_overrides.n1",
    }


def test_an_override_for_an_unknown_node_is_refused_with_a_guess(tmp_path: Path) -> None:
    text = NODES + 'dial_overrides = { n22 = "127.0.0.1:1" }\napi_dial_overrides = { x = "h:1" }'
    found = faults(tmp_path, text)
    assert "Did you mean n2?" in found["cluster.dial_overrides.n22"]
    assert "cluster.api_dial_overrides.x" in found


def test_api_and_peers_need_ports_of_their_own(tmp_path: Path) -> None:
    text = '[node]\napi_address = "127.0.0.1:7201"' + NODES
    assert set(faults(tmp_path, text)) == {"node.peer_address"}


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.9.1", "[::1]", "[::ffff:127.0.0.1]", "localhost", "LOCALHOST."]
)
def test_a_loopback_address_needs_no_protection(tmp_path: Path, host: str) -> None:
    text = f'[node]\napi_address = "{host}:7101"' + NODES
    assert load_text(tmp_path, text).node.api_address.is_loopback


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "[::]", "10.0.0.1", "203.0.113.7", "[2001:db8::1]", "[::ffff:10.0.0.1]", "db1",
     "localhost.example"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["api_address", "peer_address"])
def test_an_address_that_others_reach_is_refused_unless_insecure(
    tmp_path: Path, host: str, name: str
) -> None:
    text = f'[node]\n{name} = "{host}:7001"' + NODES
    found = faults(tmp_path, text)
    assert set(found) == {f"node.{name}"}
    assert "without TLS and tokens" in found[f"node.{name}"]
    assert "security.insecure = true" in found[f"node.{name}"]
    config = load_text(tmp_path, text + "[security]\ninsecure = true")
    assert str(getattr(config.node, name)) == f"{host}:7001"


def test_a_node_listens_at_its_listed_address_so_that_is_judged_too(tmp_path: Path) -> None:
    text = '[cluster]\nnodes = ["10.0.0.1:7201", "10.0.0.2:7201"]'
    assert set(faults(tmp_path, text)) == {"node.api_address", "node.peer_address"}


@pytest.mark.parametrize(
    "text",
    ["host", "host:", "host:0", "host:65536", "host:-1", "host:٣", ":7101", "::1:7101", "[::1]",
     "[host]:7101", "ho st:7101", "256.0.0.1:7101", "-host:7101", "host:71 01", "http://host:1"],
)  # fmt: skip
def test_what_is_not_an_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"port|IPv4|IPv6|host"):
        Address.parse(text)


@pytest.mark.parametrize("text", ["host:1", "a-b.example.org:65535", "10.0.0.1:80", "[::1]:7101"])
def test_an_address_is_written_as_it_was_read(text: str) -> None:
    assert str(Address.parse(text)) == text
