"""One real engine among scripted peers, and three real engines with scripted faults.

A `Bench` shows exactly which frames a node sends for which it gets; a `SimulatedCluster` shows what
comes of it. `promise` marks what a hazard would break, so that a companion test can switch the
guard off and see this very promise broken, and nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import msgpack
import pytest
from pysyncobj import journal as library_journal
from pysyncobj import monotonic as library_monotonic
from pysyncobj import pickle as library_pickle
from pysyncobj import poller as library_poller  # type: ignore[attr-defined]
from pysyncobj import syncobj as library

from node.consensus.engine import Engine
from node.consensus.foundation import Identity
from node.consensus.journal import SegmentedJournal
from node.consensus.links import LinkEvents
from node.consensus.membership import Configuration, MemberRecord, first_configuration
from node.consensus.messages import (
    _SHAPES,
    PROTOCOL_VERSION,
    Frame,
    Hello,
    Kind,
    RefusalReason,
    decode,
    encode,
)
from node.consensus.proposals import Answer
from node.consensus.settings import EngineSettings
from statemachine import timestamps
from statemachine.codec import encode_entry, encode_request, encode_unit
from statemachine.commands import RecordEvent, Request
from statemachine.gates import SUPPORTED_VERSION
from tests.simulation.cluster import JOURNAL_SETTINGS, SETTINGS, SimulatedCluster
from tests.simulation.disk import Files, SimulatedDisk
from tests.simulation.storage import SimulatedStorage, StateMedium
from tests.simulation.world import Process, SimulatedRuntime, World

Entry = tuple[bytes, int, int]
"""Command, index, term."""

CLUSTER_ID = b"the cluster's id"
FIRST_FREE_INDEX = 3
"""Behind the entry with which every log begins, and the first membership record."""


class BrokenPromise(BaseException):
    """What the hazard of a scenario leads to."""


def promise(kept: bool, what: str) -> None:
    if not kept:
        raise BrokenPromise(what)


def disk_of(node_id: str) -> bytes:
    return f"disk of {node_id}".encode().ljust(16, b"-")


def no_op(index: int, term: int) -> Entry:
    return (b"\x01", index, term)


def regular(index: int, term: int, payload: bytes) -> Entry:
    """The entry as the library frames it: its type, and our only replicated method."""
    return (b"\x00" + msgpack.packb((0, (payload,))), index, term)


def event_request(data: bytes = b'"x"', participant: str = "p") -> bytes:
    command = RecordEvent(node_id=participant, event_type="test", event_data=data)
    return encode_request(Request(3_600_000, None, (command,)))


def event_entry(index: int, term: int, participant: str = "p", session: bytes = b"s" * 16) -> Entry:
    """An entry with one unit of one event; its sequence is its index."""
    unit = encode_unit(session, index, 1, [event_request(participant=participant)])
    return regular(index, term, encode_entry(1, 1, [unit]))


class RecordingLinks:
    """Connections that deliver nothing: the test reads what was sent."""

    def __init__(self) -> None:
        self.events: LinkEvents
        self.connected: set[str] = set()
        self.sent: list[tuple[str, Frame]] = []
        self.on_send: Callable[[str, Frame], None] = lambda _peer, _frame: None
        self.probes: list[tuple[str, Callable[[bool], None]]] = []
        self.buffered = 0
        self.peers: dict[str, str] = {}

    def report_to(self, events: LinkEvents) -> None:
        self.events = events

    def set_peers(self, addresses: Mapping[str, str]) -> None:
        self.peers = dict(addresses)

    def send(self, peer: str, *frames: Frame) -> bool:
        if peer not in self.connected:
            return False
        for frame in frames:
            whole = decode(encode(frame))
            self.on_send(peer, whole)
            self.sent.append((peer, whole))
        return True

    def is_connected(self, peer: str) -> bool:
        return peer in self.connected

    def buffered_bytes(self, peer: str) -> int:
        del peer
        return self.buffered

    def probe(self, peer: str, on_result: Callable[[bool], None]) -> None:
        self.probes.append((peer, on_result))

    def close(self) -> None:
        self.connected.clear()


class Bench:
    """One engine. `members` are the letters of the voters, its own among them."""

    def __init__(
        self,
        name: str = "a",
        members: str = "abc",
        *,
        settings: EngineSettings = SETTINGS,
        files: Files | None = None,
        medium: StateMedium | None = None,
        found: bool = True,
        seed: int = 1,
    ) -> None:
        self.name = name
        self.members = members
        self.peers = [member for member in members if member != name]
        self.files = files or Files()
        self.medium = medium or StateMedium()
        self.settings = settings
        self.world = World(seed)
        self.process = Process(name)
        self.stopped: str | None = None
        self.world.on_process_stopped = self._on_stopped
        self._sequence = 0
        self.boot()
        if found:
            self.receive(self.peers[0], (int(Kind.BOOTSTRAP), self.configuration().encode()))
            self.run(1.0)
            self.links.sent.clear()

    def boot(self) -> None:
        """Start the process, again when it ran before: its memory is gone, its disk is not."""
        self.process.incarnation += 1
        self.process.up = True
        self.stopped = None
        self.links = RecordingLinks()
        self.act(self._boot)

    def _boot(self) -> None:
        self.disk = SimulatedDisk(self.world, self.process, self.files)
        self.storage = SimulatedStorage(self.world, self.process, self.medium)

        self.engine = Engine(
            Identity(
                node_id=self.name,
                disk_uuid=disk_of(self.name),
                peer_address=self.name,
                api_address=self.name,
            ),
            {peer: peer for peer in self.peers},
            SimulatedRuntime(self.world, self.process),
            self.disk,
            self.storage,
            self.links,
            self.settings,
            JOURNAL_SETTINGS,
        )
        self.engine.start()
        for peer in self.peers:
            self.connect(peer)

    def crash(self) -> None:
        """End the process; what its disk was writing is lost."""
        self.process.up = False
        self.disk.close()

    def _on_stopped(self, process: Process, reason: str) -> None:
        process.up = False
        self.stopped = reason

    def configuration(self) -> Configuration:
        """The first one."""
        return first_configuration(CLUSTER_ID, [self.member(peer) for peer in self.members])

    def member(self, node_id: str) -> MemberRecord:
        return MemberRecord(node_id, disk_of(node_id), node_id, node_id)

    # --- the world

    def act(self, callback: Callable[[], object]) -> None:
        """Do something as the process."""

        def run() -> None:
            callback()

        self.world.run_now(self.process, run)

    def run(self, seconds: float) -> None:
        self.world.run_until(self.world.now + seconds)

    def wait_for(self, condition: Callable[[], bool], within_s: float = 10.0) -> None:
        met = condition() or self.world.run_until(self.world.now + within_s, condition)
        assert met, f"not within {within_s} s"

    # --- peers

    def hello(
        self,
        peer: str,
        disk_uuid: bytes | None = None,
        *,
        blank: bool = False,
        new: bool | None = None,
    ) -> RefusalReason | None:
        """The peer dials: what the engine makes of it. Who knows of no cluster is new by that."""
        hello = Hello(
            protocol_version=PROTOCOL_VERSION,
            cluster_id=None if blank else CLUSTER_ID,
            node_id=peer,
            disk_uuid=disk_uuid or disk_of(peer),
            session=b"session of " + peer.encode(),
            to=self.name,
            peer_address=peer,
            api_address=peer,
            state_version=SUPPORTED_VERSION,
            new=blank if new is None else new,
        )
        return self.links.events.admit((int(Kind.HELLO), *hello))

    def connect(self, peer: str) -> None:
        self.links.connected.add(peer)
        assert self.hello(peer) is None
        self.act(lambda: self.links.events.on_connected(peer))

    def disconnect(self, peer: str) -> None:
        self.links.connected.discard(peer)
        self.act(lambda: self.links.events.on_disconnected(peer))

    def receive(self, peer: str, *frames: Frame, run_s: float = 0.02) -> None:
        """Frames that arrive together, and what the engine does within `run_s` upon them."""

        def arrive() -> None:
            for frame in frames:
                self.links.events.on_frame(peer, decode(encode(frame)))
            self.links.events.on_frames_end()

        self.act(arrive)
        if run_s:
            self.run(run_s)

    def append(
        self,
        term: int,
        previous: tuple[int, int],
        entries: tuple[Entry, ...] | list[Entry] = (),
        commit: int = 1,
    ) -> Frame:
        self._sequence += 1
        return (int(Kind.APPEND), term, self._sequence, commit, *previous, tuple(entries))

    def sent(self, kind: Kind, peer: str | None = None) -> list[Frame]:
        return [
            frame
            for target, frame in self.links.sent
            if frame[0] == kind and peer in (None, target)
        ]

    def replies(self, peer: str) -> list[Frame]:
        return self.sent(Kind.APPEND_REPLY, peer)

    # --- shortcuts

    @property
    def log(self) -> list[tuple[int, int]]:
        journal = self.engine.journal
        first, last = journal.base()[0], journal.last()[0]
        return [(index, journal.term_at(index) or 0) for index in range(first, last + 1)]

    @property
    def leads(self) -> bool:
        return self.engine.raft.is_leader

    def campaign(self) -> int:
        """Bring the engine to a candidacy; return its term."""
        return self.campaign_with(*self.peers)

    def campaign_with(self, *pre_voters: str) -> int:
        """The same, by the pre-votes of as many of these as it takes."""
        self.links.sent.clear()
        self.wait_for(lambda: bool(self.sent(Kind.PRE_VOTE_REQUEST)))
        term = self.engine.raft.term + 1
        for peer in pre_voters:
            if not self.sent(Kind.VOTE_REQUEST):
                self.receive(peer, (int(Kind.PRE_VOTE), term))
        assert self.sent(Kind.VOTE_REQUEST)
        return term

    def elect(self, *voters: str) -> int:
        """Make the engine leader by the votes of `voters`; return its term."""
        term = self.campaign()
        for voter in voters or (self.peers[0],):
            self.receive(voter, (int(Kind.VOTE), term))
        return term

    def acknowledge(self, peer: str, last_index: int | None = None, *, run_s: float = 0.02) -> None:
        """The peer holds everything up to `last_index`; default: all that the engine holds."""
        last = self.engine.journal.last()[0] if last_index is None else last_index
        self.receive(
            peer,
            (int(Kind.APPEND_REPLY), self.engine.raft.term, 1 << 30, last + 1, False, True, last),
            run_s=run_s,
        )

    def lead(self, *voters: str) -> int:
        """Make the engine a leader that is ready; return its term."""
        term = self.elect(*voters)
        for voter in voters or (self.peers[0],):
            self.acknowledge(voter)
        self.wait_for(lambda: self.engine.leader_ready)
        return term

    def propose(self, request: bytes | None = None, within_s: float = 5.0) -> list[Answer]:
        """Propose; the list gets the answer when it comes."""
        answers: list[Answer] = []
        data = event_request() if request is None else request
        self.act(lambda: self.engine.propose(data, self.engine.now() + within_s, answers.append))
        return answers

    def read(self, within_s: float = 5.0) -> list[Exception | None]:
        """Read; the list gets None, or the error, when it comes."""
        results: list[Exception | None] = []
        self.act(lambda: self.engine.read(self.engine.now() + within_s, results.append))
        return results

    def confirm(self, peer: str) -> None:
        """Answer the last question whether the peer still follows."""
        _, term, number, *_ = self.sent(Kind.CONFIRM, peer)[-1]
        rest = len(_SHAPES[Kind.CONFIRM_REPLY]) - 2
        self.receive(peer, (int(Kind.CONFIRM_REPLY), term, number, *(0 for _ in range(rest))))

    def durable_journal(self) -> SegmentedJournal:
        """What a start would find if the power failed now."""
        files = Files({name: bytearray(data) for name, data in self.files.durable.items()})
        disk = SimulatedDisk(self.world, Process("reader"), files)
        return SegmentedJournal(disk, disk_of(self.name))

    def clock(self, participant: str = "p") -> int:
        return timestamps.clock(self.engine.machine_store, participant)


# --- three engines


def started_cluster(
    seed: int = 1, count: int = 3, settings: EngineSettings = SETTINGS
) -> SimulatedCluster:
    """A cluster with a leader, whose nodes have all applied the same."""
    cluster = SimulatedCluster(World(seed), count, settings)
    cluster.start_all()
    cluster.wait_for_leader()
    settle(cluster)
    return cluster


def settle(cluster: SimulatedCluster, within_s: float = 10.0) -> None:
    """Wait until everybody who is up has applied the leader's whole log."""

    def settled() -> bool:
        leader = cluster.leader()
        return leader is not None and all(
            engine.raft.last_applied == leader.journal.last()[0] for engine in cluster.engines()
        )

    cluster.wait_for(settled, within_s, "everybody has applied everything")


