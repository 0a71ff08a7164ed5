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
from scripts.tidelock_scripts.chaos.branch_effects import BranchEffects
from statemachine.store import DamagedStateError
from tests.simulation.channels import SimulatedChannels
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.world import Process, SimulatedRuntime, Violation, World

LOCAL = "local"
"""The name of what the sender of a message does by itself."""

TIMEOUT_S = 1.0
"""How long a driver waits for a participant."""

GLOBAL_TIMEOUT_MS = 8_000
"""The longest that a transaction of the clients may stay undecided."""


@dataclass(slots=True)
class Participants:
    """Everybody that is called, on nobody's machine in particular."""

    world: World
    trouble: float = 0.3
    """How much of what is asked goes wrong, from 0 to 1."""
    effects: BranchEffects = field(default_factory=BranchEffects)
    counters: Counter[str] = field(default_factory=Counter)
    healed: bool = False

    def receive(self, request: BranchRequest) -> Reply | None:
        """Do what is asked; None: nobody hears what came of it."""
        rng = self.world.rng
        _, _, name, action = request.url.rsplit("/", 3)
        if action == "query":
            name = LOCAL
        xid = dict(request.headers)["X-Tx-Xid"]
        trouble = 0.0 if self.healed else self.trouble
        drawn = rng.random()
        if drawn < 0.3 * trouble:
            return None  # it never arrived
        if drawn < 0.5 * trouble:
            return Reply(status=rng.choice((500, 503, 404, 302)))
        if drawn < 0.6 * trouble:
            return Reply(status=425)
        status = self.effects.call(xid, name, action)
        self.counters[f"{action} {status}"] += 1
        if drawn < 0.7 * trouble:
            self.effects.call(xid, name, action)  # it was delivered twice
        if drawn < 0.9 * trouble:
            return None  # it is done, and nobody hears of it
        return Reply(status=status, body=b'{"ok":true}')


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
        self,
        cluster: SimulatedCluster,
        reach: Callable[[str], Reach] = lambda _name: nowhere,
        channels: SimulatedChannels | None = None,
    ) -> None:
        """`reach` gives each node's driver what to do at its crash points; None for `channels`:
        no resource manager can connect.
        """
        self._cluster = cluster
        self._reach = reach
        self._channels = channels
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
        managers = None if self._channels is None else self._channels.of(name).calls
        driver = Driver(
            engine,
            runtime,
            sender,
            managers or NobodyConnected(runtime),
            {"": NativeStyle()},
            DriverLimits(calls=32, calls_per_host=16),
            Alerts(sender, ""),
            _damaged,
            self._reach(name),
        )
        if managers is not None:
            managers.on_wake = driver.wake
        driver.start()


def _damaged(error: DamagedStateError) -> None:
    raise Violation(f"the driver met damage: {error}")


def members_of(cluster: SimulatedCluster) -> list[Engine]:
    """The engines of all members that are up."""
    members = (name for name in cluster.names if cluster.is_member(name))
    return [engine for name in members if (engine := cluster.engine(name)) is not None]
