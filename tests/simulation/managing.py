"""Resource managers on channels, and clients of transactions whose branches are theirs.

Managers lose their connections, hang, leave, die and come back; they answer late, twice or never.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from node.consensus.engine import Engine
from statemachine.commands import BeginGlobal, DecideGlobal, RegisterBranch, ReportBranch
from statemachine.outcomes import BranchRegistered
from statemachine.transactions.cleaning_rows import resources_to_clean
from statemachine.transactions.rows import Calls, get_branches, get_global
from statemachine.transactions.statuses import ENDED, GlobalStatus, Mode
from tests.simulation.branch_work import BranchKey, Ledger
from tests.simulation.calls import Call, Callers
from tests.simulation.channels import CALL_TIMEOUT_MS, SimulatedChannels, Wire
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.driving import Drivers, members_of
from tests.simulation.world import Violation

MANAGERS = 4
RATE_PER_S = 4.0
RESOURCE = "db"
MODES = (Mode.AT, Mode.TCC, Mode.XA, Mode.LCN)

_TIMEOUT_MS = 3_000
_LOCAL_S = 2.0
"""A local transaction does not wait longer for its branch to be registered."""
_VANISHES = 0.05
_PATIENCE_S = 4.0
"""How long a manager waits to be welcomed."""

_CLOSED_FOR_GOOD = 4410
_REFUSED = (4400, 4429)


class ResourceManagers:
    """`tests.simulation.clients.Clients` of channels."""

    def __init__(
        self,
        cluster: SimulatedCluster,
        callers: Callers,
        channels: SimulatedChannels,
        drivers: Drivers,
        *,
        trouble: float | None = None,
        mishaps_per_s: float = 0.15,
    ) -> None:
        """`trouble`: how much of what managers are asked goes wrong; None: the seed tells.
        `mishaps_per_s` are those of each manager.
        """
        self.cluster = cluster
        self.world = cluster.world
        self.callers = callers
        self.channels = channels
        self._drivers = drivers
        self.trouble = self.world.rng.choice((0.0, 0.2, 0.5)) if trouble is None else trouble
        self.mishaps_per_s = mishaps_per_s
        self.ledger = Ledger()
        self.counters: Counter[str] = Counter()
        self.begun: list[str] = []
        self.lives = itertools.count(1)
        self.running = False
        self._numbers = itertools.count()
        self.managers = [_Manager(self, number) for number in range(MANAGERS)]

    def start(self) -> None:
        self.running = True
        for manager in self.managers:
            self.world.at(self.world.rng.uniform(0.0, 1.0), manager.connect)
            manager.expect_mishap()
        self._next()

    def stop(self) -> None:
        self.running = False
        self.trouble = 0.0
        self._drivers.healed = True

    def _next(self) -> None:
        if self.running:
            xid = f"rm.{next(self._numbers)}"
            self.begun.append(xid)
            _Unit(self, xid).begin()
            self.world.at(self.world.rng.expovariate(RATE_PER_S), self._next)

    def connected(self) -> list[_Manager]:
        return [manager for manager in self.managers if manager.is_welcome]

    # --- the end

    def at_rest(self) -> bool:
        """Everything has ended and is cleaned up, and every manager is connected."""
        return len(self.connected()) == MANAGERS and all(
            not resources_to_clean(engine.machine_store, "", 1) and self._have_ended(engine)
            for engine in members_of(self.cluster)
        )

    def _have_ended(self, engine: Engine) -> bool:
        rows = (get_global(engine.machine_store, xid) for xid in self.begun)
        ended = ENDED | {GlobalStatus.COMMIT_FAILED}
        return all(row is None or row.status in ended for row in rows)

    def check(self) -> None:
        """Every branch ended as its transaction did."""
        if self.ledger.broken:
            raise Violation(self.ledger.broken[0])
        reader = members_of(self.cluster)[0].machine_store
        for xid in self.begun:
            row, branches = get_global(reader, xid), get_branches(reader, xid)
            status = "never begun" if row is None else row.status
            self.counters[f"managers_{status}"] += 1
            wrong = self.ledger.found_wrong(row, branches, xid)
            if wrong is not None:
                raise Violation(f"{xid} is {status} and {wrong}")

    def seen(self) -> Iterable[object]:
        yield from self.begun
        for key, work in self.ledger.work.items():
            yield key, work.mode, work.state


class _Manager:
    """A place where one process of a resource manager runs after the other."""

    def __init__(self, clients: ResourceManagers, number: int) -> None:
        self._clients = clients
        self._world = clients.world
        self._number = number
        self._instance = f"i{number}" if number % 2 else ""
        self._wire: Wire | None = None
        self._hangs_until = 0.0
        self._greatest_epoch = 0
        self.life = next(clients.lives)
        self.session_id = 0
        self.is_welcome = False

    # --- its connection

    def connect(self) -> None:
        """Connect to any node and register with the session that it had."""
        if self._wire is not None:
            return
        name = self._world.rng.choice(self._clients.cluster.names)
        life = self.life

        def hear(message: bytes) -> None:
            self._when_awake(life, lambda: self._hear(wire, json.loads(message)))

        def end(code: int) -> None:
            self._when_awake(life, lambda: self._ended(wire, code))

        wire = self._wire = self._clients.channels.connect(name, hear, end)
        if wire is None:
            self._connect_soon()
            return
        register = {
            "type": "register",
            "applicationId": f"app{self._number % 2}",
            "host": "h",
            "instance": self._instance,
            "resources": [RESOURCE],
            "modes": [mode.value for mode in MODES],
            "sessionId": self.session_id,
            "cleanBatch": 1 + 9 * (self._number % 2),
        }
        wire.say(json.dumps(register).encode())
        self._world.at(_PATIENCE_S, lambda: self._lose_patience(wire))

    def _connect_soon(self) -> None:
        self._world.at(self._world.rng.uniform(0.05, 0.4), self.connect)

    def _lose_patience(self, wire: Wire) -> None:
        if self._wire is wire and not self.is_welcome:
            self.hang_up()

    def hang_up(self) -> None:
        wire, self._wire = self._wire, None
        self.is_welcome = False
        if wire is not None:
            wire.cut()
        self._connect_soon()

    def _ended(self, wire: Wire | None, code: int) -> None:
        if self._wire is not wire:
            return
        self._clients.counters[f"managers_closed_{code}"] += 1
        if code in (_CLOSED_FOR_GOOD, *_REFUSED):
            self._give_up_session()
        self._wire = None
        self.is_welcome = False
        self._connect_soon()

    def _welcomed(self, welcome: dict[str, Any]) -> None:
        if self.session_id and not welcome["resumed"]:
            self._give_up_session()
        self._clients.counters["managers_resumed"] += welcome["resumed"]
        self.session_id = welcome["sessionId"]
        self.is_welcome = True

    def _give_up_session(self) -> None:
        """Its session has ended: what it holds open is rolled back before anything else.

        Nobody says that a transaction is committed whose work was never said to be.
        """
        self._clients.ledger.lose_process(self.life)
        self.session_id = 0

    # --- what befalls it

    def expect_mishap(self) -> None:
        self._world.at(self._world.rng.expovariate(self._clients.mishaps_per_s), self._suffer)

    def _suffer(self) -> None:
        if not self._clients.running:
            return
        kind = self._world.rng.choice(("break", "break", "die", "leave", "hang"))
        self._clients.counters[f"managers_{kind}"] += 1
        match kind:
            case "break":
                self.hang_up()
            case "die":
                self._begin_again()
                self.hang_up()
            case "leave":
                self._leave()
            case "hang":
                self._hangs_until = self._world.now + self._world.rng.uniform(0.5, 4.0)
        self.expect_mishap()

    def _leave(self) -> None:
        """End in order; the message is on its way before the connection ends."""
        wire, self._wire = self._wire, None
        if wire is not None:
            if self.is_welcome:
                wire.say(b'{"type": "leave"}')
            self._world.at(0.1, wire.cut)
        self.is_welcome = False
        self._begin_again()
        self._connect_soon()

    def _begin_again(self) -> None:
        """Its process is another one from now on."""
        self._give_up_session()
        self.life = next(self._clients.lives)
        self._greatest_epoch = 0
        self._hangs_until = 0.0

    def _when_awake(self, life: int, then: Callable[[], None]) -> None:
        """Do what a process does that may hang just now, unless it dies before."""

        def go_on() -> None:
            if self.life == life:
                self._when_awake(life, then)

        if self._world.now < self._hangs_until:
            self._world.at(self._hangs_until - self._world.now, go_on)
        else:
            then()

    # --- what it is asked

    def _hear(self, wire: Wire | None, message: dict[str, Any]) -> None:
        if self._wire is not wire or wire is None:
            return
        if message["type"] == "welcome":
            self._welcomed(message)
        elif "requestId" in message:
            self._called(wire, message)

    def _called(self, wire: Wire, call: dict[str, Any]) -> None:
        rng = self._world.rng
        drawn = rng.random() / self._clients.trouble if self._clients.trouble else 1.0
        self._clients.counters[f"managers_{call['type']}"] += 1
        if drawn < 0.2:
            return  # it is lost on its way
        if drawn < 0.4 and call["type"] in ("branch-commit", "branch-rollback"):
            what = call["type"].removeprefix("branch-").upper()
            self._reply(wire, call, {"status": f"{what}_FAILED_RETRYABLE"})
            return
        answer = self._answer(call)
        if drawn < 0.6:
            return  # it is done, and nobody hears of it
        late_s = rng.uniform(0.0, 3 * CALL_TIMEOUT_MS / 1000) if drawn < 0.8 else 0.0
        life = self.life
        times = 2 if 0.7 < drawn < 0.9 else 1
        for _ in range(times):
            self._world.at(
                late_s, lambda: self._when_awake(life, lambda: self._reply(wire, call, answer))
            )

    def _reply(self, wire: Wire, call: dict[str, Any], answer: dict[str, Any]) -> None:
        """Answer on the connection on which it was asked."""
        if self._wire is wire:
            result = {"type": "result", "requestId": call["requestId"], **answer}
            wire.say(json.dumps(result).encode())

    def _answer(self, call: dict[str, Any]) -> dict[str, Any]:
        ledger = self._clients.ledger
        kind = call["type"]
        if kind == "sweep":
            # The ledger takes no work that comes too late, so there is nothing to look for.
            return {"status": "CLEAN_FAILED", "notFound": True}
        if kind == "clean":
            for each in call.get("branches", [call]):
                cleaned = (each["xid"], each["branchId"])
                ledger.find(cleaned, Mode(each["mode"]))
                ledger.clean(cleaned)
            return {"status": "CLEANED"}
        key = (call["xid"], call["branchId"])
        ledger.find(key, Mode(call["mode"]))
        if kind == "branch-status":
            return {"status": ledger.status(key)}
        if call["epoch"] < self._greatest_epoch:
            what = kind.removeprefix("branch-").upper()
            return {"status": f"{what}_FAILED_RETRYABLE", "detail": "another leader asked since"}
        self._greatest_epoch = call["epoch"]
        if kind == "branch-commit":
            return {"status": ledger.commit(key, self.life)}
        status = ledger.roll_back(key, self.life)
        if not status:
            return {"status": "ROLLBACK_FAILED_RETRYABLE", "notFound": True}
        return {"status": status}


class _Unit:
    """A transaction manager, and one local transaction after the other."""

    def __init__(self, clients: ResourceManagers, xid: str) -> None:
        self._clients = clients
        self._xid = xid
        self._rng = clients.world.rng
        self._left = self._rng.randint(1, 3)

    def begin(self) -> None:
        command = BeginGlobal(xid=self._xid, prefix="", name="", timeout_ms=_TIMEOUT_MS)
        self._clients.callers.call(command, self._go_on, keyed=True)

    def _go_on(self, call: Call) -> None:
        if call.result is None or self._rng.random() < _VANISHES:
            return  # its time will be up
        connected = self._clients.connected()
        if self._left and connected:
            self._left -= 1
            self._register(self._rng.choice(connected), self._rng.choice(MODES))
        else:
            self._decide(commit=self._rng.random() < 0.75)

    def _register(self, manager: _Manager, mode: Mode) -> None:
        asked_at = self._clients.world.now
        life, session_id = manager.life, manager.session_id
        register = RegisterBranch(
            xid=self._xid,
            mode=mode,
            resource_id=RESOURCE,
            locks=(),
            wait_ms=0,
            application_id="",
            unit_id="",
            session_id=session_id,
            application_data=b"",
            calls=Calls(),
        )

        def registered(call: Call) -> None:
            result = call.result
            if not isinstance(result, BranchRegistered):
                self._decide(commit=False)
                return
            key = (self._xid, result.branch_id)
            # Phase two may have been told already.
            self._clients.ledger.find(key, mode, owner=life)
            self._clients.world.at(self._rng.uniform(0.0, 0.1), lambda: work(key))

        def work(key: BranchKey) -> None:
            in_time = self._clients.world.now - asked_at < _LOCAL_S
            alive = manager.life == life and manager.session_id == session_id
            done = alive and in_time and self._clients.ledger.begin(key)
            self._report(key, done=done)

        self._clients.callers.call(register, registered, keyed=True)

    def _report(self, key: BranchKey, *, done: bool) -> None:
        report = ReportBranch(
            xid=self._xid,
            branch_id=key[1],
            status="PHASE_ONE_DONE" if done else "PHASE_ONE_FAILED",
            application_data=None,
            failure=None,
        )

        def reported(call: Call) -> None:
            if call.result is None:
                self._clients.ledger.refuse(key)
            elif done:
                self._clients.ledger.work[key].acknowledged = True
            self._go_on(call)

        self._clients.callers.call(report, reported, keyed=True)

    def _decide(self, *, commit: bool) -> None:
        decide = DecideGlobal(
            xid=self._xid, commit=commit, reason="", wait_ms=0, reports_expected=True
        )
        self._clients.callers.call(decide, self._decided, keyed=True)

    def _decided(self, call: Call) -> None:
        told = "decided" if call.result else "not_decided"
        self._clients.counters[f"managers_{told}"] += 1
