"""The driver: calls the branches of transactions, on the leader and nowhere else.

What is to be called stands in the replicated state. The driver looks there, makes the calls, and
reports what they came to; apply draws the conclusions. It keeps nothing that a new leader would
miss: that one finds the same work in the same state and goes on with all of it at once.

Two leaders may overlap for a moment. So the driver begins only when its own term's entry is
applied, calls only within a short time of a quorum's word that it still leads, names its term to
whom it calls, and has its reports refused under another. A participant without a fence is called
at least once.

It does no I/O and knows no clock but the engine's: a node gives it HTTP, a simulation something
else.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from node.consensus.proposals import Answer as ProposalAnswer
from node.consensus.runtime import Runtime, Timer
from node.delivery.alerts import Alerts
from node.delivery.calls import (
    Answer,
    BranchRequest,
    CallStyle,
    Cancel,
    Channel,
    Reply,
    Sender,
    Verdict,
    failed_call,
)
from node.delivery.crash_points import CrashPoint, Reach, nowhere
from node.delivery.due_work import DueWork
from node.delivery.durations import Durations
from node.delivery.leader import Leader
from node.delivery.reports import Reports
from node.delivery.slots import Slots
from statemachine.codec import encode_request
from statemachine.commands import AnyCommand, RecordRecoveries, ReportedCall, Request
from statemachine.keys import GREATEST_NUMBER
from statemachine.store import DamagedStateError
from statemachine.transactions.planning import Call
from statemachine.transactions.recovery import GREATEST_RECOVERIES
from statemachine.transactions.rows import Branch, Global, due_globals
from statemachine.transactions.statuses import GlobalStatus
from statemachine.transactions.transaction import GREATEST_DETAIL

logger = logging.getLogger(__name__)

_PROPOSAL_S: Final = 5.0
_CONFIRMATION_S: Final = 1.0
_LOOKS_AT_ONCE: Final = 32
"""Transactions that are looked at before others have their turn on the loop."""
_GREATEST_PAUSE_S: Final = 1.0
_GREATEST_RECORDED: Final = 5_000
"""A leader that finds more goes on with them, too, and records these."""
_CHANNEL: Final = "channel"
"""Stands, with its resource, for the host of a branch that has no URL."""

BranchKey = tuple[str, int]

_NOBODY: Final[frozenset[int]] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverLimits:
    calls: int = 1_024
    calls_per_host: int = 256


@dataclass(slots=True)
class Flight:
    """A call under way, or one whose report is."""

    call: Call
    attempts: int
    host: str
    began_at: float
    cancel: Cancel | None = None


@dataclass(slots=True)
class Reign:
    """One term in which this node drives."""

    term: int
    work: DueWork
    slots: Slots
    reports: Reports
    flights: dict[BranchKey, Flight] = field(default_factory=dict)
    reporting: Counter[str] = field(default_factory=Counter)
    """Reports under way of each transaction: it is looked at again when they are through."""
    confirming: bool = False
    woken: dict[str, set[int]] = field(default_factory=dict)
    """By transaction: branches that are called once before their time."""


class DriverCounters:
    """What the driver did, for whoever wants to know."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        """By operation and verdict."""
        self.failures: Counter[str] = Counter()
        """By what kept a call from being done."""
        self.durations = Durations()


class Driver:
    def __init__(
        self,
        engine: Leader,
        runtime: Runtime,
        sender: Sender,
        channel: Channel,
        styles: Mapping[str, CallStyle],
        limits: DriverLimits,
        alerts: Alerts,
        on_damage: Callable[[DamagedStateError], object],
        reach: Reach = nowhere,
    ) -> None:
        """`styles` has one for each value of `Global.protocol`; `reach` is for tests."""
        self._engine = engine
        self._reader = engine.machine_store
        self._runtime = runtime
        self._sender = sender
        self._channel = channel
        self._styles = styles
        self._limits = limits
        self._alerts = alerts
        self._on_damage = on_damage
        self._reach = reach
        self._fresh_s = engine.settings.election_timeout_min_s
        """Whoever confirmed a leader so lately elects no other."""
        self._reign: Reign | None = None
        self._looking = False
        self._timer: Timer | None = None
        self._stopped = False
        self.counters = DriverCounters()

    def start(self) -> None:
        notices = self._engine.notices
        notices.on_applied.append(self._on_applied)
        notices.on_role_change.append(self._look_soon)
        self._look_soon()

    def stop(self) -> None:
        self._stopped = True
        self._resign()

    @property
    def in_flight(self) -> int:
        return 0 if self._reign is None else len(self._reign.flights)

    @property
    def backlog(self) -> int:
        """Transactions that are due, as far as is known, and wait for a call to be made."""
        reign = self._reign
        return 0 if reign is None else len(reign.work) + reign.slots.waiting

    # --- being woken

    def wake(self, branches: Sequence[BranchKey]) -> None:
        """Call these now, though they were to wait: the way to them may be open again."""
        reign = self._reign
        if reign is not None:
            for xid, branch_id in branches:
                reign.woken.setdefault(xid, set()).add(branch_id)
            reign.work.add(xid for xid, _ in branches)
            self._look_soon()

    def _on_applied(self) -> None:
        if self._engine.machine.due_transactions:
            if self._engine.raft.is_leader:
                self._look_soon()
            else:
                self._engine.machine.due_transactions.take()

    def _look_soon(self) -> None:
        if not self._looking and not self._stopped:
            self._looking = True
            self._runtime.call_soon(self._look)

    def _look(self) -> None:
        """See whether this node drives; then begin every call that may begin."""
        self._looking = False
        if self._stopped:
            return
        try:
            reign = self._current()
            if reign is not None:
                self._drive(reign)
        except DamagedStateError as error:
            self._on_damage(error)

    # --- leading

    def _current(self) -> Reign | None:
        """Return this term's reign when this node may drive now."""
        engine = self._engine
        if not engine.leader_ready:
            self._resign()
            return None
        if self._reign is None or self._reign.term != engine.raft.term:
            self._resign()
            self._reign = self._accede(engine.raft.term)
        if not self._is_confirmed():
            self._confirm(self._reign)
            return None
        return self._reign

    def _accede(self, term: int) -> Reign:
        self._engine.machine.due_transactions.take()
        reports = Reports(
            self._runtime,
            self._propose,
            epoch=term,
            together_bytes=self._engine.settings.max_unit_bytes // 4,
            on_taken=self._on_taken,
            on_stale=self._on_stale,
        )
        slots = Slots(self._limits.calls, self._limits.calls_per_host)
        reign = Reign(term, DueWork(self._reader), slots, reports)
        self._reach(CrashPoint.ACCEDED, "", "")
        # Before any report can change what was found.
        self._record_found(reign)
        self._reach(CrashPoint.FOUND_RECORDED, "", "")
        return reign

    def _record_found(self, reign: Reign) -> None:
        """Record what the last leader left unfinished."""
        found = due_globals(self._reader, (0, ""), GREATEST_NUMBER - 1, limit=_GREATEST_RECORDED)
        if found:
            logger.info("goes on with what was unfinished", extra={"transactions": len(found)})
        for begin in range(0, len(found), GREATEST_RECOVERIES):
            xids = tuple(xid for _, xid in found[begin : begin + GREATEST_RECOVERIES])
            self._propose([RecordRecoveries(epoch=reign.term, xids=xids)], _recorded)

    def _resign(self) -> None:
        reign, self._reign = self._reign, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if reign is None:
            return
        self._reach(CrashPoint.RESIGNED, "", "")
        reign.reports.stop()
        for flight in reign.flights.values():
            if flight.cancel is not None:
                flight.cancel()

    def _is_confirmed(self) -> bool:
        return self._engine.now() - self._engine.reads.quorum_confirmed_at < self._fresh_s

    def _may_call(self, reign: Reign) -> bool:
        return self._reign is reign and self._engine.leader_ready and self._is_confirmed()

    def _confirm(self, reign: Reign) -> None:
        """Ask a quorum whether this node still leads, and look again when it says so."""
        if reign.confirming:
            return
        reign.confirming = True
        self._reach(CrashPoint.CONFIRMING, "", "")

        def confirmed(error: Exception | None) -> None:
            reign.confirming = False
            if error is not None:
                logger.info("no quorum confirms this leader", extra={"why": str(error)})
            self._look_soon()

        self._engine.read(self._engine.now() + _CONFIRMATION_S, confirmed)

    def _propose(
        self, commands: Sequence[AnyCommand], on_answer: Callable[[ProposalAnswer], None]
    ) -> None:
        engine = self._engine
        expires_at_ms = engine.stamps.elapsed_ms() + int(2_000 * _PROPOSAL_S) + 1_000
        request = encode_request(Request(expires_at_ms, None, tuple(commands)))
        engine.propose_internal(request, engine.now() + _PROPOSAL_S, on_answer)
        self._reach(CrashPoint.PROPOSED, type(commands[0]).__name__, "")

    # --- calling

    def _drive(self, reign: Reign) -> None:
        noted = self._engine.machine.due_transactions.take()
        if noted is None:
            reign.work.look_everywhere()
        else:
            reign.work.add(noted)
        elapsed_ms = self._engine.stamps.elapsed_ms()
        for _ in range(_LOOKS_AT_ONCE):
            if not reign.slots.free:
                return  # a call that ends makes room, and looks again
            xid = reign.work.next(elapsed_ms)
            if xid is None:
                self._look_when_due(reign, elapsed_ms)
                return
            if not reign.reporting[xid]:
                self._look_at(reign, xid, elapsed_ms)
        self._look_soon()

    def _look_when_due(self, reign: Reign, elapsed_ms: int) -> None:
        self._reach(CrashPoint.WAITING, "", "")
        due_ms = reign.work.next_due_ms()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due_ms is not None:
            pause_s = min(max(due_ms - elapsed_ms, 1) / 1000, _GREATEST_PAUSE_S)
            self._timer = self._runtime.call_later(pause_s, self._look_soon)

    def _look_at(self, reign: Reign, xid: str, elapsed_ms: int) -> None:
        found = self._engine.machine.transaction(xid)
        woken = reign.woken.get(xid, _NOBODY)
        upto_ms = GREATEST_NUMBER if woken else elapsed_ms
        if found is None or not 0 <= found.row.due_ms <= upto_ms:
            reign.woken.pop(xid, None)
            return  # nothing to do; or the index will tell when there is
        row, branches = found.row, found.branches
        self._reach(CrashPoint.LOOKED_AT, row.status, "")
        for call in found.plan.calls():
            branch = call.branch
            if (xid, branch.branch_id) in reign.flights:
                continue
            if branch.due_ms > elapsed_ms and branch.branch_id not in woken:
                reign.work.add_later(branch.due_ms, xid)
            elif not reign.slots.free:
                reign.work.add([xid])
                return
            else:
                self._call(reign, row, call, branches)

    def _call(self, reign: Reign, row: Global, call: Call, branches: Sequence[Branch]) -> None:
        """Begin a call, unless its host has enough of them."""
        branch, operation, url = call.branch, call.operation, call.url
        host = f"{_CHANNEL} {branch.resource_id}" if url is None else _host_of(url)
        if not reign.slots.take(host, row.xid):
            return
        woken = reign.woken.get(row.xid)
        if woken is not None:
            woken.discard(branch.branch_id)
            if not woken:
                del reign.woken[row.xid]
        flight = Flight(call, branch.attempts, host, self._engine.now())
        reign.flights[row.xid, branch.branch_id] = flight
        self._reach(CrashPoint.CALL_BEGUN, operation, "")
        if url is None:
            flight.cancel = self._channel.send(
                row, branch, operation, reign.term,
                lambda answer: self._answered(reign, row, flight, answer),
            )  # fmt: skip
            return
        request = self._request(row, call, branches, reign.term)
        if isinstance(request, Answer):
            self._answered(reign, row, flight, request)
            return

        def replied(reply: Reply) -> None:
            self._answered(reign, row, flight, self._answer(row, call, reply))

        flight.cancel = self._sender.send(request, lambda: self._may_call(reign), replied)
        self._reach(CrashPoint.CALL_SENT, operation, "")

    def _request(
        self, row: Global, call: Call, branches: Sequence[Branch], term: int
    ) -> BranchRequest | Answer:
        """Return how a call is made. What cannot be put into words stops no other."""
        try:
            style = self._styles[row.protocol]
            return style.request_of(row, call.branch, branches, call.operation, term)
        except Exception as error:
            return _unspeakable(row, call, error)

    def _answer(self, row: Global, call: Call, reply: Reply) -> Answer:
        if not reply.status:
            return failed_call(reply)
        try:
            return self._styles[row.protocol].answer_of(row, call.branch, call.operation, reply)
        except Exception as error:
            return _unspeakable(row, call, error)

    def _answered(self, reign: Reign, row: Global, flight: Flight, answer: Answer) -> None:
        if self._reign is not reign:
            return
        branch, operation = flight.call.branch, flight.call.operation
        flight.cancel = None
        if answer.failure_type == "NOT_SENT":
            # Nothing happened. Whoever leads now makes the call.
            self._land(reign, row.xid, branch.branch_id)
            reign.work.add([row.xid])
            self._look_soon()
            return
        self._reach(CrashPoint.ANSWERED, operation, answer.verdict)
        self._count(flight, answer)
        self._alerts.consider(row, branch, flight.attempts, answer)
        reign.reporting[row.xid] += 1
        reign.reports.add(
            ReportedCall(
                xid=row.xid,
                branch_id=branch.branch_id,
                operation=operation,
                verdict=answer.verdict,
                result=answer.result,
                failure_type=answer.failure_type[:100],
                failure_message=answer.failure_message[:GREATEST_DETAIL],
                jitter_permille=self._jitter_permille(answer.verdict),
                attempts=flight.attempts,
            ),
            # Its caller was answered with the decision, and its rows are free.
            may_linger=row.status is GlobalStatus.ASYNC_COMMITTING,
        )
        self._reach(CrashPoint.REPORT_GATHERED, operation, "")
        self._look_soon()

    def _jitter_permille(self, verdict: Verdict) -> int:
        """Return how much of the next interval is left out, so that not all come at once."""
        final = verdict in (Verdict.DONE, Verdict.FAILED)
        return 0 if final else int(self._runtime.random() * 500)

    def _count(self, flight: Flight, answer: Answer) -> None:
        counters = self.counters
        counters.calls[flight.call.operation, answer.verdict] += 1
        if answer.verdict in (Verdict.RETRY, Verdict.FAILED):
            counters.failures[answer.failure_type] += 1
        counters.durations.observe(self._engine.now() - flight.began_at)

    def _on_taken(self, batch: Sequence[ReportedCall]) -> None:
        """Reports are applied here: what follows from them can be looked at."""
        reign = self._reign
        if reign is None:
            return
        for each in batch:
            self._reach(CrashPoint.TAKEN, each.operation, "")
            self._land(reign, each.xid, each.branch_id)
            reign.reporting[each.xid] -= 1
            if not reign.reporting[each.xid]:
                del reign.reporting[each.xid]
                reign.work.add([each.xid])
        self._look_soon()

    def _land(self, reign: Reign, xid: str, branch_id: int) -> None:
        """End a flight. Its slot was its report's, too, which bounds what waits for the log."""
        flight = reign.flights.pop((xid, branch_id))
        reign.work.add(reign.slots.give_back(flight.host))

    def _on_stale(self) -> None:
        """Another has led meanwhile: what this node knows of its calls counts no more."""
        self._resign()
        self._look_soon()


def _unspeakable(row: Global, call: Call, error: Exception) -> Answer:
    logger.error(
        "a call or its answer cannot be put into words",
        exc_info=error,
        extra={"xid": row.xid, "branch": call.branch.branch_id},
    )
    return Answer(Verdict.RETRY, failure_type="INTERNAL", failure_message=repr(error))


def _recorded(answer: ProposalAnswer) -> None:
    if isinstance(answer, Exception):
        logger.info("what was found could not be recorded: %r", answer)


def _host_of(url: str) -> str:
    """Return host and port of a URL as it is written: enough to tell hosts apart."""
    return url.partition("://")[2].partition("/")[0].partition("?")[0].lower()
