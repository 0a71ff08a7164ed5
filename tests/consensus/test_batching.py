"""Requests travel in units: together when there are many, once, and never without an end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from api.cluster import (
    NoQuorumError,
    OutcomeUnknownError,
    OverloadedError,
    RequestTooLargeError,
    StorageFullError,
)
from node.consensus.messages import Kind
from node.consensus.proposals import (
    _MAX_ENTRIES_IN_FLIGHT,
    MALFORMED,
    NOT_LEADER,
    OVERLOADED,
    STORAGE_FULL,
    Proposals,
)
from statemachine.codec import decode_entry, decode_unit, encode_unit
from statemachine.commands import MAX_ENTRY_BYTES
from statemachine.machine import Machine
from statemachine.outcomes import RequestOutcome
from tests.consensus.harness import (
    Bench,
    BrokenPromise,
    event_data,
    event_request,
    leader_name,
    no_op,
    others,
    promise,
    settle,
    started_cluster,
    write,
    write_and_wait,
)
from tests.simulation.cluster import SETTINGS

CONFIGURED = (2, 0)


def _following(**options: object) -> Bench:
    bench = Bench(**options)  # type: ignore[arg-type]
    bench.receive("b", bench.append(1, CONFIGURED, [no_op(3, 1)], commit=3))
    bench.links.sent.clear()
    return bench


def _keep_leading(bench: Bench, seconds: float) -> None:
    """The leader that the bench follows makes itself heard."""
    for _ in range(int(seconds / 0.1)):
        last = bench.engine.journal.last()
        bench.receive("b", bench.append(1, last, commit=last[0]), run_s=0.1)


def _forwarded_unit(session: bytes = b"session of b...!", sequence: int = 1) -> bytes:
    return encode_unit(session, sequence, 1, [event_request()])


def _fill_the_pipeline(bench: Bench) -> None:
    """As many entries as may be are under way, so that whatever comes now waits."""
    for sequence in range(1, _MAX_ENTRIES_IN_FLIGHT + 1):
        unit = _forwarded_unit(b"session of c...!", sequence)
        bench.receive("c", (int(Kind.FORWARD), sequence, unit))


# --- units


def test_what_waits_leaves_together() -> None:
    bench = _following(settings=replace(SETTINGS, requests_worth_an_entry=10))
    for _ in range(10):
        bench.propose()
    bench.run(0.02)
    (frame,) = bench.sent(Kind.FORWARD, "b")
    assert len(decode_unit(frame[2]).requests) == 10


def test_only_so_many_units_are_under_way() -> None:
    bench = _following()
    for _ in range(10):
        bench.propose()
        bench.run(0.005)
    sequences = [frame[1] for frame in bench.sent(Kind.FORWARD, "b")]
    assert sequences == list(range(1, SETTINGS.units_in_flight + 1))


def test_an_entry_carries_the_units_of_several_nodes() -> None:
    bench = Bench()
    bench.lead("b")
    _fill_the_pipeline(bench)
    last = bench.engine.journal.last()[0]
    for peer in "bc":
        unit = _forwarded_unit(peer.encode() * 16)
        bench.receive(peer, (int(Kind.FORWARD), 1, unit))
    assert bench.engine.journal.last()[0] == last
    bench.acknowledge("b")
    command = bench.engine.journal[-1][0]
    entry = decode_entry(command[command.index(b"\x94") :])
    assert {unit.session[:1] for unit in entry.units} == {b"b", b"c"}


def test_no_unit_grows_beyond_an_entry() -> None:
    bench = _following()
    data = b"x" * 60_000
    for _ in range(60):
        bench.propose(event_request(data))
    bench.run(0.02)
    frames = bench.sent(Kind.FORWARD, "b")
    assert all(len(frame[2]) < MAX_ENTRY_BYTES for frame in frames)
    assert len(decode_unit(frames[0][2]).requests) > 10


# --- limits


def test_a_request_beyond_the_limit_is_refused() -> None:
    bench = _following()
    limit = bench.settings.max_unit_bytes
    with pytest.raises(RequestTooLargeError, match=str(limit)):
        bench.engine.propose(b"x" * (limit + 1), bench.engine.now() + 1.0, lambda _answer: None)
    assert bench.engine.proposals.pending_count == 0


@pytest.mark.parametrize("at_the_leader", [True, False])
@pytest.mark.parametrize("below", [0, 1, 40, 255, 300])
def test_a_request_at_the_limit_passes_and_holds_nothing_back(
    at_the_leader: bool, below: int
) -> None:
    cluster = started_cluster()
    leader = leader_name(cluster)
    name = leader if at_the_leader else others(cluster, leader)[0]
    head = len(event_request(b"x" * 70_000)) - 70_000
    data = b"x" * (SETTINGS.max_unit_bytes - head - below)
    assert len(event_request(data)) == SETTINGS.max_unit_bytes - below
    large = write(cluster, name, data)
    small = write(cluster, name, b'"small"')
    cluster.wait_for(lambda: bool(large) and bool(small), 3.0, "both are answered")
    assert isinstance(large[0], RequestOutcome)
    assert isinstance(small[0], RequestOutcome)


def a_unit_fills_an_entry_alone() -> None:
    bench = Bench()
    bench.lead("b")
    head = len(event_request(b"x" * 70_000)) - 70_000
    bench.propose(event_request(b"x" * (SETTINGS.max_unit_bytes - head)))
    bench.run(0.05)
    promise(bench.engine.journal.last()[0] == 4, "a request that was accepted never leaves")


def test_a_unit_that_fills_an_entry_alone_is_proposed() -> None:
    a_unit_fills_an_entry_alone()


def test_that_needs_the_first_unit_to_fit_always(monkeypatch: pytest.MonkeyPatch) -> None:
    propose = Proposals._propose

    def measured(proposals: Proposals, now: float) -> None:
        pending = proposals._pending
        if pending and len(pending[0].request) + 256 <= proposals._settings.max_unit_bytes:
            propose(proposals, now)

    monkeypatch.setattr(Proposals, "_propose", measured)
    with pytest.raises(BrokenPromise, match="never leaves"):
        a_unit_fills_an_entry_alone()


@pytest.mark.parametrize(
    "settings",
    [
        replace(SETTINGS, max_pending_requests=3),
        replace(SETTINGS, max_pending_bytes=3 * len(event_request())),
    ],
)
def test_more_than_may_wait_is_refused(settings: object) -> None:
    bench = Bench(settings=settings, found=False)  # type: ignore[arg-type]
    for _ in range(3):
        bench.propose()
    with pytest.raises(OverloadedError):
        bench.engine.propose(event_request(), bench.engine.now() + 1.0, lambda _answer: None)
    assert bench.engine.proposals.pending_count == 3


def test_a_full_member_refuses_what_grows_but_not_housekeeping() -> None:
    bench = Bench()
    bench.lead("b")
    bench.storage.fill_ratio = 0.9
    bench.run(0.1)
    with pytest.raises(StorageFullError):
        bench.engine.propose(event_request(), bench.engine.now() + 1.0, lambda _answer: None)
    bench.receive("b", (int(Kind.FORWARD), 1, _forwarded_unit()))
    assert bench.sent(Kind.FORWARD_REFUSED, "b") == [(int(Kind.FORWARD_REFUSED), 1, STORAGE_FULL)]
    answers: list[object] = []
    bench.act(
        lambda: bench.engine.propose_internal(
            event_request(), bench.engine.now() + 1.0, answers.append
        )
    )
    bench.run(0.05)
    bench.acknowledge("b")
    assert len(answers) == 1


# --- deadlines


def test_without_a_leader_a_request_ends_at_its_deadline_and_was_not_proposed() -> None:
    bench = Bench()
    answers = bench.propose(within_s=1.0)
    bench.run(0.9)
    assert answers == []
    bench.run(0.3)
    (error,) = answers
    assert isinstance(error, NoQuorumError)


def a_unit_is_never_answered() -> None:
    bench = _following()
    answers = bench.propose(within_s=1.0)
    _keep_leading(bench, 1.5)
    promise(len(answers) == 1, "a request has no end")
    assert isinstance(answers[0], OutcomeUnknownError)
    assert bench.engine.proposals.pending_count == 0
    later = bench.propose(within_s=1.0)
    bench.run(0.05)
    assert later == []
    assert bench.sent(Kind.FORWARD, "b")[-1][1] == 2


def test_a_unit_without_an_answer_ends_at_its_deadline() -> None:
    a_unit_is_never_answered()


def test_that_needs_the_deadlines_to_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Proposals, "expire", lambda _self, _now: None)
    with pytest.raises(BrokenPromise, match="has no end"):
        a_unit_is_never_answered()


# --- resubmission


def test_a_unit_is_sent_again_under_the_same_number() -> None:
    bench = _following()
    bench.propose()
    _keep_leading(bench, 0.6)
    first, *again = bench.sent(Kind.FORWARD, "b")
    assert again
    assert all(frame == first for frame in again)


def test_repetitions_become_rarer() -> None:
    bench = _following()
    bench.propose(within_s=9.0)
    _keep_leading(bench, 4.0)
    assert 4 <= len(bench.sent(Kind.FORWARD, "b")) <= 9


def test_a_new_term_has_every_unit_sent_at_once() -> None:
    bench = _following()
    bench.propose()
    bench.run(0.005)
    bench.propose()
    bench.run(0.005)
    first = bench.sent(Kind.FORWARD, "b")
    assert len(first) == 2
    bench.receive("c", bench.append(2, (3, 1), [no_op(4, 2)]))
    assert bench.sent(Kind.FORWARD, "c") == first


def test_a_unit_becomes_an_entry_when_its_node_leads() -> None:
    bench = _following()
    answers = bench.propose(within_s=30.0)
    bench.run(0.01)
    bench.lead("c")
    bench.run(0.05)
    bench.acknowledge("c")
    assert isinstance(answers[0], RequestOutcome)


def a_unit_is_forwarded_twice() -> None:
    """The second copy comes when the first one is in the log, after a change of leaders."""
    bench = Bench()
    bench.lead("b")
    unit = _forwarded_unit()
    bench.receive("b", (int(Kind.FORWARD), 1, unit))
    bench.acknowledge("b")
    bench.receive("b", (int(Kind.FORWARD), 1, unit))
    bench.acknowledge("b")
    promise(bench.clock() == 1, "a request was applied twice")


def test_a_unit_that_is_forwarded_twice_is_applied_once() -> None:
    a_unit_is_forwarded_twice()


def test_that_needs_the_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(machine: Machine) -> None:
        monkeypatch.setattr(machine._sessions, "find", lambda _session: None)

    reload = Machine.reload

    def reload_without(machine: Machine) -> None:
        reload(machine)
        forgetful(machine)

    monkeypatch.setattr(Machine, "reload", reload_without)
    with pytest.raises(BrokenPromise, match="applied twice"):
        a_unit_is_forwarded_twice()


def test_a_copy_that_comes_before_the_first_is_applied_is_not_proposed() -> None:
    bench = Bench()
    bench.lead("b")
    unit = _forwarded_unit()
    bench.receive("b", (int(Kind.FORWARD), 1, unit), (int(Kind.FORWARD), 1, unit))
    bench.receive("b", (int(Kind.FORWARD), 1, unit))
    assert bench.engine.counters["entries_proposed"] == 1
    assert bench.engine.counters["forwards_repeated"] == 2


def test_events_are_stored_once_though_every_connection_breaks_under_them() -> None:
    cluster = started_cluster()
    answers = []
    for number in range(30):
        name = cluster.names[number % 3]
        answers.append(write(cluster, name, b"%d" % number))
        source = cluster.names[(number + 1) % 3]
        for target in others(cluster, source):
            cluster.network.reset(source, target)
        cluster.world.run_until(cluster.world.now + 0.002)
    cluster.wait_for(lambda: all(answers), 5.0, "all are answered")
    settle(cluster)
    stored = sorted(int(data) for data in event_data(cluster.engines()[0]))
    assert stored == list(range(30))


# --- refusals


def test_who_does_not_lead_refuses_units() -> None:
    bench = _following()
    bench.receive("c", (int(Kind.FORWARD), 1, _forwarded_unit()))
    assert bench.sent(Kind.FORWARD_REFUSED, "c") == [(int(Kind.FORWARD_REFUSED), 1, NOT_LEADER)]


@pytest.mark.parametrize(
    ("sequence", "unit"),
    [(1, b"no unit"), (2, _forwarded_unit()), (1, b"x" * MAX_ENTRY_BYTES * 2)],
)
def test_a_malformed_unit_is_refused_and_not_proposed(sequence: int, unit: bytes) -> None:
    bench = Bench()
    bench.lead("b")
    bench.receive("b", (int(Kind.FORWARD), sequence, unit))
    (refusal,) = bench.sent(Kind.FORWARD_REFUSED, "b")
    assert refusal == (int(Kind.FORWARD_REFUSED), sequence, MALFORMED)
    assert bench.engine.counters["entries_proposed"] == 0


def test_a_leader_with_too_much_queued_refuses_more() -> None:
    bench = Bench(settings=replace(SETTINGS, max_pending_bytes=len(_forwarded_unit()) + 10))
    bench.elect("b")
    bench.receive("b", (int(Kind.FORWARD), 1, _forwarded_unit()))
    bench.receive("b", (int(Kind.FORWARD), 2, _forwarded_unit(sequence=2)))
    assert bench.sent(Kind.FORWARD_REFUSED) == [(int(Kind.FORWARD_REFUSED), 2, OVERLOADED)]


def test_a_unit_of_a_stranger_is_not_taken() -> None:
    bench = Bench()
    bench.lead("b")
    assert bench.hello("c", b"the new disk of c", blank=True) is None
    proposed = bench.engine.counters["entries_proposed"]
    bench.receive("c", (int(Kind.FORWARD), 1, _forwarded_unit()))
    bench.acknowledge("b")
    assert bench.engine.counters["entries_proposed"] == proposed


@pytest.mark.parametrize(
    ("reason", "error"), [(STORAGE_FULL, StorageFullError), (MALFORMED, RequestTooLargeError)]
)
def test_a_final_refusal_of_the_first_attempt_is_the_answer(
    reason: str, error: type[Exception]
) -> None:
    bench = _following()
    answers = bench.propose()
    bench.run(0.01)
    bench.receive("b", (int(Kind.FORWARD_REFUSED), 1, reason))
    assert [type(answer) for answer in answers] == [error]


def test_a_refusal_of_a_later_attempt_proves_nothing() -> None:
    bench = _following()
    answers = bench.propose()
    _keep_leading(bench, 0.5)
    assert len(bench.sent(Kind.FORWARD, "b")) > 1
    bench.receive("b", (int(Kind.FORWARD_REFUSED), 1, STORAGE_FULL))
    assert answers == []


def test_a_refusal_by_who_does_not_lead_is_retried() -> None:
    bench = _following()
    answers = bench.propose()
    bench.run(0.01)
    bench.receive("b", (int(Kind.FORWARD_REFUSED), 1, NOT_LEADER))
    _keep_leading(bench, 0.3)
    assert answers == []
    assert len(bench.sent(Kind.FORWARD, "b")) == 2


# --- no work without progress


def the_leader_waits_for_acknowledgements() -> None:
    bench = Bench()
    bench.lead("b")
    _fill_the_pipeline(bench)
    bench.receive("b", (int(Kind.FORWARD), 1, _forwarded_unit()))
    events = bench.world.events
    bench.run(0.2)
    promise(bench.world.events - events < 100, "the loop spins while there is nothing to do")


def the_connection_to_the_leader_is_gone() -> None:
    bench = _following()
    bench.disconnect("b")
    bench.propose()
    events = bench.world.events
    bench.run(0.2)
    promise(bench.world.events - events < 100, "the loop spins while there is nothing to do")


WAITING = [the_leader_waits_for_acknowledgements, the_connection_to_the_leader_is_gone]


@pytest.mark.parametrize("scenario", WAITING)
def test_the_loop_rests_while_requests_wait(scenario: Callable[[], None]) -> None:
    scenario()


@pytest.mark.parametrize("scenario", WAITING)
def test_that_needs_to_be_judged_by_what_would_move(
    scenario: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Proposals,
        "can_progress",
        property(lambda proposals: bool(proposals._pending or proposals._forwarded.queue)),
    )
    with pytest.raises(BrokenPromise, match="spins"):
        scenario()


def test_a_write_is_answered_where_it_was_made_and_can_be_read_there() -> None:
    cluster = started_cluster()
    name = others(cluster, leader_name(cluster))[0]
    assert isinstance(write_and_wait(cluster, name, b'"mine"'), RequestOutcome)
    engine = cluster.engine(name)
    assert engine is not None
    assert event_data(engine) == [b'"mine"']


def test_beside_a_unit_under_way_only_what_is_worth_an_entry_leaves() -> None:
    bench = Bench(settings=replace(SETTINGS, requests_worth_an_entry=3))
    bench.lead("b")
    for expected_units in (1, 1, 1, 2):
        bench.propose()
        bench.run(0.01)
        assert len(bench.engine.proposals._slots) == expected_units


def test_what_an_entry_with_little_room_leaves_behind_is_not_forgotten() -> None:
    """Requests beside a forwarded unit once vanished when their own unit took only its share."""
    bench = Bench(settings=replace(SETTINGS, requests_worth_an_entry=1, units_in_flight=4))
    bench.lead("b")
    _fill_the_pipeline(bench)
    bench.receive("c", (int(Kind.FORWARD), 9, _forwarded_unit(b"session of c...!", 9)))
    answers = [bench.propose(within_s=2.0) for _ in range(12)]
    for _ in range(30):
        bench.acknowledge("b", run_s=0.02)
    assert all(isinstance(answer[0], RequestOutcome) for answer in answers)
