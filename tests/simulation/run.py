"""One seed is one run: a cluster, a workload, faults, and at the end the truth."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.simulation.bank import BankClients
from tests.simulation.calls import Callers
from tests.simulation.channels import SimulatedChannels
from tests.simulation.checks import check
from tests.simulation.clients import Clients
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.defining import DefinitionClients
from tests.simulation.driving import GLOBAL_TIMEOUT_MS, Drivers
from tests.simulation.faults import Faults
from tests.simulation.housekeeping import SimulatedHousekeeping
from tests.simulation.locking import LockClients
from tests.simulation.managing import ResourceManagers
from tests.simulation.objects import ObjectClients
from tests.simulation.recorder import Recorder
from tests.simulation.sequences import SequenceClients
from tests.simulation.transacting import TransactionClients
from tests.simulation.vectors import VectorClients
from tests.simulation.voting import ProposalClients
from tests.simulation.watching import WatchClients
from tests.simulation.workload import Workload
from tests.simulation.world import Violation, World

HEALED_WITHIN_S = 60.0
"""Liveness: after the last fault, everybody agrees again within this time."""

RESOLVED_WITHIN_S = 30.0
"""No transaction is unresolved so long after the later of healing and its own timeout."""

_LOOK_EVERY_S = 0.25

CLIENTS = (
    "locks",
    "sequences",
    "vectors",
    "proposals",
    "watch",
    "transactions",
    "bank",
    "managers",
    "definitions",
    "objects",
)
"""Who may take part beside those of events and of the oracle."""

MIXES: tuple[tuple[str, ...], ...] = (
    (),
    ("locks", "watch"),
    ("sequences", "vectors"),
    ("locks", "sequences"),
    ("vectors", "watch"),
    ("proposals", "watch", "objects"),
    ("transactions", "bank"),
    ("managers", "definitions"),
)
"""Which clients take part: the seeds go through them in turn."""


@dataclass(slots=True)
class Result:
    seed: int
    violation: str | None
    virtual_s: float
    events: int
    fingerprint: str
    """Of everything that was applied and answered: equal for equal seeds."""
    counters: Counter[str] = field(default_factory=Counter)


def run_seed(seed: int, duration_s: float = 30.0, mix: Sequence[str] | None = None) -> Result:
    """Run one seed. Violations are returned, not raised.

    `mix` names the clients that take part beside those of events and the oracle; None: the seed
    tells.
    """
    logging.disable(logging.CRITICAL)
    run = _Run(seed, MIXES[seed % len(MIXES)] if mix is None else mix)
    violation: str | None = None
    try:
        run.run(duration_s)
    except Violation as found:
        violation = str(found)
    finally:
        run.cluster.end()
    return Result(
        seed,
        violation,
        run.world.now - 1000.0,
        run.world.events,
        run.fingerprint(),
        run.counters(),
    )


class _Run:
    """Everything that one seed makes."""

    def __init__(self, seed: int, mix: Sequence[str]) -> None:
        self.world = World(seed)
        rng = self.world.rng
        self.cluster = SimulatedCluster(self.world, rng.choice((3, 3, 5)))
        self.cluster.some_disks_are_quick = True
        self._callers = Callers(self.cluster)
        # The others share the time that a seed may take.
        rate_per_s = rng.choice((20, 60)) / (3 if mix else 1)
        self._workload = Workload(
            self.cluster, self._callers, rate_per_s, large_events=rng.random() < 0.3
        )
        self._faults = Faults(self.cluster, rate_per_s=rng.choice((0.2, 0.5, 1.0)))
        self._clients = self._make_clients(mix)

    def _make_clients(self, mix: Sequence[str]) -> list[Clients]:
        cluster, callers = self.cluster, self._callers
        housekeeping = SimulatedHousekeeping(cluster)
        recorder = Recorder(cluster)
        channels = SimulatedChannels(cluster) if "managers" in mix else None
        drivers = functools.cache(lambda: Drivers(cluster, channels=channels))

        def managers() -> Clients:
            assert channels is not None
            return ResourceManagers(cluster, callers, channels, drivers())

        makers: dict[str, Callable[[], Clients]] = {
            "locks": lambda: LockClients(cluster, callers, recorder),
            "sequences": lambda: SequenceClients(cluster, callers),
            "vectors": lambda: VectorClients(cluster, callers),
            "objects": lambda: ObjectClients(cluster, callers),
            "proposals": lambda: ProposalClients(cluster, rate_per_s=2.0),
            "watch": lambda: WatchClients(cluster, callers, recorder, housekeeping),
            "transactions": lambda: TransactionClients(cluster, callers, drivers()),
            "bank": lambda: BankClients(cluster, callers, drivers()),
            "managers": managers,
            "definitions": lambda: DefinitionClients(cluster, callers, drivers()),
        }
        return [makers[name]() for name in mix]

    def run(self, duration_s: float) -> None:
        """Raises: Violation"""
        world, cluster = self.world, self.cluster
        cluster.start_all()
        cluster.wait_for_leader()
        self._workload.start()
        for clients in self._clients:
            clients.start()
        self._faults.start()
        world.run_until(world.now + duration_s)
        self._faults.heal_everything()
        # Restarts that the faults had planned may still come; they do no harm to who is up.
        world.run_until(world.now + 7.0)
        self._faults.heal_everything()
        self._check_liveness()
        self._workload.running = False
        for clients in self._clients:
            clients.stop()
        self._check_resolved()
        world.run_until(world.now + 8.0)
        cluster.wait_for(self._is_at_rest, HEALED_WITHIN_S, "all nodes agree, nobody waits")
        for name in cluster.names:
            if not cluster.is_member(name):
                # It was removed, or never admitted, and knows nothing of what came afterwards.
                cluster.kill(name)
        check(cluster, self._workload.history, self._callers.calls)
        for clients in self._clients:
            clients.check()

    def _check_liveness(self) -> None:
        """New events are acknowledged again, and whatever else clients ask for is done."""
        events, calls = self._workload.history.counters, self._callers.counters
        events_before, calls_before = events["acknowledged"], calls["done"]
        self.cluster.wait_for(
            lambda: (
                events["acknowledged"] >= events_before + 5 and calls["done"] >= calls_before + 20
            ),
            HEALED_WITHIN_S,
            "new events are acknowledged after everything healed",
        )

    def _check_resolved(self) -> None:
        """What clients have begun is over in time, whatever its own timeout is."""
        world = self.world
        ends_at = world.now + GLOBAL_TIMEOUT_MS / 1000 + RESOLVED_WITHIN_S
        while not all(clients.at_rest() for clients in self._clients):
            if world.now >= ends_at:
                busy = [type(each).__name__ for each in self._clients if not each.at_rest()]
                raise Violation(
                    f"not within {RESOLVED_WITHIN_S} s after its timeout: {', '.join(busy)} rest"
                )
            world.run_until(world.now + _LOOK_EVERY_S)

    def _is_at_rest(self) -> bool:
        return (
            _converged(self.cluster)
            and self._callers.open_calls() == 0
            and all(clients.at_rest() for clients in self._clients)
        )

    def counters(self) -> Counter[str]:
        counters = Counter(self._workload.history.counters)
        counters.update({f"fault_{name}": times for name, times in self._faults.counters.items()})
        counters.update({f"calls_{name}": times for name, times in self._callers.counters.items()})
        for clients in self._clients:
            counters.update(clients.counters)
        for engine in self.cluster.engines():
            counters.update(engine.counters)
        return counters

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        history = self._workload.history
        for write in history.writes:
            digest.update(repr((write.data[:16], write.ended_at, write.lamport)).encode())
        for read in history.reads:
            digest.update(repr((read.participant, read.ended_at, read.lamport)).encode())
        for draw in history.draws:
            digest.update(repr((draw.count, draw.ended_at, draw.first)).encode())
        for clients in self._clients:
            for seen in clients.seen():
                digest.update(repr(seen).encode())
        digest.update(repr((self.world.events, self.world.now)).encode())
        return digest.hexdigest()[:16]


def _converged(cluster: SimulatedCluster) -> bool:
    members = [name for name in cluster.names if cluster.is_member(name)]
    engines = [engine for name in members if (engine := cluster.engine(name)) is not None]
    return (
        cluster.leader() is not None
        and len(engines) == len(members)
        and len({engine.raft.last_applied for engine in engines}) == 1
        and all(
            engine.membership.is_voter and not engine.membership.change_pending
            for engine in engines
        )
        and engines[0].raft.commit_index == engines[0].journal.last()[0]
    )
