"""Leadership is handed over: quickly, to who has the whole log, and never to nobody."""

from __future__ import annotations

import pytest

from node.consensus.admission import TRANSFER, Admission
from node.consensus.messages import Kind
from tests.consensus.harness import (
    Bench,
    BrokenPromise,
    event_request,
    leader_name,
    no_op,
    others,
    promise,
    settle,
    started_cluster,
    write,
    write_and_wait,
)
from tests.simulation.cluster import SETTINGS

CONFIGURED = (2, 0)
Results = list[tuple[str, str]]


def transfer(bench: Bench, target: str = "b", within_s: float = 30.0) -> Results:
    results: Results = []
    bench.act(
        lambda: bench.engine.admission.ask(
            TRANSFER,
            target,
            bench.engine.now() + within_s,
            lambda code, detail: results.append((code, detail)),
        )
    )
    return results


def test_the_target_is_told_once_it_has_the_whole_log() -> None:
    bench = Bench()
    term = bench.lead("c")
    transfer(bench)
    bench.run(0.1)
    assert not bench.sent(Kind.TIMEOUT_NOW)
    bench.acknowledge("b")
    bench.run(0.05)
    assert bench.sent(Kind.TIMEOUT_NOW) == [(int(Kind.TIMEOUT_NOW), term)]
    assert bench.sent(Kind.TIMEOUT_NOW, "b")


def test_nothing_is_proposed_while_leadership_moves() -> None:
    bench = Bench()
    bench.lead("b")
    transfer(bench, "c")
    bench.run(0.05)
    last = bench.engine.journal.last()
    answers = bench.propose()
    bench.run(0.3)
    assert bench.engine.journal.last() == last
    assert answers == []


def test_an_unnamed_target_is_the_most_advanced_voter() -> None:
    bench = Bench()
    bench.lead("c")
    transfer(bench, "")
    bench.run(0.05)
    assert bench.sent(Kind.TIMEOUT_NOW, "c")
    assert not bench.sent(Kind.TIMEOUT_NOW, "b")


def test_a_target_that_does_not_take_over_ends_the_transfer_and_proposing_goes_on() -> None:
    bench = Bench()
    bench.lead("b")
    results = transfer(bench)
    bench.run(0.05)
    answers = bench.propose()
    for _ in range(20):
        bench.acknowledge("c", run_s=0.1)
    assert results == [("TRANSFER_FAILED", "b did not take over in time")]
    assert bench.leads
    bench.wait_for(lambda: bench.engine.journal.last()[0] > 3)
    bench.acknowledge("b")
    assert len(answers) == 1


def test_a_target_that_does_not_catch_up_ends_the_transfer_and_proposing_goes_on() -> None:
    bench = Bench()
    bench.lead("c")
    results = transfer(bench)
    for _ in range(30):
        bench.acknowledge("c", run_s=0.1)
    assert [code for code, _ in results] == ["TRANSFER_FAILED"]
    assert not bench.sent(Kind.TIMEOUT_NOW)
    answers = bench.propose()
    bench.run(0.1)
    bench.acknowledge("c")
    assert len(answers) == 1


def a_transfer_passes_its_deadline() -> None:
    """The caller's deadline is shorter than what a hand-over may take."""
    bench = Bench()
    bench.lead("c")
    results = transfer(bench, within_s=0.2)
    for _ in range(5):
        bench.acknowledge("c", run_s=0.1)
    assert [code for code, _ in results] == ["TIMED_OUT"]
    answers = bench.propose()
    bench.run(0.1)
    bench.acknowledge("c")
    promise(len(answers) == 1, "proposing has stopped for ever")


def test_proposing_goes_on_when_the_callers_deadline_ends_a_transfer() -> None:
    a_transfer_passes_its_deadline()


def test_that_needs_the_hand_over_to_end_with_its_operation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def finish(admission: Admission, code: str, detail: str) -> None:
        operation, admission._operation = admission._operation, None
        if operation is not None:
            operation.on_done(code, detail)

    monkeypatch.setattr(Admission, "_finish", finish)
    with pytest.raises(BrokenPromise, match="for ever"):
        a_transfer_passes_its_deadline()


# --- the target


def _following() -> Bench:
    bench = Bench()
    bench.receive("b", bench.append(1, CONFIGURED, [no_op(3, 1)]))
    bench.links.sent.clear()
    return bench


