"""The channels of resource managers in simulated nodes: only the WebSocket is made up.

What a node does with a message stands in `api.rm_channel`, which is tied to aiohttp; the few lines
of it that matter are here again. Sessions, calls, the relay between nodes, cleaning and the search
for lost nodes are the product's.
"""

from __future__ import annotations

from collections.abc import Callable

from api.channels import Channel
from api.rm_messages import (
    CloseCode,
    Leave,
    Register,
    Result,
    Welcome,
    decode,
    encode,
)
from api.settings import ApiSettings
from node.cluster import EngineCluster
from node.config import ChannelsConfig
from node.delivery.connected_managers import ConnectedManagers
from statemachine.commands import EndChannel, RegisterChannel
from statemachine.outcomes import Applied, ChannelRegistered
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.world import Process, SimulatedRuntime, World

GRACE_MS = 2_000
CALL_TIMEOUT_MS = 1_000
CLEAN_AFTER_MS = 4_000

_REGISTER_MS = 3_000
_HEARTBEAT_S = 0.5

OnMessage = Callable[[bytes], None]
OnEnd = Callable[[int], None]
"""Called with the code of a close, or 0 when the connection was lost."""


class SimulatedChannels:
    """What each node does for resource managers; make it before the drivers."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        self._managers: dict[str, ConnectedManagers] = {}
        self._clusters: dict[str, EngineCluster] = {}
        self._wires: list[Wire] = []
        cluster.on_started.append(self._start)
        cluster.on_died.append(self._died)

    def of(self, name: str) -> ConnectedManagers:
        """Return those of the incarnation of a node that began last."""
        return self._managers[name]

    def connect(self, name: str, on_message: OnMessage, on_end: OnEnd) -> Wire | None:
        """Connect a resource manager to a node; None when nobody is there."""
        process = self._cluster.nodes[name].process
        if self._cluster.engine(name) is None:
            return None
        wire = Wire(self._cluster.world, process, on_message, on_end)
        managers, cluster = self._managers[name], self._clusters[name]
        self._wires = [each for each in self._wires if each.is_open]
        self._wires.append(wire)
        self._cluster.run_as(name, lambda: wire.accept(managers, cluster))
        return wire

    def _start(self, name: str) -> None:
        node = self._cluster.nodes[name]
        engine, process = node.engine, node.process
        assert engine is not None
        assert process.loop is not None
        reader = engine.machine_store
        cluster = self._clusters[name] = EngineCluster(engine, reader, process.loop)
        managers = self._managers[name] = ConnectedManagers(
            engine,
            cluster,
            reader,
            SimulatedRuntime(self._cluster.world, process),
            ApiSettings(channel_leaderless_s=2.0, channel_grace_s=GRACE_MS / 1000),
            ChannelsConfig(call_timeout_ms=CALL_TIMEOUT_MS, clean_after_ms=CLEAN_AFTER_MS),
        )
        managers.start()

    def _died(self, name: str) -> None:
        process = self._cluster.nodes[name].process
        for wire in self._wires:
            if wire.process is process:
                wire.cut()


class Wire:
    """A connection between a resource manager and one incarnation of a node.

    What is said arrives in order, each way, until it ends. The node sees it as `Connection`.
    """

    unsent_bytes = 0
    requests = ()

    def __init__(
        self, world: World, process: Process, on_message: OnMessage, on_end: OnEnd
    ) -> None:
        self.process = process
        self.is_open = True
        self._world = world
        self._incarnation = process.incarnation
        self._node_knows = False
        """That it is no longer open."""
        self._on_message = on_message
        self._on_end = on_end
        self._managers: ConnectedManagers
        self._cluster: EngineCluster
        self._channel: Channel
        self._busy_until = {"manager": 0.0, "node": 0.0}

    # --- the manager's side

    def say(self, message: bytes) -> None:
        """Tell the node something, unless the connection is lost by then."""
        self._world.at(self._arrives_in("node"), lambda: self._run_at_node(message))

    def cut(self) -> None:
        """Lose the connection: both sides learn of it, each in its own time."""
        if self.is_open:
            self.is_open = False
            self._world.at(self._world.rng.uniform(0.0, 0.5), lambda: self._on_end(0))
            self._world.at_node(self.process, self._world.rng.uniform(0.0, 2.0), self._lost)

    # --- the node's side

    def accept(self, managers: ConnectedManagers, cluster: EngineCluster) -> None:
        self._managers, self._cluster = managers, cluster
        # Its number is drawn from the machine's chance: it names the connection and decides
        # nothing.
        self._channel = managers.channels.opened(self)

    async def send(self, message: bytes) -> None:
        if self._node_knows:
            raise ConnectionResetError("the connection is lost")

        def arrive() -> None:
            if self.is_open:
                self._on_message(message)

        self._world.at(self._arrives_in("manager"), arrive)

    def close(self, code: CloseCode, reason: str) -> None:
        if self.is_open:
            self.is_open = False
            self._world.at(self._arrives_in("manager"), lambda: self._on_end(code))
            self._world.at_node(self.process, 0.0, self._lost)

    def _lost(self) -> None:
        self._node_knows = True
        self._managers.channels.closed(self._channel)

    def _run_at_node(self, message: bytes) -> None:
        if self.is_open and self.process.incarnation == self._incarnation:
            self._world.at_node(self.process, 0.0, lambda: self._hear(message))

    def _hear(self, message: bytes) -> None:
        if not self.is_open:
            return
        loop = self.process.loop
        assert loop is not None
        match decode(message):
            case Register() as register:
                loop.create_task(self._register(register))
            case Result() as result:
                self._channel.answer(result)
            case Leave():
                loop.create_task(self._leave())

    async def _register(self, register: Register) -> None:
        grace_ms = register.grace_ms or GRACE_MS
        command = RegisterChannel(
            session_id=self._channel.session_id or register.session_id,
            application_id=register.application_id,
            host=register.host,
            instance=register.instance,
            resources=tuple(register.resources),
            modes=tuple(mode.value for mode in register.modes),
            modes_of=tuple(tuple(mode.value for mode in own) for own in register.modes_of),
            clean_batch=register.clean_batch,
            grace_ms=grace_ms,
            node_id=self._cluster.node_id,
            connection=self._channel.number,
        )
        try:
            outcome = await self._cluster.propose((command,), timeout_ms=_REGISTER_MS)
        except Exception as error:
            self.close(CloseCode.GO_ELSEWHERE, repr(error))
            return
        only = outcome.outcomes[0]
        if not isinstance(only, Applied):
            self.close(CloseCode.BAD_MESSAGE, repr(only))
            return
        assert isinstance(only.result, ChannelRegistered)
        welcome = Welcome(
            session_id=only.result.session_id,
            resumed=only.result.resumed,
            cluster_id="",
            node_id=self._cluster.node_id,
            heartbeat_ms=int(_HEARTBEAT_S * 1000),
            grace_ms=grace_ms,
        )
        if self.is_open:
            await self.send(encode(welcome))
            self._managers.channels.registered(self._channel, only.result.session_id)

    async def _leave(self) -> None:
        command = EndChannel(session_id=self._channel.session_id, connection=self._channel.number)
        try:
            await self._cluster.propose((command,), timeout_ms=_REGISTER_MS)
        except Exception:
            return  # its grace ends it

    def _arrives_in(self, side: str) -> float:
        at = self._world.now + self._world.rng.uniform(0.0002, 0.003)
        at = max(at, self._busy_until[side] + 1e-7)
        self._busy_until[side] = at
        return at - self._world.now
