"""Synchronisation rounds against a model that is too simple to be wrong."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from statemachine.commands import AcknowledgeSync, CloseSyncRound, ReportClock
from statemachine.outcomes import Applied, ClockReported, SyncAcknowledged, SyncRoundClosed
from statemachine.sync_rounds import ROUNDS_KEPT, list_rounds, read_nodes, read_reports
from statemachine.timestamps import clock
from statemachine.vectors import vector_clock
from tests.statemachine.building import Log, record

NAMES = ("a", "b", "c")
INTERVAL_MS = 10_000

vectors = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 4), max_size=3)


@dataclass
class ModelReport:
    lamport: int
    vector: dict[str, int]
    due_ms: int
    round: int
    """In which it was heard last."""


@dataclass
class ModelRound:
    lamport: int
    vector: dict[str, int]
    reporters: list[str]
    acknowledged: list[str] = field(default_factory=list)


class RoundsAgainstModel(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.log = Log()
        self.reports: dict[str, ModelReport] = {}
        self.rounds: dict[int, ModelRound] = {}
        self.number = 1
        self.lamports = dict.fromkeys(NAMES, 0)
        self.clocks: dict[str, dict[str, int]] = {name: {} for name in NAMES}

    def target(self) -> tuple[int, dict[str, int]]:
        lamport = max((each.lamport for each in self.reports.values()), default=0)
        counts: dict[str, int] = {}
        for report in self.reports.values():
            for name, count in report.vector.items():
                counts[name] = max(counts.get(name, 0), count)
        return lamport, counts

    def somebody_is_behind(self) -> bool:
        lamport, counts = self.target()
        return any(
            report.lamport < lamport
            or any(report.vector.get(name, 0) < count for name, count in counts.items())
            for report in self.reports.values()
        )

    # --- what happens

    @rule(name=st.sampled_from(NAMES), lamport=st.integers(0, 9), vector=vectors)
    def report(self, name: str, lamport: int, vector: dict[str, int]) -> None:
        outcome = self.log.do(ReportClock(node_id=name, lamport=lamport, vector=vector, own=False))
        known = {each: count for each, count in vector.items() if count}
        due_ms = self.log.elapsed_ms + 3 * INTERVAL_MS
        self.reports[name] = ModelReport(lamport, known, due_ms, self.number)
        assert isinstance(outcome, Applied)
        assert isinstance(outcome.result, ClockReported)
        found = (outcome.result.target_lamport, outcome.result.target_vector)
        assert (outcome.result.round, *found) == (self.number, *self.target())

    @rule(only_if_behind=st.booleans())
    def close(self, only_if_behind: bool) -> None:
        outcome = self.log.do(CloseSyncRound(only_if_behind=only_if_behind))
        news = any(report.round == self.number for report in self.reports.values())
        closes = not only_if_behind or (news and self.somebody_is_behind())
        assert isinstance(outcome, Applied)
        assert outcome.result == SyncRoundClosed(round=self.number, closed=closes)
        if not closes:
            return
        lamport, counts = self.target()
        self.rounds[self.number] = ModelRound(lamport, counts, sorted(self.reports))
        for name in self.reports:
            self.lamports[name] = max(self.lamports[name], lamport)
            for entry, count in counts.items():
                self.clocks[name][entry] = max(self.clocks[name].get(entry, 0), count)
        self.rounds.pop(self.number - ROUNDS_KEPT, None)
        self.number += 1

    @rule(name=st.sampled_from(NAMES), back=st.integers(0, 3))
    def acknowledge(self, name: str, back: int) -> None:
        number = self.number - back
        outcome = self.log.do(AcknowledgeSync(round=number, node_id=name))
        closed = self.rounds.get(number)
        if closed is None or name not in closed.reporters:
            assert not isinstance(outcome, Applied)
            return
        if name not in closed.acknowledged:
            closed.acknowledged.append(name)
            if name in self.reports:
                report = self.reports[name]
                merged = {
                    entry: max(report.vector.get(entry, 0), closed.vector.get(entry, 0))
                    for entry in {**report.vector, **closed.vector}
                }
                self.reports[name] = ModelReport(
                    max(report.lamport, closed.lamport),
                    merged,
                    self.log.elapsed_ms + 3 * INTERVAL_MS,
                    self.number,
                )
        assert isinstance(outcome, Applied)
        assert isinstance(outcome.result, SyncAcknowledged)
        everybody = sorted(closed.acknowledged) == closed.reporters
        assert outcome.result.synchronised == everybody

    @rule(name=st.sampled_from(NAMES))
    def event(self, name: str) -> None:
        self.log.do(record(name))
        self.lamports[name] += 1

    @rule(duration_ms=st.sampled_from([1, INTERVAL_MS, 3 * INTERVAL_MS - 1, 3 * INTERVAL_MS]))
    def time_passes(self, duration_ms: int) -> None:
        self.log.wait(duration_ms)
        self.log.fire_due()
        now_ms = self.log.elapsed_ms
        self.reports = {
            name: report for name, report in self.reports.items() if report.due_ms > now_ms
        }

    @rule()
    def restart(self) -> None:
        self.log.machine.reload()

    # --- what holds

    @invariant()
    def reports_are_those_that_are_not_silent(self) -> None:
        found = {
            name: (report.lamport, report.vector)
            for name, report in read_reports(self.log.store).items()
        }
        assert found == {
            name: (report.lamport, report.vector) for name, report in self.reports.items()
        }

    @invariant()
    def rounds_are_those_of_the_model(self) -> None:
        for number, closed in list_rounds(self.log.store, limit=ROUNDS_KEPT):
            expected = self.rounds[number]
            assert (closed.target_lamport, closed.target_vector) == (
                expected.lamport,
                expected.vector,
            )
            nodes = read_nodes(self.log.store, number)
            assert list(nodes) == expected.reporters
            acknowledged = [
                name for name, node in nodes.items() if node.acknowledged_ms is not None
            ]
            assert acknowledged == sorted(expected.acknowledged)
            everybody = acknowledged == expected.reporters
            assert (closed.synchronised_ms is not None) == everybody
        assert len(list_rounds(self.log.store, limit=100)) == len(self.rounds)

    @invariant()
    def clocks_only_rise_and_are_where_the_model_has_them(self) -> None:
        for name in NAMES:
            assert clock(self.log.store, name) == self.lamports[name]
            assert vector_clock(self.log.store, name) == self.clocks[name]


RoundsAgainstModel.TestCase.settings = settings(
    max_examples=80, stateful_step_count=30, deadline=None
)
TestRoundsAgainstModel = RoundsAgainstModel.TestCase
