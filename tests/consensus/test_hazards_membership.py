"""Who counts, and since when.

Hazards D19 and D20 of the bare library. Each scenario runs once as it is, and once with its guard
switched off, when it must break its promise.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import pytest

from node.consensus.admission import ADD, REMOVE, Admission
from node.consensus.bootstrap import Bootstrap
from node.consensus.contacts import Contacts
from node.consensus.membership import (
    Configuration,
    MemberRecord,
    Membership,
    configuration_command,
    decode_configuration,
    first_configuration,
)
from node.consensus.messages import Frame, Kind, RefusalReason
from node.consensus.replication import Replication
from tests.consensus.harness import (
    CLUSTER_ID,
    Bench,
    BrokenPromise,
    event_data,
    event_entry,
    leader_name,
    no_op,
    others,
    promise,
    settle,
    started_cluster,
    write_and_wait,
)
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.world import Violation, World

CONFIGURED = (2, 0)


def voters(configuration: Configuration | None) -> list[str]:
    return [member.node_id for member in configuration.voters] if configuration else []


# --- D19: two changes at once


def a_removal_meets_a_wiped_node() -> None:
    """Both are due in the same step; the second must be made from what the first leaves."""
    bench = Bench(members="abcde")
    bench.lead("b", "c")
    results: list[str] = []
    bench.act(
        lambda: bench.engine.admission.ask(
            REMOVE, "d", bench.engine.now() + 30.0, lambda code, _detail: results.append(code)
        )
    )
    assert bench.hello("e", b"the new disk of e", blank=True) is None
    bench.run(0.1)
    configurations = len(bench.engine.journal.configuration_indexes)
    promise(configurations == 2, "two changes of the members were in flight at once")
    for _ in range(5):
        for peer in "bc":
            bench.acknowledge(peer)
    assert results == [""]
    assert voters(bench.engine.membership.in_force) == ["a", "b", "c"]


def test_one_change_is_in_flight_at_a_time() -> None:
    a_removal_meets_a_wiped_node()


def test_d19_needs_a_proposed_change_to_count_before_it_is_in_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        Admission,
        "_change_pending",
        property(lambda admission: admission._membership.change_pending),
    )
    with pytest.raises(BrokenPromise, match="in flight at once"):
        a_removal_meets_a_wiped_node()


def a_change_is_asked_of_a_new_leader() -> None:
    """Before it has applied an entry of its own term, it does not know what is committed."""
    bench = Bench()
    bench.elect("b")
    results: list[str] = []
    bench.act(
        lambda: bench.engine.admission.ask(
            REMOVE, "c", bench.engine.now() + 30.0, lambda code, _detail: results.append(code)
        )
    )
    bench.run(0.2)
    promise(results == ["NOT_READY"], "a leader changed the members before its term was committed")


def test_no_change_before_an_entry_of_the_term_is_applied() -> None:
    a_change_is_asked_of_a_new_leader()


def test_d19_needs_the_leader_to_be_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Admission, "_reason_to_refuse", lambda _self, _kind, _node: None)
    with pytest.raises(BrokenPromise, match="before its term was committed"):
        a_change_is_asked_of_a_new_leader()


# --- D19: voters after a restart


def a_node_restarts_after_a_removal() -> None:
    """Its configuration file still names three voters, of which one has been removed."""
    bench = Bench()
    smaller = bench.configuration().without("c")
    record = (configuration_command(smaller), 3, 1)
    bench.receive("b", bench.append(1, CONFIGURED, [record]))
    bench.crash()
    bench.boot()
    promise(
        voters(bench.engine.membership.in_force) == ["a", "b"],
        "a restarted node counts the voters of an older configuration",
    )
    bench.run(1.0)
    bench.campaign_with("b")
    bench.receive("c", (int(Kind.VOTE), bench.engine.raft.term))
    assert not bench.leads


def test_a_restarted_node_counts_the_voters_of_the_last_record() -> None:
    a_node_restarts_after_a_removal()


def test_d19_needs_the_record_to_be_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    restore = Membership.restore

    def of_the_first_record(
        membership: Membership, stored: bytes | None, logged: list[tuple[bytes, int]]
    ) -> None:
        restore(membership, stored, logged[:1])

    monkeypatch.setattr(Membership, "restore", of_the_first_record)
    with pytest.raises(BrokenPromise, match="older configuration"):
        a_node_restarts_after_a_removal()


def test_a_committed_record_survives_compaction_and_a_restart() -> None:
    bench = Bench()
    smaller = bench.configuration().without("c")
    entries = [(configuration_command(smaller), 3, 1), event_entry(4, 1), event_entry(5, 1)]
    bench.receive("b", bench.append(1, CONFIGURED, entries, commit=5), run_s=0.3)
    bench.act(lambda: bench.storage.checkpoint(force=True))
    bench.act(lambda: bench.engine.journal.compact_to(5))
    bench.run(0.3)
    bench.act(bench.engine.journal.flush_now)
    bench.crash()
    bench.boot()
    assert voters(bench.engine.membership.in_force) == ["a", "b"]
    assert bench.engine.journal.base()[0] == 5


def a_record_is_cut_from_the_log() -> None:
    bench = Bench()
    smaller = bench.configuration().without("c")
    bench.receive("b", bench.append(1, CONFIGURED, [(configuration_command(smaller), 3, 1)]))
    assert voters(bench.engine.membership.in_force) == ["a", "b"]
    bench.receive("c", bench.append(2, CONFIGURED, [no_op(3, 2)]))
    promise(
        voters(bench.engine.membership.in_force) == ["a", "b", "c"],
        "a change that was cut from the log is still in force",
    )


def test_a_record_that_is_cut_is_undone() -> None:
    a_record_is_cut_from_the_log()


def test_d19_needs_the_undoing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Membership, "on_truncate", lambda _self, _first: None)
    with pytest.raises(BrokenPromise, match="still in force"):
        a_record_is_cut_from_the_log()


def no_voters_are_no_majority() -> None:
    membership = Membership("a", b"disk")
    promise(not membership.is_quorum(["a"]), "a node without voters is its own majority")


def test_an_empty_set_of_voters_is_no_majority() -> None:
    no_voters_are_no_majority()
    empty = first_configuration(CLUSTER_ID, [])
    with pytest.raises(ValueError, match="at least one voter"):
        decode_configuration(empty.encode())


def test_d19_needs_an_empty_set_to_be_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def librarys(membership: Membership, node_ids: list[str]) -> bool:
        return len(node_ids) > len(membership._voter_ids) / 2

    monkeypatch.setattr(Membership, "is_quorum", librarys)
    with pytest.raises(BrokenPromise, match="its own majority"):
        no_voters_are_no_majority()


def test_a_node_without_a_record_never_leads() -> None:
    bench = Bench(found=False)
    for peer in "bc":
        bench.disconnect(peer)
    bench.run(30.0)
    assert not bench.leads
    assert bench.engine.raft.term == 0


# --- D20: wiped disks


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
        for node_id, address in sorted(bootstrap._peers.expected.items()):
            contact = bootstrap._contacts.get(node_id)
            if contact is not None and contact.blank:
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


def test_a_node_of_another_cluster_is_refused() -> None:
    bench = Bench()
    frame = list(bench.links.events.hello())
    frame[2], frame[3] = b"another cluster!", "b"
    assert bench.links.events.admit(tuple(frame)) is RefusalReason.WRONG_CLUSTER


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


# --- D20: old images


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
        lambda: _is_voter(cluster, restored), 30.0, "the node is a voter again, on an empty disk"
    )
    settle(cluster)
    engine = cluster.engine(restored)
    assert engine is not None
    assert event_data(engine) == [b"%d" % number for number in range(20)]


def _is_voter(cluster: SimulatedCluster, name: str) -> bool:
    engine = cluster.engine(name)
    return engine is not None and engine.membership.is_voter


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


# --- the bootstrap


def the_founder_restarts_before_it_has_told_the_others() -> None:
    """Its record is durable; no other node has it. The others dial after it has dialled."""
    cluster = SimulatedCluster(World(3), 3)
    cluster.start_all()
    founder = cluster.nodes["n1"]

    def founded() -> bool:
        return founder.engine is not None and founder.engine.journal.durable_index >= 2

    cluster.wait_for(founded, 10.0, "the record is durable")
    cluster.kill("n1")
    assert all(engine.membership.in_force is None for engine in cluster.engines())
    cluster.start("n1")
    cluster.wait_for_leader()
    settle(cluster)


def test_a_bootstrap_that_was_interrupted_goes_on() -> None:
    the_founder_restarts_before_it_has_told_the_others()


def a_blank_founder_introduces_itself_late() -> None:
    bench = Bench(found=False)
    bench.disconnect("c")
    bench.receive("b", (int(Kind.BOOTSTRAP), bench.configuration().encode()))
    bench.links.connected.add("c")
    bench.act(lambda: bench.links.events.on_connected("c"))
    bench.run(0.1)
    bench.links.sent.clear()
    assert bench.hello("c", blank=True) is None
    bench.run(0.1)
    promise(bool(bench.sent(Kind.BOOTSTRAP, "c")), "a founder is never told of its cluster")


def test_a_founder_that_introduces_itself_late_is_told() -> None:
    a_blank_founder_introduces_itself_late()


def test_only_the_first_record_is_handed_to_a_blank_founder() -> None:
    bench = Bench()
    changed = bench.configuration().without("c").with_learner(bench.member("c"))
    bench.receive("b", bench.append(1, CONFIGURED, [(configuration_command(changed), 3, 1)]))
    bench.links.sent.clear()
    assert bench.hello("c", blank=True) is None
    bench.run(0.2)
    assert not bench.sent(Kind.BOOTSTRAP)


# --- admission


def test_a_wiped_node_comes_back_as_a_learner_and_is_promoted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster = started_cluster()
    leader = leader_name(cluster)
    wiped = others(cluster, leader)[1]
    write_and_wait(cluster, leader, b'"kept"')
    cluster.kill(wiped)
    cluster.wipe(wiped)
    cluster.start(wiped)
    cluster.wait_for(lambda: _is_voter(cluster, wiped), 20.0, "the wiped node is a voter again")
    settle(cluster)
    engine = cluster.engine(wiped)
    assert engine is not None
    assert event_data(engine) == [b'"kept"']
    # All of it is what happens by itself: nobody has to look into it.
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR] == []


def test_a_learner_does_not_count_for_a_commit() -> None:
    bench = Bench(members="abcd")
    learning = bench.configuration().without("d").with_learner(bench.member("d"))
    bench.receive(
        "b", bench.append(1, CONFIGURED, [(configuration_command(learning), 3, 1)], commit=3)
    )
    bench.elect("b")
    last = bench.engine.journal.last()[0]
    bench.acknowledge("d", last)
    bench.run(0.1)
    assert bench.engine.raft.commit_index < last
    bench.acknowledge("b", last)
    assert bench.engine.raft.commit_index == last


def test_a_node_that_has_been_in_a_cluster_is_not_added() -> None:
    bench = Bench(members="abc")
    bench.lead("b")
    results: list[str] = []
    bench.act(
        lambda: bench.engine.admission.ask(
            ADD,
            "d",
            bench.engine.now() + 30.0,
            lambda code, _detail: results.append(code),
            peer_address="d",
            api_address="d",
        )
    )
    bench.links.connected.add("d")
    assert bench.hello("d") is RefusalReason.REMOVED
    assert bench.hello("d", blank=True) is None
    bench.run(0.1)
    assert results == []
    assert bench.engine.counters["configurations_proposed"] == 1
