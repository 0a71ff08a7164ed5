"""Transactions that the cluster runs, under faults: the node's own driver, simulated participants.

A participant is idempotent, as it must be: it keeps a fence on each branch. Beside that it may
answer late, twice or not at all, refuse, be at it for a while, or fail after it has done its work.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from node.consensus.engine import Engine
from node.consensus.proposals import Answer
from node.delivery.alerts import Alerts
from node.delivery.calls import BranchRequest, Cancel, Reply
from node.delivery.crash_points import Reach, nowhere
from node.delivery.delivery import NobodyConnected
from node.delivery.driver import Driver, DriverLimits
from node.delivery.native import NativeStyle
from statemachine.codec import encode_request
from statemachine.commands import (
    AnyCommand,
    BeginGlobal,
    DecideGlobal,
    FireTimers,
    RegisterBranch,
    ReportBranch,
    Request,
    RunGlobal,
    Step,
)
from statemachine.outcomes import Applied, BranchRegistered, RequestOutcome
from statemachine.store import DamagedStateError
from statemachine.timers import due_timers
from statemachine.transactions.rows import Calls, Global, RetryRule, get_branches, get_global
from statemachine.transactions.statuses import ENDED, Mode
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.world import Process, SimulatedRuntime, Violation, World

TIMEOUT_S = 1.0
"""How long a driver waits for a participant."""

GLOBAL_TIMEOUT_MS = 8_000
_CLIENT_S = 3.0
_TIMERS_S = 0.2
_RULE = RetryRule(interval_ms=100, greatest_interval_ms=800)


@dataclass(slots=True)
class BranchEffect:
    """What a participant did for one branch: its fence row, and what it counts."""

    depends_on: tuple[str, ...] = ()
    done: int = 0
    undone: int = 0
    confirmed: int = 0
    fenced: bool = False
    """It was rolled back before anything was done: what comes late is refused."""

    @property
    def stands(self) -> bool:
        return self.done > self.undone


@dataclass(slots=True)
class Participants:
    """Everybody that is called, on nobody's machine in particular."""

    world: World
    trouble: float = 0.3
    """How much of what is asked goes wrong, from 0 to 1."""
    effects: dict[tuple[str, str], BranchEffect] = field(default_factory=dict)
    """By xid and step."""
    counters: Counter[str] = field(default_factory=Counter)
    greatest_epoch: int = 0
    after_decision: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    healed: bool = False

    def receive(self, request: BranchRequest) -> Reply | None:
        """Do what is asked; None: nobody hears what came of it."""
        rng = self.world.rng
        self.counters["calls"] += 1
        _, _, name, action = request.url.rsplit("/", 3)
        headers = dict(request.headers)
        key = (headers["X-Tx-Xid"], name)
        trouble = 0.0 if self.healed else self.trouble
        drawn = rng.random()
        if drawn < 0.3 * trouble:
            return None  # it never arrived
        if drawn < 0.5 * trouble:
            return Reply(status=rng.choice((500, 503, 404, 302)))
        if drawn < 0.6 * trouble:
            return Reply(status=425)
        status = self._do(key, action)
        if drawn < 0.7 * trouble:
            self._do(key, action)  # it was delivered twice
        if drawn < 0.9 * trouble:
            return None  # it is done, and nobody hears of it
        return Reply(status=status, body=b'{"ok":true}')

    def _do(self, key: tuple[str, str], action: str) -> int:
        effect = self.effects.setdefault(key, BranchEffect())
        match action:
            case "do" | "refuse":
                return self._forward(key, effect, refuses=action == "refuse")
            case "commit":
                if not effect.stands:
                    self.violations.append(f"{key} is confirmed and was never tried")
                effect.confirmed = 1
            case "undo":
                self._check_undone_after(key)
                if effect.confirmed:
                    self.violations.append(f"{key} is cancelled after it was confirmed")
                if effect.done:
                    effect.undone = effect.done
                effect.fenced = True
        self.counters[action] += 1
        return 200

    def _forward(self, key: tuple[str, str], effect: BranchEffect, *, refuses: bool) -> int:
        if effect.fenced or refuses:
            self.counters["refused"] += 1
            return 409
        self._check_order(key)
        effect.done = 1
        return 200

    def _check_undone_after(self, key: tuple[str, str]) -> None:
        """A step is undone when nothing stands any more that stood on it."""
        xid, name = key
        step = name.partition("<")[0]
        for (other_xid, other), effect in self.effects.items():
            if other_xid == xid and other.partition("<")[2] == step and effect.stands:
                self.violations.append(f"{key} was undone before {other}")

    def _check_order(self, key: tuple[str, str]) -> None:
        """Steps are named `name<after`: a step runs when the one before it is done."""
        xid, name = key
        _, _, before = name.partition("<")
        if before:
            others = [
                effect
                for (other_xid, other), effect in self.effects.items()
                if other_xid == xid and other.partition("<")[0] == before
            ]
            if not any(effect.done for effect in others):
                self.violations.append(f"{key} ran before {before}")


