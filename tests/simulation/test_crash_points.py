"""A leader dies at each named point of its work, and no transaction is left half done.

Points of the driver are in `node.delivery.crash_points`. Those of the coordinator are the events of
timelines: the process dies in the middle of applying the entry in which one happens, or when the
entry is applied and nobody has been told.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

import pytest

from node.consensus.engine import Engine
from node.delivery.crash_points import CrashPoint, Reach, nowhere
from statemachine.transactions.transaction import Transaction
from tests.simulation.calls import Callers
from tests.simulation.channels import SimulatedChannels
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.defining import DefinitionClients
from tests.simulation.driving import Drivers
from tests.simulation.housekeeping import SimulatedHousekeeping
from tests.simulation.managing import ResourceManagers
from tests.simulation.transacting import TransactionClients
from tests.simulation.world import Process, ProcessStopped, World

P = CrashPoint

OF_THE_DRIVER = [
    (P.ACCEDED, "", ""),
    (P.FOUND_RECORDED, "", ""),
    (P.LOOKED_AT, "BEGIN", ""),
    (P.LOOKED_AT, "COMMITTING", ""),
    (P.LOOKED_AT, "COMMIT_RETRYING", ""),
    (P.LOOKED_AT, "ROLLING_BACK", ""),
    (P.LOOKED_AT, "ROLLBACK_RETRYING", ""),
    (P.LOOKED_AT, "TIMEOUT_ROLLING_BACK", ""),
    (P.CALL_BEGUN, "FORWARD", ""),
    (P.CALL_BEGUN, "COMMIT", ""),
    (P.CALL_BEGUN, "ROLLBACK", ""),
    (P.CALL_SENT, "FORWARD", ""),
    (P.CALL_SENT, "COMMIT", ""),
    (P.CALL_SENT, "ROLLBACK", ""),
    (P.ANSWERED, "FORWARD", "DONE"),
    (P.ANSWERED, "FORWARD", "FAILED"),
    (P.ANSWERED, "FORWARD", "RETRY"),
    (P.ANSWERED, "FORWARD", "ONGOING"),
    (P.ANSWERED, "COMMIT", "DONE"),
    (P.ANSWERED, "COMMIT", "RETRY"),
    (P.ANSWERED, "COMMIT", "ONGOING"),
    (P.ANSWERED, "ROLLBACK", "DONE"),
    (P.ANSWERED, "ROLLBACK", "RETRY"),
    (P.ANSWERED, "ROLLBACK", "ONGOING"),
    (P.CALL_SENT, "QUERY", ""),
    (P.ANSWERED, "QUERY", "DONE"),
    (P.ANSWERED, "QUERY", "FAILED"),
    (P.ANSWERED, "QUERY", "RETRY"),
    (P.TAKEN, "QUERY", ""),
    (P.REPORT_GATHERED, "FORWARD", ""),
    (P.REPORT_GATHERED, "COMMIT", ""),
    (P.REPORT_GATHERED, "ROLLBACK", ""),
    (P.PROPOSED, "ReportCalls", ""),
    (P.PROPOSED, "RecordRecoveries", ""),
    (P.TAKEN, "FORWARD", ""),
    (P.TAKEN, "COMMIT", ""),
    (P.TAKEN, "ROLLBACK", ""),
    (P.WAITING, "", ""),
    (P.RESIGNED, "", ""),
]

OF_THE_COORDINATOR = [
    "BEGIN",
    "REGISTERED",
    "PHASE_ONE_DONE",
    "PHASE_ONE_FAILED",
    "WITHDRAWN",
    "COMMITTING",
    "COMMIT_RETRYING",
    "PHASE_TWO_COMMIT_FAILED_RETRYABLE",
    "PHASE_TWO_COMMITTED",
    "COMMITTED",
    "ROLLING_BACK",
    "ROLLBACK_RETRYING",
    "PHASE_TWO_ROLLBACK_FAILED_RETRYABLE",
    "PHASE_TWO_ROLLED_BACK",
    "ROLLED_BACK",
    "TIMEOUT_ROLLING_BACK",
    "TIMEOUT_ROLLBACK_RETRYING",
    "TIMEOUT_ROLLED_BACK",
    "RECOVERED",
]

OF_CHANNELS = [
    (P.LOOKED_AT, "ASYNC_COMMITTING", ""),
    (P.CALL_BEGUN, "COMMIT", ""),
    (P.CALL_BEGUN, "ROLLBACK", ""),
    (P.ANSWERED, "COMMIT", "DONE"),
    (P.ANSWERED, "COMMIT", "RETRY"),
    (P.ANSWERED, "ROLLBACK", "DONE"),
    (P.ANSWERED, "ROLLBACK", "RETRY"),
    (P.TAKEN, "COMMIT", ""),
    (P.TAKEN, "ROLLBACK", ""),
]
"""Points of branches of AT, TCC, XA and LCN whose resource managers are on channels."""

OF_DEFINITIONS = [
    (P.LOOKED_AT, "BEGIN", ""),
    (P.CALL_SENT, "FORWARD", ""),
    (P.ANSWERED, "FORWARD", "DONE"),
    (P.ANSWERED, "FORWARD", "FAILED"),
    (P.ANSWERED, "FORWARD", "RETRY"),
    (P.TAKEN, "FORWARD", ""),
    (P.CALL_SENT, "ROLLBACK", ""),
    (P.ANSWERED, "ROLLBACK", "DONE"),
    (P.TAKEN, "ROLLBACK", ""),
]
"""Points of sagas that follow definitions."""

OF_THE_COORDINATOR_OF_CHANNELS = [
    "ASYNC_COMMITTING",
    "BRANCH_STATUS",
    "COMMIT_RETRYING",
    "PHASE_TWO_ROLLED_BACK",
    "RECOVERED",
]

CRASHES = 3
"""How often the leader of the moment dies at the point."""

_CRASHED = "crashed at "


class Crashes:
    """Ends the process that reaches the point while it leads, and starts it again later."""

    def __init__(self, cluster: SimulatedCluster, *, power_loss: bool) -> None:
        self.cluster = cluster
        self.count = 0
        self._power_loss = power_loss
        self._not_before = 0.0
        self._otherwise = cluster.world.on_process_stopped
        cluster.world.on_process_stopped = self._stopped

    def reached(self, where: str) -> None:
        """A leader is at the point. Raises: ProcessStopped"""
        world = self.cluster.world
        if self.count < CRASHES and world.now >= self._not_before:
            self.count += 1
            self._not_before = world.now + 2.0
            raise ProcessStopped(_CRASHED + where)

    def _stopped(self, process: Process, reason: str) -> None:
        if not reason.startswith(_CRASHED):
            self._otherwise(process, reason)
            return
        name = process.name
        self.cluster.kill(name, power_loss=self._power_loss)
        self.cluster.world.at(0.7, lambda: self.cluster.start(name))


class Scene:
    """A busy cluster whose leaders die."""

    def __init__(self, seed: int, *, power_loss: bool, clients: str = "transactions") -> None:
        logging.disable(logging.CRITICAL)
        self.world = World(seed)
        self.cluster = SimulatedCluster(self.world, 3)
        self.crashes = Crashes(self.cluster, power_loss=power_loss)
        self._clients = clients

    def run(self, reach: Reach = nowhere) -> Counter[str]:
        """Return what became of the transactions. Raises: Violation"""
        try:
            return self._run(reach)
        finally:
            self.cluster.end()

    def _run(self, reach: Reach) -> Counter[str]:
        world, cluster = self.world, self.cluster
        SimulatedHousekeeping(cluster)
        callers = Callers(cluster)
        channels = SimulatedChannels(cluster) if self._clients == "managers" else None
        drivers = Drivers(cluster, lambda _name: reach, channels)
        clients: TransactionClients | ResourceManagers | DefinitionClients
        if channels is not None:
            clients = ResourceManagers(
                cluster, callers, channels, drivers, trouble=0.4, mishaps_per_s=0.6
            )
        elif self._clients == "definitions":
            clients = DefinitionClients(cluster, callers, drivers, trouble=0.4)
        else:
            clients = TransactionClients(cluster, callers, drivers, rate_per_s=7.0, trouble=0.5)
        clients.start()
        cluster.start_all()
        cluster.wait_for_leader()
        world.run_until(world.now + 4.0)
        # A leader that is only paused resigns when it wakes, and another one finds what it left.
        leader = cluster.wait_for_leader().identity.node_id
        cluster.pause(leader)
        world.run_until(world.now + 3.0)
        cluster.resume(leader)
        world.run_until(world.now + 7.0)
        clients.stop()
        ends_at = world.now + 60.0
        while callers.open_calls() or not (self._agrees() and clients.at_rest()):
            assert world.now < ends_at, "not every transaction has ended"
            world.run_until(world.now + 0.05)
        world.run_until(world.now + 7.0)
        assert self.crashes.count > 0, "the point was never reached"
        clients.check()
        return clients.counters

    def _agrees(self) -> bool:
        engines = self.cluster.engines()
        return len(engines) == 3 and len({engine.raft.last_applied for engine in engines}) == 1


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("point", "what", "outcome"), OF_THE_DRIVER)
def test_a_driver_dies_and_nothing_is_left_half_done(
    point: CrashPoint, what: str, outcome: str
) -> None:
    at = OF_THE_DRIVER.index((point, what, outcome))
    scene = Scene(1_000 + at, power_loss=at % 2 == 0)

    def reach(at: CrashPoint, called: str, came_to: str) -> None:
        if (at, called, came_to) == (point, what, outcome):
            scene.crashes.reached(point)

    assert scene.run(reach)["transactions_COMMITTED"] > 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("clients", "at"),
    [("managers", at) for at in OF_CHANNELS] + [("definitions", at) for at in OF_DEFINITIONS],
)
def test_a_driver_of_channels_or_definitions_dies_and_nothing_is_left_half_done(
    clients: str, at: tuple[CrashPoint, str, str]
) -> None:
    number = (OF_CHANNELS if clients == "managers" else OF_DEFINITIONS).index(at)
    scene = Scene(3_000 + number, power_loss=number % 2 == 0, clients=clients)

    def reach(*reached: str) -> None:
        if reached == at:
            scene.crashes.reached(at[0])

    assert scene.run(reach)[f"{clients}_COMMITTED"] > 0


@pytest.fixture
def happenings(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[str], None]]:
    """Tell whoever is listed of each event, in the middle of applying its entry."""
    listeners: list[Callable[[str], None]] = []
    happen = Transaction.happen

    def told(
        self: Transaction, place: int, event: str, *, branch_id: int = 0, detail: str = ""
    ) -> None:
        happen(self, place, event, branch_id=branch_id, detail=detail)
        for listener in listeners:
            listener(event)

    monkeypatch.setattr(Transaction, "happen", told)
    return listeners


@pytest.mark.timeout(120)
@pytest.mark.parametrize("applied", [False, True], ids=["midst", "applied"])
@pytest.mark.parametrize("event", OF_THE_COORDINATOR)
def test_a_coordinator_dies_and_nothing_is_left_half_done(
    happenings: list[Callable[[str], None]], event: str, applied: bool
) -> None:
    at = OF_THE_COORDINATOR.index(event)
    scene = Scene(2_000 + 2 * at + applied, power_loss=at % 2 == 0)
    assert die_at(scene, happenings, event, applied=applied)["transactions_COMMITTED"] > 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("applied", [False, True], ids=["midst", "applied"])
@pytest.mark.parametrize("event", OF_THE_COORDINATOR_OF_CHANNELS)
def test_a_coordinator_of_channels_dies_and_nothing_is_left_half_done(
    happenings: list[Callable[[str], None]], event: str, applied: bool
) -> None:
    at = OF_THE_COORDINATOR_OF_CHANNELS.index(event)
    scene = Scene(4_500 + 2 * at + applied, power_loss=at % 2 == 0, clients="managers")
    assert die_at(scene, happenings, event, applied=applied)["managers_COMMITTED"] > 0


def die_at(
    scene: Scene, happenings: list[Callable[[str], None]], event: str, *, applied: bool
) -> Counter[str]:
    """Run a scene whose leader dies in the midst of an entry with the event, or behind it."""
    applying: list[Engine] = []
    happened: list[str] = []

    def heard(what: str) -> None:
        happened.append(what)
        if not applied:
            die_if_leading()

    def die_if_leading() -> None:
        if event in happened and applying[-1].raft.is_leader:
            scene.crashes.reached(event)

    def watch(name: str) -> None:
        engine = scene.cluster.nodes[name].engine
        assert engine is not None
        apply = engine.machine.apply

        def watched(index: int, term: int, payload: bytes):  # type: ignore[no-untyped-def]
            happened.clear()
            applying.append(engine)
            try:
                outcomes = apply(index, term, payload)
                if applied:
                    die_if_leading()
            finally:
                applying.pop()
            return outcomes

        engine.machine.apply = watched  # type: ignore[method-assign]

    happenings.append(heard)
    scene.cluster.on_started.append(watch)
    return scene.run()


def test_there_are_as_many_points_as_were_promised() -> None:
    assert len(set(OF_THE_DRIVER)) + 2 * len(set(OF_THE_COORDINATOR)) >= 30