def test_the_target_campaigns_at_once_and_without_pre_votes() -> None:
    bench = _following()
    bench.receive("b", (int(Kind.TIMEOUT_NOW), 1))
    assert not bench.sent(Kind.PRE_VOTE_REQUEST)
    # The leader's term is the token by which voters know that it was asked.
    assert bench.sent(Kind.VOTE_REQUEST, "c") == [(int(Kind.VOTE_REQUEST), 2, 3, 1, 1)]


def test_only_the_leader_of_the_term_can_ask_for_it() -> None:
    bench = _following()
    bench.receive("c", (int(Kind.TIMEOUT_NOW), 1))
    bench.receive("b", (int(Kind.TIMEOUT_NOW), 2))
    assert not bench.sent(Kind.VOTE_REQUEST)
    assert bench.engine.raft.term == 1


def test_a_candidacy_after_a_lost_one_is_an_ordinary_one() -> None:
    bench = _following()
    bench.receive("b", (int(Kind.TIMEOUT_NOW), 1))
    bench.links.sent.clear()
    bench.wait_for(lambda: bool(bench.sent(Kind.PRE_VOTE_REQUEST)))
    bench.receive("c", (int(Kind.PRE_VOTE), 3))
    assert bench.sent(Kind.VOTE_REQUEST, "c") == [(int(Kind.VOTE_REQUEST), 3, 3, 1, 0)]


# --- the voters


def test_voters_skip_stickiness_for_that_term_only() -> None:
    bench = _following()
    bench.receive("c", (int(Kind.VOTE_REQUEST), 2, 3, 1, 0))
    assert not bench.sent(Kind.VOTE)
    bench.receive("c", (int(Kind.VOTE_REQUEST), 3, 3, 1, 1))
    assert not bench.sent(Kind.VOTE)
    bench.receive("c", (int(Kind.VOTE_REQUEST), 2, 3, 1, 1))
    assert bench.sent(Kind.VOTE, "c") == [(int(Kind.VOTE), 2)]
    bench.receive("b", (int(Kind.APPEND), 2, 99, 1, 3, 1, ()))
    bench.receive("c", (int(Kind.VOTE_REQUEST), 3, 3, 1, 1))
    assert bench.engine.raft.term == 2


# --- all together


def test_leadership_moves_within_a_heartbeat_or_two_and_loses_nothing() -> None:
    cluster = started_cluster()
    old = leader_name(cluster)
    target = others(cluster, old)[0]
    before = [write(cluster, name, b'"before"') for name in cluster.names]
    results: Results = []
    engine = cluster.engine(old)
    assert engine is not None
    cluster.run_as(
        old,
        lambda: engine.admission.ask(
            TRANSFER, target, engine.now() + 10.0, lambda *result: results.append(result)
        ),
    )
    begun_at = cluster.world.now
    after = [write(cluster, name, b'"after"') for name in cluster.names]
    cluster.wait_for(lambda: leader_name(cluster) == target, 5.0, "the target leads")
    assert cluster.world.now - begun_at < SETTINGS.election_timeout_min_s
    cluster.wait_for(lambda: all([*before, *after]), 5.0, "all are answered")
    assert results == [("", "")]
    settle(cluster)
    leader = cluster.leader()
    assert leader is not None
    assert leader.machine.event_count == 6


def test_any_node_can_be_asked() -> None:
    cluster = started_cluster()
    old = leader_name(cluster)
    target, asked = others(cluster, old)
    engine = cluster.engine(asked)
    assert engine is not None
    results: Results = []
    cluster.run_as(
        asked,
        lambda: engine.admission.ask(
            TRANSFER, target, engine.now() + 10.0, lambda *result: results.append(result)
        ),
    )
    cluster.wait_for(lambda: leader_name(cluster) == target, 5.0, "the target leads")
    cluster.wait_for(lambda: bool(results), 5.0, "the answer is here")
    write_and_wait(cluster, old, event_request())


def test_a_node_that_does_not_vote_is_refused() -> None:
    bench = Bench()
    bench.lead("b")
    (result,) = transfer(bench, "x")
    assert result[0] == "NOT_A_VOTER"


def test_a_transfer_to_the_leader_itself_is_done_at_once() -> None:
    bench = Bench()
    bench.lead("b")
    assert transfer(bench, "a") == [("", "")]
    answers = bench.propose()
    bench.run(0.05)
    bench.acknowledge("b")
    assert len(answers) == 1


def test_one_change_at_a_time() -> None:
    bench = Bench()
    bench.lead("b")
    transfer(bench, "c")
    (result,) = transfer(bench, "b")
    assert result[0] == "CHANGE_IN_PROGRESS"
