"""A bank whose rows the cluster locks: transfers in local transactions, undone from their images.

Two accounts of each transfer are locked with the registration of its branch, then changed in one
local transaction that also writes down what they were. A rollback puts that back, which is right
only while nobody has written in between: what the row locks are for.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from node.delivery.calls import BranchRequest, Reply
from statemachine.commands import BeginGlobal, DecideGlobal, RegisterBranch, ReportBranch
from statemachine.outcomes import BranchRegistered, Rejected
from statemachine.transactions.row_locks import RowLock
from statemachine.transactions.rows import Calls, get_global
from statemachine.transactions.statuses import ENDED, Mode
from tests.simulation.calls import Call, Callers
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.driving import Drivers, members_of
from tests.simulation.world import Violation

ACCOUNTS = 4
OPENED_WITH = 100
HOST = "bank"
RATE_PER_S = 4.0

_TIMEOUT_MS = 3_000
_WAIT_MS = 800


@dataclass(frozen=True, slots=True)
class _Undo:
    """One local transaction: account to balance, before and after."""

    before: dict[int, int]
    after: dict[int, int]


class BankClients:
    """`tests.simulation.clients.Clients` of the bank."""

    def __init__(self, cluster: SimulatedCluster, callers: Callers, drivers: Drivers) -> None:
        self._cluster = cluster
        self.callers = callers
        self.world = cluster.world
        self._drivers = drivers
        self._trouble = self.world.rng.choice((0.0, 0.3))
        self.balances = dict.fromkeys(range(ACCOUNTS), OPENED_WITH)
        self._undo: dict[tuple[str, int], _Undo] = {}
        self._undone: set[tuple[str, int]] = set()
        self.violations: list[str] = []
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

    def change(self, xid: str, branch_id: int, giver: int, taker: int, amount: int) -> bool:
        """Do the local transaction; False: the money is not there, or it was rolled back before."""
        if (xid, branch_id) in self._undone or self.balances[giver] < amount:
            return False
        before = {each: self.balances[each] for each in (giver, taker)}
        after = {giver: before[giver] - amount, taker: before[taker] + amount}
        self._undo[xid, branch_id] = _Undo(before, after)
        self.balances.update(after)
        return True

    def _roll_back(self, request: BranchRequest) -> Reply | None:
        drawn = self.world.rng.random()
        if drawn < self._trouble / 2:
            return None
        headers = dict(request.headers)
        branch = headers["X-Tx-Xid"], int(headers["Tidelock-Branch-Id"])
        undo = self._undo.pop(branch, None)
        self._undone.add(branch)
        if undo is not None:
            if any(self.balances[each] != now for each, now in undo.after.items()):
                self.violations.append(f"somebody wrote what {branch} had locked")
            self.balances.update(undo.before)
            self.counters["bank_undone"] += 1
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
        if self.violations:
            raise Violation(self.violations[0])
        reader = members_of(self._cluster)[0].machine_store
        expected = dict.fromkeys(range(ACCOUNTS), OPENED_WITH)
        for (xid, branch_id), undo in self._undo.items():
            row = get_global(reader, xid)
            if row is None or row.status != "COMMITTED":
                raise Violation(f"branch {branch_id} of {xid} was not undone: {row}")
            for account, balance in undo.after.items():
                expected[account] += balance - undo.before[account]
        if expected != self.balances or sum(expected.values()) != ACCOUNTS * OPENED_WITH:
            raise Violation(f"the balances are {self.balances} and should be {expected}")

    def seen(self) -> Iterable[object]:
        yield from self.begun
        yield from sorted(self.balances.items())


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
        done = self._bank.change(self._xid, branch_id, giver, taker, amount)
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
