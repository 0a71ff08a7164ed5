"""Timestamps of the oracle: unique, and in real time above all that were given before."""

from __future__ import annotations

import itertools

import pytest

from api.cluster import NoQuorumError, OverloadedError, TimestampsExhaustedError
from node.consensus.messages import Kind
from node.consensus.oracle import Oracle
from node.consensus.pauses import Pauses
from node.consensus.settings import EngineSettings
from node.consensus.timestamp_window import TimestampWindow
from statemachine import oracle as replicated_oracle
from statemachine.codec import encode_entry, encode_request
from statemachine.commands import Request, ReserveTimestamps
from statemachine.outcomes import Applied, Outcome, TimestampsReserved
from statemachine.state import MachineState
from tests.consensus.drawing import (
    GREATEST,
    answer_rounds,
    draw,
    end_round,
    reservations,
    serving_leader,
)
from tests.consensus.harness import (
    Bench,
    BrokenPromise,
    isolate,
    leader_name,
    no_op,
    others,
    promise,
    regular,
    started_cluster,
)
from tests.simulation.checks import check_draws
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.workload import Draw
from tests.simulation.world import Violation


def test_nothing_is_given_before_the_reservation_is_committed() -> None:
    bench = Bench()
    bench.lead("b")
    drawn = draw(bench, 10)
    for _ in range(5):
        bench.run(0.02)
        end_round(bench)
    assert drawn == []
    bench.acknowledge("b")
    answer_rounds(bench, lambda: bool(drawn))
    (first,) = drawn
    assert isinstance(first, int)
    assert bench.engine.machine.reserved_upto >= first + 9


def test_a_leader_that_is_not_ready_reserves_nothing() -> None:
    bench = Bench()
    bench.elect("b")
    drawn = draw(bench)
    bench.run(0.05)
    assert (drawn, reservations(bench)) == ([], 0)
    bench.acknowledge("b")
    bench.run(0.01)
    bench.acknowledge("b")
    answer_rounds(bench, lambda: bool(drawn))


def test_nothing_is_given_without_a_round_that_begins_after_the_caller_came() -> None:
    bench = serving_leader()
    bench.wait_for(lambda: bool(bench.sent(Kind.CONFIRM, "b")))
    under_way = bench.sent(Kind.CONFIRM, "b")[-1][2]
    drawn = draw(bench)
    bench.run(0.01)
    assert bench.sent(Kind.CONFIRM, "b")[-1][2] == under_way
    bench.confirm("b")
    bench.run(0.01)
    assert drawn == []
    assert bench.sent(Kind.CONFIRM, "b")[-1][2] != under_way
    bench.confirm("b")
    assert len(drawn) == 1


def test_callers_that_wait_share_a_round_and_get_ranges_of_their_own() -> None:
    bench = serving_leader()
    rounds = bench.engine.counters["quorum_rounds"]
    all_drawn = [draw(bench, count) for count in range(1, 101)]
    answer_rounds(bench, lambda: all(all_drawn))
    assert bench.engine.counters["quorum_rounds"] - rounds <= 3
    given = [(drawn[0], count) for count, drawn in enumerate(all_drawn, 1)]
    for (first, count), (following, _) in itertools.pairwise(given):
        assert isinstance(first, int)
        assert isinstance(following, int)
        assert first + count <= following


def test_the_window_is_extended_before_it_is_used_up() -> None:
    """No caller waits for the log while callers keep coming."""
    bench = serving_leader()
    before = reservations(bench)
    for _ in range(40):
        bench.acknowledge("b", run_s=0.1)
        drawn = draw(bench)
        bench.run(0.01)
        end_round(bench)
        assert len(drawn) == 1
    assert reservations(bench) - before >= 2


def test_a_leader_that_nobody_asks_reserves_nothing() -> None:
    bench = serving_leader()
    before = reservations(bench)
    for _ in range(60):
        bench.acknowledge("b", run_s=0.1)
        end_round(bench)
    assert reservations(bench) == before


def test_after_a_quiet_time_the_timestamps_have_caught_up_with_the_clock() -> None:
    bench = serving_leader()
    for _ in range(60):
        bench.acknowledge("b", run_s=0.1)
        end_round(bench)
    drawn = draw(bench)
    bench.run(0.01)
    now_ms = int(1_700_000_000_000 + bench.world.now * 1000)
    bench.acknowledge("b")
    answer_rounds(bench, lambda: bool(drawn))
    assert isinstance(drawn[0], int)
    assert drawn[0] >> 18 >= now_ms


def test_more_than_one_window_holds_is_given_in_turn() -> None:
    bench = serving_leader()
    all_drawn = [draw(bench, 1_000_000) for _ in range(900)]
    for _ in range(60):
        bench.acknowledge("b", run_s=0.02)
        end_round(bench)
    firsts = [drawn[0] for drawn in all_drawn]
    for first, following in itertools.pairwise(firsts):
        assert isinstance(first, int)
        assert isinstance(following, int)
        assert first + 1_000_000 <= following


