"""How nodes become members: the bootstrap, admission, and nodes that nobody has heard of."""

from __future__ import annotations

import logging

import pytest

from node.consensus.admission import ADD, TRANSFER
from node.consensus.contacts import Contacts
from node.consensus.membership import (
    MemberRecord,
    Membership,
    configuration_command,
)
from node.consensus.messages import Frame, Kind, RefusalReason
from node.consensus.peers import MOST_INTRODUCED, Peers
from statemachine.store import Store
from tests.consensus.configurations import CONFIGURED, is_voter
from tests.consensus.harness import (
    Bench,
    BrokenPromise,
    disk_of,
    event_data,
    event_entry,
    leader_name,
    no_op,
    others,
    promise,
    settle,
    started_cluster,
    write,
    write_and_wait,
)
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.world import Violation, World


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
    cluster.wait_for(lambda: is_voter(cluster, wiped), 20.0, "the wiped node is a voter again")
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


def says_it_is_new(bench: Bench) -> bool:
    *_, new = bench.links.events.hello("b")
    return bool(new)


def _learners(bench: Bench) -> list[bytes]:
    configuration = bench.engine.membership.in_force
    assert configuration is not None
    return [member.disk_uuid for member in configuration.learners]


def _outsider() -> Bench:
    """An empty disk of c, which the first record names on another one."""
    bench = Bench("c", found=False)
    old_disk = bench.configuration().with_voter(MemberRecord("c", b"the old disk of c", "c", "c"))
    bench.receive("a", bench.append(1, (1, 0), [(configuration_command(old_disk), 2, 0)], commit=2))
    return bench


def test_a_disk_whose_admission_was_cut_from_the_log_is_still_a_new_one() -> None:
    bench = _outsider()
    admission = configuration_command(
        bench.configuration().without("c").with_learner(bench.member("c"))
    )
    bench.receive("a", bench.append(1, CONFIGURED, [(admission, 3, 1)]))
    assert _learners(bench) == [disk_of("c")]
    bench.receive("b", bench.append(2, CONFIGURED, [no_op(3, 2)], commit=3), run_s=0.3)
    assert _learners(bench) == []
    assert says_it_is_new(bench)
    bench.crash()
    bench.boot()
    assert says_it_is_new(bench)


def a_member_is_replaced_and_returns() -> None:
    bench = _outsider()
    with_it = bench.configuration().without("c").with_learner(bench.member("c"))
    after_it = with_it.with_learner(MemberRecord("c", b"the next disk of", "c", "c"))
    entries = [
        (configuration_command(with_it), 3, 1),
        (configuration_command(after_it), 4, 1),
        *(event_entry(index, 1) for index in range(5, 9)),
    ]
    bench.receive("a", bench.append(1, CONFIGURED, entries[:1], commit=3), run_s=0.3)
    assert not says_it_is_new(bench)
    bench.receive("a", bench.append(1, (3, 1), entries[1:], commit=8), run_s=0.3)
    bench.act(lambda: bench.storage.checkpoint(force=True))
    bench.crash()
    bench.boot()
    assert not bench.engine.membership.is_member
    promise(not says_it_is_new(bench), "a disk that was replaced could take its place back")


def test_a_disk_that_was_replaced_does_not_call_itself_new() -> None:
    a_member_is_replaced_and_returns()


def test_that_needs_the_admission_to_be_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_in_memory(membership: Membership, _store: Store) -> None:
        membership.was_member = True

    monkeypatch.setattr(Membership, "_note_admission", only_in_memory)
    with pytest.raises(BrokenPromise, match="take its place back"):
        a_member_is_replaced_and_returns()


def a_new_disk_knocks_that_was_handed_a_log() -> None:
    bench = Bench()
    bench.lead("b")
    refusal = bench.hello("c", b"the new disk of c", new=True)
    promise(refusal is None, "a disk that never was a member is refused as a removed one")
    bench.run(0.1)
    assert _learners(bench) == [b"the new disk of c"]


def test_a_new_disk_that_was_handed_a_log_replaces_the_old_one() -> None:
    a_new_disk_knocks_that_was_handed_a_log()


