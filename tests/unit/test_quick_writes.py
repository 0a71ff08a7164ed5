"""When the loop waits for the disk, and when it had better not."""

from __future__ import annotations

from node.consensus.quick_writes import REST_S, QuickWrites, processor_wait_s


def waited(writes: QuickWrites, disk_s: float, times: int) -> None:
    for _ in range(times):
        writes.waited(0.0, disk_s)


def test_a_quick_disk_is_waited_for() -> None:
    writes = QuickWrites()
    waited(writes, 0.0004, 1000)
    assert writes.expected(0.0)


def test_one_slow_write_among_many_is_borne() -> None:
    writes = QuickWrites()
    waited(writes, 0.0002, 100)
    waited(writes, 0.009, 1)
    assert writes.expected(0.0)


def test_a_disk_that_became_slow_rests_and_is_tried_again() -> None:
    writes = QuickWrites()
    waited(writes, 0.0002, 100)
    waited(writes, 0.002, 10)
    assert not writes.expected(0.0)
    assert not writes.expected(REST_S * 0.99)
    assert writes.expected(REST_S)


def test_a_disk_that_is_still_slow_rests_again_after_one_write() -> None:
    writes = QuickWrites()
    waited(writes, 0.002, 20)
    writes.waited(REST_S, 0.003)
    assert not writes.expected(REST_S * 1.5)


def test_a_disk_that_holds_up_the_thread_is_not_tried() -> None:
    writes = QuickWrites()
    writes.handed_over(5.0, 0.03)
    assert not writes.expected(5.5)
    writes.handed_over(5.5, 0.001)
    assert writes.expected(5.0 + REST_S)


def test_waiting_for_a_processor_is_told_and_never_shrinks() -> None:
    first = processor_wait_s()
    assert 0.0 <= first <= processor_wait_s()
