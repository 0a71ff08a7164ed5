"""Configuration: layers, types, and every mistake reported at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from node.config import (
    Address,
    ClusterNode,
    Config,
    ConfigError,
    LogFormat,
    LogLevel,
    load,
)

THREE_NODES = """
[cluster]
nodes = [
    { id = "n1", api = "127.0.0.1:7101", peer = "127.0.0.1:7201" },
    { id = "n2", api = "127.0.0.1:7102", peer = "127.0.0.1:7202" },
    { id = "n3", api = "127.0.0.1:7103", peer = "127.0.0.1:7203" },
]
"""

Loader = Callable[..., Config]


@pytest.fixture
def load_text(tmp_path: Path) -> Loader:
    """Load a configuration from its text, as node n1 unless the environment names another."""

    def load_it(
        text: str, environ: Mapping[str, str] | None = None, node_id: str | None = "n1"
    ) -> Config:
        file = tmp_path / "cluster.conf"
        file.write_text(text, encoding="utf-8")
        overrides = {"node.id": node_id} if node_id else {}
        return load(file, environ=environ, overrides=overrides, working_dir=tmp_path / "cwd")

    return load_it


def complaints(error: ConfigError) -> dict[str, str]:
    """Return what is wrong and how to mend it, by key (or by origin where there is no key)."""
    return {p.key or p.origin: f"{p.wrong} / {p.mend}" for p in error.problems}


def refused(load_text: Loader, text: str, **kwargs: object) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load_text(text, **kwargs)
    return complaints(caught.value)


def test_a_list_of_nodes_is_all_that_must_be_given(load_text: Loader, tmp_path: Path) -> None:
    config = load_text(THREE_NODES, node_id="n2")
    assert config.node.id == "n2"
    assert config.node.api_address == Address("127.0.0.1", 7102)
    assert config.node.peer_address == Address("127.0.0.1", 7202)
    assert config.node.advertise_api_address == config.node.api_address
    assert config.node.data_dir == tmp_path / ".tidelock" / "n2"
    assert config.own_entry == config.cluster.nodes[1]
    assert config.raft.heartbeat_ms == 50


def test_the_file_is_overridden_by_the_environment_and_that_by_the_command_line(
    tmp_path: Path,
) -> None:
    file = tmp_path / "cluster.conf"
    file.write_text('[node]\nid = "n1"\n' + THREE_NODES, encoding="utf-8")
    environ = {"TIDELOCK_NODE_ID": "n2"}
    assert load(file).node.id == "n1"
    assert load(file, environ=environ).node.id == "n2"
    assert load(file, environ=environ, overrides={"node.id": "n3"}).node.id == "n3"


def test_a_configuration_cannot_be_changed(load_text: Loader) -> None:
    config = load_text(THREE_NODES)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.raft.heartbeat_ms = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        config.cluster.dial_overrides["n2"] = Address("127.0.0.1", 1)  # type: ignore[index]


def test_every_mistake_is_reported_at_once(load_text: Loader) -> None:
    found = refused(
        load_text,
        THREE_NODES
        + """
        [raft]
        heartbeat_ms = "fast"
        election_timeout_max_ms = 100
        [health]
        intervall_ms = 5
        [log]
        level = "loud"
        [colour]
        sky = "blue"
        """,
        environ={"TIDELOCK_HTTP_MAX_BODY_BYTES": "many"},
    )
    assert set(found) == {
        "raft.heartbeat_ms",
        "raft.election_timeout_max_ms",
        "health.intervall_ms",
        "log.level",
        "colour",
        "http.max_body_bytes",
    }


def test_the_message_names_key_origin_fault_and_remedy(load_text: Loader) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(THREE_NODES, environ={"TIDELOCK_RAFT_HEARTBEAT_MS": "0"})
    assert str(caught.value) == (
        "the configuration has 1 problem:\n"
        "  - raft.heartbeat_ms (TIDELOCK_RAFT_HEARTBEAT_MS): 0 is below the least value allowed. "
        "Write a whole number from 5 to 10000."
    )


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ("[health]\nintervall_ms = 1", "health.intervall_ms", "health.interval_ms"),
        ("[raft]\nlevel = 'info'", "raft.level", "Put it under [log]"),
        ("[raft]\nxyzzy = 1", "raft.xyzzy", "heartbeat_ms, election_timeout_min_ms"),
        ("[helth]\ninterval_ms = 1", "helth", "Did you mean [health]"),
        ("[xyzzy]", "xyzzy", "The sections are [node], [cluster]"),
    ],
)
def test_an_unknown_name_is_answered_with_what_was_meant(
    load_text: Loader, text: str, key: str, hint: str
) -> None:
    assert hint in refused(load_text, THREE_NODES + text)[key]


def test_a_setting_outside_its_section_is_told_where_it_belongs(load_text: Loader) -> None:
    assert "[raft]" in refused(load_text, "heartbeat_ms = 50\n" + THREE_NODES)["heartbeat_ms"]


def test_a_value_where_a_section_should_be_is_refused(load_text: Loader) -> None:
    assert "[raft]" in refused(load_text, "raft = 3\n" + THREE_NODES)["raft"]


@pytest.mark.parametrize(
    ("section", "line", "wrong"),
    [
        ("raft", "heartbeat_ms = 50.0", "50.0 is not a whole number"),
        ("raft", "heartbeat_ms = true", "true is not a whole number"),
        ("raft", "heartbeat_ms = 4", "below the least"),
        ("raft", "max_entry_bytes = 1048577", "above the greatest"),
        ("node", "uvloop = 1", "1 is not true or false"),
        ("node", "data_dir = 7", "7 is not a path"),
        ("node", "data_dir = ''", '"" is not a path'),
        ("node", "api_address = 7101", "7101 is not an address"),
        ("node", "api_address = 'localhost'", '"localhost" has no port'),
        ("log", "format = 'xml'", '"xml" is not one of the choices'),
        ("security", "insecure = 'true'", '"true" is not true or false'),
        ("cluster", "dial_overrides = ['n2']", "a list is not a table"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(
    load_text: Loader, section: str, line: str, wrong: str
) -> None:
    header = "" if section == "cluster" else f"[{section}]\n"
    key = f"{section}.{line.partition(' ')[0]}"
    assert wrong in refused(load_text, THREE_NODES + header + line)[key]


def test_environment_values_are_read_as_the_setting_is_typed(load_text: Loader) -> None:
    config = load_text(
        THREE_NODES,
        environ={
            "TIDELOCK_NODE_UVLOOP": "No",
            "TIDELOCK_RAFT_HEARTBEAT_MS": " 20 ",
            "TIDELOCK_RAFT_MAX_PENDING_BYTES": "10_000_000",
            "TIDELOCK_LOG_LEVEL": "DEBUG",
            "TIDELOCK_LOG_FORMAT": "json",
            "TIDELOCK_CLUSTER_DIAL_OVERRIDES": "n2=127.0.0.1:9002, n3=[::1]:9003",
        },
    )
    assert config.node.uvloop is False
    assert config.raft.heartbeat_ms == 20
    assert config.raft.max_pending_bytes == 10_000_000
    assert config.log.level is LogLevel.DEBUG
    assert config.log.format is LogFormat.JSON
    assert config.cluster.dial_overrides == {
        "n2": Address("127.0.0.1", 9002),
        "n3": Address("::1", 9003),
    }


@pytest.mark.parametrize(
    "nodes",
    [
        "127.0.0.1:7201,127.0.0.1:7202",
        '["127.0.0.1:7201", "127.0.0.1:7202"]',
        '[{id="n1", api="127.0.0.1:7101", peer="127.0.0.1:7201"}, "127.0.0.1:7202"]',
    ],
)
def test_the_environment_can_name_the_nodes(load_text: Loader, nodes: str) -> None:
    config = load_text("", environ={"TIDELOCK_CLUSTER_NODES": nodes})
    assert config.cluster.nodes == (
        ClusterNode(id="n1", api=Address("127.0.0.1", 7101), peer=Address("127.0.0.1", 7201)),
        ClusterNode(id="n2", api=Address("127.0.0.1", 7102), peer=Address("127.0.0.1", 7202)),
    )


def test_an_ipv6_peer_list_in_the_environment_is_not_taken_for_toml(load_text: Loader) -> None:
    config = load_text("", environ={"TIDELOCK_CLUSTER_NODES": "[::1]:7201,[::1]:7202"})
    assert [str(node.peer) for node in config.cluster.nodes] == ["[::1]:7201", "[::1]:7202"]


def test_a_misspelt_variable_of_ours_is_reported_and_others_are_left_alone(
    load_text: Loader,
) -> None:
    found = refused(
        load_text,
        THREE_NODES,
        environ={
            "TIDELOCK_RAFT_HEARTBEAT": "20",
            "TIDELOCK_URL": "http://127.0.0.1:7101",
            "TIDELOCK_NODE_SERVICE_HOST": "10.96.0.7",
            "TIDELOCK_NODE_PORT_7101_TCP_ADDR": "10.96.0.7",
            "TIDELOCK_HTTP_SERVICE_PORT_API": "7101",
            "PATH": "/bin",
        },
    )
    assert set(found) == {"TIDELOCK_RAFT_HEARTBEAT"}
    assert "TIDELOCK_RAFT_HEARTBEAT_MS" in found["TIDELOCK_RAFT_HEARTBEAT"]


def test_relative_data_folders_start_where_they_were_written(
    load_text: Loader, tmp_path: Path
) -> None:
    in_file = load_text('[node]\ndata_dir = "data"\n' + THREE_NODES)
    assert in_file.node.data_dir == tmp_path / "data"
    in_environment = load_text(THREE_NODES, environ={"TIDELOCK_NODE_DATA_DIR": "data"})
    assert in_environment.node.data_dir == tmp_path / "cwd" / "data"


def test_faults_within_the_list_of_nodes_are_placed(load_text: Loader) -> None:
    found = refused(
        load_text,
        """
        [cluster]
        nodes = [
            { id = "n 1", api = "127.0.0.1:7101", peer = "127.0.0.1:7201" },
            { id = "n2", apii = "127.0.0.1:7102", peer = "127.0.0.1:99999" },
            "127.0.0.1:80",
            7,
        ]
        """,
    )
    assert set(found) == {
        "cluster.nodes[0].id",
        "cluster.nodes[1].apii",
        "cluster.nodes[1].api",
        "cluster.nodes[1].peer",
        "cluster.nodes[2]",
        "cluster.nodes[3]",
    }
    assert "Did you mean" in found["cluster.nodes[1].apii"]


def test_a_file_that_does_not_exist_is_one_clear_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "absent.conf")
    (problem,) = caught.value.problems
    assert "absent.conf" in problem.origin
    assert "--config" in problem.mend


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (b"[raft\nheartbeat_ms = 5", "line 1"),
        (b"[raft]\nheartbeat_ms = 5\nheartbeat_ms = 6", "not TOML"),
        (b"# \xff", "byte 2 is not UTF-8"),
        (b"#" * (1 << 20) + b"#", "larger than"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_clear_fault(
    tmp_path: Path, content: bytes, wrong: str
) -> None:
    file = tmp_path / "cluster.conf"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(file)
    (problem,) = caught.value.problems
    assert wrong in problem.wrong


def test_a_file_without_nodes_says_how_to_list_them(load_text: Loader) -> None:
    found = refused(load_text, "[raft]\nheartbeat_ms = 50")
    assert set(found) == {"cluster.nodes"}
    assert "[cluster]" in found["cluster.nodes"]


def test_a_long_wrong_value_is_shown_cut(load_text: Loader) -> None:
    found = refused(load_text, THREE_NODES + f"[log]\nlevel = '{'x' * 5000}'")
    assert len(found["log.level"]) < 300
