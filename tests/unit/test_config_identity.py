"""Configuration: which node this is, plain lists of peers, and the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.config import Address, ConfigError, load, load_for_process, parse_arguments
from node.config.identity import is_local_host

PEERS = """\
# three machines

10.0.0.1:7201
10.0.0.2:7201   # the middle one
db3.example.org:8201
"""

OPEN = {"TIDELOCK_SECURITY_INSECURE": "true"}


def written(folder: Path, text: str) -> Path:
    file = folder / "cluster.conf"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_plain_list_of_peers_is_a_configuration(tmp_path: Path) -> None:
    config = load(written(tmp_path, PEERS), environ=OPEN, overrides={"node.id": "n3"})
    assert [(n.id, str(n.api), str(n.peer)) for n in config.cluster.nodes] == [
        ("n1", "10.0.0.1:7101", "10.0.0.1:7201"),
        ("n2", "10.0.0.2:7101", "10.0.0.2:7201"),
        ("n3", "db3.example.org:8101", "db3.example.org:8201"),
    ]
    assert config.node.api_address == Address("db3.example.org", 8101)


def test_a_list_of_peers_may_hold_ipv6_and_windows_line_ends(tmp_path: Path) -> None:
    file = written(tmp_path, "\ufeff[::1]:7201\r\n[::1]:7202\r\n")
    config = load(file, overrides={"node.id": "n2"})
    assert config.node.peer_address == Address("::1", 7202)


def test_each_bad_line_of_a_list_is_reported_by_its_number(tmp_path: Path) -> None:
    file = written(tmp_path, "10.0.0.1:7201\n10.0.0.2\n\n10.0.0.3:80\n")
    with pytest.raises(ConfigError) as caught:
        load(file, overrides={"node.id": "n1"})
    assert [problem.origin for problem in caught.value.problems] == [
        "cluster.conf, line 2",
        "cluster.conf, line 4",
    ]


def test_without_an_id_the_node_is_the_entry_on_this_machine(tmp_path: Path) -> None:
    file = written(tmp_path, PEERS)
    config = load(file, environ=OPEN, is_local=lambda host: host == "10.0.0.2")
    assert config.node.id == "n2"


@pytest.mark.parametrize(
    ("local", "wrong"),
    [
        ({"10.0.0.1", "10.0.0.2"}, "n1, n2 are all on this machine"),
        (set[str](), "no entry of cluster.nodes is on this machine"),
    ],
)
def test_without_an_id_an_unclear_place_is_refused(
    tmp_path: Path, local: set[str], wrong: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, PEERS), environ=OPEN, is_local=lambda host: host in local)
    (problem,) = caught.value.problems
    assert problem.wrong == wrong
    assert "--node-id" in problem.mend


def test_loopback_is_local_and_an_address_of_documentation_is_not() -> None:
    assert is_local_host("127.0.0.1")
    assert not is_local_host("192.0.2.1")
    assert not is_local_host("a..b")


def test_an_id_that_is_not_listed_needs_addresses_of_its_own(tmp_path: Path) -> None:
    file = written(tmp_path, '[cluster]\nnodes = ["127.0.0.1:7201"]')
    with pytest.raises(ConfigError) as caught:
        load(file, overrides={"node.id": "n11"})
    (problem,) = caught.value.problems
    assert problem.key == "node.id"
    assert "Did you mean n1?" in problem.mend


def test_a_node_that_will_join_later_is_not_listed(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        """
        [node]
        id = "n4"
        api_address = "0.0.0.0:7104"
        peer_address = "127.0.0.1:7204"
        advertise_api_address = "10.0.0.4:7104"
        [cluster]
        nodes = ["127.0.0.1:7201"]
        [security]
        insecure = true
        """,
    )
    config = load(file)
    assert config.own_entry is None
    assert config.node.advertise_api_address == Address("10.0.0.4", 7104)
    assert config.node.advertise_peer_address == Address("127.0.0.1", 7204)


def test_a_node_that_joins_cannot_be_reached_at_every_interface(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        """
        [node]
        id = "n4"
        api_address = "0.0.0.0:7104"
        peer_address = "127.0.0.1:7204"
        [cluster]
        nodes = ["127.0.0.1:7201"]
        [security]
        insecure = true
        """,
    )
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert [problem.key for problem in caught.value.problems] == ["node.advertise_api_address"]


def test_a_listed_node_may_listen_elsewhere_than_it_is_reached(tmp_path: Path) -> None:
    environ = OPEN | {"TIDELOCK_NODE_API_ADDRESS": "0.0.0.0:7101"}
    config = load(written(tmp_path, PEERS), environ=environ, overrides={"node.id": "n1"})
    assert str(config.node.api_address) == "0.0.0.0:7101"
    assert str(config.node.advertise_api_address) == "10.0.0.1:7101"


def test_an_advertised_address_may_not_differ_from_the_listed_one(tmp_path: Path) -> None:
    environ = OPEN | {"TIDELOCK_NODE_ADVERTISE_PEER_ADDRESS": "10.9.9.9:7201"}
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, PEERS), environ=environ, overrides={"node.id": "n1"})
    assert [problem.key for problem in caught.value.problems] == ["node.advertise_peer_address"]


def test_the_command_line_chooses_file_node_and_folder(tmp_path: Path) -> None:
    file = written(tmp_path, "127.0.0.1:7201\n127.0.0.1:7202\n")
    argv = ["--config", str(file), "--node-id", "n2", "--data-dir", "/srv/n2", "--bootstrap"]
    config, bootstrap, check_config = load_for_process(argv, {})
    assert (config.node.id, config.node.data_dir) == ("n2", Path("/srv/n2"))
    assert (bootstrap, check_config) == (True, False)


def test_a_variable_names_the_file_when_no_argument_does(tmp_path: Path) -> None:
    file = written(tmp_path, "127.0.0.1:7201\n")
    launch = load_for_process(["--check-config"], {"TIDELOCK_CONFIG": str(file)})
    assert launch.config.node.id == "n1"
    assert launch.check_config


def test_a_node_that_is_not_listed_cannot_bootstrap(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        '[node]\napi_address = "127.0.0.1:1"\npeer_address = "127.0.0.1:2"\n'
        '[cluster]\nnodes = ["127.0.0.1:7201"]',
    )
    argv = ["--config", str(file), "--node-id", "n9"]
    assert load_for_process(argv, {}).config.own_entry is None
    with pytest.raises(ConfigError, match="cannot bootstrap"):
        load_for_process([*argv, "--bootstrap"], {})


@pytest.mark.parametrize("argv", [["--nod", "n1"], ["n1"], ["--node-id"]])
def test_arguments_that_make_no_sense_end_the_program(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_arguments(argv)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err
