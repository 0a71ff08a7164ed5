"""Timestamps of the oracle that followers ask for, and give to their own callers."""

from __future__ import annotations

import pytest

from api.cluster import NoQuorumError
from node.consensus.messages import Frame, Kind
from node.consensus.oracle import GREATEST_ORDER, NOT_LEADING
from tests.consensus.drawing import (
    CONFIGURED,
    GREATEST,
    answer_rounds,
    draw,
    end_round,
    serving_leader,
)
from tests.consensus.harness import (
    Bench,
    no_op,
)
from tests.simulation.cluster import SETTINGS


def following() -> Bench:
    bench = Bench()
    bench.receive("b", bench.append(1, CONFIGURED, [no_op(3, 1)], commit=3))
    bench.links.sent.clear()
    return bench


def reply(bench: Bench, first: int, *, number: int | None = None, term: int = 1) -> None:
    if number is None:
        number = bench.sent(Kind.DRAW, "b")[-1][1]
    bench.receive("b", (int(Kind.DRAW_REPLY), number, term, first))


def asked(bench: Bench) -> list[Frame]:
    return bench.sent(Kind.DRAW, "b")


def test_a_follower_asks_for_all_its_callers_at_once_and_shares_out() -> None:
    bench = following()
    all_drawn = [draw(bench, count) for count in (1, 10, 100)]
    bench.run(0.01)
    late = draw(bench, 7)
    bench.run(0.01)
    ((_, _, count),) = asked(bench)
    assert count == 111
    reply(bench, 500)
    assert all_drawn == [[500], [501], [511]]
    assert late == []
    assert asked(bench)[-1][2] == 7
    reply(bench, 1_000)
    assert late == [1_000]


def test_a_question_is_repeated_under_its_number_and_answered_once() -> None:
    bench = following()
    drawn = draw(bench, 10)
    bench.run(0.01)
    for _ in range(3):
        bench.receive("b", bench.append(1, (3, 1)), run_s=0.1)
    numbers = {frame[1] for frame in asked(bench)}
    assert len(asked(bench)) >= 2
    assert len(numbers) == 1
    later = draw(bench, 3)
    reply(bench, 500, number=min(numbers))
    reply(bench, 700, number=min(numbers))
    assert (drawn, later) == ([500], [])


def test_an_answer_to_a_question_that_was_never_asked_is_nobody_s() -> None:
    bench = following()
    drawn = draw(bench)
    bench.run(0.01)
    reply(bench, 500, number=asked(bench)[-1][1] + 1)
    assert drawn == []


def test_an_answer_of_another_term_is_not_taken() -> None:
    """Who gave it may have been deposed, and its successor has given greater ones."""
    bench = following()
    drawn = draw(bench)
    bench.run(0.01)
    number = asked(bench)[-1][1]
    bench.receive("c", bench.append(2, (3, 1), [no_op(4, 2)], commit=3))
    reply(bench, 500, number=number, term=1)
    assert drawn == []
    (question,) = bench.sent(Kind.DRAW, "c")
    bench.receive("c", (int(Kind.DRAW_REPLY), question[1], 2, 900))
    assert drawn == [900]


def test_who_does_not_lead_is_asked_again_a_little_later() -> None:
    bench = following()
    drawn = draw(bench)
    bench.run(0.01)
    reply(bench, NOT_LEADING)
    assert len(asked(bench)) == 1
    bench.receive("b", bench.append(1, (3, 1)), run_s=SETTINGS.heartbeat_s * 1.5)
    assert len(asked(bench)) == 2
    reply(bench, 500)
    assert drawn == [500]


def test_a_question_survives_the_connection() -> None:
    bench = following()
    drawn = draw(bench)
    bench.run(0.01)
    for _ in range(2):
        bench.disconnect("b")
        bench.receive("b", bench.append(1, (3, 1)))
        bench.connect("b")
        bench.run(2 * SETTINGS.heartbeat_s)
        bench.receive("b", bench.append(1, (3, 1)))
    reply(bench, 500)
    assert drawn == [500]


def test_a_follower_that_becomes_the_leader_gives_what_it_had_asked_for() -> None:
    bench = following()
    drawn = draw(bench, 10, within_s=30.0)
    bench.run(0.01)
    assert asked(bench)
    bench.lead("b")
    bench.run(0.01)
    bench.acknowledge("b")
    answer_rounds(bench, lambda: bool(drawn))
    assert isinstance(drawn[0], int)