def test_a_disk_that_was_a_member_before_does_not() -> None:
    bench = Bench()
    bench.lead("b")
    assert bench.hello("c", b"the old disk of c") is RefusalReason.REMOVED


def the_admission_of_a_wiped_node_is_cut() -> None:
    """Simulation seed 682: a leader without a majority wrote it, and only the wiped node got it."""
    cluster = started_cluster(count=5)
    old_leader = leader_name(cluster)
    wiped, *majority = others(cluster, old_leader)
    cluster.kill(wiped)
    cluster.wipe(wiped)
    cluster.network.cut.update(_both_ways([old_leader, wiped], majority))
    cluster.start(wiped)

    def is_told() -> bool:
        engine = cluster.engine(wiped)
        return engine is not None and engine.membership.is_member

    cluster.wait_for(is_told, 1.0, "the wiped node has the record of its admission")
    cluster.wait_for(
        lambda: any(engine.leader_ready for engine in map(cluster.engine, majority) if engine),
        10.0,
        "the majority has a leader",
    )
    write_and_wait(cluster, majority[0])
    cluster.network.heal(sorted(cluster.network.cut))
    # Its hello comes anew, now that it knows of the cluster.
    for name in cluster.names:
        cluster.network.reset(wiped, name)
    try:
        cluster.wait_for(lambda: is_voter(cluster, wiped), 30.0, "the wiped node is a voter again")
    except Violation as error:
        raise BrokenPromise(str(error)) from error
    settle(cluster)


def _both_ways(left: list[str], right: list[str]) -> list[tuple[str, str]]:
    pairs = [(a, b) for a in left for b in right]
    return pairs + [(b, a) for a, b in pairs]


def test_a_wiped_node_is_admitted_again_when_its_admission_was_cut() -> None:
    the_admission_of_a_wiped_node_is_cut()


def test_that_needs_more_than_to_know_of_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    hello = Contacts.hello

    def new_if_blank(contacts: Contacts, peer: str) -> Frame:
        frame = hello(contacts, peer)
        return (*frame[:-1], frame[2] is None)

    monkeypatch.setattr(Contacts, "hello", new_if_blank)
    with pytest.raises(BrokenPromise, match="voter again"):
        the_admission_of_a_wiped_node_is_cut()


def _added_node(cluster: SimulatedCluster) -> str:
    """Start a node that nobody knows, and make it a voter."""
    added = cluster.start_another()
    leader = leader_name(cluster)
    results: list[str] = []
    engine = cluster.engine(leader)
    assert engine is not None
    cluster.run_as(
        leader,
        lambda: engine.admission.ask(
            ADD,
            added,
            engine.now() + 30.0,
            lambda code, _detail: results.append(code),
            peer_address=added,
            api_address=added,
        ),
    )
    cluster.wait_for(lambda: bool(results), 30.0, "the node is added")
    assert results == [""]
    return added


def a_voter_missed_that_a_node_was_added() -> None:
    """And only the added node has all that was acknowledged, so only it can lead."""
    cluster = started_cluster()
    leader = leader_name(cluster)
    behind, away = others(cluster, leader)
    cluster.kill(away)
    added = _added_node(cluster)
    cluster.network.cut.update(_both_ways([behind], [leader, added]))
    last = cluster.wait_for_leader().journal.last()[0] + 1
    write(cluster, leader, b'"last"')

    def has_it() -> bool:
        engine = cluster.engine(added)
        return engine is not None and engine.journal.durable_index == last

    cluster.wait_for(has_it, 0.5, "the added node has the last entry")
    cluster.kill(leader)
    cluster.start(away)
    cluster.network.heal(sorted(cluster.network.cut))
    try:
        assert cluster.wait_for_leader(30.0).identity.node_id == added
    except Violation as error:
        raise BrokenPromise(str(error)) from error
    cluster.start(leader)
    settle(cluster)
    assert all(event_data(engine) == [b'"last"'] for engine in cluster.engines())


def test_a_voter_that_missed_an_addition_can_vote_for_the_added_node() -> None:
    a_voter_missed_that_a_node_was_added()


