"""What would cut acknowledged entries, or count wrong acknowledgements.

Hazards D1, D3, D4, D9, D13 and D16 of the bare library. Each scenario runs once as it is,
and once with its guard switched off, when it must break its promise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from node.consensus import raft as raft_module
from node.consensus.dispatch import Dispatch
from node.consensus.election import Election
from node.consensus.journal import JournalSettings
from node.consensus.messages import Frame, Kind
from node.consensus.settings import APPEND_BATCH_BYTES, EngineSettings
from node.consensus.transport import Message, RaftTransport
from statemachine.commands import MAX_ENTRY_BYTES
from statemachine.outcomes import RequestOutcome
from tests.consensus.guards_off import hand_everything_to_the_library, let_the_library_judge_replies
from tests.consensus.harness import (
    Bench,
    BrokenPromise,
    Entry,
    event_data,
    event_entry,
    event_request,
    isolate,
    leader_name,
    never_stop,
    no_op,
    others,
    promise,
    settle,
    started_cluster,
    write_and_wait,
)
from tests.simulation.cluster import SETTINGS, SimulatedCluster
from tests.simulation.world import Violation

CONFIGURED = (2, 0)
"""Where the first membership record stands: the last entry that everybody begins with."""


# --- guards, off
# --- D1: acknowledgements of an older term


def an_acknowledgement_of_an_older_term_arrives() -> None:
    bench = Bench()
    first_term = bench.lead("b")
    for _ in range(2):
        bench.propose()
        bench.run(0.02)
    assert bench.log[-1][0] == 5
    # c leads the next term and cuts both entries; then the bench leads again, at the same indexes.
    bench.receive("c", bench.append(first_term + 1, (3, first_term), [no_op(4, first_term + 1)]))
    bench.receive("c", bench.append(first_term + 1, (4, first_term + 1), [no_op(5, 2)], commit=3))
    bench.elect("c")
    committed = bench.engine.raft.commit_index
    late = (int(Kind.APPEND_REPLY), first_term, 99, 7, False, True, 6)
    bench.receive("b", late)
    promise(
        bench.engine.raft.commit_index == committed,
        "an acknowledgement of an older term committed an entry that nobody else holds",
    )


def test_an_acknowledgement_of_an_older_term_commits_nothing() -> None:
    an_acknowledgement_of_an_older_term_arrives()


def test_d1_needs_the_comparison_of_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    def on_append_reply(dispatch: Dispatch, peer: str, frame: Frame) -> None:
        dispatch._replication.on_append_reply(peer, frame)

    monkeypatch.setattr(Dispatch, "_on_append_reply", on_append_reply)
    with pytest.raises(BrokenPromise, match="older term committed"):
        an_acknowledgement_of_an_older_term_arrives()


def a_reply_leaves_after_the_term_has_changed() -> None:
    """Both frames are handled in one round, before anything is written to the links."""
    bench = Bench()
    bench.receive("b", bench.append(1, CONFIGURED, [no_op(3, 1)]))
    bench.links.sent.clear()
    bench.receive(
        "b",
        bench.append(1, (3, 1), [no_op(4, 1)]),
        (int(Kind.TERM_HINT), 7),
    )
    assert bench.engine.raft.term == 7
    (reply,) = bench.replies("b")
    promise(reply[1] == 1, "a reply speaks of a term in which it was not given")


def test_a_reply_names_the_term_in_which_it_was_given() -> None:
    a_reply_leaves_after_the_term_has_changed()


def test_d1_needs_the_term_to_be_stamped_when_the_library_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flush = RaftTransport.flush

    def late_stamp(transport: RaftTransport) -> None:
        for messages in transport._outbox.values():
            for message in messages:
                message["term"] = transport._journal.getCurrentTerm()
        flush(transport)

    monkeypatch.setattr(RaftTransport, "flush", late_stamp)
    with pytest.raises(BrokenPromise, match="in which it was not given"):
        a_reply_leaves_after_the_term_has_changed()


# --- D3: old and repeated append_entries


def _follower_with_ten_entries() -> Bench:
    bench = Bench()
    bench.receive("b", bench.append(1, CONFIGURED, [no_op(index, 1) for index in range(3, 11)]))
    assert bench.replies("b")[-1][3] == 11
    return bench


def an_old_append_comes_again() -> None:
    bench = _follower_with_ten_entries()
    bench.receive("b", bench.append(1, CONFIGURED, [no_op(3, 1)]))
    promise(bench.log[-1] == (10, 1), "a repeated append cut acknowledged entries")


def an_old_heartbeat_comes_again() -> None:
    bench = _follower_with_ten_entries()
    bench.receive("b", bench.append(1, (5, 1)))
    promise(bench.log[-1] == (10, 1), "a repeated append cut acknowledged entries")


def an_append_overlaps_what_is_held() -> None:
    bench = _follower_with_ten_entries()
    bench.receive("b", bench.append(1, (8, 1), [no_op(index, 1) for index in range(9, 13)]))
    assert bench.log[-1] == (12, 1)
    stored = bench.engine.counters["entries_known"]
    promise(stored == 2, "entries that were held already were cut and stored again")


D3 = [an_old_append_comes_again, an_old_heartbeat_comes_again, an_append_overlaps_what_is_held]


@pytest.mark.parametrize("scenario", D3)
def test_only_what_truly_conflicts_is_cut(scenario: Callable[[], None]) -> None:
    scenario()


@pytest.mark.parametrize("scenario", D3)
def test_d3_needs_the_trimming_of_what_is_held(
    scenario: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_everything_to_the_library(monkeypatch)
    with pytest.raises(BrokenPromise):
        scenario()


def test_a_true_conflict_is_cut_and_replaced() -> None:
    bench = _follower_with_ten_entries()
    bench.receive("c", bench.append(2, (6, 1), [no_op(7, 2)]))
    assert bench.log[-2:] == [(6, 1), (7, 2)]
    assert bench.replies("c")[-1][3:6] == (8, False, True)


def test_an_append_from_before_the_base_is_trimmed_to_it() -> None:
    bench = Bench()
    entries = [event_entry(index, 1) for index in range(3, 11)]
    bench.receive("b", bench.append(1, CONFIGURED, entries, commit=10), run_s=0.3)
    bench.act(lambda: bench.engine.journal.compact_to(8))
    bench.receive("b", bench.append(1, (4, 1), [*entries[2:], event_entry(11, 1)], commit=10))
    assert bench.log[0] == (8, 1)
    assert bench.log[-1] == (11, 1)
    assert bench.replies("b")[-1][3:6] == (12, False, True)
    assert bench.clock() == 8


# --- D4: success replies that rewind


def a_success_reply_comes_while_more_is_under_way() -> None:
    bench = Bench()
    bench.lead("b")
    for _ in range(2):
        bench.propose()
        bench.run(0.02)
    assert bench.log[-1][0] == 5
    bench.acknowledge("b", 4)
    bench.run(1.0)
    times_sent = Counter(entry[1] for frame in bench.sent(Kind.APPEND, "b") for entry in frame[6])
    promise(set(times_sent.values()) == {1}, "a success reply made the leader send entries again")


def test_no_entry_is_sent_again_because_of_a_success_reply() -> None:
    a_success_reply_comes_while_more_is_under_way()


def test_d4_needs_the_next_index_to_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    let_the_library_judge_replies(monkeypatch)
    with pytest.raises(BrokenPromise, match="send entries again"):
        a_success_reply_comes_while_more_is_under_way()


def test_a_reply_beyond_the_log_is_not_believed() -> None:
    bench = Bench()
    bench.lead("b")
    bench.propose()
    bench.run(0.02)
    last = bench.log[-1][0]
    frame = (int(Kind.APPEND_REPLY), bench.engine.raft.term, 99, last + 9, False, True, last + 8)
    bench.receive("c", frame)
    assert bench.engine.raft.match_index("c") == 0
    assert bench.engine.counters["impossible_reply"] == 1


# --- D9: a deposed leader that does not know


def a_deposed_leader_sends_on() -> None:
    bench = Bench()
    bench.receive("c", bench.append(5, CONFIGURED))
    bench.receive("b", bench.append(1, CONFIGURED))
    promise(
        bench.sent(Kind.TERM_HINT, "b") == [(int(Kind.TERM_HINT), 5)],
        "a deposed leader gets no answer",
    )


def a_deposed_leader_is_told() -> None:
    bench = Bench()
    bench.lead("b")
    bench.receive("c", (int(Kind.TERM_HINT), 7))
    promise(
        not bench.leads and bench.engine.raft.term == 7, "a leader leads on against a newer term"
    )


def test_a_deposed_leader_is_answered_with_the_newer_term() -> None:
    a_deposed_leader_sends_on()


def test_a_leader_that_hears_of_a_newer_term_steps_down() -> None:
    a_deposed_leader_is_told()


def test_d9_needs_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def on_append(dispatch: Dispatch, peer: str, frame: Frame) -> None:
        if frame[1] >= dispatch._raft.term:
            dispatch._appending.on_append(peer, frame)

    monkeypatch.setattr(Dispatch, "_on_append", on_append)
    with pytest.raises(BrokenPromise, match="gets no answer"):
        a_deposed_leader_sends_on()


def test_d9_needs_the_step_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Election, "step_down", lambda _self, _peer, _term: None)
    with pytest.raises(BrokenPromise, match="leads on"):
        a_deposed_leader_is_told()


def test_a_leader_that_was_cut_off_steps_down_as_soon_as_it_is_back() -> None:
    cluster = started_cluster()
    old = leader_name(cluster)
    # Its fallback would hide what the answer does.
    cluster.settings = replace(SETTINGS, leader_fallback_s=1e6)
    engine = cluster.engine(old)
    assert engine is not None
    engine.raft.conf.leaderFallbackTimeout = 1e6
    pairs = isolate(cluster, old)
    cluster.wait_for(lambda: _leads_elsewhere(cluster, old), 20.0, "another leader")
    assert engine.raft.is_leader
    cluster.network.heal(pairs)
    cluster.wait_for(lambda: not engine.raft.is_leader, 2.0, "the old leader steps down")
    settle(cluster)


def _leads_elsewhere(cluster: SimulatedCluster, old: str) -> bool:
    leader = cluster.leader()
    return leader is not None and leader.identity.node_id != old


# --- D13: entries that are too large for the library


def the_greatest_request_is_replicated() -> None:
    cluster = started_cluster()
    name = others(cluster, leader_name(cluster))[0]
    overhead = len(event_request(b""))
    data = b"x" * (SETTINGS.max_unit_bytes - overhead - 16)
    try:
        answer = write_and_wait(cluster, name, data)
        settle(cluster)
    except (KeyError, Violation) as error:
        raise BrokenPromise(f"a large entry wedges replication: {error!r}") from error
    assert isinstance(answer, RequestOutcome)
    assert all(event_data(engine) == [data] for engine in cluster.engines())


def test_the_greatest_request_is_replicated() -> None:
    the_greatest_request_is_replicated()


def test_d13_needs_batches_larger_than_any_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raft_module, "APPEND_BATCH_BYTES", 256 << 10)
    with pytest.raises(BrokenPromise, match="wedges"):
        the_greatest_request_is_replicated()


def test_a_batch_is_several_times_the_greatest_entry() -> None:
    assert APPEND_BATCH_BYTES >= 4 * MAX_ENTRY_BYTES
    assert EngineSettings().max_unit_bytes < MAX_ENTRY_BYTES
    assert JournalSettings().max_slice_bytes >= MAX_ENTRY_BYTES


def test_twenty_events_of_64_kib_at_once_are_replicated() -> None:
    cluster = started_cluster()
    name = leader_name(cluster)
    engine = cluster.engine(name)
    assert engine is not None
    answers: list[object] = []

    def propose() -> None:
        for number in range(20):
            request = event_request(b"%d" % number + b"x" * (64 << 10))
            engine.propose(request, engine.now() + 8.0, answers.append)

    cluster.run_as(name, propose)
    cluster.wait_for(lambda: len(answers) == 20, 8.0, "all are answered")
    assert all(isinstance(answer, RequestOutcome) for answer in answers)
    settle(cluster)


# --- D16: applied entries


def a_leader_conflicts_with_what_is_applied() -> None:
    bench = Bench()
    entries = [event_entry(index, 1) for index in range(3, 7)]
    bench.receive("b", bench.append(1, CONFIGURED, entries, commit=6))
    assert bench.clock() == 4
    bench.receive("c", bench.append(9, (4, 1), [no_op(5, 9)], commit=6))
    promise(bench.stopped is not None, "applied entries were cut and the process went on")
    assert bench.stopped is not None
    assert "conflicts with the applied entry 5" in bench.stopped
    assert bench.log[-1] == (6, 1)


def test_a_leader_that_conflicts_with_applied_entries_stops_the_process() -> None:
    a_leader_conflicts_with_what_is_applied()


def test_d16_needs_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    never_stop(monkeypatch)
    with pytest.raises(BrokenPromise, match="the process went on"):
        a_leader_conflicts_with_what_is_applied()


# --- merging


def test_appends_that_continue_each_other_leave_as_one_frame() -> None:
    def message(previous: int, *entries: Entry) -> Message:
        return {
            "type": "append_entries",
            "term": 1,
            "commit_index": previous,
            "prevLogIdx": previous,
            "prevLogTerm": 1,
            "entries": list(entries),
        }

    bench = Bench()
    merged = bench.engine.transport._merged(
        [message(3, no_op(4, 1)), message(4, no_op(5, 1)), message(7, no_op(8, 1))]
    )
    assert [each["prevLogIdx"] for each in merged] == [3, 7]
    assert merged[0]["entries"] == [no_op(4, 1), no_op(5, 1)]
    assert merged[0]["commit_index"] == 4
