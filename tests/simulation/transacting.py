"""Clients of transactions: sagas, TCCs, messages, and transactions that their clients decide.

At the end each is done as a whole or undone as a whole, on every node and at every participant.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterable

from node.consensus.engine import Engine
from node.delivery.calls import BranchRequest
from statemachine.commands import (
    BeginGlobal,
    DecideGlobal,
    PrepareMessage,
    RegisterBranch,
    ReportBranch,
    RunGlobal,
    Step,
)
from statemachine.outcomes import BranchRegistered, Rejected
from statemachine.transactions.messages import QUESTION
from statemachine.transactions.planning import Program
from statemachine.transactions.rows import Calls, Global, RetryRule, get_branches, get_global
from statemachine.transactions.statuses import ENDED, Mode
from tests.simulation.calls import Call, Callers
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.driving import (
    GLOBAL_TIMEOUT_MS,
    LOCAL,
    Drivers,
    Participants,
    members_of,
)
from tests.simulation.world import Violation

PROGRAMS = ("SAGA", "SAGA", "TCC", "MESSAGE", "CLIENT")
HOST = "p"

_VANISHES = 0.1
"""How often a client is not heard of again, at each of its steps."""


class TransactionClients:
    """`tests.simulation.clients.Clients` of transactions."""

    def __init__(
        self,
        cluster: SimulatedCluster,
        callers: Callers,
        drivers: Drivers,
        *,
        rate_per_s: float = 5.0,
        trouble: float | None = None,
    ) -> None:
        """`trouble`: how much of what participants are asked goes wrong; None: the seed tells."""
        self.cluster = cluster
        self.world = cluster.world
        self.callers = callers
        self.drivers = drivers
        if trouble is None:
            trouble = self.world.rng.choice((0.0, 0.2, 0.5))
        self.participants = Participants(self.world, trouble)
        drivers.hosts[HOST] = self.participants.receive
        self.begun: list[str] = []
        self.counters: Counter[str] = Counter()
        self._rate_per_s = rate_per_s
        self._running = False
        self._numbers = itertools.count()

    def start(self) -> None:
        self._running = True
        self._next()

    def stop(self) -> None:
        self._running = False
        self.participants.healed = self.drivers.healed = True

    def _next(self) -> None:
        if self._running:
            self._begin(self.world.rng.choice(PROGRAMS))
            self.world.at(self.world.rng.expovariate(self._rate_per_s), self._next)

    def _begin(self, program: str) -> None:
        xid = f"{program}.{next(self._numbers)}"
        self.begun.append(xid)
        if program == "CLIENT":
            _Manager(self, xid).begin()
        elif program == "MESSAGE":
            _Sender(self, xid).prepare()
        else:
            self._run(xid, program)

    def _run(self, xid: str, program: str) -> None:
        rng = self.world.rng
        command = RunGlobal(
            xid=xid,
            prefix="",
            name="",
            program=program,
            steps=tuple(steps(rng, program)),
            timeout_ms=rng.choice((0, GLOBAL_TIMEOUT_MS, 1_500)),
            wait_ms=0,
            in_order=rng.random() < 0.2 and program == "TCC",
            compensate_failed=rng.random() < 0.2,
            forward_recovery=False,
        )
        self.callers.call(command, self._ended, keyed=rng.random() < 0.7)

    def _ended(self, call: Call) -> None:
        self.counters["transactions_begun" if call.result else "transactions_not_told"] += 1

    # --- the end

    def at_rest(self) -> bool:
        """Every member knows of every transaction that it has ended."""
        return all(
            row is None or row.status in ENDED
            for engine in members_of(self.cluster)
            for row in (get_global(engine.machine_store, xid) for xid in self.begun)
        )

    def check(self) -> None:
        effects = self.participants.effects
        if effects.broken:
            raise Violation(effects.broken[0])
        engines = members_of(self.cluster)
        for xid in self.begun:
            rows = [get_global(engine.machine_store, xid) for engine in engines]
            if any(row != rows[0] for row in rows):
                raise Violation(f"nodes differ about {xid}")
            if rows[0] is None:
                self._check_untouched(xid)
            else:
                self.counters[f"transactions_{rows[0].status}"] += 1
                self._check_effects(engines[0], rows[0])

    def seen(self) -> Iterable[object]:
        yield from self.begun
        yield from sorted(self.participants.counters.items())

    def _check_untouched(self, xid: str) -> None:
        effects = self.participants.effects
        if effects.found_wrong(xid, committed=False, confirms=False, names=()):
            raise Violation(f"{xid} was never begun, and something was done for it")

    def _check_effects(self, engine: Engine, row: Global) -> None:
        committed = row.status == "COMMITTED"
        branches = get_branches(engine.machine_store, row.xid)
        names = {branch.name for branch in branches} - {"", QUESTION}
        if row.program == Program.MESSAGE:
            names.add(LOCAL)
        wrong = self.participants.effects.found_wrong(
            row.xid,
            committed=committed,
            confirms=row.program in (Program.TCC, Program.CLIENT),
            names=names,
        )
        if wrong is not None:
            raise Violation(f"{row.xid} is {row.status} and {wrong}")


class _Manager:
    """A transaction manager: registers branches, tries them, decides or vanishes."""

    def __init__(self, clients: TransactionClients, xid: str) -> None:
        self._clients = clients
        self._xid = xid
        self._rng = clients.world.rng
        self._left = [f"b{number}" for number in range(self._rng.randint(1, 3))]

    def begin(self) -> None:
        command = BeginGlobal(xid=self._xid, prefix="", name="", timeout_ms=3_000)
        self._clients.callers.call(command, self._go_on, keyed=True)

    def _go_on(self, call: Call) -> None:
        if call.result is None or self._rng.random() < _VANISHES:
            self._clients.counters["transactions_abandoned"] += 1
        elif self._left:
            self._register(self._left.pop())
        else:
            decide = DecideGlobal(
                xid=self._xid,
                commit=self._rng.random() < 0.7,
                reason="",
                wait_ms=0,
                reports_expected=True,
            )
            self._clients.callers.call(decide, _heard, keyed=True)

    def _register(self, branch: str) -> None:
        url = f"http://{HOST}/{branch}"
        register = RegisterBranch(
            xid=self._xid,
            mode=Mode.TCC,
            resource_id="p",
            locks=(),
            wait_ms=0,
            application_id="",
            unit_id="",
            session_id=0,
            application_data=b"",
            calls=Calls(None, f"{url}/commit", f"{url}/undo"),
        )

        def registered(call: Call) -> None:
            result = call.result
            if isinstance(result, BranchRegistered):
                self._try(f"{url}/do", result.branch_id)

        self._clients.callers.call(register, registered, keyed=True)

    def _try(self, url: str, branch_id: int) -> None:
        request = BranchRequest(url=url, headers=(("X-Tx-Xid", self._xid),))
        reply = self._clients.participants.receive(request)
        done = reply is not None and reply.status == 200
        report = ReportBranch(
            xid=self._xid,
            branch_id=branch_id,
            status="PHASE_ONE_DONE" if done else "PHASE_ONE_FAILED",
            application_data=None,
            failure=None,
        )
        self._clients.callers.call(report, self._go_on, keyed=True)


class _Sender:
    """Who prepares a message, works, and submits or aborts it, or is asked what became of it."""

    def __init__(self, clients: TransactionClients, xid: str) -> None:
        self._clients = clients
        self._xid = xid
        self._rng = clients.world.rng

    def prepare(self) -> None:
        names = [f"d{number}" for number in range(self._rng.randint(1, 3))]
        command = PrepareMessage(
            xid=self._xid,
            prefix="",
            name="",
            query=f"http://{HOST}/local/query",
            steps=tuple(_step(name, Calls(f"http://{HOST}/{name}/do")) for name in names),
            delay_ms=self._rng.choice((0, 300)),
            query_after_ms=1_000,
        )
        self._clients.callers.call(command, self._prepared, keyed=True)

    def _prepared(self, call: Call) -> None:
        if call.result is None or self._rng.random() < _VANISHES:
            return
        # Its own work is a local transaction with a barrier, done or not; it may be slow about it.
        self._clients.world.at(self._rng.choice((0.0, 0.01, 1.5)), self._work)

    def _work(self) -> None:
        worked = self._rng.random() < 0.7 and self._clients.participants.effects.work(
            self._xid, LOCAL
        )
        if self._rng.random() < 3 * _VANISHES:
            return
        decide = DecideGlobal(
            xid=self._xid, commit=worked, reason="", wait_ms=0, reports_expected=False
        )
        self._clients.callers.call(decide, self._decided, keyed=True)

    def _decided(self, call: Call) -> None:
        if isinstance(call.outcome, Rejected):
            self._clients.counters["messages_decided_by_the_question"] += 1


def _heard(_: Call) -> None:
    """Whatever the answer was, the transaction tells."""


def _step(name: str, calls: Calls, *depends_on: int, limit: int = -1) -> Step:
    return Step(
        name=name,
        calls=calls,
        payload=b"",
        depends_on=depends_on,
        timeout_ms=0,
        retry=RetryRule(limit, 100, 800),
    )


def steps(rng: random.Random, program: str) -> list[Step]:
    """Return a few steps: one after the other, beside each other, or in a graph."""
    found: list[Step] = []
    count = rng.randint(1, 4)
    refusing = rng.randrange(count) if rng.random() < 0.3 else -1
    for number in range(count):
        before: tuple[int, ...] = ()
        name = f"s{number}"
        if program == "SAGA" and number and rng.random() < 0.7:
            before = (rng.randrange(number),)
            name += f"<s{before[0]}"
        url = f"http://{HOST}/{name}"
        forward = "refuse" if number == refusing else "do"
        commit = f"{url}/commit" if program == "TCC" else ""
        calls = Calls(f"{url}/{forward}", commit, f"{url}/undo")
        found.append(_step(name, calls, *before, limit=rng.choice((-1, -1, 3))))
    return found
