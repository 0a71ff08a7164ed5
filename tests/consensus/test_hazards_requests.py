"""What a caller would be told wrongly, or never.

Hazards D10, D14 and D15 of the bare library. Each scenario runs once as it is, and once with its
guard switched off, when it must break its promise.
"""

from __future__ import annotations

import pytest

from api.cluster import OutcomeUnknownError
from node.consensus.applying import Applying
from node.consensus.messages import Kind
from node.consensus.proposals import MALFORMED, Proposals
from node.consensus.transport import RaftTransport
from statemachine.codec import decode_unit, encode_entry
from statemachine.machine import Machine
from statemachine.outcomes import Rejected, RequestOutcome
from tests.consensus.bare_library import BareNode
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
    promise,
    regular,
    settle,
    started_cluster,
    write,
)
from tests.simulation.world import SimulatedRuntime

CONFIGURED = (2, 0)


# --- D10: callers of a leader that is deposed


def test_in_the_bare_library_a_caller_of_a_deposed_leader_waits_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = BareNode("a", monkeypatch)
    node.elect("b")
    answers: list[object] = []
    node.propose("x", lambda result, error: answers.append((result, error)))
    node.doTick(0)
    node.receive("c", {"type": "request_vote", "term": 9, "last_log_index": 0, "last_log_term": 0})
    for _ in range(5):
        node.doTick(0)
    assert not node._isLeader()
    assert answers == []


def a_leader_is_deposed_with_a_write_under_way() -> None:
    bench = Bench()
    bench.lead("b")
    answers = bench.propose(within_s=2.0)
    bench.run(0.02)
    bench.receive("c", (int(Kind.TERM_HINT), 9))
    assert not bench.leads
    bench.run(2.5)
    promise(len(answers) == 1, "a caller waits for ever")
    assert isinstance(answers[0], OutcomeUnknownError)
    bench.run(2.0)
    assert len(answers) == 1


def test_a_caller_of_a_deposed_leader_is_told_that_the_outcome_is_unknown() -> None:
    a_leader_is_deposed_with_a_write_under_way()


def test_d10_needs_the_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Proposals, "expire", lambda _self, _now: None)
    with pytest.raises(BrokenPromise, match="waits for ever"):
        a_leader_is_deposed_with_a_write_under_way()


def a_write_outlives_its_leader() -> None:
    """A write at a leader that is cut off: its successor gets it when the two meet again."""
    cluster = started_cluster()
    old = leader_name(cluster)
    pairs = isolate(cluster, old)
    answers = write(cluster, old, b'"kept"')
    cluster.world.run_until(cluster.world.now + 2.5)
    assert answers == []
    cluster.network.heal(pairs)
    cluster.world.run_until(cluster.world.now + 2.0)
    promise(
        bool(answers) and isinstance(answers[0], RequestOutcome),
        "a write is lost with the entry that carried it",
    )
    settle(cluster)
    assert all(event_data(engine) == [b'"kept"'] for engine in cluster.engines())


def test_a_write_whose_entry_was_cut_is_proposed_again_by_its_node() -> None:
    a_write_outlives_its_leader()


def test_that_needs_units_to_be_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Proposals, "_is_due", lambda _self, _slot, _now: False)
    with pytest.raises(BrokenPromise, match="lost with the entry"):
        a_write_outlives_its_leader()


# --- D14: answers to somebody else's request


def test_in_the_bare_library_a_late_answer_acknowledges_another_operation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = BareNode("b", monkeypatch)
    node.append("a", 1, (1, 0))
    answers: list[object] = []
    node.propose("mine", lambda result, error: answers.append((result, error)))
    node.doTick(0)
    (request,) = node.taken("apply_command")
    # The leader's answer to request 1 of the process that ran here before.
    node.receive(
        "a",
        {
            "type": "apply_command_response",
            "request_id": request["request_id"],
            "log_idx": 2,
            "log_term": 1,
        },
    )
    node.append("a", 1, (1, 0), node.entry("theirs", 2, 1), commit=2)
    node.doTick(0)
    assert answers == [("theirs", 0)]


def an_outcome_of_an_earlier_life_arrives() -> None:
    """Both lives numbered their first unit 1."""
    bench = Bench()
    bench.receive("b", bench.append(1, CONFIGURED, [no_op(3, 1)], commit=3))
    bench.propose(event_request(b'"of the earlier life"'))
    bench.run(0.02)
    (frame,) = bench.sent(Kind.FORWARD, "b")
    earlier = frame[2]
    bench.crash()
    bench.boot()
    bench.run(0.5)
    bench.receive("b", bench.append(1, (3, 1), commit=3))
    answers = bench.propose(event_request(b'"of this life"'))
    bench.run(0.02)
    (frame,) = bench.sent(Kind.FORWARD, "b")
    assert (frame[1], decode_unit(earlier).sequence) == (1, 1)
    bench.receive("b", bench.append(1, (3, 1), [_entry_of(earlier, 4)], commit=4))
    promise(answers == [], "a caller got the answer to another one's request")
    bench.receive("b", bench.append(1, (4, 1), [_entry_of(frame[2], 5)], commit=5))
    (answer,) = answers
    assert isinstance(answer, RequestOutcome)
    assert answer.position.entry == 5