def test_that_needs_the_added_node_to_introduce_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Peers, "introduce", lambda _self, _node_id, _address: False)
    with pytest.raises(BrokenPromise, match="a leader is ready"):
        a_voter_missed_that_a_node_was_added()


def test_whoever_introduced_itself_is_dialled_and_counts_for_nothing() -> None:
    bench = Bench()
    assert bench.hello("d") is None
    assert bench.links.peers["d"] == "d"
    bench.connect("d")
    bench.links.sent.clear()
    term = bench.campaign_with("d", "b")
    bench.receive("d", (int(Kind.VOTE), term))
    votes_of_strangers = bench.leads
    bench.receive("b", (int(Kind.VOTE), term))
    assert (votes_of_strangers, bench.leads) == (False, True)
    committed = bench.engine.raft.commit_index
    bench.acknowledge("d")
    assert bench.engine.raft.commit_index == committed
    # Its pre-vote, its vote and its acknowledgement.
    assert bench.engine.counters["strangers_frames"] == 3


def test_a_member_that_was_removed_does_not_introduce_itself_to_the_leader() -> None:
    bench = Bench()
    bench.lead("b")
    assert bench.hello("d") is RefusalReason.REMOVED


def test_a_node_of_no_cluster_does_not_introduce_itself() -> None:
    bench = Bench()
    assert bench.hello("d", blank=True) is RefusalReason.UNKNOWN_NODE
    assert "d" not in bench.links.peers


def test_only_a_few_introduce_themselves_and_who_is_gone_makes_room() -> None:
    bench = Bench()
    strangers = [f"d{number}" for number in range(MOST_INTRODUCED)]
    for stranger in strangers:
        assert bench.hello(stranger) is None
        bench.links.connected.add(stranger)
    assert bench.hello("late") is RefusalReason.UNKNOWN_NODE
    bench.disconnect(strangers[3])
    assert bench.hello("late") is None
    assert strangers[3] not in bench.links.peers
    assert bench.engine.contacts.get(strangers[3]) is None
    assert len(bench.links.peers) == 2 + MOST_INTRODUCED
    assert bench.hello("x" * 1000) is RefusalReason.UNKNOWN_NODE


def an_added_node_leads_when_a_wiped_one_returns() -> None:
    """The wiped node's configuration file does not name its leader."""
    cluster = started_cluster()
    added = _added_node(cluster)
    cluster.wait_for(lambda: _all_reach(cluster, added), 10.0, "the voters reach the added node")
    old_leader = leader_name(cluster)
    engine = cluster.engine(old_leader)
    assert engine is not None
    cluster.run_as(
        old_leader,
        lambda: engine.admission.ask(
            TRANSFER, added, engine.now() + 5.0, lambda _code, _detail: None
        ),
    )
    cluster.wait_for(lambda: _leads(cluster, added), 10.0, "the added node leads")
    cluster.kill("n1")
    cluster.wipe("n1")
    cluster.start("n1")
    try:
        cluster.wait_for(lambda: is_voter(cluster, "n1"), 10.0, "the wiped node is a voter again")
    except Violation as error:
        raise BrokenPromise(str(error)) from error
    assert _leads(cluster, added)


def _all_reach(cluster: SimulatedCluster, name: str) -> bool:
    """Whether everybody could give the node its vote."""
    engines = [engine for engine in cluster.engines() if engine.identity.node_id != name]
    return all(engine.transport._links.is_connected(name) for engine in engines)


def _leads(cluster: SimulatedCluster, name: str) -> bool:
    leader = cluster.leader()
    return leader is not None and leader.identity.node_id == name


def test_a_wiped_node_follows_a_leader_that_its_file_does_not_name() -> None:
    an_added_node_leads_when_a_wiped_one_returns()


def test_that_needs_a_new_node_to_hear_members_that_it_does_not_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    introduce = Peers.introduce

    def when_in_a_cluster(peers: Peers, node_id: str, address: str) -> bool:
        return peers._membership.in_force is not None and introduce(peers, node_id, address)

    monkeypatch.setattr(Peers, "introduce", when_in_a_cluster)
    with pytest.raises(BrokenPromise, match="voter again"):
        an_added_node_leads_when_a_wiped_one_returns()
