"""The physical clock: near the median of the cluster, and never backwards."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.physical_clock import (
    SAMPLE_LIFETIME_MS,
    PhysicalClock,
    system_monotonic_ms,
    system_wall_ms,
)

START_MS = 1_800_000_000_000
BOUND_MS = 500


class World:
    """One machine: a wall clock that can be set, and time that passes."""

    def __init__(self) -> None:
        self.wall_ms = START_MS
        self.monotonic_ms = 5_000
        self.clock = PhysicalClock(
            max_skew_ms=BOUND_MS,
            wall_ms=lambda: self.wall_ms,
            monotonic_ms=lambda: self.monotonic_ms,
        )

    def passes(self, duration_ms: int) -> None:
        self.wall_ms += duration_ms
        self.monotonic_ms += duration_ms

    def hear(self, **offsets_ms: int) -> None:
        for peer_id, offset_ms in offsets_ms.items():
            self.clock.observe(peer_id, offset_ms=offset_ms, round_trip_ms=1)


@pytest.fixture
def world() -> World:
    return World()


def test_a_clock_without_peers_is_the_machine_s(world: World) -> None:
    assert world.clock.bounded_wall_ms() == START_MS
    assert world.clock.skew_ms() == 0
    world.passes(7)
    assert world.clock.bounded_wall_ms() == START_MS + 7


def test_a_clock_within_the_bound_is_left_alone(world: World) -> None:
    world.hear(n2=-BOUND_MS, n3=-BOUND_MS)
    assert world.clock.skew_ms() == BOUND_MS
    assert world.clock.bounded_wall_ms() == START_MS


def test_a_clock_far_ahead_is_held_at_the_bound(world: World) -> None:
    world.hear(n2=-60_000, n3=-60_010)
    assert world.clock.skew_ms() == 60_000
    assert world.clock.bounded_wall_ms() == START_MS - 60_000 + BOUND_MS


def test_a_clock_far_behind_is_raised_to_the_bound(world: World) -> None:
    world.hear(n2=60_000, n3=60_010)
    assert world.clock.skew_ms() == -60_000
    assert world.clock.bounded_wall_ms() == START_MS + 60_000 - BOUND_MS


def test_one_wrong_clock_of_three_moves_nobody(world: World) -> None:
    world.hear(n2=3, n3=86_400_000)
    assert world.clock.skew_ms() == -3
    assert world.clock.bounded_wall_ms() == START_MS


@pytest.mark.parametrize("offset_ms", [86_400_000, -86_400_000])
def test_of_two_clocks_neither_is_called_wrong(world: World, offset_ms: int) -> None:
    world.hear(n2=offset_ms)
    assert world.clock.skew_ms() == 0


def test_the_bounded_clock_never_runs_backwards(world: World) -> None:
    before = world.clock.bounded_wall_ms()
    world.wall_ms -= 3_600_000
    assert world.clock.bounded_wall_ms() == before
    world.wall_ms += 3_600_001
    assert world.clock.bounded_wall_ms() == before + 1


def test_a_step_of_the_own_clock_is_seen_before_the_next_sample(world: World) -> None:
    world.hear(n2=0, n3=0)
    world.passes(1000)
    world.wall_ms += 3_600_000
    assert world.clock.skew_ms() == 3_600_000
    assert world.clock.bounded_wall_ms() == START_MS + 1000 + BOUND_MS


def test_the_time_goes_on_while_it_is_held_at_the_bound(world: World) -> None:
    world.hear(n2=-60_000, n3=-60_000)
    before = world.clock.bounded_wall_ms()
    world.passes(250)
    assert world.clock.bounded_wall_ms() == before + 250


def test_the_sample_with_the_shortest_round_trip_counts(world: World) -> None:
    for peer_id in ("n2", "n3"):
        world.clock.observe(peer_id, offset_ms=-100, round_trip_ms=2)
        world.clock.observe(peer_id, offset_ms=-190, round_trip_ms=200)
    assert world.clock.skew_ms() == 100


@pytest.mark.parametrize("round_trip_ms", [-1, 2 * BOUND_MS + 1])
def test_a_sample_less_certain_than_the_bound_is_dropped(world: World, round_trip_ms: int) -> None:
    world.clock.observe("n2", offset_ms=-60_000, round_trip_ms=round_trip_ms)
    world.clock.observe("n3", offset_ms=-60_000, round_trip_ms=round_trip_ms)
    assert world.clock.skew_ms() == 0


def test_old_samples_are_no_longer_believed(world: World) -> None:
    world.hear(n2=-60_000, n3=-60_000)
    world.passes(SAMPLE_LIFETIME_MS)
    assert world.clock.skew_ms() == 60_000
    world.passes(1)
    assert world.clock.skew_ms() == 0


def test_a_peer_whose_clock_was_set_is_believed_at_once(world: World) -> None:
    world.hear(n2=-60_000, n3=-60_000)
    world.clock.observe("n2", offset_ms=0, round_trip_ms=50)
    world.clock.observe("n3", offset_ms=0, round_trip_ms=50)
    assert world.clock.skew_ms() == 0


def test_a_peer_that_left_counts_no_more(world: World) -> None:
    world.hear(n2=-60_000, n3=-60_000)
    world.clock.forget("n2")
    world.clock.forget("n3")
    world.clock.forget("n9")
    assert world.clock.skew_ms() == 0


def test_what_is_remembered_is_bounded(world: World) -> None:
    for number in range(1000):
        world.hear(**{f"n{number}": -60_000})
        world.hear(n1=number)
    assert len(world.clock._samples) <= 64
    assert all(len(samples) <= 8 for samples in world.clock._samples.values())


@given(
    offsets=st.lists(st.integers(-(10**7), 10**7), min_size=2, max_size=8).filter(
        lambda found: len(found) % 2 == 0
    )
)
def test_the_bounded_clock_is_always_within_the_bound_of_the_median(offsets: list[int]) -> None:
    world = World()
    world.hear(**{f"p{number}": offset for number, offset in enumerate(offsets)})
    median_ms = START_MS + int(statistics.median([0, *offsets]))
    assert abs(world.clock.bounded_wall_ms() - median_ms) <= BOUND_MS


@given(
    steps=st.lists(
        st.tuples(st.integers(-(10**6), 10**6), st.integers(0, 10**5), st.integers(-(10**6), 10**6))
    )
)
def test_whatever_happens_to_the_clocks_time_never_decreases(
    steps: list[tuple[int, int, int]],
) -> None:
    world = World()
    last_ms = world.clock.bounded_wall_ms()
    for step_ms, passed_ms, offset_ms in steps:
        world.wall_ms += step_ms
        world.passes(passed_ms)
        world.hear(n2=offset_ms, n3=-offset_ms // 2)
        now_ms = world.clock.bounded_wall_ms()
        assert now_ms >= last_ms
        last_ms = now_ms


def test_the_system_s_clocks_are_in_milliseconds() -> None:
    assert 1_700_000_000_000 < system_wall_ms() < 10_000_000_000_000
    assert PhysicalClock(max_skew_ms=1).bounded_wall_ms() >= 1_700_000_000_000
    assert system_monotonic_ms() <= system_monotonic_ms()