class SimulatedSender:
    """`calls.Sender` of one incarnation of a node."""

    def __init__(self, world: World, process: Process, participants: Participants) -> None:
        self._world = world
        self._process = process
        self._participants = participants

    def send(
        self,
        request: BranchRequest,
        may_go: Callable[[], bool],
        on_reply: Callable[[Reply], None],
    ) -> Cancel:
        cancelled = False
        rng = self._world.rng

        def cancel() -> None:
            nonlocal cancelled
            cancelled = True

        def go() -> None:
            if cancelled:
                return
            if not may_go():
                on_reply(Reply(failure_type="NOT_SENT"))
                return
            # From here on it is under way, whatever becomes of this node.
            self._world.at(self._latency_s(), arrive)

        def arrive() -> None:
            reply = self._participants.receive(request)
            if reply is None:
                reply = Reply(failure_type="TIMEOUT", failure_message="no answer")
                delay_s = TIMEOUT_S
            else:
                delay_s = self._latency_s()
            if rng.random() < 0.02 and not self._participants.healed:
                # A copy that comes much later, when everything may be over.
                self._world.at(rng.uniform(0.5, 6.0), copy)
            self._world.at_node(self._process, delay_s, lambda: answer(reply))

        def copy() -> None:
            self._participants.receive(request)

        def answer(reply: Reply) -> None:
            if not cancelled:
                on_reply(reply)

        self._world.at_node(self._process, 0.0001, go)
        return cancel

    def _latency_s(self) -> float:
        return self._world.rng.uniform(0.001, 0.03)


class SimulatedDriving:
    """The driver of one incarnation of a node, and what fires the timers while that leads."""

    def __init__(
        self,
        cluster: SimulatedCluster,
        name: str,
        engine: Engine,
        participants: Participants,
        reach: Reach = nowhere,
    ) -> None:
        process = cluster.nodes[name].process
        self._engine = engine
        self._runtime = runtime = SimulatedRuntime(cluster.world, process)
        self._firing = False
        sender = SimulatedSender(cluster.world, process, participants)
        self.driver = Driver(
            engine,
            runtime,
            sender,
            NobodyConnected(runtime),
            {"": NativeStyle()},
            DriverLimits(calls=32, calls_per_host=16),
            Alerts(sender, ""),
            _damaged,
            reach,
        )
        self.driver.start()
        runtime.call_later(_TIMERS_S, self._fire)

    def _fire(self) -> None:
        self._runtime.call_later(_TIMERS_S, self._fire)
        engine = self._engine
        if self._firing or not engine.leader_ready:
            return
        due = due_timers(engine.machine_store, engine.stamps.elapsed_ms())
        if due:
            self._firing = True
            submit(engine, [FireTimers(timers=due)], self._fired)

    def _fired(self, _: Answer) -> None:
        self._firing = False


