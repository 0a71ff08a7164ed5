"""Who counts, and since when: hazard D19 of the bare library.

Each scenario runs once as it is, and once with its guard switched off, when it must break its
promise.
"""

from __future__ import annotations

import pytest

from node.consensus.admission import REMOVE, Admission
from node.consensus.membership import (
    Membership,
    configuration_command,
    decode_configuration,
    first_configuration,
)
from node.consensus.messages import Kind
from statemachine.store import Store
from tests.consensus.configurations import CONFIGURED, voters
from tests.consensus.harness import (
    CLUSTER_ID,
    Bench,
    BrokenPromise,
    event_entry,
    no_op,
    promise,
)


def a_removal_meets_a_wiped_node() -> None:
    """Both are due in the same step; the second must be made from what the first leaves."""
    bench = Bench(members="abcde")
    bench.lead("b", "c")
    results: list[str] = []
    bench.act(
        lambda: bench.engine.admission.ask(
            REMOVE, "d", bench.engine.now() + 30.0, lambda code, _detail: results.append(code)
        )
    )
    assert bench.hello("e", b"the new disk of e", blank=True) is None
    bench.run(0.1)
    configurations = len(bench.engine.journal.configuration_indexes)
    promise(configurations == 2, "two changes of the members were in flight at once")
    for _ in range(5):
        for peer in "bc":
            bench.acknowledge(peer)
    assert results == [""]
    assert voters(bench.engine.membership.in_force) == ["a", "b", "c"]


def test_one_change_is_in_flight_at_a_time() -> None:
    a_removal_meets_a_wiped_node()


def test_d19_needs_a_proposed_change_to_count_before_it_is_in_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        Admission,
        "_change_pending",
        property(lambda admission: admission._membership.change_pending),
    )
    with pytest.raises(BrokenPromise, match="in flight at once"):
        a_removal_meets_a_wiped_node()


def a_change_is_asked_of_a_new_leader() -> None:
    """Before it has applied an entry of its own term, it does not know what is committed."""
    bench = Bench()
    bench.elect("b")
    results: list[str] = []
    bench.act(
        lambda: bench.engine.admission.ask(
            REMOVE, "c", bench.engine.now() + 30.0, lambda code, _detail: results.append(code)
        )
    )
    bench.run(0.2)
    promise(results == ["NOT_READY"], "a leader changed the members before its term was committed")


def test_no_change_before_an_entry_of_the_term_is_applied() -> None:
    a_change_is_asked_of_a_new_leader()


def test_d19_needs_the_leader_to_be_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Admission, "_reason_to_refuse", lambda _self, _kind, _node: None)
    with pytest.raises(BrokenPromise, match="before its term was committed"):
        a_change_is_asked_of_a_new_leader()


def a_node_restarts_after_a_removal() -> None:
    """Its configuration file still names three voters, of which one has been removed."""
    bench = Bench()
    smaller = bench.configuration().without("c")
    record = (configuration_command(smaller), 3, 1)
    bench.receive("b", bench.append(1, CONFIGURED, [record]))
    bench.crash()
    bench.boot()
    promise(
        voters(bench.engine.membership.in_force) == ["a", "b"],
        "a restarted node counts the voters of an older configuration",
    )
    bench.run(1.0)
    bench.campaign_with("b")
    bench.receive("c", (int(Kind.VOTE), bench.engine.raft.term))
    assert not bench.leads


def test_a_restarted_node_counts_the_voters_of_the_last_record() -> None:
    a_node_restarts_after_a_removal()


def test_d19_needs_the_record_to_be_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    restore = Membership.restore

    def of_the_first_record(
        membership: Membership, store: Store, logged: list[tuple[bytes, int]]
    ) -> None:
        restore(membership, store, logged[:1])

    monkeypatch.setattr(Membership, "restore", of_the_first_record)
    with pytest.raises(BrokenPromise, match="older configuration"):
        a_node_restarts_after_a_removal()


def test_a_committed_record_survives_compaction_and_a_restart() -> None:
    bench = Bench()
    smaller = bench.configuration().without("c")
    entries = [(configuration_command(smaller), 3, 1), event_entry(4, 1), event_entry(5, 1)]
    bench.receive("b", bench.append(1, CONFIGURED, entries, commit=5), run_s=0.3)
    bench.act(lambda: bench.storage.checkpoint(force=True))
    bench.act(lambda: bench.engine.journal.compact_to(5))
    bench.run(0.3)
    bench.act(bench.engine.journal.flush_now)
    bench.crash()
    bench.boot()
    assert voters(bench.engine.membership.in_force) == ["a", "b"]
    assert bench.engine.journal.base()[0] == 5


def a_record_is_cut_from_the_log() -> None:
    bench = Bench()
    smaller = bench.configuration().without("c")
    bench.receive("b", bench.append(1, CONFIGURED, [(configuration_command(smaller), 3, 1)]))
    assert voters(bench.engine.membership.in_force) == ["a", "b"]
    bench.receive("c", bench.append(2, CONFIGURED, [no_op(3, 2)]))
    promise(
        voters(bench.engine.membership.in_force) == ["a", "b", "c"],
        "a change that was cut from the log is still in force",
    )


def test_a_record_that_is_cut_is_undone() -> None:
    a_record_is_cut_from_the_log()


def test_d19_needs_the_undoing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Membership, "on_truncate", lambda _self, _first: None)
    with pytest.raises(BrokenPromise, match="still in force"):
        a_record_is_cut_from_the_log()


def no_voters_are_no_majority() -> None:
    membership = Membership("a", b"disk")
    promise(not membership.is_quorum(["a"]), "a node without voters is its own majority")


def test_an_empty_set_of_voters_is_no_majority() -> None:
    no_voters_are_no_majority()
    empty = first_configuration(CLUSTER_ID, [])
    with pytest.raises(ValueError, match="at least one voter"):
        decode_configuration(empty.encode())


def test_d19_needs_an_empty_set_to_be_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def librarys(membership: Membership, node_ids: list[str]) -> bool:
        return len(node_ids) > len(membership._voter_ids) / 2

    monkeypatch.setattr(Membership, "is_quorum", librarys)
    with pytest.raises(BrokenPromise, match="its own majority"):
        no_voters_are_no_majority()


def test_a_node_without_a_record_never_leads() -> None:
    bench = Bench(found=False)
    for peer in "bc":
        bench.disconnect(peer)
    bench.run(30.0)
    assert not bench.leads
    assert bench.engine.raft.term == 0
