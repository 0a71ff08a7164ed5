"""Timestamps that are drawn from an oracle, and the quorum rounds that it takes."""

from __future__ import annotations

from collections.abc import Callable

from node.consensus.messages import Kind
from tests.consensus.harness import (
    Bench,
)

CONFIGURED = (2, 0)


GREATEST = 2**63 - 1


Drawn = list[int | Exception]


def draw(bench: Bench, count: int = 1, within_s: float = 5.0) -> Drawn:
    """Ask for timestamps; the list gets the first, or the error, when it comes."""
    drawn: Drawn = []
    bench.act(lambda: bench.engine.draw(count, bench.engine.now() + within_s, drawn.append))
    return drawn


def serving_leader() -> Bench:
    """A leader that has reserved timestamps, and whose last quorum round has ended."""
    bench = Bench()
    bench.lead("b")
    drawn = draw(bench)
    bench.run(0.01)
    bench.acknowledge("b")
    answer_rounds(bench, lambda: bool(drawn))
    end_round(bench)
    bench.links.sent.clear()
    return bench


def answer_rounds(bench: Bench, until: Callable[[], bool], within_s: float = 2.0) -> None:
    """Let a follower confirm the leader until something holds, and acknowledge nothing."""
    ends_at = bench.world.now + within_s
    while not until() and bench.world.now < ends_at:
        end_round(bench)
        bench.run(0.01)
    assert until()


def end_round(bench: Bench) -> None:
    if bench.sent(Kind.CONFIRM, "b"):
        bench.confirm("b")


def reservations(bench: Bench) -> int:
    return bench.engine.counters["timestamp_reservations"]
