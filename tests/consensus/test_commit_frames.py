"""The news that entries are committed: sent once, not answered, believed as far as it is known."""

from __future__ import annotations

import pytest

from node.consensus.appending import Appending
from node.consensus.messages import Frame, Kind
from tests.consensus.harness import Bench, BrokenPromise, event_entry, no_op, promise

CONFIGURED = (2, 0)


def commit(term: int, index: int, entry_term: int) -> Frame:
    return (int(Kind.COMMIT), term, index, entry_term)


# --- the leader


def test_what_was_just_committed_is_told_once_and_asks_for_no_answer() -> None:
    bench = Bench()
    term = bench.lead("b")
    bench.run(0.2)
    bench.propose()
    bench.run(0.001)
    bench.links.sent.clear()
    bench.acknowledge("b", run_s=0.002)
    last = bench.engine.journal.last()[0]
    assert bench.sent(Kind.COMMIT) == [commit(term, last, term)] * 2
    assert bench.sent(Kind.APPEND) == []


def test_a_peer_that_was_asked_for_nothing_is_still_made_to_answer() -> None:
    bench = Bench()
    bench.lead("b")
    bench.links.sent.clear()
    for _ in range(10):
        bench.acknowledge("b")
        bench.run(bench.settings.heartbeat_s)
    assert len(bench.sent(Kind.APPEND, "c")) >= 9


# --- the follower


def test_a_follower_takes_note_and_does_not_answer() -> None:
    bench = Bench()
    bench.receive("b", bench.append(1, CONFIGURED, [event_entry(3, 1)]))
    bench.links.sent.clear()
    bench.receive("b", commit(1, 3, 1))
    assert bench.engine.raft.last_applied == 3
    assert bench.replies("b") == []


def test_it_counts_as_hearing_the_leader() -> None:
    bench = Bench()
    bench.receive("b", bench.append(1, CONFIGURED, [no_op(3, 1)]))
    bench.links.sent.clear()
    for _ in range(20):
        bench.receive("b", commit(1, 3, 1), run_s=0.1)
    assert bench.sent(Kind.PRE_VOTE_REQUEST) == []


def a_leader_commits_what_this_node_holds_in_another_term() -> None:
    """Its own entry at that index is of a leader that was deposed, and was never committed."""
    bench = Bench()
    bench.receive("b", bench.append(1, CONFIGURED, [event_entry(3, 1)]))
    bench.receive("c", commit(2, 3, 2))
    promise(bench.engine.raft.last_applied < 3, "an entry that was never committed is not applied")
    assert bench.engine.leader_id == "c"


def test_an_entry_of_another_term_is_not_taken_for_the_committed_one() -> None:
    a_leader_commits_what_this_node_holds_in_another_term()


def test_that_needs_the_term_of_the_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    def believe(appending: Appending, peer: str, frame: Frame) -> None:
        appending._heartbeat(peer, frame[1], frame[2])

    monkeypatch.setattr(Appending, "on_commit", believe)
    with pytest.raises(BrokenPromise, match="never committed"):
        a_leader_commits_what_this_node_holds_in_another_term()


def test_what_has_not_come_here_yet_is_not_committed() -> None:
    bench = Bench()
    bench.receive("b", bench.append(1, CONFIGURED, [event_entry(3, 1)]))
    bench.receive("b", commit(1, 4, 1))
    assert bench.engine.raft.last_applied < 3
    bench.receive("b", bench.append(1, (3, 1), [event_entry(4, 1)], commit=4))
    assert bench.engine.raft.last_applied == 4


def test_a_deposed_leader_is_told_the_newer_term() -> None:
    bench = Bench()
    bench.receive("b", bench.append(5, CONFIGURED, [no_op(3, 5)]))
    bench.links.sent.clear()
    bench.receive("c", commit(4, 3, 5))
    assert bench.sent(Kind.TERM_HINT, "c") == [(int(Kind.TERM_HINT), 5)]
    assert bench.engine.raft.last_applied < 3