def test_callers_without_a_majority_are_told_so_at_their_deadline() -> None:
    bench = serving_leader()
    drawn = draw(bench, within_s=0.5)
    later = draw(bench, within_s=5.0)
    bench.run(0.6)
    assert isinstance(drawn[0], NoQuorumError)
    assert later == []


def test_a_node_with_too_many_callers_refuses_more() -> None:
    bench = Bench(settings=EngineSettings(max_pending_requests=3))
    for _ in range(3):
        draw(bench)
    with pytest.raises(OverloadedError):
        bench.engine.draw(1, bench.engine.now() + 1.0, lambda _: None)


def test_at_the_end_of_all_timestamps_callers_are_told_so() -> None:
    bench = serving_leader()
    term = bench.engine.raft.term
    rest = ReserveTimestamps(term=term, upto=GREATEST - 5)
    bench.propose(encode_request(Request(3_600_000, None, (rest,))))
    bench.run(0.01)
    bench.acknowledge("b")
    for _ in range(30):
        # What the window still holds is given first; after it there are five.
        bench.acknowledge("b", run_s=0.1)
        end_round(bench)
    drawn = draw(bench, 6)
    for _ in range(5):
        bench.run(0.02)
        bench.acknowledge("b")
        end_round(bench)
    (error,) = drawn
    assert isinstance(error, TimestampsExhaustedError)


def ask(cluster: SimulatedCluster, history: list[Draw], name: str, count: int = 1) -> Draw:
    """Draw through a node; the history gets what the client saw."""
    engine = cluster.engine(name)
    assert engine is not None
    found = Draw(count, cluster.world.now, (name, 0))

    def drawn(first: int | Exception) -> None:
        found.ended_at = cluster.world.now
        found.first = first if isinstance(first, int) else None

    history.append(found)
    cluster.run_as(name, lambda: engine.draw(count, engine.now() + 5.0, drawn))
    return found


def ask_and_wait(cluster: SimulatedCluster, history: list[Draw], name: str, count: int = 1) -> int:
    found = ask(cluster, history, name, count)
    cluster.wait_for(lambda: found.ended_at is not None, 10.0, "the draw is answered")
    assert found.first is not None
    return found.first


def another_leads(cluster: SimulatedCluster, old: str) -> None:
    cluster.wait_for(
        lambda: (leader := cluster.leader()) is not None and leader.identity.node_id != old,
        20.0,
        "another leader",
    )


def hand_over(cluster: SimulatedCluster, target: str) -> None:
    old = leader_name(cluster)
    engine = cluster.engine(old)
    assert engine is not None
    cluster.run_as(
        old,
        lambda: engine.admission.ask("TRANSFER", target, engine.now() + 5.0, lambda _c, _d: None),
    )
    cluster.wait_for(
        lambda: (leader := cluster.leader()) is not None and leader.identity.node_id == target,
        10.0,
        f"{target} leads",
    )


def judge(history: list[Draw]) -> None:
    """What every client may rely on, whatever happens."""
    try:
        check_draws(history)
    except Violation as found:
        promise(False, str(found))


@pytest.mark.parametrize("count", [1, 3])
def test_every_node_gives_timestamps_above_all_that_were_given(count: int) -> None:
    cluster = started_cluster(count=count)
    history: list[Draw] = []
    given = [ask_and_wait(cluster, history, name, 1_000) for name in cluster.names * 3]
    assert given == sorted(given)
    judge(history)


def the_leader_with_the_fastest_clock_dies() -> None:
    cluster = started_cluster()
    history: list[Draw] = []
    old = leader_name(cluster)
    cluster.nodes[old].process.wall_offset_ms += 60_000
    for _ in range(3):
        ask_and_wait(cluster, history, old, 1_000)
    cluster.kill(old)
    another_leads(cluster, old)
    for name in others(cluster, old):
        ask_and_wait(cluster, history, name, 1_000)
    judge(history)


def test_a_new_leader_begins_above_what_its_predecessor_had_reserved() -> None:
    the_leader_with_the_fastest_clock_dies()


def test_that_needs_the_reservation_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    def take_by_the_clock(window: TimestampWindow, count: int, wall_ms: int) -> int:
        first = window._first(wall_ms)
        window._next = first + count
        return first

    monkeypatch.setattr(TimestampWindow, "take", take_by_the_clock)
    monkeypatch.setattr(TimestampWindow, "holds", lambda *_: True)
    with pytest.raises(BrokenPromise, match="given after"):
        the_leader_with_the_fastest_clock_dies()


def a_leader_wakes_up_after_its_successor_has_given_timestamps() -> None:
    """One caller was under way when it was paused, and another comes when it wakes up."""
    cluster = started_cluster()
    history: list[Draw] = []
    old = leader_name(cluster)
    ask_and_wait(cluster, history, old)
    ask(cluster, history, old)
    cluster.pause(old)
    another_leads(cluster, old)
    for name in others(cluster, old):
        ask_and_wait(cluster, history, name)
    cluster.resume(old)
    for _ in range(20):
        ask(cluster, history, old)
        cluster.world.run_until(cluster.world.now + 0.001)
    cluster.wait_for(
        lambda: all(each.ended_at is not None for each in history), 10.0, "all are answered"
    )
    judge(history)


