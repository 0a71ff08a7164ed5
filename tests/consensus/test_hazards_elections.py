"""What would elect the wrong node, or depose the right one.

Hazards D2 and D11 of the bare library, and what keeps an election possible. Each scenario runs once
as it is, and once with its guard switched off, when it must break its promise.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from node.consensus.dispatch import Dispatch, Handler
from node.consensus.election import Election
from node.consensus.membership import Configuration, configuration_command
from node.consensus.messages import Frame, Kind
from tests.consensus.harness import (
    Bench,
    BrokenPromise,
    disk_of,
    isolate,
    leader_name,
    no_op,
    others,
    promise,
    settle,
    started_cluster,
)
from tests.simulation.cluster import SETTINGS, SimulatedCluster
from tests.simulation.world import Violation

CONFIGURED = (2, 0)


def _without_judging_senders(monkeypatch: pytest.MonkeyPatch) -> None:
    def anybody(_self: Dispatch, handler: Handler) -> Handler:
        return handler

    monkeypatch.setattr(Dispatch, "_from_voter", anybody)
    monkeypatch.setattr(Dispatch, "_from_member", anybody)


# --- D2: votes that count too much


def a_voter_votes_twice() -> None:
    bench = Bench(members="abcde")
    term = bench.campaign_with("b", "c")
    bench.receive("b", (int(Kind.VOTE), term), (int(Kind.VOTE), term))
    promise(not bench.leads, "one of five votes was counted twice and made a leader")
    bench.receive("c", (int(Kind.VOTE), term))
    assert bench.leads


def a_stranger_votes() -> None:
    bench = Bench()
    bench.links.connected.add("x")
    term = bench.campaign()
    bench.receive("x", (int(Kind.VOTE), term))
    promise(not bench.leads, "the vote of a stranger made a leader")


def a_wiped_voter_votes() -> None:
    bench = Bench()
    term = bench.campaign()
    assert bench.hello("b", b"another disk of b", blank=True) is None
    bench.receive("b", (int(Kind.VOTE), term))
    promise(not bench.leads, "the vote of a wiped disk made a leader")


def a_learner_votes() -> None:
    bench = Bench(members="abcd")
    whole = bench.configuration()
    learning = whole.without("d").with_learner(bench.member("d"))
    bench.receive(
        "b", bench.append(1, CONFIGURED, [(configuration_command(learning), 3, 1)], commit=3)
    )
    term = bench.campaign_with("b", "c")
    bench.receive("d", (int(Kind.VOTE), term))
    promise(not bench.leads, "the vote of a learner made a leader")


SENDERS = [a_stranger_votes, a_wiped_voter_votes, a_learner_votes]


def test_a_voter_counts_once_in_a_term() -> None:
    a_voter_votes_twice()


def test_d2_needs_the_voters_to_be_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def on_vote(election: Election, peer: str, term: int) -> None:
        message = {"type": "response_vote", "term": term}
        election._transport.inject(election._raft.node(peer), message)

    monkeypatch.setattr(Election, "on_vote", on_vote)
    with pytest.raises(BrokenPromise, match="counted twice"):
        a_voter_votes_twice()


@pytest.mark.parametrize("scenario", SENDERS)
def test_only_voters_on_the_disks_in_force_count(scenario: Callable[[], None]) -> None:
    scenario()


@pytest.mark.parametrize("scenario", SENDERS)
def test_d2_needs_the_sender_to_be_judged(
    scenario: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    _without_judging_senders(monkeypatch)
    with pytest.raises(BrokenPromise, match="made a leader"):
        scenario()


def test_a_vote_of_an_older_term_does_not_count() -> None:
    bench = Bench()
    term = bench.campaign()
    bench.receive("b", (int(Kind.VOTE), term - 1))
    assert not bench.leads


def test_a_node_votes_once_in_a_term() -> None:
    bench = Bench()
    bench.receive("b", (int(Kind.VOTE_REQUEST), 5, 9, 1, 0))
    bench.receive("c", (int(Kind.VOTE_REQUEST), 5, 9, 1, 0))
    assert bench.sent(Kind.VOTE) == [(int(Kind.VOTE), 5)]
    assert bench.sent(Kind.VOTE, "b")


# --- D11: candidates that cannot win


def a_node_that_was_cut_off_returns() -> None:
    cluster = started_cluster()
    leader = leader_name(cluster)
    term = cluster.wait_for_leader().raft.term
    pairs = isolate(cluster, others(cluster, leader)[0])
    cluster.world.run_until(cluster.world.now + 10.0)
    cluster.network.heal(pairs)
    cluster.world.run_until(cluster.world.now + 10.0)
    settle(cluster)
    engine = cluster.wait_for_leader()
    promise(
        (engine.identity.node_id, engine.raft.term) == (leader, term),
        "a node that returned deposed a healthy leader",
    )


def a_candidate_asks_while_the_leader_is_heard() -> None:
    bench = Bench()
    bench.receive("b", bench.append(1, CONFIGURED, [no_op(3, 1)]))
    bench.receive("c", (int(Kind.VOTE_REQUEST), 2, 99, 1, 0))
    promise(
        bench.engine.raft.term == 1 and not bench.sent(Kind.VOTE),
        "a node deposed the leader that it hears",
    )


def a_candidate_asks_a_confirmed_leader() -> None:
    bench = Bench()
    bench.lead("b")
    bench.wait_for(lambda: bool(bench.sent(Kind.CONFIRM, "b")))
    bench.confirm("b")
    bench.receive("c", (int(Kind.VOTE_REQUEST), bench.engine.raft.term + 1, 99, 9, 0))
    promise(bench.leads, "a leader that a majority follows stepped down for a candidate")


def a_candidate_asks_a_node_that_just_booted() -> None:
    bench = Bench()
    bench.crash()
    bench.boot()
    bench.receive("c", (int(Kind.VOTE_REQUEST), 2, 99, 1, 0))
    promise(not bench.sent(Kind.VOTE), "a node voted before it could hear a leader")


STICKINESS = [
    a_candidate_asks_while_the_leader_is_heard,
    a_candidate_asks_a_confirmed_leader,
    a_candidate_asks_a_node_that_just_booted,
]


def test_a_node_that_was_cut_off_does_not_depose_the_leader_when_it_returns() -> None:
    a_node_that_was_cut_off_returns()


def test_d11_needs_the_pre_vote(monkeypatch: pytest.MonkeyPatch) -> None:
    before_tick = Election.before_tick

    def straight(election: Election, now: float) -> None:
        if election._raft.is_leader or not election._membership.is_voter:
            before_tick(election, now)

    monkeypatch.setattr(Election, "before_tick", straight)
    with pytest.raises(BrokenPromise, match="deposed a healthy leader"):
        a_node_that_was_cut_off_returns()


@pytest.mark.parametrize("scenario", STICKINESS)
def test_no_vote_is_given_while_a_leader_is_heard(scenario: Callable[[], None]) -> None:
    scenario()


@pytest.mark.parametrize("scenario", STICKINESS)
def test_d11_needs_the_stickiness(
    scenario: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Election, "_is_sticky", lambda _self: False)
    with pytest.raises(BrokenPromise):
        scenario()


def test_a_vote_is_given_once_the_leader_was_not_heard_for_long_enough() -> None:
    bench = Bench()
    bench.receive("b", bench.append(1, CONFIGURED, [no_op(3, 1)]))
    bench.run(SETTINGS.election_timeout_min_s)
    bench.receive("c", (int(Kind.VOTE_REQUEST), 2, 99, 1, 0))
    assert bench.sent(Kind.VOTE, "c") == [(int(Kind.VOTE), 2)]


def test_no_vote_is_given_to_a_shorter_log() -> None:
    bench = Bench()
    bench.receive("b", bench.append(1, CONFIGURED, [no_op(3, 1), no_op(4, 1)]))
    bench.run(SETTINGS.election_timeout_min_s)
    bench.receive("c", (int(Kind.VOTE_REQUEST), 2, 3, 1, 0), (int(Kind.PRE_VOTE_REQUEST), 3, 3, 1))
    assert not bench.sent(Kind.VOTE)
    assert not bench.sent(Kind.PRE_VOTE)


def test_pre_votes_change_no_term() -> None:
    bench = Bench()
    bench.receive("c", (int(Kind.PRE_VOTE_REQUEST), 50, 99, 9))
    assert bench.sent(Kind.PRE_VOTE, "c") == [(int(Kind.PRE_VOTE), 50)]
    assert bench.engine.raft.term == 0


def test_without_a_majority_of_pre_votes_there_is_no_candidacy() -> None:
    bench = Bench(members="abcde")
    bench.wait_for(lambda: bool(bench.sent(Kind.PRE_VOTE_REQUEST)))
    bench.receive("b", (int(Kind.PRE_VOTE), 1), (int(Kind.PRE_VOTE), 1))
    bench.run(10.0)
    assert bench.engine.raft.term == 0
    assert not bench.sent(Kind.VOTE_REQUEST)


def test_a_blank_node_neither_votes_nor_campaigns() -> None:
    bench = Bench(found=False)
    bench.run(1.0)
    bench.receive("b", (int(Kind.VOTE_REQUEST), 5, 99, 4, 0), (int(Kind.PRE_VOTE_REQUEST), 9, 9, 9))
    bench.run(10.0)
    for kind in (Kind.VOTE, Kind.PRE_VOTE, Kind.VOTE_REQUEST, Kind.PRE_VOTE_REQUEST):
        assert not bench.sent(kind)


# --- a leader whose process is gone


def test_a_broken_connection_alone_starts_no_election() -> None:
    bench = Bench()
    bench.receive("b", bench.append(1, CONFIGURED, [no_op(3, 1)]))
    bench.disconnect("b")
    ((peer, on_result),) = bench.links.probes
    assert peer == "b"
    bench.act(lambda: on_result(False))
    bench.run(0.3)
    assert not bench.sent(Kind.PRE_VOTE_REQUEST)


def test_a_refused_dial_starts_an_election_at_once() -> None:
    bench = Bench()
    bench.receive("b", bench.append(1, CONFIGURED, [no_op(3, 1)]))
    bench.disconnect("b")
    ((_, on_result),) = bench.links.probes
    bench.act(lambda: on_result(True))
    bench.run(0.1)
    assert bench.sent(Kind.PRE_VOTE_REQUEST, "c")


def test_a_dial_that_is_refused_late_deposes_nobody() -> None:
    bench = Bench()
    bench.receive("b", bench.append(1, CONFIGURED, [no_op(3, 1)]))
    bench.disconnect("b")
    ((_, on_result),) = bench.links.probes
    bench.receive("c", bench.append(2, (3, 1), [no_op(4, 2)]))
    bench.act(lambda: on_result(True))
    bench.run(0.1)
    assert not bench.sent(Kind.PRE_VOTE_REQUEST)


def test_a_killed_leader_is_replaced_well_before_an_election_timeout() -> None:
    cluster = started_cluster()
    old = leader_name(cluster)
    killed_at = cluster.world.now
    cluster.kill(old)
    cluster.wait_for_leader()
    assert cluster.world.now - killed_at < SETTINGS.election_timeout_min_s


# --- voters that know an older configuration


def a_promoted_voter_must_win() -> None:
    """Of the voters a, b and d the leader is gone, d alone knows that it votes, and b does not.

    d was promoted by a record that only the leader and d hold, so b must vote for a node that is
    a learner in its own configuration.
    """
    bench = Bench(name="b", members="abd")
    learning = bench.configuration().without("d").with_learner(bench.member("d"))
    bench.receive(
        "a", bench.append(1, CONFIGURED, [(configuration_command(learning), 3, 1)], commit=3)
    )
    bench.run(1.0)
    assert not bench.engine.membership.votes("d")
    bench.receive("d", (int(Kind.PRE_VOTE_REQUEST), 2, 4, 1))
    granted = bool(bench.sent(Kind.PRE_VOTE, "d"))
    bench.receive("d", (int(Kind.VOTE_REQUEST), 2, 4, 1, 0))
    promise(
        granted and bool(bench.sent(Kind.VOTE, "d")),
        "nobody can be elected though a majority is there",
    )


def test_a_vote_is_given_to_a_node_that_is_a_learner_here() -> None:
    a_promoted_voter_must_win()


def test_the_vote_for_a_learner_needs_that_anybody_may_ask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_vote_request = Election.on_vote_request

    def of_voters(election: Election, peer: str, frame: Frame) -> None:
        if election._membership.votes(peer):
            on_vote_request(election, peer, frame)

    monkeypatch.setattr(Election, "on_vote_request", of_voters)
    with pytest.raises(BrokenPromise, match="nobody can be elected"):
        a_promoted_voter_must_win()


def test_a_node_votes_before_it_knows_that_it_is_a_voter() -> None:
    bench = Bench()
    learning = bench.configuration().without("a").with_learner(bench.member("a"))
    bench.receive(
        "b", bench.append(1, CONFIGURED, [(configuration_command(learning), 3, 1)], commit=3)
    )
    bench.run(1.0)
    assert not bench.engine.membership.is_voter
    bench.receive("c", (int(Kind.PRE_VOTE_REQUEST), 2, 4, 1), (int(Kind.VOTE_REQUEST), 2, 4, 1, 0))
    assert bench.sent(Kind.PRE_VOTE, "c")
    assert bench.sent(Kind.VOTE, "c")


def test_a_vote_is_given_to_the_disk_that_has_replaced_the_one_known_here() -> None:
    bench = Bench(members="abcde")
    assert bench.hello("e", b"the new disk of e") is None
    bench.receive("e", (int(Kind.PRE_VOTE_REQUEST), 2, 9, 1), (int(Kind.VOTE_REQUEST), 2, 9, 1, 0))
    assert bench.sent(Kind.PRE_VOTE, "e")
    assert bench.sent(Kind.VOTE, "e")


def test_the_majority_elects_a_leader_when_one_dies_right_after_a_promotion() -> None:
    """The same with real engines: the record of the promotion reaches one of two followers."""
    cluster = started_cluster()
    leader = leader_name(cluster)
    behind, wiped = others(cluster, leader)
    cluster.kill(wiped)
    cluster.wipe(wiped)
    cluster.start(wiped)
    engine = cluster.engine(leader)
    assert engine is not None

    def is_learning() -> bool:
        # From here on the follower that is behind gets nothing more.
        configuration = engine.membership.in_force
        assert configuration is not None
        learning = [member.node_id for member in configuration.learners] == [wiped]
        return learning and not engine.membership.change_pending

    cluster.wait_for(is_learning, 10.0, "the wiped node is a learner")
    cluster.network.cut.add((leader, behind))

    def is_promoted() -> bool:
        promoted = cluster.engine(wiped)
        return promoted is not None and promoted.membership.is_voter

    cluster.wait_for(is_promoted, 10.0, "the wiped node is a voter again")
    other = cluster.engine(behind)
    assert other is not None
    assert not other.membership.votes(wiped)
    cluster.kill(leader)
    try:
        cluster.wait_for_leader()
    except Violation as error:
        raise BrokenPromise(str(error)) from error
    settle(cluster)


def _configuration_of(cluster: SimulatedCluster, name: str) -> Configuration:
    engine = cluster.engine(name)
    assert engine is not None
    assert engine.membership.in_force is not None
    return engine.membership.in_force


def test_the_disk_of_a_member_is_part_of_who_it_is() -> None:
    cluster = started_cluster()
    for name in cluster.names:
        member = _configuration_of(cluster, "n1").member(name)
        assert member is not None
        assert member.disk_uuid == cluster.nodes[name].disk_uuid
    assert disk_of("a") != disk_of("b")


def test_frames_of_unknown_kinds_are_counted_and_ignored() -> None:
    bench = Bench()
    frame: Frame = (int(Kind.HELLO), 1, None, "b", b"", b"", "", "", "", 1, True)
    bench.receive("b", frame)
    assert bench.engine.counters["unexpected_frames"] == 1