def write(cluster: SimulatedCluster, name: str, data: bytes = b'"x"') -> list[Answer]:
    """Record an event through a node; the list gets the answer."""
    engine = cluster.engine(name)
    assert engine is not None
    answers: list[Answer] = []
    cluster.run_as(
        name,
        lambda: engine.propose(event_request(data), engine.now() + 5.0, answers.append),
    )
    return answers


def write_and_wait(cluster: SimulatedCluster, name: str, data: bytes = b'"x"') -> Answer:
    answers = write(cluster, name, data)
    cluster.wait_for(lambda: bool(answers), 10.0, "the write is answered")
    return answers[0]


def leader_name(cluster: SimulatedCluster) -> str:
    return cluster.wait_for_leader().identity.node_id


def others(cluster: SimulatedCluster, name: str) -> list[str]:
    return [other for other in cluster.names if other != name]


def isolate(cluster: SimulatedCluster, name: str) -> list[tuple[str, str]]:
    """Cut a node off in both directions; return what `network.heal` takes to end it."""
    pairs = [(name, other) for other in others(cluster, name)]
    pairs += [(other, name) for other in others(cluster, name)]
    cluster.network.cut.update(pairs)
    return pairs


def event_data(engine: Engine) -> list[bytes]:
    """The data of every stored event, in order."""
    page, cursor = timestamps.list_events(
        engine.machine_store,
        node_id=None,
        event_type=None,
        after_lamport=0,
        cursor=None,
        limit=1000,
    )
    assert cursor is None
    return [event.event_data for event in page]


# --- switching guards off


def never_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process goes on where it would have ended itself."""
    monkeypatch.setattr(SimulatedRuntime, "stop", lambda _self, _reason: None)


def restore_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the library back what `prepare_library` and the simulated world took from it."""
    monkeypatch.setattr(library, "pickle", library_pickle)
    monkeypatch.setattr(library, "createJournal", library_journal.createJournal)
    monkeypatch.setattr(library, "createPoller", library_poller.createPoller)
    monkeypatch.setattr(library, "monotonicTime", library_monotonic.monotonic)
    monkeypatch.setattr(library, "random", random)