def _damaged(error: DamagedStateError) -> None:
    raise Violation(f"the driver met damage: {error}")


def submit(
    engine: Engine, commands: Sequence[AnyCommand], on_answer: Callable[[Answer], None]
) -> None:
    expires_at_ms = engine.stamps.elapsed_ms() + int(_CLIENT_S * 2000)
    request = encode_request(Request(expires_at_ms, None, tuple(commands)))
    engine.propose_internal(request, engine.now() + _CLIENT_S, on_answer)


@dataclass(slots=True)
class TransactionClients:
    """Begin sagas, TCCs and transactions of their own through any node; some clients vanish."""

    cluster: SimulatedCluster
    participants: Participants
    rate_per_s: float = 5.0
    running: bool = False
    begun: list[str] = field(default_factory=list)
    counters: Counter[str] = field(default_factory=Counter)
    reach: Callable[[str], Reach] = lambda _name: nowhere
    """Gives each node's driver what to do at its crash points."""
    on_attached: Callable[[Engine], None] = lambda _engine: None
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def start(self) -> None:
        self.running = True
        self.cluster.on_started.append(self.attach)
        self._next()

    def attach(self, name: str) -> None:
        engine = self.cluster.nodes[name].engine
        assert engine is not None
        SimulatedDriving(self.cluster, name, engine, self.participants, self.reach(name))
        self.on_attached(engine)

    def _next(self) -> None:
        world = self.cluster.world
        if self.running:
            self.begin(world.rng.choice(("SAGA", "SAGA", "TCC", "CLIENT")))
            world.at(world.rng.expovariate(self.rate_per_s), self._next)

    def begin(self, program: str) -> None:
        rng = self.cluster.world.rng
        name = rng.choice(self.cluster.names)
        engine = self.cluster.engine(name)
        if engine is None or engine.membership.in_force is None:
            return
        xid = f"{program}.{next(self._numbers)}"
        self.begun.append(xid)
        if program == "CLIENT":
            self.cluster.run_as(name, lambda: _Manager(self, name, engine, xid).begin())
            return
        command = RunGlobal(
            xid=xid,
            prefix="",
            name="",
            program=program,
            steps=tuple(steps(rng, program)),
            timeout_ms=rng.choice((0, GLOBAL_TIMEOUT_MS, 1_500)),
            wait_ms=0,
            in_order=False,
            compensate_failed=rng.random() < 0.2,
            forward_recovery=False,
        )
        self.cluster.run_as(name, lambda: submit(engine, [command], self._answered))

    def _answered(self, answer: Answer) -> None:
        self.counters["begun" if isinstance(answer, RequestOutcome) else "unknown"] += 1


