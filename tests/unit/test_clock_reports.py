"""A cluster node's part in synchronisation rounds follows from the state, and from what it said."""

from __future__ import annotations

from node.clock_reports import ClockReporter
from statemachine.commands import (
    AcknowledgeSync,
    AnyCommand,
    CloseSyncRound,
    ReportClock,
    TickVector,
)
from statemachine.sync_rounds import GREATEST_ENTRIES, get_round
from tests.statemachine.building import Log, record

CLOSE = CloseSyncRound(only_if_behind=False)


def own(lamport: int, vector: dict[str, int] | None = None) -> ReportClock:
    return ReportClock(node_id="n1", lamport=lamport, vector=vector or {}, own=True)


def said(log: Log, commands: list[AnyCommand]) -> list[AnyCommand]:
    """Have what a node says applied."""
    if commands:
        log.send(*commands)
    return commands


def test_a_node_under_whose_name_nothing_happened_says_nothing() -> None:
    log = Log()
    log.do(record("somebody"))
    assert ClockReporter("n1", log.store).reports() == []


def test_a_node_reports_its_clocks_once_until_they_move() -> None:
    log = Log()
    reporter = ClockReporter("n1", log.store)
    log.do(record("n1"))
    log.do(TickVector(node_id="n1"))
    assert said(log, reporter.reports()) == [own(1, {"n1": 1})]
    assert reporter.reports() == []
    log.do(record("n1"))
    assert said(log, reporter.reports()) == [own(2, {"n1": 1})]


def test_a_vector_that_no_report_can_hold_is_left_out() -> None:
    log = Log()
    for first in range(0, 2 * GREATEST_ENTRIES, GREATEST_ENTRIES):
        names = {f"p{first + at}": 1 for at in range(GREATEST_ENTRIES)}
        log.do(ReportClock(node_id="n1", lamport=3, vector=names, own=False))
        log.do(CLOSE)
    assert ClockReporter("n1", log.store).reports() == [own(3)]


def test_a_node_acknowledges_the_rounds_in_which_it_reported_for_itself() -> None:
    log = Log()
    reporter = ClockReporter("n1", log.store)
    log.do(record("n1"))
    said(log, reporter.reports())
    log.do(ReportClock(node_id="app", lamport=50, vector={}, own=False))
    log.do(CLOSE)
    assert said(log, reporter.acknowledgements()) == [AcknowledgeSync(round=1, node_id="n1")]
    assert reporter.acknowledgements() == []
    # Closing the round moved its clock to what it acknowledged: that is no news.
    assert reporter.reports() == []
    log.do(AcknowledgeSync(round=1, node_id="app"))
    closed = get_round(log.store, 1)
    assert closed is not None
    assert closed.synchronised_ms is not None


def test_a_node_leaves_rounds_alone_in_which_others_reported_under_its_name() -> None:
    log = Log()
    log.do(ReportClock(node_id="n1", lamport=50, vector={}, own=False))
    log.do(CLOSE)
    assert ClockReporter("n1", log.store).acknowledgements() == []


def test_a_node_that_was_away_acknowledges_what_it_missed() -> None:
    log = Log()
    log.do(record("n1"))
    said(log, ClockReporter("n1", log.store).reports())
    log.do(CLOSE)
    log.do(CLOSE)
    returned = ClockReporter("n1", log.store)
    assert {
        each.round for each in returned.acknowledgements() if isinstance(each, AcknowledgeSync)
    } == {1, 2}


def test_what_may_not_have_been_heard_is_said_again() -> None:
    log = Log()
    reporter = ClockReporter("n1", log.store)
    log.do(record("n1"))
    reporter.reports()
    reporter.forget()
    assert reporter.reports() == [own(1)]
