"""Whom a client asks first, and what its keys look like."""

from __future__ import annotations

import uuid

import pytest
from yarl import URL

from tidelock.client.idempotency import new_key
from tidelock.client.nodes import AVOIDED_S, Nodes


class Watch:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def asked(nodes: Nodes) -> list[int | None]:
    return [url.port for url in nodes.in_order()]


def test_a_node_that_failed_is_asked_last_for_a_while() -> None:
    watch = Watch()
    nodes = Nodes(["http://a:1", "a:2", "a:3"], watch)
    nodes.avoid(nodes.in_order()[0])
    assert asked(nodes) == [2, 3, 1]
    watch.now = AVOIDED_S + 0.1
    assert asked(nodes) == [1, 2, 3]


def test_nodes_that_the_cluster_names_are_asked_too_and_those_that_are_ill_last() -> None:
    nodes = Nodes(["http://a:1"])
    nodes.follow([("a:1", False), ("a:2", True)])
    assert asked(nodes) == [2, 1]
    nodes.follow([("a:3", True)])
    assert asked(nodes) == [1, 3]


@pytest.mark.parametrize(
    "addresses",
    [
        *([], "http://a:1", ["ftp://a:1"], ["http://"], ["a b:1"], ["http://a:99999"], [""]),
        *(["http://a:1/path"], ["http://a:1?query"], ["http://user:password@a:1"], ["a:1", "b c"]),
    ],
)
def test_what_is_no_list_of_addresses_is_refused(addresses: list[str]) -> None:
    with pytest.raises(ValueError, match="address"):
        Nodes(addresses)


def test_a_password_in_an_address_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="token=") as refused:
        Nodes(["http://user:secret@a:1"])
    assert "secret" not in str(refused.value)


def test_addresses_are_understood_in_all_their_forms() -> None:
    given = ["http://a:1/", "b:2", "https://c", "[::1]:4", "http://127.0.0.1", "名.example:6"]
    assert asked(Nodes(given)) == [1, 2, 443, 4, 80, 6]


def test_keys_are_uuids_of_version_7() -> None:
    keys = [uuid.UUID(new_key()) for _ in range(100)]
    assert len({*keys}) == 100
    assert {(key.version, key.variant) for key in keys} == {(7, uuid.RFC_4122)}


def test_what_stays_goes_to_the_leader_that_the_application_named() -> None:
    nodes = Nodes(["http://a:1", "http://b:1", "http://c:1"])
    nodes.follow([("a:1", True), ("b:1", True), ("d:1", True)], "b:1")
    assert nodes.leader == URL("http://b:1")
    assert {nodes.in_order(spread=True)[0] for _ in range(50)} == {URL("http://b:1")}
    assert nodes.in_order()[0] == URL("http://a:1")
    nodes.avoid(URL("http://b:1"))
    assert URL("http://b:1") not in {nodes.in_order(spread=True)[0] for _ in range(50)}
    # It may not be reachable from here under the name that the cluster has for it.
    nodes.follow([("a:1", True), ("d:1", True)], "d:1")
    assert nodes.leader is None