def test_more_than_one_order_may_hold_is_asked_for_in_parts() -> None:
    bench = following()
    for _ in range(100):
        draw(bench, 1_000_000)
    draw(bench)
    bench.run(0.01)
    counts = []
    while bench.sent(Kind.DRAW, "b"):
        counts.append(asked(bench)[-1][2])
        number = asked(bench)[-1][1]
        bench.links.sent.clear()
        reply(bench, 500, number=number)
    assert sum(counts) == 100_000_001
    assert len(counts) == 2
    assert max(counts) <= GREATEST_ORDER


def test_callers_of_a_follower_fail_at_their_deadlines() -> None:
    bench = following()
    first, second = draw(bench, 10, within_s=0.3), draw(bench, 20, within_s=0.6)
    bench.run(0.01)
    for _ in range(4):
        bench.receive("b", bench.append(1, (3, 1)), run_s=0.1)
    assert isinstance(first[0], NoQuorumError)
    assert second == []
    for _ in range(4):
        bench.receive("b", bench.append(1, (3, 1)), run_s=0.1)
    assert isinstance(second[0], NoQuorumError)
    late = draw(bench)
    bench.run(0.01)
    reply(bench, 500)
    assert late == [500]


def order(bench: Bench, number: int, count: int, peer: str = "c") -> None:
    bench.receive(peer, (int(Kind.DRAW), number, count))


def answers(bench: Bench, peer: str = "c") -> list[Frame]:
    return bench.sent(Kind.DRAW_REPLY, peer)


def test_an_order_of_another_node_is_filled_like_an_own() -> None:
    bench = serving_leader()
    own = draw(bench, 5)
    order(bench, 77, 10)
    assert answers(bench) == []
    answer_rounds(bench, lambda: bool(answers(bench)) and bool(own))
    ((_, number, term, first),) = answers(bench)
    assert (number, term) == (77, bench.engine.raft.term)
    assert isinstance(own[0], int)
    assert first >= own[0] + 5 or own[0] >= first + 10


def test_a_repeated_order_is_filled_once_and_a_newer_one_replaces_it() -> None:
    bench = serving_leader()
    for _ in range(3):
        order(bench, 77, 10)
    order(bench, 78, 20)
    answer_rounds(bench, lambda: bool(answers(bench)))
    assert [frame[1] for frame in answers(bench)] == [78]


@pytest.mark.parametrize("count", [0, -1, GREATEST_ORDER + 1])
def test_an_order_that_no_node_makes_is_dropped(count: int) -> None:
    bench = serving_leader()
    order(bench, 77, count)
    bench.run(0.05)
    end_round(bench)
    assert answers(bench) == []
    assert bench.engine.counters["unexpected_frames"] == 1


def test_strangers_order_nothing() -> None:
    bench = serving_leader()
    assert bench.hello("c", b"the new disk of c", blank=True) is None
    order(bench, 77, 10)
    bench.run(0.05)
    end_round(bench)
    assert answers(bench) == []


def test_whoever_does_not_lead_says_so() -> None:
    bench = following()
    order(bench, 77, 10)
    assert answers(bench) == [(int(Kind.DRAW_REPLY), 77, 1, NOT_LEADING)]


def test_a_deposed_leader_tells_who_waits_and_asks_the_next_for_its_own() -> None:
    bench = serving_leader()
    own = draw(bench, 5)
    bench.run(0.01)
    order(bench, 77, 10)
    last = bench.engine.journal.last()
    bench.receive("b", bench.append(9, last, [no_op(last[0] + 1, 9)], commit=last[0]))
    bench.run(0.02)
    assert [frame[3] for frame in answers(bench)] == [NOT_LEADING]
    ((_, number, count),) = asked(bench)
    assert count == 5
    reply(bench, GREATEST - 9, number=number, term=9)
    assert own == [GREATEST - 9]


def test_a_follower_that_was_paused_asks_again() -> None:
    bench = following()
    drawn = draw(bench, 10)
    bench.run(0.01)
    bench.process.paused = True
    bench.run(0.4)
    bench.process.paused = False
    reply(bench, 500)
    assert drawn == []
    bench.world.resume(bench.process)
    bench.run(0.01)
    reply(bench, 900)
    assert drawn == [900]
