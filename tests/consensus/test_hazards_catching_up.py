"""What would keep a node from ever catching up.

Hazards D17 and D21 of the bare library. Each scenario runs once as it is, and once with its guard
switched off, when it must break its promise.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from node.consensus.journal import JournalSettings, SegmentedJournal
from node.consensus.messages import Frame, Kind, encode
from node.consensus.replication import Replication
from node.consensus.settings import EngineSettings
from tests.consensus.guards_off import hand_everything_to_the_library, let_the_library_judge_replies
from tests.consensus.harness import (
    FIRST_FREE_INDEX,
    Bench,
    BrokenPromise,
    Entry,
    event_data,
    leader_name,
    others,
    promise,
    settle,
    started_cluster,
    write_and_wait,
)
from tests.simulation import cluster as cluster_module
from tests.simulation.cluster import SETTINGS, SimulatedCluster
from tests.simulation.disk import SimulatedDisk
from tests.simulation.world import Process, Violation

# --- D17: rejections that overwrite the back-off


def add_offline(files_of: SimulatedCluster, name: str, entries: list[Entry], term: int) -> None:
    """Put entries into the journal of a node that is down, as if a leader had sent them."""
    node = files_of.nodes[name]
    assert not node.process.up
    disk = SimulatedDisk(files_of.world, Process("offline"), node.files)
    journal = SegmentedJournal(disk, node.disk_uuid, JournalSettings(segment_bytes=16 << 20))
    for command, index, entry_term in entries:
        journal.add(command, index, entry_term)
    journal.setCurrentTerm(max(journal.getCurrentTerm(), term), None)
    journal.flush_now()


def _padded_no_ops(first: int, count: int, term: int, size: int) -> list[Entry]:
    padding = bytes(size - 1)
    return [(b"\x01" + padding, index, term) for index in range(first, first + count)]


def a_rejection_comes_after_the_leader_has_rewound() -> None:
    bench = Bench(settings=replace(SETTINGS, congested_bytes=64 << 20))
    bench.crash()
    journal = SegmentedJournal(
        SimulatedDisk(bench.world, Process("offline"), bench.files),
        bench.engine.identity.disk_uuid,
        JournalSettings(segment_bytes=16 << 20),
    )
    for entry in _padded_no_ops(FIRST_FREE_INDEX, 100, 1, 100_000):
        journal.add(*entry)
    journal.setCurrentTerm(1, None)
    journal.flush_now()
    bench.boot()
    term = bench.elect("c")
    first_frame = bench.sent(Kind.APPEND, "b")[-1]

    def reject(sequence: int, next_index: int) -> None:
        frame = (int(Kind.APPEND_REPLY), term, sequence, next_index, True, False, 2)
        bench.receive("b", frame)

    bench.links.sent.clear()
    reject(first_frame[2], FIRST_FREE_INDEX)
    bench.wait_for(lambda: bool(bench.sent(Kind.APPEND, "b")))
    batches = bench.sent(Kind.APPEND, "b")
    assert len(batches) > 1
    assert batches[0][4] == 2
    # Frames sent before the back-off are rejected too, wherever they point.
    bench.links.sent.clear()
    reject(first_frame[2], FIRST_FREE_INDEX + 90)
    reject(first_frame[2], FIRST_FREE_INDEX)
    bench.run(0.5)
    again = sum(len(frame[6]) for frame in bench.sent(Kind.APPEND, "b"))
    promise(again == 0, "a stale rejection overwrote the back-off")


def test_a_stale_rejection_does_not_move_the_next_index() -> None:
    a_rejection_comes_after_the_leader_has_rewound()


def test_d17_needs_rejections_to_be_judged_by_their_sequence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rewind = Replication._rewind

    def unnumbered(replication: Replication, peer: str, next_index: int) -> None:
        rewind(replication, peer, next_index)
        replication.progress(peer).rewound_at = 0

    monkeypatch.setattr(Replication, "_rewind", unnumbered)
    with pytest.raises(BrokenPromise, match="stale rejection"):
        a_rejection_comes_after_the_leader_has_rewound()


def a_former_leader_returns_with_a_long_tail(
    monkeypatch: pytest.MonkeyPatch, count: int, size: int, within_s: float
) -> int:
    """Its tail conflicts with one as long that the others hold; return the bytes it was sent."""
    monkeypatch.setattr(cluster_module, "JOURNAL_SETTINGS", JournalSettings())
    # No compaction: it is the log that has to be sent.
    cluster = started_cluster(settings=EngineSettings(journal_compact_bytes=1 << 30))
    former = leader_name(cluster)
    engine = cluster.engine(former)
    assert engine is not None
    term, first = engine.raft.term, engine.journal.last()[0] + 1
    for name in cluster.names:
        cluster.kill(name)
    add_offline(cluster, former, _padded_no_ops(first, count, term, size), term)
    for name in others(cluster, former):
        add_offline(cluster, name, _padded_no_ops(first, count, term + 1, size), term + 1)
        cluster.start(name)
    cluster.wait_for_leader()
    write_and_wait(cluster, leader_name(cluster), b'"after"')
    sent = _count_bytes_to(cluster, former)
    cluster.start(former)

    def caught_up() -> bool:
        leader, own = cluster.leader(), cluster.engine(former)
        return (
            leader is not None
            and own is not None
            and own.raft.last_applied == leader.journal.last()[0]
        )

    try:
        cluster.wait_for(caught_up, within_s, "the former leader has caught up")
    except Violation as error:
        raise BrokenPromise(str(error)) from error
    own = cluster.engine(former)
    assert own is not None
    assert own.raft.leader_id != former
    assert event_data(own) == [b'"after"']
    return sent[former]


def _count_bytes_to(cluster: SimulatedCluster, target: str) -> Counter[str]:
    counted: Counter[str] = Counter()
    send = cluster.network.send

    def counting(name: str, peer: str, frames: tuple[Frame, ...]) -> bool:
        if peer == target:
            counted[peer] += sum(len(encode(frame)) for frame in frames)
        return send(name, peer, frames)

    cluster.network.send = counting  # type: ignore[method-assign]
    return counted


def test_a_former_leader_with_a_tail_of_many_small_entries_catches_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count, size = 25_000, 200
    sent = a_former_leader_returns_with_a_long_tail(monkeypatch, count, size, within_s=2.0)
    assert count * size < sent < 2 * count * size


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_former_leader_with_a_tail_of_100_mb_catches_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count, size = 100_000, 1_000
    sent = a_former_leader_returns_with_a_long_tail(monkeypatch, count, size, within_s=10.0)
    assert count * size < sent < 2 * count * size


def test_d17_and_d21_need_their_guards_to_catch_up_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hand_everything_to_the_library(monkeypatch)
    let_the_library_judge_replies(monkeypatch)
    with pytest.raises(BrokenPromise, match="has caught up"):
        a_former_leader_returns_with_a_long_tail(monkeypatch, 25_000, 200, within_s=2.0)


# --- D21: one entry a round trip


def a_long_conflicting_tail_is_found(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    cluster = started_cluster()
    former = leader_name(cluster)
    engine = cluster.engine(former)
    assert engine is not None
    term, first = engine.raft.term, engine.journal.last()[0] + 1
    for name in cluster.names:
        cluster.kill(name)
    add_offline(cluster, former, _padded_no_ops(first, count, term, 10), term)
    for name in others(cluster, former):
        add_offline(cluster, name, _padded_no_ops(first, count, term + 1, 10), term + 1)
        cluster.start(name)
    cluster.wait_for_leader()
    cluster.start(former)
    rejections = _count_rejections(monkeypatch, former)
    settle(cluster, within_s=300.0)
    promise(rejections[former] <= 3, f"{rejections[former]} round trips to find the common entry")


def _count_rejections(monkeypatch: pytest.MonkeyPatch, former: str) -> Counter[str]:
    rejections: Counter[str] = Counter()
    on_append_reply = Replication.on_append_reply

    def counting(replication: Replication, peer: str, frame: Frame) -> None:
        if peer == former and not frame[5]:
            rejections[peer] += 1
        on_append_reply(replication, peer, frame)

    monkeypatch.setattr(Replication, "on_append_reply", counting)
    return rejections


def test_a_long_conflicting_tail_is_found_in_a_few_round_trips(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a_long_conflicting_tail_is_found(monkeypatch, 1_600)


def test_d21_needs_the_follower_to_answer_with_its_commit_index(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hand_everything_to_the_library(monkeypatch)
    with pytest.raises(BrokenPromise, match="round trips"):
        a_long_conflicting_tail_is_found(monkeypatch, 200)