def _entry_of(unit: bytes, index: int) -> Entry:
    return regular(index, 1, encode_entry(1, 1, [unit]))


def test_an_outcome_of_an_earlier_life_answers_nobody() -> None:
    an_outcome_of_an_earlier_life_arrives()


def test_d14_needs_each_life_to_have_a_session_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SimulatedRuntime, "random_bytes", lambda _self, count: b"s" * count)
    with pytest.raises(BrokenPromise, match="another one's request"):
        an_outcome_of_an_earlier_life_arrives()


def the_library_wants_to_forward() -> None:
    """A leader proposes, and is deposed before the library takes the command."""
    bench = Bench()
    bench.receive("b", bench.append(1, CONFIGURED, [no_op(3, 1)], commit=3))
    command = event_entry(4, 1)[0]
    bench.act(lambda: bench.engine.raft._applyCommand(command[1:], None, 0))
    try:
        bench.run(0.2)
    except KeyError as error:
        raise BrokenPromise("the library forwarded a command by itself") from error
    assert bench.engine.counters["dropped_apply_command"] == 1


def test_the_librarys_own_forwarding_is_never_used() -> None:
    the_library_wants_to_forward()


def test_that_needs_its_messages_to_be_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    send = RaftTransport.send

    def trusting(transport: RaftTransport, node: object, message: dict[str, object]) -> bool:
        promise(message["type"] != "apply_command", "the library forwarded a command by itself")
        return send(transport, node, message)  # type: ignore[arg-type]

    monkeypatch.setattr(RaftTransport, "send", trusting)
    with pytest.raises(BrokenPromise, match="by itself"):
        the_library_wants_to_forward()


# --- D15: entries that cannot be applied


def test_in_the_bare_library_an_exception_in_apply_wedges_the_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = BareNode("a", monkeypatch)
    node.elect("b")

    def broken(_command: bytes) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(node, "_SyncObj__doApplyCommand", broken)
    node.put("x")
    node.doTick(0)
    node.receive(
        "b", {"type": "next_node_idx", "next_node_idx": 4, "reset": False, "success": True}
    )
    applied = node.raftLastApplied
    for _ in range(5):
        with pytest.raises(ValueError, match="a bug"):
            node.doTick(0)
    assert node.raftLastApplied == applied


def an_entry_cannot_be_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_self: Machine, _index: int, _term: int, _payload: bytes) -> tuple[()]:
        raise AssertionError("an invariant is broken")

    monkeypatch.setattr(Machine, "apply", broken)
    bench = Bench()
    entries = [event_entry(3, 1), event_entry(4, 1)]
    try:
        bench.receive("b", bench.append(1, CONFIGURED, entries, commit=4))
    except UnboundLocalError as error:
        raise BrokenPromise("the process went on after an entry that it cannot apply") from error
    promise(bench.stopped is not None, "the process went on after an entry that it cannot apply")
    assert bench.stopped is not None
    assert bench.stopped.startswith("entry 3 cannot be applied")
    assert bench.engine.raft.last_applied < 3


def test_an_entry_that_cannot_be_applied_stops_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    an_entry_cannot_be_applied(monkeypatch)


def test_d15_needs_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    never_stop(monkeypatch)
    monkeypatch.setattr(Applying, "_settle", lambda _self, _outcomes: None)
    with pytest.raises(BrokenPromise, match="went on after an entry"):
        an_entry_cannot_be_applied(monkeypatch)


def a_peer_forwards_nonsense() -> None:
    bench = Bench()
    bench.lead("b")
    bench.receive("b", (int(Kind.FORWARD), 1, b"\xc1 no unit"))
    bench.run(0.05)
    bench.acknowledge("b")
    promise(bench.stopped is None, "one bad request stops every node that applies it")
    assert bench.sent(Kind.FORWARD_REFUSED, "b") == [(int(Kind.FORWARD_REFUSED), 1, MALFORMED)]


def test_what_cannot_be_decoded_is_refused_before_it_is_proposed() -> None:
    a_peer_forwards_nonsense()


def test_d15_needs_units_to_be_decoded_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def on_forward(proposals: Proposals, _peer: str, sequence: int, unit: bytes) -> None:
        proposals._forwarded.queue.append((b"", sequence, unit))

    monkeypatch.setattr(Proposals, "on_forward", on_forward)
    with pytest.raises(BrokenPromise, match="stops every node"):
        a_peer_forwards_nonsense()


def test_a_request_that_is_rejected_is_an_outcome_and_nothing_stops() -> None:
    bench = Bench()
    bench.lead("b")
    answers = bench.propose(event_request(participant="p" * 10_000))
    bench.run(0.05)
    bench.acknowledge("b")
    (answer,) = answers
    assert isinstance(answer, RequestOutcome)
    assert isinstance(answer.outcomes[0], Rejected)
    assert bench.stopped is None
    assert bench.engine.raft.last_applied == bench.engine.journal.last()[0]
