"""Reads see everything that was acknowledged before they began, or wait, or fail; none is old."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from api.cluster import NoQuorumError
from node.consensus.messages import Kind
from node.consensus.reads import Reads
from statemachine import timestamps
from tests.consensus.harness import (
    Bench,
    BrokenPromise,
    event_entry,
    isolate,
    leader_name,
    no_op,
    others,
    promise,
    settle,
    started_cluster,
    write_and_wait,
)
from tests.simulation.cluster import SETTINGS, SimulatedCluster

CONFIGURED = (2, 0)


def clock_seen_by_a_read(cluster: SimulatedCluster, name: str) -> list[int | Exception]:
    """Begin a read at a node; the list gets what it sees."""
    seen: list[int | Exception] = []
    engine = cluster.engine(name)
    assert engine is not None

    def ready(error: Exception | None) -> None:
        seen.append(error or timestamps.clock(engine.machine_store, "p"))

    cluster.run_as(name, lambda: engine.read(engine.now() + 5.0, ready))
    return seen


# --- at the leader


def a_read_comes_before_the_term_has_an_applied_entry() -> None:
    """Entries of older terms may be committed without the new leader knowing it."""
    bench = Bench()
    bench.elect("b")
    results = bench.read()
    bench.run(0.05)
    answer_rounds(bench, "c", lambda: bool(results))
    promise(results == [], "a leader answered before it knew what is committed")
    bench.acknowledge("b")
    bench.wait_for(lambda: bool(bench.sent(Kind.CONFIRM, "c")))
    answer_rounds(bench, "c", lambda: bool(results))
    assert results == [None]


def answer_rounds(bench: Bench, peer: str, until: Callable[[], bool]) -> None:
    for _ in range(5):
        if not until() and bench.sent(Kind.CONFIRM, peer):
            bench.confirm(peer)
        bench.run(0.02)


def test_a_read_waits_for_the_leaders_first_entry() -> None:
    a_read_comes_before_the_term_has_an_applied_entry()


def test_that_needs_the_leader_to_be_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    init = Reads.__init__

    def always_ready(reads: Reads, *arguments: object) -> None:
        init(reads, *arguments)  # type: ignore[arg-type]
        reads._leadership = SimpleNamespace(ready=True)  # type: ignore[assignment]

    monkeypatch.setattr(Reads, "__init__", always_ready)
    with pytest.raises(BrokenPromise, match="before it knew"):
        a_read_comes_before_the_term_has_an_applied_entry()


def test_reads_that_wait_share_a_round() -> None:
    bench = Bench()
    bench.lead("b")
    bench.run(0.05)
    rounds = bench.engine.counters["quorum_rounds"]
    results = [bench.read() for _ in range(100)]
    bench.run(0.01)
    answer_rounds(bench, "b", lambda: all(results))
    assert all(result == [None] for result in results)
    assert bench.engine.counters["quorum_rounds"] - rounds <= 2


def test_a_read_that_comes_during_a_round_waits_for_the_next() -> None:
    bench = Bench()
    bench.lead("b")
    bench.wait_for(lambda: bool(bench.sent(Kind.CONFIRM, "b")))
    first_round = bench.sent(Kind.CONFIRM, "b")[-1][2]
    results = bench.read()
    bench.run(0.01)
    assert bench.sent(Kind.CONFIRM, "b")[-1][2] == first_round
    bench.confirm("b")
    bench.run(0.01)
    assert results == []
    assert bench.sent(Kind.CONFIRM, "b")[-1][2] != first_round
    bench.confirm("b")
    assert results == [None]


def test_a_round_that_got_no_answer_is_sent_again() -> None:
    bench = Bench()
    bench.lead("b")
    results = bench.read()
    for _ in range(4):
        bench.acknowledge("b", run_s=0.1)
    assert len(bench.sent(Kind.CONFIRM, "b")) > 1
    answer_rounds(bench, "b", lambda: bool(results))
    assert results == [None]


def test_strangers_do_not_confirm() -> None:
    bench = Bench()
    bench.lead("b")
    results = bench.read()
    bench.run(0.05)
    assert bench.hello("c", b"the new disk of c", blank=True) is None
    answer_rounds(bench, "c", lambda: bool(results))
    assert results == []


def test_a_read_whose_deadline_passes_fails() -> None:
    bench = Bench()
    bench.lead("b")
    results = bench.read(within_s=0.3)
    bench.run(0.5)
    (error,) = results
    assert isinstance(error, NoQuorumError)


def test_a_deposed_leader_keeps_the_read_for_whoever_leads_next() -> None:
    bench = Bench()
    bench.lead("b")
    results = bench.read()
    bench.run(0.05)
    bench.receive("c", bench.append(9, (3, 1), [no_op(4, 9)], commit=4))
    bench.run(0.05)
    (question,) = bench.sent(Kind.READ_INDEX, "c")
    bench.receive("c", (int(Kind.READ_INDEX_REPLY), question[1], 4))
    assert results == [None]


# --- a leader that was paused


def a_leader_wakes_up_after_its_successor_has_written() -> None:
    """A read was under way when it was paused, and another comes when it wakes up."""
    cluster = started_cluster()
    old = leader_name(cluster)
    write_and_wait(cluster, old, b'"first"')
    settle(cluster)
    before = clock_seen_by_a_read(cluster, old)
    engine = cluster.engine(old)
    assert engine is not None
    cluster.pause(old)
    other = others(cluster, old)[0]
    cluster.wait_for(
        lambda: (leader := cluster.leader()) is not None and leader is not engine,
        20.0,
        "another leader",
    )
    write_and_wait(cluster, other, b'"second"')
    cluster.resume(old)
    after = clock_seen_by_a_read(cluster, old)
    cluster.wait_for(lambda: bool(before) and bool(after), 10.0, "the reads are answered")
    promise(after != [1], "a leader that was paused answered from a state that is old")
    assert before[0] in (1, 2)
    assert after == [2]


def test_a_leader_that_was_paused_never_answers_from_an_old_state() -> None:
    a_leader_wakes_up_after_its_successor_has_written()


def test_that_needs_a_round_that_began_after_the_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def on_lease(reads: Reads, now: float) -> None:
        """A leader that was confirmed lately answers at once, by a clock that stood still."""
        asking, reads._asking = reads._asking, []
        if reads._raft.is_leader:
            del now
            reads._wait_applied(reads._raft.commit_index, asking)
        else:
            reads._asking = asking
            reads._feed_follower(reads._runtime.monotonic())

    monkeypatch.setattr(Reads, "feed", on_lease)
    with pytest.raises(BrokenPromise, match="a state that is old"):
        a_leader_wakes_up_after_its_successor_has_written()


def test_a_leader_without_a_majority_answers_nothing() -> None:
    cluster = started_cluster()
    old = leader_name(cluster)
    isolate(cluster, old)
    seen = clock_seen_by_a_read(cluster, old)
    cluster.world.run_until(cluster.world.now + 7.0)
    (error,) = seen
    assert isinstance(error, NoQuorumError)


# --- at followers


def _following() -> Bench:
    bench = Bench()
    bench.receive("b", bench.append(1, CONFIGURED, [no_op(3, 1)], commit=3))
    bench.links.sent.clear()
    return bench


def test_a_follower_asks_for_the_index_and_waits_until_it_has_applied_it() -> None:
    bench = _following()
    results = bench.read()
    bench.run(0.01)
    (question,) = bench.sent(Kind.READ_INDEX, "b")
    bench.receive("b", (int(Kind.READ_INDEX_REPLY), question[1], 5))
    assert results == []
    entries = [event_entry(4, 1), event_entry(5, 1)]
    bench.receive("b", bench.append(1, (3, 1), entries, commit=4))
    assert results == []
    bench.receive("b", bench.append(1, (5, 1), commit=5))
    assert results == [None]
    assert bench.clock() == 2


def test_an_answer_to_an_older_question_says_nothing() -> None:
    bench = _following()
    results = bench.read()
    bench.run(0.01)
    (question,) = bench.sent(Kind.READ_INDEX, "b")
    bench.receive("b", (int(Kind.READ_INDEX_REPLY), question[1] - 1, 3))
    assert results == []


def test_a_read_that_comes_after_the_question_is_asked_anew() -> None:
    bench = _following()
    bench.read()
    bench.run(0.01)
    late = bench.read()
    bench.run(0.01)
    (question,) = bench.sent(Kind.READ_INDEX, "b")
    bench.receive("b", (int(Kind.READ_INDEX_REPLY), question[1], 3))
    assert late == []
    assert len(bench.sent(Kind.READ_INDEX, "b")) == 2


def test_a_question_survives_two_resets() -> None:
    bench = _following()
    results = bench.read()
    bench.run(0.01)
    for _ in range(2):
        bench.disconnect("b")
        bench.receive("b", bench.append(1, (3, 1)))
        bench.connect("b")
        bench.receive("b", bench.append(1, (3, 1)))
        bench.run(2 * SETTINGS.heartbeat_s)
        bench.receive("b", bench.append(1, (3, 1)))
    questions = bench.sent(Kind.READ_INDEX, "b")
    assert len(questions) >= 2
    bench.receive("b", (int(Kind.READ_INDEX_REPLY), questions[-1][1], 3))
    assert results == [None]


def test_reads_survive_resets_of_every_connection() -> None:
    cluster = started_cluster()
    write_and_wait(cluster, "n1")
    settle(cluster)
    seen = [clock_seen_by_a_read(cluster, name) for name in cluster.names]
    for _ in range(2):
        for source in cluster.names:
            for target in others(cluster, source):
                cluster.network.reset(source, target)
        seen += [clock_seen_by_a_read(cluster, name) for name in cluster.names]
        cluster.world.run_until(cluster.world.now + 0.001)
    cluster.wait_for(lambda: all(seen), 3.0, "every read is answered")
    assert all(each == [1] for each in seen)


def a_follower_becomes_the_leader_with_a_question_under_way() -> None:
    bench = _following()
    results = bench.read(within_s=30.0)
    bench.run(0.01)
    assert bench.sent(Kind.READ_INDEX, "b")
    bench.lead("c")
    bench.wait_for(lambda: bool(bench.sent(Kind.CONFIRM, "c")))
    answer_rounds(bench, "c", lambda: bool(results))
    promise(results == [None], "a read waits for the answer of a leader that is none any more")


def test_a_follower_that_becomes_the_leader_answers_what_it_had_asked() -> None:
    a_follower_becomes_the_leader_with_a_question_under_way()


# --- how long ago the leader was confirmed


def confirmed_age_s(cluster: SimulatedCluster, name: str) -> float:
    engine = cluster.engine(name)
    assert engine is not None
    return engine.now() - engine.reads.quorum_confirmed_at


def test_everybody_knows_that_the_leader_was_confirmed_just_now() -> None:
    cluster = started_cluster()
    cluster.world.run_until(cluster.world.now + 1.0)
    for name in cluster.names:
        assert confirmed_age_s(cluster, name) < 0.5


@pytest.mark.parametrize("direction", ["to the leader", "from the leader", "both"])
def test_a_follower_that_is_cut_off_from_the_leader_counts_on_it_no_more(direction: str) -> None:
    """Though it hears the leader, which others follow: what is asked through it is not done."""
    cluster = started_cluster()
    leader = leader_name(cluster)
    follower, other = others(cluster, leader)
    cut = {"to the leader": [(follower, leader)], "from the leader": [(leader, follower)]}
    pairs = cut.get(direction, [(follower, leader), (leader, follower)])
    cluster.network.cut.update(pairs)
    cluster.world.run_until(cluster.world.now + 1.5)
    assert leader_name(cluster) == leader
    assert confirmed_age_s(cluster, follower) > 1.0
    assert confirmed_age_s(cluster, other) < 0.5
    cluster.network.heal(pairs)
    cluster.wait_for(
        lambda: confirmed_age_s(cluster, follower) < 0.5, 5.0, "the follower counts on it again"
    )


def test_a_request_that_never_got_to_the_leader_was_not_too_much_for_this_node() -> None:
    cluster = started_cluster()
    leader = leader_name(cluster)
    follower, _ = others(cluster, leader)
    cluster.network.cut.add((follower, leader))
    cluster.network.reset(follower, leader)
    assert isinstance(write_and_wait(cluster, follower), NoQuorumError)


def test_whoever_does_not_lead_says_so() -> None:
    bench = _following()
    bench.receive("c", (int(Kind.READ_INDEX), 77))
    assert bench.sent(Kind.READ_INDEX_REPLY, "c") == [(int(Kind.READ_INDEX_REPLY), 77, 0)]


def test_a_follower_reads_what_it_was_told_is_acknowledged() -> None:
    cluster = started_cluster()
    leader = leader_name(cluster)
    for number, name in enumerate(cluster.names * 3, start=1):
        write_and_wait(cluster, leader, b"%d" % number)
        seen = clock_seen_by_a_read(cluster, name)
        cluster.wait_for(lambda seen=seen: bool(seen), 3.0, "the read is answered")  # type: ignore[misc]
        assert seen == [number]