def test_a_leader_that_was_paused_gives_nothing_of_its_old_window() -> None:
    a_leader_wakes_up_after_its_successor_has_given_timestamps()


def test_that_needs_a_round_that_began_after_the_caller_came(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fill_at_once(oracle: Oracle, now: float) -> None:
        """The window alone: a leader that was confirmed lately answers by what it has left."""
        waiting = [each for each in oracle._orders.values() if not each.in_round]
        if not waiting or not oracle._leadership.ready:
            return
        wall_ms = oracle._runtime.wall_ms()
        for each in waiting:
            first = oracle._window.take(each.count, wall_ms)
            # So that the time of the pause does not use the window up.
            first = oracle._window.take(each.count, 0) if first is None else first
            if first is not None:
                oracle._fill(each, first)
            else:
                oracle._reserve(wall_ms, now, each.count)

    monkeypatch.setattr(Oracle, "feed", fill_at_once)
    with pytest.raises(BrokenPromise, match="given after"):
        a_leader_wakes_up_after_its_successor_has_given_timestamps()


def leadership_goes_and_comes_back() -> None:
    cluster = started_cluster()
    history: list[Draw] = []
    old = leader_name(cluster)
    other = others(cluster, old)[0]
    ask_and_wait(cluster, history, old)
    hand_over(cluster, other)
    ask_and_wait(cluster, history, other)
    hand_over(cluster, old)
    ask_and_wait(cluster, history, old)
    judge(history)


def test_a_leader_that_leads_again_has_nothing_left_of_its_old_window() -> None:
    leadership_goes_and_comes_back()


def test_that_needs_the_window_to_end_with_the_term(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Oracle, "on_role_change", lambda oracle: setattr(oracle, "_reserving", None)
    )
    with pytest.raises(BrokenPromise, match="given after"):
        leadership_goes_and_comes_back()


def a_leader_wakes_up_with_the_end_of_a_round_before_it() -> None:
    """Its caller came before the pause, so a small timestamp breaks no promise. But by the time
    that it would be handed out, others have seen greater ones."""
    bench = serving_leader()
    drawn = draw(bench)
    bench.wait_for(lambda: bool(bench.sent(Kind.CONFIRM, "b")))
    bench.process.paused = True
    bench.run(1.2)
    bench.process.paused = False
    bench.confirm("b")
    promise(drawn == [], "a leader woke up and gave timestamps by what was proved before")
    bench.world.resume(bench.process)
    bench.acknowledge("b")
    bench.run(0.01)
    bench.acknowledge("b")
    answer_rounds(bench, lambda: bool(drawn))


def test_what_was_proved_before_a_pause_is_proved_again_after_it() -> None:
    a_leader_wakes_up_with_the_end_of_a_round_before_it()


def test_that_needs_the_pause_to_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pauses, "came_after", lambda *_: False)
    with pytest.raises(BrokenPromise, match="woke up and gave"):
        a_leader_wakes_up_with_the_end_of_a_round_before_it()


def test_a_leader_that_is_cut_off_gives_nothing_and_its_callers_hear_from_the_next() -> None:
    cluster = started_cluster()
    history: list[Draw] = []
    old = leader_name(cluster)
    ask_and_wait(cluster, history, old)
    pairs = isolate(cluster, old)
    waiting = ask(cluster, history, old)
    another_leads(cluster, old)
    given = ask_and_wait(cluster, history, others(cluster, old)[0])
    cluster.network.heal(pairs)
    cluster.wait_for(lambda: waiting.ended_at is not None, 6.0, "it is answered")
    assert waiting.first is not None
    assert waiting.first > given
    judge(history)


def a_reservation_reaches_the_log_through_the_successor() -> None:
    """Its proposer leads no more: what it asked for must become nobody's."""
    bench = Bench()
    term = bench.lead("b")
    draw(bench)
    bench.run(0.01)
    committed, (last, _) = bench.engine.raft.commit_index, bench.engine.journal.last()
    assert last > committed, "the reservation is in the log and not committed"
    bench.receive("b", bench.append(9, (committed, term), [no_op(committed + 1, 9)], commit=1))
    (forwarded,) = bench.sent(Kind.FORWARD, "b")
    entry = encode_entry(1, 1, [forwarded[2]])
    index = committed + 2
    bench.receive("b", bench.append(9, (committed + 1, 9), [regular(index, 9, entry)], index))
    assert bench.engine.machine.applied_index == index
    promise(bench.engine.machine.reserved_upto == 0, "it is reserved for a leader that is none")


def test_a_reservation_of_another_term_reserves_nothing() -> None:
    a_reservation_reaches_the_log_through_the_successor()


def test_that_needs_the_term_in_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def reserve_for_anybody(state: MachineState, command: ReserveTimestamps) -> Outcome:
        after, state.reserved_upto = state.reserved_upto, command.upto
        return Applied(TimestampsReserved(after=after, upto=command.upto))

    monkeypatch.setattr(replicated_oracle, "reserve", reserve_for_anybody)
    with pytest.raises(BrokenPromise, match="a leader that is none"):
        a_reservation_reaches_the_log_through_the_successor()
