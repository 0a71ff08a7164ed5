"""Disks that were wiped, or put back from an old image: hazard D20 of the bare library.

Each scenario runs once as it is, and once with its guard switched off, when it must break its
promise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from node.consensus.bootstrap import Bootstrap
from node.consensus.contacts import Contacts
from node.consensus.membership import (
    MemberRecord,
    first_configuration,
)
from node.consensus.messages import Frame, Hello, Kind, RefusalReason
from node.consensus.replication import Replication
from tests.consensus.configurations import is_voter
from tests.consensus.harness import (
    Bench,
    BrokenPromise,
    event_data,
    leader_name,
    others,
    promise,
    settle,
    started_cluster,
    write_and_wait,
)
from tests.simulation.world import Violation


def two_of_three_are_wiped(prepare: Callable[[], None] = lambda: None) -> None:
    cluster = started_cluster()
    write_and_wait(cluster, "n1", b'"kept"')
    settle(cluster)
    survivor = "n3"
    engine = cluster.engine(survivor)
    assert engine is not None
    cluster_id = engine.membership.cluster_id
    for name in others(cluster, survivor):
        cluster.kill(name)
        cluster.wipe(name)
    prepare()
    for name in others(cluster, survivor):
        # Both are told to bootstrap, as after a mistaken re-installation.
        cluster.start(name, bootstrap=True)
    cluster.world.run_until(cluster.world.now + 30.0)
    # The survivor may hand its log to the others, but is no majority.
    clusters = {engine.membership.cluster_id for engine in cluster.engines()} - {None}
    promise(
        clusters == {cluster_id} and cluster.leader() is None,
        "two wiped nodes became a new cluster",
    )


def test_two_wiped_nodes_of_three_never_form_a_cluster() -> None:
    two_of_three_are_wiped()


def test_d20_needs_everybody_to_be_there_and_blank_at_the_bootstrap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def of_whoever_is_blank(bootstrap: Bootstrap) -> None:
        if not bootstrap._wanted:
            return
        own = bootstrap._identity
        members = [MemberRecord(own.node_id, own.disk_uuid, own.peer_address, own.api_address)]
        for node_id, address in sorted(bootstrap._peers.configured.items()):
            contact = bootstrap._contacts.get(node_id)
            if contact is not None and contact.cluster_id is None:
                members.append(
                    MemberRecord(node_id, contact.disk_uuid, address, contact.api_address)
                )
        if len(members) == 2:
            cluster_id = bootstrap._runtime.random_bytes(16)
            bootstrap._adopt(first_configuration(cluster_id, members))
            bootstrap._to_announce = {member.node_id for member in members[1:]}

    with pytest.raises(BrokenPromise, match="new cluster"):
        two_of_three_are_wiped(
            lambda: monkeypatch.setattr(Bootstrap, "_try_to_create", of_whoever_is_blank)
        )


def _hello_of_b(bench: Bench, to: str) -> Hello:
    return Hello(*bench.links.events.hello(to)[1:])._replace(node_id="b")


def test_a_node_of_another_cluster_is_refused() -> None:
    bench = Bench()
    hello = _hello_of_b(bench, to="a")._replace(cluster_id=b"another cluster!")
    assert bench.links.events.admit((int(Kind.HELLO), *hello)) is RefusalReason.WRONG_CLUSTER


def test_who_meant_another_node_is_told() -> None:
    """An address was copied to the wrong line: the log of one node must not go to another."""
    bench = Bench(found=False)
    hello = _hello_of_b(bench, to="c")
    assert bench.links.events.admit((int(Kind.HELLO), *hello)) is RefusalReason.WRONG_NODE


def a_wiped_voter_acknowledges() -> None:
    bench = Bench()
    bench.elect("b")
    last = bench.engine.journal.last()[0]
    assert bench.hello("b", b"the new disk of b", blank=True) is None
    bench.acknowledge("b", last)
    bench.run(0.2)
    promise(
        bench.engine.raft.commit_index < last,
        "an acknowledgement of a disk that is not in force was counted",
    )


def test_acknowledgements_of_another_disk_do_not_count() -> None:
    a_wiped_voter_acknowledges()


def test_d20_needs_the_disk_to_be_part_of_who_a_member_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        Contacts, "is_member", lambda contacts, peer: contacts._membership.names(peer)
    )
    with pytest.raises(BrokenPromise, match="not in force was counted"):
        a_wiped_voter_acknowledges()


def a_disk_is_restored_from_an_old_image() -> None:
    cluster = started_cluster()
    leader = leader_name(cluster)
    restored = others(cluster, leader)[0]
    node = cluster.nodes[restored]
    image = (copy.deepcopy(node.files), copy.deepcopy(node.medium), node.disk_uuid)
    for number in range(20):
        write_and_wait(cluster, leader, b"%d" % number)
    settle(cluster)
    cluster.kill(restored)
    node.files, node.medium, node.disk_uuid = image
    cluster.start(restored)
    try:
        cluster.wait_for(
            lambda: cluster.nodes[restored].disk_uuid != image[2],
            5.0,
            "a disk that lost what it acknowledged is recognised",
        )
    except Violation as error:
        raise BrokenPromise(str(error)) from error
    cluster.wait_for(
        lambda: is_voter(cluster, restored), 30.0, "the node is a voter again, on an empty disk"
    )
    settle(cluster)
    engine = cluster.engine(restored)
    assert engine is not None
    assert event_data(engine) == [b"%d" % number for number in range(20)]


def test_a_disk_restored_from_an_old_image_is_recognised_and_rebuilt() -> None:
    a_disk_is_restored_from_an_old_image()


def test_d20_needs_the_comparison_with_what_was_acknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_append_reply = Replication.on_append_reply

    def trusting(replication: Replication, peer: str, frame: Frame) -> None:
        matched = replication._raft.match_index(peer)
        on_append_reply(replication, peer, (*frame[:6], max(frame[6], matched)))

    monkeypatch.setattr(Replication, "on_append_reply", trusting)
    with pytest.raises(BrokenPromise, match="is recognised"):
        a_disk_is_restored_from_an_old_image()