class _Manager:
    """A transaction manager of its own: registers branches, tries them, decides or vanishes."""

    def __init__(self, clients: TransactionClients, name: str, engine: Engine, xid: str) -> None:
        self._clients = clients
        self._name = name
        self._engine = engine
        self._xid = xid
        self._left = [f"b{number}" for number in range(clients.cluster.world.rng.randint(1, 3))]

    def begin(self) -> None:
        command = BeginGlobal(xid=self._xid, prefix="", name="", timeout_ms=3_000)
        submit(self._engine, [command], self._go_on)

    def _go_on(self, answer: Answer) -> None:
        outcome = answer.outcomes[0] if isinstance(answer, RequestOutcome) else None
        rng = self._clients.cluster.world.rng
        if not isinstance(outcome, Applied) or rng.random() < 0.1:
            self._clients.counters["vanished"] += 1
            return
        if self._left:
            self._register(self._left.pop())
        else:
            decide = DecideGlobal(
                xid=self._xid,
                commit=rng.random() < 0.7,
                reason="",
                wait_ms=0,
                reports_expected=True,
            )
            submit(self._engine, [decide], lambda _: None)

    def _register(self, branch: str) -> None:
        url = f"http://p/{branch}"
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

        def registered(answer: Answer) -> None:
            outcome = answer.outcomes[0] if isinstance(answer, RequestOutcome) else None
            result = outcome.result if isinstance(outcome, Applied) else None
            if not isinstance(result, BranchRegistered):
                return
            request = BranchRequest(url=f"{url}/do", headers=(("X-Tx-Xid", self._xid),))
            reply = self._clients.participants.receive(request)
            done = reply is not None and reply.status == 200
            report = ReportBranch(
                xid=self._xid,
                branch_id=result.branch_id,
                status="PHASE_ONE_DONE" if done else "PHASE_ONE_FAILED",
                application_data=None,
                failure=None,
            )
            submit(self._engine, [report], self._go_on)

        submit(self._engine, [register], registered)


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
        url = f"http://p/{name}"
        forward = "refuse" if number == refusing else "do"
        commit = f"{url}/commit" if program == "TCC" else ""
        found.append(
            Step(
                name=name,
                calls=Calls(f"{url}/{forward}", commit, f"{url}/undo"),
                payload=b"",
                depends_on=before,
                timeout_ms=0,
                retry=RetryRule(
                    rng.choice((-1, -1, 3)), _RULE.interval_ms, _RULE.greatest_interval_ms
                ),
            )
        )
    return found


def all_ended(cluster: SimulatedCluster, clients: TransactionClients) -> bool:
    """Every member knows of every transaction that it has ended, and none is behind."""
    members = [name for name in cluster.names if cluster.is_member(name)]
    engines = [engine for name in members if (engine := cluster.engine(name)) is not None]
    if cluster.leader() is None or len(engines) != len(members):
        return False
    for engine in engines:
        rows = (get_global(engine.machine_store, xid) for xid in clients.begun)
        if any(row is not None and row.status not in ENDED for row in rows):
            return False
    return len({engine.raft.last_applied for engine in engines}) == 1


def check_transactions(cluster: SimulatedCluster, clients: TransactionClients) -> Counter[str]:
    """Return how many transactions ended how.

    Raises:
        Violation: one of them is neither done as a whole nor undone as a whole.
    """
    for name in cluster.names:
        if not cluster.is_member(name):
            # It was removed, or never admitted, and knows nothing of what came afterwards.
            cluster.kill(name)
    participants = clients.participants
    if participants.violations:
        raise Violation(participants.violations[0])
    ended: Counter[str] = Counter()
    for xid in clients.begun:
        rows = [get_global(engine.machine_store, xid) for engine in cluster.engines()]
        if any(row != rows[0] for row in rows):
            raise Violation(f"nodes differ about {xid}")
        row = rows[0]
        if row is None:
            _check_untouched(participants, xid)
        else:
            ended[row.status] += 1
            _check_effects(cluster.engines()[0], participants, row)
    return ended


def _check_untouched(participants: Participants, xid: str) -> None:
    if any(effect.stands for (of, _), effect in participants.effects.items() if of == xid):
        raise Violation(f"{xid} was never begun, and something was done for it")


def _check_effects(engine: Engine, participants: Participants, row: Global) -> None:
    committed = row.status == "COMMITTED"
    branches = get_branches(engine.machine_store, row.xid)
    called = {name for xid, name in participants.effects if xid == row.xid}
    if committed and row.program in ("SAGA", "TCC"):
        called |= {branch.name for branch in branches}
    for name in sorted(called):
        effect = participants.effects.get((row.xid, name), BranchEffect())
        if effect.stands != committed:
            raise Violation(f"{row.xid} is {row.status} and {name} did {effect}")
        if committed and row.program in ("TCC", "CLIENT") and not effect.confirmed:
            raise Violation(f"{row.xid} is {row.status} and {name} was not confirmed: {effect}")
