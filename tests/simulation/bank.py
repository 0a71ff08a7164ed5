"""Clients of a bank whose rows the cluster locks: transfers in transactions of one or two branches.

Two accounts are locked with the registration of a branch, then changed in a local transaction.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable

from node.delivery.calls import BranchRequest, Reply
from scripts.tidelock_scripts.chaos.bank import ACCOUNTS, Bank
from statemachine.commands import BeginGlobal, DecideGlobal, RegisterBranch, ReportBranch
from statemachine.outcomes import BranchRegistered, Rejected
from statemachine.transactions.row_locks import RowLock
from statemachine.transactions.rows import Calls, get_global
from statemachine.transactions.statuses import ENDED, Mode
from tests.simulation.calls import Call, Callers
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.driving import Drivers, members_of
from tests.simulation.world import Violation

HOST = "bank"
RATE_PER_S = 4.0

_TIMEOUT_MS = 3_000
_WAIT_MS = 800


class BankClients:
    """`tests.simulation.clients.Clients` of the bank."""

    def __init__(self, cluster: SimulatedCluster, callers: Callers, drivers: Drivers) -> None:
        self._cluster = cluster
        self.callers = callers
        self.world = cluster.world
        self._drivers = drivers
        self._trouble = self.world.rng.choice((0.0, 0.3))
        self.bank = Bank()
        self.begun: list[str] = []
        self.counters: Counter[str] = Counter()
        self._running = False
        self._numbers = itertools.count()
        drivers.hosts[HOST] = self._roll_back

    def start(self) -> None:
        self._running = True
        self._next()

    def stop(self) -> None:
        self._running = False
        self._trouble = 0.0
        self._drivers.healed = True

    def _next(self) -> None:
        if self._running:
            xid = f"bank.{next(self._numbers)}"
            self.begun.append(xid)
            _Transfer(self, xid).begin()
            self.world.at(self.world.rng.expovariate(RATE_PER_S), self._next)

    # --- the resource

    def _roll_back(self, request: BranchRequest) -> Reply | None:
        drawn = self.world.rng.random()
        if drawn < self._trouble / 2:
            return None
        headers = dict(request.headers)
        branch = headers["X-Tx-Xid"], int(headers["Tidelock-Branch-Id"])
        self.counters["bank_undone"] += self.bank.roll_back(branch)
        return None if drawn < self._trouble else Reply(status=200)

    # --- the end

    def at_rest(self) -> bool:
        return all(
            row is None or row.status in ENDED
            for engine in members_of(self._cluster)
            for row in (get_global(engine.machine_store, xid) for xid in self.begun)
        )

    def check(self) -> None:
        """Every transfer that was committed is in the balances, and no other one is."""
        bank = self.bank
        if bank.broken:
            raise Violation(bank.broken[0])
        reader = members_of(self._cluster)[0].machine_store
        for xid, branch_id in bank.undo:
            row = get_global(reader, xid)
            if row is None or row.status != "COMMITTED":
                raise Violation(f"branch {branch_id} of {xid} was not undone: {row}")
        if bank.balances != bank.expected():
            raise Violation(f"the balances are {bank.balances} and should be {bank.expected()}")

    def seen(self) -> Iterable[object]:
        yield from self.begun
        yield from sorted(self.bank.balances.items())


class _Transfer:
    """One global transaction of one or two transfers."""

    def __init__(self, bank: BankClients, xid: str) -> None:
        self._bank = bank
        self._xid = xid
        self._rng = bank.world.rng
        self._left = self._rng.randint(1, 2)

    def begin(self) -> None:
        command = BeginGlobal(xid=self._xid, prefix="", name="", timeout_ms=_TIMEOUT_MS)
        self._bank.callers.call(command, self._go_on, keyed=True)

    def _go_on(self, call: Call) -> None:
        if call.result is None or self._rng.random() < 0.05:
            return  # its client is gone, and its time will be up
        if self._left:
            self._left -= 1
            self._register()
        else:
            self._decide(commit=self._rng.random() < 0.7)

    def _register(self) -> None:
        giver, taker = self._rng.sample(range(ACCOUNTS), 2)
        wait_ms = self._rng.choice((0, _WAIT_MS))
        register = RegisterBranch(
            xid=self._xid,
            mode=Mode.AT,
            resource_id=HOST,
            locks=tuple(RowLock(HOST, "account", (each,), True) for each in (giver, taker)),
            wait_ms=wait_ms,
            application_id="",
            unit_id="",
            session_id=0,
            application_data=b"",
            calls=Calls(None, "", f"http://{HOST}/undo"),
        )

        def registered(call: Call) -> None:
            result = call.result
            if isinstance(result, BranchRegistered):
                self._bank.counters["bank_locked"] += 1
                self._change(result.branch_id, giver, taker)
            elif isinstance(call.outcome, Rejected):
                self._bank.counters[f"bank_{call.outcome.code.name}"] += 1
                self._decide(commit=False)

        self._bank.callers.call(register, registered, keyed=True, wait_s=wait_ms / 1000)

    def _change(self, branch_id: int, giver: int, taker: int) -> None:
        amount = self._rng.randint(1, 60)
        done = self._bank.bank.transfer((self._xid, branch_id), giver, taker, amount)
        report = ReportBranch(
            xid=self._xid,
            branch_id=branch_id,
            status="PHASE_ONE_DONE" if done else "PHASE_ONE_FAILED",
            application_data=None,
            failure=None,
        )
        self._bank.callers.call(report, self._go_on, keyed=True)

    def _decide(self, *, commit: bool) -> None:
        decide = DecideGlobal(
            xid=self._xid, commit=commit, reason="", wait_ms=0, reports_expected=True
        )
        self._bank.callers.call(decide, self._decided, keyed=True)

    def _decided(self, call: Call) -> None:
        self._bank.counters["bank_decided" if call.result else "bank_not_decided"] += 1
