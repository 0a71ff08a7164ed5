"""The node's own driver in simulated nodes, and participants that make its life hard.

A participant is idempotent, as it must be: it keeps a fence on each branch. Beside that it may
answer late, twice or not at all, refuse, be at it for a while, or fail after it has done its work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from node.consensus.engine import Engine
from node.delivery.alerts import Alerts
from node.delivery.calls import BranchRequest, Cancel, Reply
from node.delivery.crash_points import Reach, nowhere
from node.delivery.delivery import NobodyConnected
from node.delivery.driver import Driver, DriverLimits
from node.delivery.native import NativeStyle
from statemachine.store import DamagedStateError
from statemachine.transactions.rows import RetryRule
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
        if action == "query":
            name = "local"
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
            case "query":
                # A question closes the door: work that was not done by now will not be.
                effect.fenced = True
                self.counters[action] += 1
                return 200 if effect.stands else 409
        self.counters[action] += 1
        return 200

    def work(self, xid: str) -> bool:
        """Do the local work that a message tells of; False: somebody has asked for it before."""
        key = (xid, "local")
        effect = self.effects.setdefault(key, BranchEffect())
        return self._forward(key, effect, refuses=False) == 200

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

    def __init__(self, world: World, process: Process, drivers: Drivers) -> None:
        self._world = world
        self._process = process
        self._drivers = drivers

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
            reply = self._drivers.receive(request)
            if reply is None:
                reply = Reply(failure_type="TIMEOUT", failure_message="no answer")
                delay_s = TIMEOUT_S
            else:
                delay_s = self._latency_s()
            if rng.random() < 0.02 and not self._drivers.healed:
                # A copy that comes much later, when everything may be over.
                self._world.at(rng.uniform(0.5, 6.0), copy)
            self._world.at_node(self._process, delay_s, lambda: answer(reply))

        def copy() -> None:
            self._drivers.receive(request)

        def answer(reply: Reply) -> None:
            if not cancelled:
                on_reply(reply)

        self._world.at_node(self._process, 0.0001, go)
        return cancel

    def _latency_s(self) -> float:
        return self._world.rng.uniform(0.001, 0.03)


class Drivers:
    """The drivers of all nodes, each of one incarnation, and whom they call.

    Whoever is to be called says so for a host: `http://p/…` leads to `hosts["p"]`.
    """

    def __init__(
        self, cluster: SimulatedCluster, reach: Callable[[str], Reach] = lambda _name: nowhere
    ) -> None:
        """`reach` gives each node's driver what to do at its crash points."""
        self._cluster = cluster
        self._reach = reach
        self.hosts: dict[str, Callable[[BranchRequest], Reply | None]] = {}
        self.healed = False
        """Nothing is delivered late any more."""
        cluster.on_started.append(self._attach)

    def receive(self, request: BranchRequest) -> Reply | None:
        """Deliver a request; None: nobody hears what came of it."""
        return self.hosts[request.url.split("/", 3)[2]](request)

    def _attach(self, name: str) -> None:
        cluster = self._cluster
        engine, process = cluster.nodes[name].engine, cluster.nodes[name].process
        assert engine is not None
        runtime = SimulatedRuntime(cluster.world, process)
        sender = SimulatedSender(cluster.world, process, self)
        driver = Driver(
            engine,
            runtime,
            sender,
            NobodyConnected(runtime),
            {"": NativeStyle()},
            DriverLimits(calls=32, calls_per_host=16),
            Alerts(sender, ""),
            _damaged,
            self._reach(name),
        )
        driver.start()


def _damaged(error: DamagedStateError) -> None:
    raise Violation(f"the driver met damage: {error}")


def members_of(cluster: SimulatedCluster) -> list[Engine]:
    """The engines of all members that are up."""
    members = (name for name in cluster.names if cluster.is_member(name))
    return [engine for name in members if (engine := cluster.engine(name)) is not None]
