"""A network of TCP-like connections: ordered, loss only with the connection, delay without bound.

Each node dials each peer, as in `node.consensus.links`. A cut holds what is on its way; when it
heals, a connection either delivers what was held, late, or is found broken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from node.consensus.links import LinkEvents
from node.consensus.messages import Frame, Kind, RefusalReason, decode, encode
from tests.simulation.world import Process, World


@dataclass(slots=True)
class _Connection:
    """What one node dialled: frames go from `source` to `target`."""

    source: str
    target: str
    source_incarnation: int
    target_incarnation: int
    last_arrival: float = 0.0
    open: bool = True
    admitted: bool = False
    buffered: int = 0
    held: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class _Endpoint:
    process: Process
    events: LinkEvents = field(init=False)
    wanted: set[str] = field(default_factory=set)
    outgoing: dict[str, _Connection] = field(default_factory=dict)
    incoming: dict[str, _Connection] = field(default_factory=dict)
    dialling: set[str] = field(default_factory=set)


class Network:
    def __init__(self, world: World) -> None:
        self._world = world
        self._endpoints: dict[str, _Endpoint] = {}
        self.cut: set[tuple[str, str]] = set()
        """Directed pairs whose frames do not arrive for now."""
        self.slow: dict[tuple[str, str], float] = {}
        self.counters: Counter[str] = Counter()

    def attach(self, process: Process) -> SimulatedLinks:
        self._endpoints[process.name] = _Endpoint(process)
        return SimulatedLinks(self, process.name)

    def endpoint(self, name: str) -> _Endpoint | None:
        endpoint = self._endpoints.get(name)
        return endpoint if endpoint is not None and endpoint.process.up else None

    def report_to(self, name: str, events: LinkEvents) -> None:
        self._endpoints[name].events = events

    # --- dialling

    def want(self, name: str, peers: set[str]) -> None:
        endpoint = self._endpoints[name]
        endpoint.wanted = peers
        for peer in sorted(set(endpoint.outgoing) - peers):
            self._close(endpoint.outgoing[peer], tell_source=False)
        for peer in sorted(peers):
            self._dial_later(name, peer, 0.0)

    def _dial_later(self, name: str, peer: str, delay_s: float) -> None:
        endpoint = self._endpoints[name]
        if peer in endpoint.dialling:
            return
        endpoint.dialling.add(peer)
        delay = delay_s + 0.001 + self._world.rng.random() * 0.02
        self._world.at_node(endpoint.process, delay, lambda: self._dial(name, peer))

    def _dial(self, name: str, peer: str) -> None:
        source = self._endpoints[name]
        source.dialling.discard(peer)
        if peer not in source.wanted or peer in source.outgoing:
            return
        target = self.endpoint(peer)
        if target is None or self._is_cut(name, peer) or target.process.paused:
            self._dial_later(name, peer, 0.05)
            return
        connection = _Connection(name, peer, source.process.incarnation, target.process.incarnation)
        source.outgoing[peer] = connection
        hello = source.events.hello(peer)
        self._transmit(connection, encode(hello))
        source.events.on_connected(peer)

    def _is_cut(self, source: str, target: str) -> bool:
        return (source, target) in self.cut or (target, source) in self.cut

    # --- frames

    def send(self, name: str, peer: str, frames: tuple[Frame, ...]) -> bool:
        connection = self._endpoints[name].outgoing.get(peer)
        if connection is None or not connection.open:
            return False
        for frame in frames:
            self._transmit(connection, encode(frame))
        return True

    def _transmit(self, connection: _Connection, data: bytes) -> None:
        rng = self._world.rng
        self.counters["frames"] += 1
        connection.buffered += len(data)
        delay = 0.0002 + rng.expovariate(1 / 0.0008) + len(data) / 200e6
        if rng.random() < 0.003:
            delay += rng.uniform(0.02, 0.4)
        delay += self.slow.get((connection.source, connection.target), 0.0)
        arrival = max(self._world.now + delay, connection.last_arrival + 1e-7)
        connection.last_arrival = arrival
        self._world.at(arrival - self._world.now, lambda: self._arrive(connection, data))

    def _arrive(self, connection: _Connection, data: bytes) -> None:
        if not connection.open:
            return
        if connection.held or (connection.source, connection.target) in self.cut:
            connection.held.append(data)
            return
        target = self.endpoint(connection.target)
        if target is None or target.process.incarnation != connection.target_incarnation:
            self._close(connection, tell_source=True)
            return
        connection.buffered -= len(data)
        self._world.at_node(target.process, 0.0, lambda: self._deliver(connection, data))

    def _deliver(self, connection: _Connection, data: bytes) -> None:
        if not connection.open:
            return
        target = self._endpoints[connection.target]
        frame = decode(data)
        if frame[0] == Kind.HELLO:
            reason = target.events.admit(frame)
            if reason is not None:
                self._refuse(connection, reason)
                return
            old = target.incoming.get(connection.source)
            if old is not None and old is not connection:
                self._close(old, tell_source=True)
            target.incoming[connection.source] = connection
            connection.admitted = True
        elif connection.admitted:
            target.events.on_frame(connection.source, frame)
        target.events.on_frames_end()

    def _refuse(self, connection: _Connection, reason: RefusalReason) -> None:
        source = self.endpoint(connection.source)
        self._close(connection, tell_source=True)
        if source is not None and source.process.incarnation == connection.source_incarnation:
            self._world.at_node(
                source.process,
                0.001,
                lambda: source.events.on_refused(connection.target, reason),
            )

    # --- losing connections

    def _close(self, connection: _Connection, *, tell_source: bool) -> None:
        if not connection.open:
            return
        connection.open = False
        source = self._endpoints.get(connection.source)
        if source is None or source.outgoing.get(connection.target) is not connection:
            return
        del source.outgoing[connection.target]
        if tell_source and source.process.incarnation == connection.source_incarnation:
            self._world.at_node(
                source.process, 0.0003, lambda: self._lost(connection.source, connection.target)
            )

    def _lost(self, name: str, peer: str) -> None:
        self._endpoints[name].events.on_disconnected(peer)
        self._dial_later(name, peer, 0.0)

    def process_died(self, name: str) -> None:
        """Its kernel closes all of its sockets."""
        endpoint = self._endpoints.get(name)
        if endpoint is None:
            return
        for connection in list(endpoint.outgoing.values()):
            self._close(connection, tell_source=False)
        for other in self._endpoints.values():
            connection_to = other.outgoing.get(name)
            if connection_to is not None:
                self._close(connection_to, tell_source=True)

    def reset(self, source: str, target: str) -> None:
        """Break one connection."""
        endpoint = self._endpoints.get(source)
        connection = endpoint.outgoing.get(target) if endpoint is not None else None
        if connection is not None:
            self.counters["resets"] += 1
            self._close(connection, tell_source=True)

    def heal(self, pairs: list[tuple[str, str]]) -> None:
        """End a cut: what was held arrives late, or its connection is found broken."""
        for pair in pairs:
            self.cut.discard(pair)
            endpoint = self._endpoints.get(pair[0])
            connection = endpoint.outgoing.get(pair[1]) if endpoint is not None else None
            if connection is None:
                continue
            if self._world.rng.random() < 0.5:
                self._close(connection, tell_source=True)
                continue
            held, connection.held = connection.held, []
            for data in held:
                self._arrive(connection, data)

    def probe(self, name: str, peer: str, on_result: Callable[[bool], None]) -> None:
        source = self._endpoints[name]
        refused = self.endpoint(peer) is None and not self._is_cut(name, peer)
        delay = 0.0005 if refused else 0.05
        self._world.at_node(source.process, delay, lambda: on_result(refused))


class SimulatedLinks:
    """`node.consensus.links.Links` of one node."""

    def __init__(self, network: Network, name: str) -> None:
        self._network = network
        self._name = name
        self._closed = False

    def report_to(self, events: LinkEvents) -> None:
        self._network.report_to(self._name, events)

    def set_peers(self, addresses: Mapping[str, str]) -> None:
        self._network.want(self._name, set(addresses) - {self._name})

    def send(self, peer: str, *frames: Frame) -> bool:
        return self._network.send(self._name, peer, frames)

    def is_connected(self, peer: str) -> bool:
        return peer in self._network._endpoints[self._name].outgoing

    def buffered_bytes(self, peer: str) -> int:
        connection = self._network._endpoints[self._name].outgoing.get(peer)
        return connection.buffered if connection is not None else 0

    def probe(self, peer: str, on_result: Callable[[bool], None]) -> None:
        self._network.probe(self._name, peer, on_result)

    def close(self) -> None:
        self._closed = True
