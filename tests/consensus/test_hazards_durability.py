"""What would be acknowledged, voted or led by, and then forgotten.

Hazards D8, D12 and D18 of the bare library. What a node may say is judged by what its disk would
give back if the power failed in the same instant. Each scenario runs once as it is, and once with
its guard switched off, when it must break its promise.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from node.consensus import journal_format
from node.consensus.durability import Durability
from node.consensus.journal import SegmentedJournal
from node.consensus.journal_format import JournalDamagedError
from node.consensus.messages import Frame, Kind
from node.consensus.raft import Raft
from node.consensus.transport import RaftTransport
from statemachine.outcomes import RequestOutcome
from tests.consensus.harness import (
    Bench,
    BrokenPromise,
    event_data,
    event_entry,
    leader_name,
    never_stop,
    no_op,
    others,
    promise,
    settle,
    started_cluster,
    write,
)
from tests.simulation import storage as storage_module

CONFIGURED = (2, 0)


# --- guards, off


def release_before_the_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    flush = RaftTransport.flush

    def hasty(transport: RaftTransport) -> None:
        flush(transport)
        transport.seal()
        transport.release()

    monkeypatch.setattr(RaftTransport, "flush", hasty)


def tick_while_syncing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leader counts itself for what its disk is still writing."""

    def sync(durability: Durability) -> None:
        durability._transport.seal()
        if durability._journal.flushing:
            return
        if durability._journal.dirty:
            durability._journal.flush(durability.on_durable)
        else:
            durability._transport.release()

    monkeypatch.setattr(Durability, "sync", sync)


# --- D8: what leaves before it is durable


def watched(bench: Bench) -> list[Kind]:
    """Judge each frame at the moment at which it leaves. The list gets the kinds that did."""
    judged: list[Kind] = []

    def judge(peer: str, frame: Frame) -> None:
        kind = Kind(frame[0])
        if kind not in (Kind.APPEND_REPLY, Kind.VOTE, Kind.VOTE_REQUEST):
            return
        judged.append(kind)
        durable = bench.durable_journal()
        promise(durable.getCurrentTerm() >= frame[1], f"{kind.name} of a term that is not durable")
        match kind:
            case Kind.APPEND_REPLY:
                promise(
                    not frame[5] or durable.last()[0] >= frame[3] - 1,
                    "APPEND_REPLY acknowledges what is not durable",
                )
            case Kind.VOTE:
                promise(durable.getVotedForNodeId() == peer, "VOTE is not durable")
            case _:
                own = bench.name
                promise(durable.getVotedForNodeId() == own, "VOTE_REQUEST is not durable")

    bench.links.on_send = judge
    return judged


def a_follower_acknowledges() -> None:
    bench = Bench()
    judged = watched(bench)
    bench.receive("b", bench.append(1, CONFIGURED, [no_op(3, 1)]))
    bench.receive(
        "b", bench.append(1, (3, 1), [no_op(4, 1)]), bench.append(1, (4, 1), [no_op(5, 1)])
    )
    bench.receive("c", bench.append(2, (3, 1), [no_op(4, 2)]))
    bench.receive("c", bench.append(2, (4, 2)))
    assert judged == [Kind.APPEND_REPLY] * 5


def test_a_follower_acknowledges_at_once_when_it_waits_for_its_disk() -> None:
    bench = Bench()
    bench.disk.quick = True
    bench.disk.latency_s = lambda: 10.0
    judged = watched(bench)
    bench.receive("b", bench.append(1, CONFIGURED, [no_op(3, 1)]))
    assert judged == [Kind.APPEND_REPLY]


def test_a_node_that_waits_for_a_disk_which_fails_says_nothing_and_stops() -> None:
    bench = Bench()
    bench.disk.quick = True
    bench.disk.fail(errno.EIO)
    judged = watched(bench)
    bench.receive("b", bench.append(1, CONFIGURED, [no_op(3, 1)]))
    assert judged == []
    assert "journal cannot be written" in str(bench.stopped)


def a_node_votes() -> None:
    bench = Bench()
    judged = watched(bench)
    bench.receive("b", (int(Kind.VOTE_REQUEST), 7, 9, 1, 0))
    assert judged == [Kind.VOTE]


def a_node_campaigns() -> None:
    bench = Bench()
    judged = watched(bench)
    bench.campaign()
    assert judged == [Kind.VOTE_REQUEST] * 2


