"""One Raft participant: everything in this package, put together from the bottom up.

Each part is given the parts that it stands on, and knows of no other. What is to be reported
upwards goes through the few callbacks that `_connect` sets. Callers give callbacks, too;
`node.cluster` makes futures of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, NoReturn

from node.consensus.admission import Admission
from node.consensus.appending import Appending
from node.consensus.applying import Applying, align_journal
from node.consensus.bootstrap import Bootstrap
from node.consensus.compaction import Compaction
from node.consensus.contacts import Contacts
from node.consensus.digests import Digests
from node.consensus.disk import Disk
from node.consensus.dispatch import Dispatch
from node.consensus.draws import Draws, OnDrawn
from node.consensus.durability import Durability
from node.consensus.election import Election
from node.consensus.foundation import Foundation, Identity
from node.consensus.journal import JournalSettings, SegmentedJournal
from node.consensus.leadership import Leadership
from node.consensus.links import Links
from node.consensus.loop import Loop
from node.consensus.membership import Membership
from node.consensus.messages import Frame
from node.consensus.notices import Notices
from node.consensus.oracle import Oracle
from node.consensus.pace import Pace
from node.consensus.pauses import Pauses
from node.consensus.peers import Peers
from node.consensus.periodic import Periodic
from node.consensus.proposals import Answer, Proposals
from node.consensus.pulse import Pulse
from node.consensus.raft import CONFIGURATION_COMMAND, Raft
from node.consensus.range_check import RangeCheck
from node.consensus.reads import OnRead, Reads
from node.consensus.reception import Reception
from node.consensus.replication import Replication
from node.consensus.rounds import Rounds
from node.consensus.runtime import Runtime
from node.consensus.settings import EngineSettings
from node.consensus.snapshots import Snapshots
from node.consensus.stamps import Stamps
from node.consensus.state import StateStorage
from node.consensus.transport import RaftTransport
from statemachine.machine import Machine
from statemachine.store import Reader

_GREATEST_BUFFERED_BYTES: Final = 8 << 20
"""A peer that is so far behind gets the log, and no calls of resource managers."""


class Engine:
    def __init__(
        self,
        identity: Identity,
        initial_peers: Mapping[str, str],
        runtime: Runtime,
        disk: Disk,
        storage: StateStorage,
        links: Links,
        settings: EngineSettings | None = None,
        journal_settings: JournalSettings | None = None,
        bootstrap: bool = False,
    ) -> None:
        """Load what an earlier run left. Nothing is sent before `start`.

        Args:
            initial_peers: node id to peer address of every node that the configuration file
                names, this one left out. It counts until a membership record is in force.
            bootstrap: create the cluster of exactly these nodes, once all of them are there and
                none has ever been in a cluster.

        Raises:
            JournalDamagedError, JournalFormatError, OSError: the journal cannot be read.
            StateBehindJournalError: state and journal do not belong together.
        """
        self.identity = identity
        self.settings = settings = settings or EngineSettings()
        self.counters: Counter[str] = Counter()
        self.notices = Notices(runtime)
        session = runtime.random_bytes(16)
        self.machine = Machine(storage)
        self.journal = SegmentedJournal(disk, identity.disk_uuid, journal_settings)
        align_journal(self.journal, self.machine)
        self.membership = Membership(identity.node_id, identity.disk_uuid)
        self.transport = RaftTransport(links, self.journal, self.counters)
        self.raft = Raft(identity.node_id, self.journal, self.transport, settings)
        self.raft.restore_applied(max(self.machine.applied_index, self.journal.base()[0]))
        self._base = base = Foundation(
            identity=identity,
            session=session,
            runtime=runtime,
            settings=settings,
            links=links,
            storage=storage,
            machine=self.machine,
            journal=self.journal,
            membership=self.membership,
            transport=self.transport,
            raft=self.raft,
            pulse=Pulse(runtime),
            notices=self.notices,
            counters=self.counters,
        )

        # The log, here and at the others.
        self.pace = Pace(runtime.monotonic)
        self._durability = Durability(base, self.pace)
        self.replication = Replication(base)
        appending = Appending(base)
        self.snapshots = Snapshots(base, self.replication, appending)
        compaction = Compaction(base, self.replication, self.snapshots)

        # What is asked of a leader.
        self.stamps = Stamps(runtime, self.machine)
        self._leadership = leadership = Leadership(base, self.stamps)
        self.reads = Reads(base, leadership, self.stamps)
        self.election = Election(base, self.reads)
        self.proposals = Proposals(base, self.stamps, leadership)
        pauses = Pauses(settings.election_timeout_min_s / 2, runtime.monotonic())
        self._oracle = Oracle(base, leadership, self.stamps, self.proposals, self.reads, pauses)
        self._draws = Draws(base, self._oracle, pauses)

        # The state.
        self._digests = Digests(base, RangeCheck(storage), leadership)
        self._applying = Applying(base, leadership, self.proposals, self.reads, self._digests)

        # Who is there, and who is admitted.
        self._peers = Peers(base, initial_peers)
        self.contacts = Contacts(base, self.replication, self._peers)
        self.bootstrap = Bootstrap(base, self.contacts, self._peers, wanted=bootstrap)
        self.admission = Admission(base, self.contacts, self._peers, self.election, leadership)
        rounds = Rounds(base, self.contacts, self.reads, self.stamps, self.pace)

        # What moves all of them: frames, the loop, time.
        self._dispatch = Dispatch(
            base,
            contacts=self.contacts,
            election=self.election,
            appending=appending,
            replication=self.replication,
            proposals=self.proposals,
            reads=self.reads,
            oracle=self._oracle,
            draws=self._draws,
            rounds=rounds,
            snapshots=self.snapshots,
            bootstrap=self.bootstrap,
            admission=self.admission,
            digests=self._digests,
        )
        self._reception = Reception(
            base,
            contacts=self.contacts,
            dispatch=self._dispatch,
            replication=self.replication,
            election=self.election,
            snapshots=self.snapshots,
            digests=self._digests,
            bootstrap=self.bootstrap,
        )
        self._loop = Loop(
            base,
            reception=self._reception,
            durability=self._durability,
            replication=self.replication,
            election=self.election,
            proposals=self.proposals,
            reads=self.reads,
            draws=self._draws,
            pauses=pauses,
            applying=self._applying,
            snapshots=self.snapshots,
            compaction=compaction,
            bootstrap=self.bootstrap,
            admission=self.admission,
        )
        self._periodic = Periodic(
            base,
            leadership=leadership,
            proposals=self.proposals,
            reads=self.reads,
            draws=self._draws,
            rounds=rounds,
            admission=self.admission,
            pace=self.pace,
        )
        self._stopped = False
        self._connect()

    def _connect(self) -> None:
        """Say who hears of what comes from below."""
        base = self._base
        base.transport.flow = self.replication
        base.raft.on_apply = self._applying.apply
        base.raft.on_role_change = self._on_role_change
        base.membership.on_change = self._peers.follow
        base.pulse.beat = self._loop.run
        base.links.report_to(self._reception)

    def _on_append(self, command: bytes, index: int, term: int) -> None:
        """An entry is in the log; called for each, so it does next to nothing."""
        if command[0] == CONFIGURATION_COMMAND:
            self.membership.on_append(command, index)

    def _on_role_change(self) -> None:
        """The library changed its role: what belonged to the old one begins anew."""
        self._leadership.on_role_change()
        self.replication.reset()
        self.proposals.on_role_change()
        self.reads.on_role_change()
        self._oracle.on_role_change()
        self.admission.on_role_change()
        self.notices.role_changed()
        self._base.pulse.kick()

    # --- life

    def start(self) -> None:
        """Restore the membership and begin to run."""
        self.journal.on_append = self._on_append
        self.journal.on_truncate = self.membership.on_truncate
        base = self.journal.base()[0]
        self.membership.restore(
            self._base.storage,
            [
                (self.journal[index - base][0], index)
                for index in self.journal.configuration_indexes
            ],
        )
        self._peers.start()
        self._base.pulse.kick()
        self._periodic.run()

    def stop(self) -> None:
        """End without hurry: what is acknowledged is durable already."""
        if self._stopped:
            return
        self._stopped = True
        self._base.pulse.stop()
        self._loop.stop()
        self._periodic.stop()
        self._base.links.close()
        self._durability.stop()
        self._base.storage.checkpoint(force=True)

    def stop_process(self, reason: str) -> NoReturn:
        """End the process now, because going on might break a promise."""
        self._base.runtime.stop(reason)

    # --- callers

    def propose(self, request: bytes, deadline: float, on_answer: Callable[[Answer], None]) -> None:
        """Replicate an encoded request. See `Proposals.submit` for the errors."""
        self.proposals.submit(request, deadline, on_answer)
        self._base.pulse.kick_for_input()

    def propose_internal(
        self, request: bytes, deadline: float, on_answer: Callable[[Answer], None]
    ) -> None:
        """The same for the leader's own housekeeping, which passes every limit."""
        self.proposals.submit_internal(request, deadline, on_answer)
        self._base.pulse.kick_for_input()

    def read(self, deadline: float, on_ready: OnRead) -> None:
        """Call back when this node's state contains everything acknowledged before now."""
        self.reads.read(deadline, on_ready)
        self._base.pulse.kick_for_input()

    def draw(self, count: int, deadline: float, on_drawn: OnDrawn) -> None:
        """Call back with the first of `count` timestamps that follow each other.

        They are greater than all that were given to anybody before this call.

        Raises:
            OverloadedError
        """
        self._draws.draw(count, deadline, on_drawn)
        self._base.pulse.kick_for_input()

    def send_channel_frame(self, peer: str, frame: Frame) -> bool:
        """Send a frame of a resource manager's channel; False when the peer cannot take it now."""
        links = self._base.links
        if not links.is_connected(peer) or links.buffered_bytes(peer) > _GREATEST_BUFFERED_BYTES:
            return False
        return links.send(peer, frame)

    def compare_digest(self, peer: str, on_result: Callable[[bool | None, int], None]) -> None:
        """Ask a peer for its digest and compare it with this node's at the same index."""
        self._digests.compare(peer, on_result)

    # --- asking

    def now(self) -> float:
        """Seconds on the clock by which deadlines are judged."""
        return self._base.runtime.monotonic()

    @property
    def machine_store(self) -> Reader:
        """The state to read, as far as it is applied here."""
        return self._base.storage

    @property
    def leader_id(self) -> str | None:
        return self.raft.leader_id

    @property
    def leader_ready(self) -> bool:
        """This node leads and may serve."""
        return self._leadership.ready

    @property
    def known_commit_index(self) -> int:
        """The greatest commit index that a leader told this node of, or its own."""
        return max(self._dispatch.known_commit, self.raft.commit_index)

    def version_of_all_members(self) -> int:
        """The newest version of the state machine that every member can run; 0 when unknown."""
        return self.contacts.oldest_state_version()
