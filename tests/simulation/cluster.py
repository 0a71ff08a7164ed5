"""Nodes that live, die and come back: real engines on simulated media."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from node.consensus.engine import Engine
from node.consensus.foundation import Identity
from node.consensus.journal import JournalSettings
from node.consensus.journal_format import JournalDamagedError
from node.consensus.membership import Configuration
from node.consensus.settings import EngineSettings
from tests.simulation.coroutines import SimulatedLoop
from tests.simulation.disk import Files, SimulatedDisk
from tests.simulation.network import Network
from tests.simulation.storage import SimulatedStorage, StateMedium
from tests.simulation.world import Process, SimulatedRuntime, Violation, World

# Small, so that compaction and snapshots happen in a minute of virtual time.
# Half as hasty as a node, which halves what there is to compute and changes nothing else.
SETTINGS = EngineSettings(
    heartbeat_s=0.1,
    election_timeout_min_s=0.6,
    election_timeout_max_s=1.2,
    leader_fallback_s=1.4,
    journal_compact_bytes=6_000,
    journal_retain_bytes=30_000,
    snapshot_chunk_bytes=4_096,
    congested_bytes=400_000,
    # So few clients would otherwise never have two units under way.
    requests_worth_an_entry=1,
)
JOURNAL_SETTINGS = JournalSettings(segment_bytes=4_000, cache_bytes=16_000)

EXPECTED_STOPS = ("the journal cannot be written", "the snapshot cannot be installed: OSError")
"""Reasons for which a node may stop itself when its disk was made to fail."""


@dataclass(slots=True)
class Node:
    process: Process
    disk_uuid: bytes
    files: Files = field(default_factory=Files)
    medium: StateMedium = field(default_factory=StateMedium)
    engine: Engine | None = None
    disk: SimulatedDisk | None = None
    damaged: bool = False
    """A bit of its disk was flipped while it was down."""


class SimulatedCluster:
    def __init__(self, world: World, count: int, settings: EngineSettings = SETTINGS) -> None:
        self.world = world
        self.settings = settings
        self.network = Network(world)
        self.names = [f"n{number}" for number in range(1, count + 1)]
        self.configured = list(self.names)
        """Whom the configuration file names, which is the same for all nodes."""
        self.nodes: dict[str, Node] = {}
        self.applied: dict[int, tuple[int, str]] = {}
        """What the first node to apply an index applied there: checksum, and the node's name."""
        self.last_applied = 0
        """The last entry that any node has applied."""
        self.leader_of_term: dict[int, str] = {}
        self._configuration: Configuration | None = None
        self._loops: list[SimulatedLoop] = []
        """Of all incarnations: what a dead one left waiting must not be cleaned up in between."""
        self.some_disks_are_quick = False
        """Whether the journals of about half of the nodes that are started wait for their disks."""
        self.on_started: list[Callable[[str], None]] = []
        self.on_died: list[Callable[[str], None]] = []
        self.on_first_applied: list[Callable[[Engine, int], None]] = []
        """A node has applied an entry that no other one had applied before."""
        world.on_process_stopped = self._on_process_stopped
        for name in self.names:
            self._make_node(name)

    def _make_node(self, name: str) -> None:
        rng = self.world.rng
        process = Process(name)
        process.monotonic_offset_s = rng.uniform(0, 500)
        process.drift = rng.uniform(0.98, 1.02)
        process.wall_offset_ms = rng.randrange(-200, 200)
        self.nodes[name] = Node(process, rng.randbytes(16))

    # --- life

    def start_another(self) -> str:
        """Start a node that no configuration file names; return its name."""
        name = f"n{len(self.names) + 1}"
        self._make_node(name)
        self.names.append(name)
        self.start(name)
        return name

    def start_all(self) -> None:
        for name in self.names:
            self.start(name, bootstrap=name == self.names[0])

    def start(self, name: str, *, bootstrap: bool = False) -> None:
        node = self.nodes[name]
        if node.process.up:
            return
        node.process.incarnation += 1
        node.process.up = True
        node.process.paused = False
        node.process.held.clear()
        loop = SimulatedLoop(self.world, node.process)
        self._loops.append(loop)
        node.process.loop = loop.as_loop
        self.world.run_now(node.process, lambda: self._boot(name, node, bootstrap))

    def _boot(self, name: str, node: Node, bootstrap: bool) -> None:
        node.disk = SimulatedDisk(self.world, node.process, node.files)
        node.disk.quick = self.some_disks_are_quick and self.world.rng.random() < 0.5
        runtime = SimulatedRuntime(self.world, node.process)
        identity = Identity(
            node_id=name, disk_uuid=node.disk_uuid, peer_address=name, api_address=name
        )
        try:
            engine = Engine(
                identity,
                {peer: peer for peer in self.configured if peer != name},
                runtime,
                node.disk,
                SimulatedStorage(self.world, node.process, node.medium),
                self.network.attach(node.process),
                self.settings,
                JOURNAL_SETTINGS,
                bootstrap=bootstrap,
            )
        except JournalDamagedError:
            if not node.damaged:
                raise Violation(f"{name} found damage that nobody did") from None
            node.process.up = False
            self.wipe(name)
            self.world.at(0.1, lambda: self.start(name))
            return
        node.damaged = False
        node.engine = engine
        engine.notices.on_regressed = lambda: self._wipe_soon(name)
        self._watch(name, engine)
        engine.start()
        for started in self.on_started:
            started(name)

    def _watch(self, name: str, engine: Engine) -> None:
        """Compare what is applied at each index, and who leads each term."""
        apply = engine.machine.apply

        def watched(index: int, term: int, payload: bytes):  # type: ignore[no-untyped-def]
            checksum = zlib.crc32(payload)
            first = self.applied.setdefault(index, (checksum, name))
            if first[0] != checksum:
                raise Violation(f"{name} applied something else at {index} than {first[1]}")
            outcomes = apply(index, term, payload)
            if index > self.last_applied:
                self.last_applied = index
                for applied in self.on_first_applied:
                    applied(engine, index)
            return outcomes

        engine.machine.apply = watched  # type: ignore[method-assign]
        engine.notices.on_role_change.append(lambda: self._note_leader(name, engine))
        engine.notices.on_diverged = lambda: self._fail(f"{name} found its state diverged")

    def _note_leader(self, name: str, engine: Engine) -> None:
        if engine.raft.is_leader:
            first = self.leader_of_term.setdefault(engine.raft.term, name)
            if first != name:
                raise Violation(f"term {engine.raft.term} has two leaders: {first} and {name}")

    def _fail(self, what: str) -> None:
        raise Violation(what)

    def _wipe_soon(self, name: str) -> None:
        self.world.at(0.0, lambda: self._wipe_and_restart(name))

    def _wipe_and_restart(self, name: str) -> None:
        self.kill(name)
        self.wipe(name)
        self.start(name)

    def _on_process_stopped(self, process: Process, reason: str) -> None:
        node = self.nodes[process.name]
        failing = node.disk is not None and node.disk.failing is not None
        if not (failing and reason.startswith(EXPECTED_STOPS)):
            raise Violation(f"{process.name} stopped itself: {reason}")
        self.kill(process.name)

    def kill(self, name: str, *, power_loss: bool = False) -> None:
        node = self.nodes[name]
        if not node.process.up:
            return
        node.process.up = False
        node.process.paused = False
        node.process.held.clear()
        node.engine = None
        if node.disk is not None:
            node.disk.crash(power_loss=power_loss)
            node.disk = None
        self.network.process_died(name)
        for died in self.on_died:
            died(name)

    def wipe(self, name: str) -> None:
        """Its disk is replaced by an empty one."""
        node = self.nodes[name]
        node.disk_uuid = self.world.rng.randbytes(16)
        node.files = Files()
        node.medium = StateMedium()
        node.damaged = False

    def flip_bit(self, name: str) -> bool:
        """Damage what was durable long enough that it must be noticed."""
        node = self.nodes[name]
        candidates = [
            (file, length) for file, length in sorted(node.files.settled.items()) if length > 0
        ]
        if node.process.up or not candidates:
            return False
        file, length = self.world.rng.choice(candidates)
        node.files.durable[file][self.world.rng.randrange(length)] ^= 1 << self.world.rng.randrange(
            8
        )
        node.damaged = True
        return True

    def pause(self, name: str) -> None:
        self.nodes[name].process.paused = True

    def resume(self, name: str) -> None:
        process = self.nodes[name].process
        if process.paused:
            self.world.resume(process)

    def end(self) -> None:
        """The run is over."""
        for loop in self._loops:
            loop.abandon()

    # --- asking

    def engine(self, name: str) -> Engine | None:
        """The engine of a node that is up and running."""
        node = self.nodes[name]
        return node.engine if node.process.up and not node.process.paused else None

    def engines(self) -> list[Engine]:
        return [engine for name in self.names if (engine := self.engine(name)) is not None]

    def members(self) -> list[Engine]:
        """Those of them that are members: what the others hold may be old for good."""
        return [engine for engine in self.engines() if self.is_member(engine.identity.node_id)]

    def leader(self) -> Engine | None:
        """The leader that is ready, with the greatest term."""
        ready = [engine for engine in self.engines() if engine.leader_ready]
        return max(ready, key=lambda engine: engine.raft.term, default=None)

    def configuration(self) -> Configuration | None:
        """As the leader knows it; as the last leader did, while there is none."""
        leader = self.leader()
        if leader is not None:
            self._configuration = leader.membership.in_force
        return self._configuration

    def voters(self) -> list[str]:
        configuration = self.configuration()
        return [voter.node_id for voter in configuration.voters] if configuration else []

    def is_member(self, name: str) -> bool:
        configuration = self.configuration()
        return configuration is not None and configuration.member(name) is not None

    def run_as(self, name: str, callback: Callable[[], None]) -> None:
        self.world.run_now(self.nodes[name].process, callback)

    def wait_for(self, condition: Callable[[], bool], within_s: float, what: str) -> None:
        """Run until the condition holds. Raises: Violation: it does not in time."""
        if not self.world.run_until(self.world.now + within_s, condition):
            raise Violation(f"not within {within_s} s: {what}")

    def wait_for_leader(self, within_s: float = 20.0) -> Engine:
        self.wait_for(lambda: self.leader() is not None, within_s, "a leader is ready")
        leader = self.leader()
        assert leader is not None
        return leader