D8 = [a_follower_acknowledges, a_node_votes, a_node_campaigns]
D8_BREAKS = ["APPEND_REPLY", "VOTE of a term", "VOTE_REQUEST of a term"]


@pytest.mark.parametrize("scenario", D8)
def test_nothing_leaves_before_it_is_durable(scenario: Callable[[], None]) -> None:
    scenario()


@pytest.mark.parametrize(("scenario", "breaks"), list(zip(D8, D8_BREAKS, strict=True)))
def test_d8_needs_frames_to_be_parked(
    scenario: Callable[[], None], breaks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    release_before_the_sync(monkeypatch)
    with pytest.raises(BrokenPromise, match=breaks):
        scenario()


def a_slow_disk_leads() -> None:
    """One of two followers acknowledges at once; the leader's own disk takes a second."""
    bench = Bench()
    bench.lead("b")
    bench.disk.latency_s = lambda: 1.0
    answers = bench.propose()
    bench.run(0.05)
    entry = bench.engine.journal.last()[0]
    assert bench.sent(Kind.APPEND, "b")[-1][6][-1][1] == entry
    bench.acknowledge("b", entry, run_s=0.5)
    promise(
        not answers and bench.engine.raft.commit_index < entry,
        "a leader counted itself before its own disk had the entry",
    )
    bench.run(1.0)
    assert isinstance(answers[0], RequestOutcome)
    assert bench.durable_journal().last()[0] >= entry


def test_a_leader_counts_itself_when_its_own_disk_has_the_entry() -> None:
    a_slow_disk_leads()


def test_d8_needs_that_no_tick_runs_during_a_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    tick_while_syncing(monkeypatch)
    with pytest.raises(BrokenPromise, match="counted itself"):
        a_slow_disk_leads()


def an_entry_leaves_beside_another_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library stops taking from its queue after a while; the tick takes the rest."""
    bench = Bench()
    bench.lead("b")
    bench.disk.latency_s = lambda: 1.0
    append_queued = Raft.append_queued
    rest = [event_entry(bench.engine.journal.last()[0] + 2, 1)]

    def append_some(raft: Raft) -> None:
        append_queued(raft)
        if rest and bench.engine.journal.dirty:
            raft._applyCommand(rest.pop()[0][1:], None, 0)

    monkeypatch.setattr(Raft, "append_queued", append_some)
    bench.propose()
    bench.run(0.05)
    late = bench.engine.journal.last()[0]
    assert not rest
    assert bench.sent(Kind.APPEND, "b")[-1][6][-1][1] == late
    bench.acknowledge("b", late, run_s=1.2)
    promise(
        bench.engine.raft.commit_index < late or bench.durable_journal().last()[0] >= late,
        "a leader counted itself before its own disk had the entry",
    )
    bench.run(2.0)
    assert bench.engine.raft.commit_index == late


def test_an_entry_that_left_beside_another_sync_counts_when_it_is_durable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    an_entry_leaves_beside_another_sync(monkeypatch)


def test_the_rule_needs_that_nothing_waits_for_a_sync_when_answers_are_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tick_while_syncing(monkeypatch)
    with pytest.raises(BrokenPromise, match="counted itself"):
        an_entry_leaves_beside_another_sync(monkeypatch)


def test_entries_are_on_their_way_while_the_leader_syncs() -> None:
    bench = Bench()
    bench.lead("b")
    bench.disk.latency_s = lambda: 1.0
    bench.propose()
    bench.run(0.1)
    entry = bench.engine.journal.last()[0]
    assert bench.sent(Kind.APPEND, "c")[-1][6][-1][1] == entry
    assert bench.durable_journal().last()[0] < entry


def test_questions_are_answered_while_the_journal_syncs() -> None:
    bench = Bench()
    bench.receive("b", bench.append(1, CONFIGURED, [no_op(3, 1)]))
    bench.disk.latency_s = lambda: 1.0
    bench.receive("b", bench.append(1, (3, 1), [no_op(4, 1)]))
    bench.links.sent.clear()
    bench.receive("b", (int(Kind.CONFIRM), 1, 77, 0, 0), bench.append(1, (4, 1)))
    assert [frame[2] for frame in bench.sent(Kind.CONFIRM_REPLY, "b")] == [77]
    assert not bench.sent(Kind.APPEND_REPLY)
    bench.run(1.5)
    assert [frame[3] for frame in bench.sent(Kind.APPEND_REPLY, "b")] == [5, 5]


# --- D18: power loss


def the_power_of_all_fails(disk_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right after an acknowledgement, or in its place when the disks are slow.

    The state is not made durable meanwhile: the journals alone have the event.
    """
    monkeypatch.setattr(storage_module, "_CHECKPOINT_INTERVAL_S", 1e9)
    cluster = started_cluster()
    name = others(cluster, leader_name(cluster))[0]
    for node in cluster.nodes.values():
        assert node.disk is not None
        node.disk.latency_s = lambda: disk_s
    answers = write(cluster, name, b'"kept"')
    cluster.world.run_until(cluster.world.now + 0.4, lambda: bool(answers))
    acknowledged = bool(answers) and isinstance(answers[0], RequestOutcome)
    for each, node in cluster.nodes.items():
        assert node.disk is not None
        node.disk.close()
        cluster.kill(each, power_loss=True)
    for each in cluster.names:
        cluster.start(each)
    cluster.wait_for_leader()
    settle(cluster)
    for engine in cluster.engines():
        promise(
            not acknowledged or event_data(engine) == [b'"kept"'],
            "an acknowledged event is gone after a power loss",
        )
    assert acknowledged == (disk_s < 0.1)


@pytest.mark.parametrize("disk_s", [0.001, 0.5])
def test_what_was_acknowledged_survives_the_power_loss_of_all(
    disk_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    the_power_of_all_fails(disk_s, monkeypatch)


def test_d18_needs_the_durability_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    release_before_the_sync(monkeypatch)
    tick_while_syncing(monkeypatch)
    with pytest.raises(BrokenPromise, match="is gone after a power loss"):
        the_power_of_all_fails(0.5, monkeypatch)


# --- errors of the disk


def the_disk_fails() -> None:
    bench = Bench()
    bench.receive("b", bench.append(1, CONFIGURED, [no_op(3, 1)]))
    bench.links.sent.clear()
    bench.disk.fail(errno.EIO)
    bench.receive("b", bench.append(1, (3, 1), [no_op(4, 1)]))
    promise(bench.stopped is not None, "the process went on after its disk had failed")
    assert bench.stopped is not None
    assert bench.stopped.startswith("the journal cannot be written")
    assert not bench.sent(Kind.APPEND_REPLY)


def test_an_error_of_the_disk_stops_the_process() -> None:
    the_disk_fails()


def test_the_end_upon_an_error_needs_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    never_stop(monkeypatch)
    with pytest.raises(BrokenPromise, match="went on after its disk had failed"):
        the_disk_fails()


def test_a_leader_whose_disk_is_full_stops_before_it_answers() -> None:
    bench = Bench()
    bench.lead("b")
    bench.disk.fail(errno.ENOSPC)
    answers = bench.propose()
    bench.run(0.05)
    bench.acknowledge("b")
    assert bench.stopped is not None
    assert answers == []


# --- D12: votes that are forgotten


def a_voter_restarts() -> None:
    bench = Bench()
    bench.receive("b", (int(Kind.VOTE_REQUEST), 7, 9, 1, 0))
    assert bench.sent(Kind.VOTE, "b")
    bench.crash()
    bench.boot()
    bench.run(1.0)
    bench.receive("c", (int(Kind.VOTE_REQUEST), 7, 9, 1, 0))
    promise(not bench.sent(Kind.VOTE), "a node voted twice in a term")


def test_a_vote_survives_a_restart() -> None:
    a_voter_restarts()


def test_d12_needs_the_vote_to_be_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SegmentedJournal, "setCurrentTerm", lambda _self, _term, _vote: None)
    with pytest.raises(BrokenPromise, match="voted twice"):
        a_voter_restarts()


def a_stored_vote_is_damaged() -> None:
    """Anything durable follows the vote, so its damage cannot be a torn tail."""
    bench = Bench()
    before = {name: len(data) for name, data in bench.files.durable.items()}
    bench.receive("b", (int(Kind.VOTE_REQUEST), 7, 9, 1, 0))
    name = max(bench.files.durable)
    vote_at = before.get(name, 0) + 10
    bench.receive("b", bench.append(7, CONFIGURED, [no_op(3, 7)]))
    bench.crash()
    bench.files.durable[name][vote_at] ^= 0x10
    with pytest.raises(JournalDamagedError):
        bench.boot()
    bench.process.up = False


def test_a_damaged_vote_is_noticed() -> None:
    a_stored_vote_is_damaged()


def test_d12_needs_damage_to_be_told_from_a_torn_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_format, "_refuse_damage", lambda *_positions, **_named: None)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        a_stored_vote_is_damaged()
