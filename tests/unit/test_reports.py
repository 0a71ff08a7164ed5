"""What calls came to gets into the log: many together, and again until it is known to be there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from api.cluster import OutcomeUnknownError
from node.consensus.proposals import Answer
from node.delivery.reports import GREATEST_TOGETHER, LINGER_S, Reports
from statemachine.commands import AnyCommand, ReportCalls, ReportedCall
from statemachine.outcomes import (
    Applied,
    CallsReported,
    Outcome,
    Position,
    Rejected,
    RejectionCode,
    RequestOutcome,
)
from tests.simulation.world import Process, SimulatedRuntime, World


class Proposed:
    """Where reports are proposed, answered by hand."""

    def __init__(self) -> None:
        self.world = World(0)
        process = Process("n1", up=True)
        self.taken: list[ReportedCall] = []
        self.stale = 0
        self._waiting: list[tuple[ReportCalls, Callable[[Answer], None]]] = []
        self.reports = Reports(
            SimulatedRuntime(self.world, process),
            self._propose,
            epoch=3,
            together_bytes=10_000,
            on_taken=self.taken.extend,
            on_stale=self._on_stale,
        )

    def _propose(self, commands: Sequence[AnyCommand], on_answer: Callable[[Answer], None]) -> None:
        (command,) = commands
        assert isinstance(command, ReportCalls)
        self._waiting.append((command, on_answer))

    def _on_stale(self) -> None:
        self.stale += 1

    def pass_time(self, duration_s: float = 0.01) -> list[list[str]]:
        """Let time pass; return the transactions of each report that waits for its answer."""
        self.world.run_until(self.world.now + duration_s)
        return [[call.xid for call in command.calls] for command, _ in self._waiting]

    def answer(self, answer: Outcome | Exception) -> None:
        _, on_answer = self._waiting.pop(0)
        if isinstance(answer, Exception):
            on_answer(answer)
        else:
            on_answer(RequestOutcome(Position(1, 0), False, (answer,)))


def call(xid: str, result: bytes = b"") -> ReportedCall:
    return ReportedCall(xid, 1, "FORWARD", "DONE", result, "", "", 0)


TAKEN = Applied(CallsReported(taken=1))


def test_what_comes_in_one_moment_is_proposed_together() -> None:
    log = Proposed()
    for xid in ("a", "b"):
        log.reports.add(call(xid))
    assert log.pass_time() == [["a", "b"]]
    log.reports.add(call("c"))
    assert log.pass_time() == [["a", "b"], ["c"]]
    log.answer(TAKEN)
    assert [each.xid for each in log.taken] == ["a", "b"]


def test_what_nobody_waits_for_travels_with_what_comes_a_little_later() -> None:
    log = Proposed()
    log.reports.add(call("a"), may_linger=True)
    assert log.pass_time(LINGER_S / 2) == []
    log.reports.add(call("b"), may_linger=True)
    assert log.pass_time(LINGER_S) == [["a", "b"]]
    log.reports.add(call("c"), may_linger=True)
    log.reports.add(call("d"))
    assert log.pass_time(LINGER_S / 4) == [["a", "b"], ["c", "d"]]
    assert log.pass_time(2 * LINGER_S) == [["a", "b"], ["c", "d"]]


def test_as_many_as_go_together_do_not_linger() -> None:
    log = Proposed()
    for number in range(GREATEST_TOGETHER):
        log.reports.add(call(str(number)), may_linger=True)
    assert sum(map(len, log.pass_time(LINGER_S / 4))) == GREATEST_TOGETHER


def test_no_report_is_larger_than_an_entry_takes() -> None:
    log = Proposed()
    for number in range(5):
        log.reports.add(call(str(number), b"x" * 4_000))
    assert log.pass_time() == [["0", "1"], ["2", "3"], ["4"]]
    log = Proposed()
    for number in range(GREATEST_TOGETHER + 1):
        log.reports.add(call(str(number)))
    assert all(len(each) <= GREATEST_TOGETHER for each in log.pass_time())


def test_a_report_whose_fate_is_unknown_is_made_again() -> None:
    log = Proposed()
    log.reports.add(call("a"))
    log.pass_time()
    log.answer(OutcomeUnknownError())
    assert log.pass_time(0.1) == [["a"]]
    log.answer(Rejected(RejectionCode.REQUEST_EXPIRED, "Too late."))
    assert log.pass_time(0.1) == []
    assert log.pass_time(2.0) == [["a"]]
    log.answer(TAKEN)
    assert [each.xid for each in log.taken] == ["a"]


def test_a_report_of_another_term_ends_the_reign() -> None:
    log = Proposed()
    log.reports.add(call("a"))
    log.pass_time()
    log.answer(Rejected(RejectionCode.EPOCH_STALE, "Another leads."))
    assert (log.stale, log.taken) == (1, [])
    assert log.pass_time(5.0) == []


def test_once_the_term_is_over_nothing_is_proposed_and_nothing_heard() -> None:
    log = Proposed()
    log.reports.add(call("a"))
    log.pass_time()
    log.reports.add(call("b"))
    log.reports.stop()
    assert log.pass_time() == [["a"]]
    log.answer(TAKEN)
    assert log.taken == []
