"""A leader hands over when it alone is slow, and not otherwise."""

from __future__ import annotations

from node.consensus.pace import REST_S, WINDOW_S, Pace


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def judged_over_time(
    pace: Pace, clock: Clock, *, own_s: float, others_ms: int, seconds: float
) -> list[bool]:
    verdicts = []
    ends_at = clock.now + seconds
    while clock.now < ends_at:
        pace.sync_took(own_s)
        for peer in ("n2", "n3"):
            pace.heard(peer, others_ms, 0)
        verdicts.append(pace.should_hand_over(("n2", "n3")))
        clock.now += 0.1
    return verdicts


def test_a_leader_ten_times_slower_than_all_others_for_two_seconds_hands_over_once() -> None:
    clock = Clock()
    verdicts = judged_over_time(Pace(clock), clock, own_s=0.2, others_ms=5, seconds=WINDOW_S * 3)
    assert verdicts.count(True) == 1
    assert verdicts.index(True) * 0.1 >= WINDOW_S - 0.1


def test_it_does_not_try_again_until_it_has_rested() -> None:
    clock = Clock()
    pace = Pace(clock)
    verdicts = judged_over_time(pace, clock, own_s=0.2, others_ms=5, seconds=REST_S + WINDOW_S * 4)
    assert verdicts.count(True) == 2


def test_a_disk_that_is_slow_everywhere_moves_nobody() -> None:
    clock = Clock()
    verdicts = judged_over_time(Pace(clock), clock, own_s=0.2, others_ms=150, seconds=10.0)
    assert not any(verdicts)


def test_a_few_milliseconds_are_never_slow() -> None:
    clock = Clock()
    verdicts = judged_over_time(Pace(clock), clock, own_s=0.015, others_ms=0, seconds=10.0)
    assert not any(verdicts)


def test_one_slow_sync_is_forgotten() -> None:
    clock = Clock()
    pace = Pace(clock)
    judged_over_time(pace, clock, own_s=0.2, others_ms=5, seconds=0.2)
    verdicts = judged_over_time(pace, clock, own_s=0.001, others_ms=5, seconds=2 * WINDOW_S)
    assert not any(verdicts[int(WINDOW_S * 10) + 5 :])


def test_a_late_timer_counts_like_a_slow_disk() -> None:
    clock = Clock()
    pace = Pace(clock)
    verdicts = []
    for _ in range(int(WINDOW_S * 20)):
        pace.timer_was_late(0.3)
        pace.heard("n2", 1, 2)
        verdicts.append(pace.should_hand_over(("n2",)))
        clock.now += 0.1
    assert any(verdicts)


def test_without_fresh_reports_nobody_can_say() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.heard("n2", 1, 1)
    clock.now += 2 * WINDOW_S
    verdicts = []
    for _ in range(50):
        pace.sync_took(0.5)
        verdicts.append(pace.should_hand_over(("n2",)))
        clock.now += 0.1
    assert not any(verdicts)
