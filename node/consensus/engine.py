"""One Raft participant: everything in this package, wired and driven.

The engine is a loop body, `_run`: read the frames that came, send and sync what is new, then tick
the library, which commits and applies what is older. While the journal syncs, Raft frames queue and
the body does not run again, because the library counts itself as soon as an entry is in its log;
questions of reads, forwarded requests and health go on. Callers give callbacks; `node.cluster`
makes futures of them.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import NoReturn

from node.consensus.admission import Admission
from node.consensus.compaction import Compaction
from node.consensus.contacts import Contacts, Identity
from node.consensus.disk import Disk
from node.consensus.dispatch import IMMEDIATE_KINDS, Dispatch
from node.consensus.divergence import Divergence, Verdict
from node.consensus.election import Election
from node.consensus.journal import JournalSettings, SegmentedJournal
from node.consensus.links import LinkEvents, Links
from node.consensus.membership import CONFIGURATION_KEY, Configuration, MemberRecord, Membership
from node.consensus.messages import Frame, Kind, RefusalReason
from node.consensus.pace import Pace
from node.consensus.proposals import Answer, Proposals
from node.consensus.raft import CONFIGURATION_COMMAND, Raft
from node.consensus.range_check import RangeCheck
from node.consensus.reads import OnRead, Reads
from node.consensus.replication import Replication
from node.consensus.runtime import Runtime
from node.consensus.settings import EngineSettings
from node.consensus.snapshots import Snapshots
from node.consensus.stamps import Stamps
from node.consensus.state import IncomingCopy, StateStorage
from node.consensus.transport import RaftTransport
from statemachine.gates import SUPPORTED_VERSION
from statemachine.machine import Machine
from statemachine.outcomes import UnitOutcome
from statemachine.store import DamagedStateError, Reader

logger = logging.getLogger(__name__)

_ALIVE_INTERVAL_S = 1.0


class StateBehindJournalError(Exception):
    """The state is older than the journal's base: this disk cannot be continued."""


class Engine(LinkEvents):
    def __init__(
        self,
        identity: Identity,
        initial_peers: Mapping[str, str],
        runtime: Runtime,
        disk: Disk,
        storage: StateStorage,
        make_links: Callable[[LinkEvents], Links],
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
        """
        self.identity = identity
        self.settings = settings = settings or EngineSettings()
        self._runtime = runtime
        self.initial_peers = dict(initial_peers)
        self._storage = storage
        self.counters: Counter[str] = Counter()
        self.session = runtime.random_bytes(16)
        self.machine = Machine(storage)
        self.journal = SegmentedJournal(disk, identity.disk_uuid, journal_settings)
        self._align_journal()
        self.membership = Membership(identity.node_id, identity.disk_uuid, self._on_configuration)
        self.links = make_links(self)
        self.transport = RaftTransport(self.links, lambda: self.raft.term)
        self.transport.last_log_index = lambda: self.journal.last()[0]
        self.counters = self.transport.counters
        self.raft = Raft(
            identity.node_id,
            self.journal,
            self.transport,
            settings,
            self._apply,
            self._on_state_change,
        )
        self.raft.restore_applied(max(self.machine.applied_index, self.journal.base()[0]))
        self.replication = Replication(
            self.raft, self.journal, self.links, self.transport, settings
        )
        self.transport.replication = self.replication
        self.contacts = Contacts(
            identity,
            self.session,
            self.membership,
            self.replication,
            lambda node_id: node_id in self.initial_peers,
            lambda: self.raft.is_leader,
            runtime.monotonic,
        )
        self.pace = Pace(runtime.monotonic)
        self.stamps = Stamps(runtime, lambda: self.machine.elapsed_ms)
        self.reads = Reads(
            self.raft,
            self.links,
            self.membership,
            runtime,
            settings,
            lambda: self.leader_ready,
            self.stamps.elapsed_ms,
            self.counters,
        )
        self.election = Election(
            self.raft,
            self.journal,
            self.links,
            self.transport,
            self.membership,
            runtime,
            settings,
            lambda: self.reads.quorum_confirmed_at,
            self.kick_after,
        )
        self.proposals = Proposals(
            self.session,
            self.raft,
            self.links,
            settings,
            self.stamps.entry,
            lambda: self.journal.last()[0] - self.raft.last_applied,
            lambda: self.leader_ready and not self.admission.handing_over and not self.halted,
            lambda: self._full,
            self.counters,
        )
        self.snapshots = Snapshots(
            self.raft,
            self.journal,
            self.links,
            self.replication,
            storage,
            runtime,
            settings,
            self._install,
            self.kick,
            self._acknowledge,
            self.counters,
        )
        self._compaction = Compaction(
            self.raft, self.journal, self.replication, self.snapshots, settings, self.counters
        )
        self.admission = Admission(self, bootstrap=bootstrap)
        self.divergence = Divergence(self.membership)
        self._range_check = RangeCheck(storage)
        self._digest_due: bytes | None = None
        self.on_diverged: Callable[[], None] = lambda: runtime.stop("the state diverged")
        self.on_regressed: Callable[[], None] = lambda: runtime.stop(
            "the disk holds less than this node acknowledged; empty it to rejoin"
        )
        self.on_clock_sample: Callable[[str, int, int], None] = lambda _peer, _wall, _trip: None
        """Called on a leader with a peer, its wall clock in ms and the round trip in ms."""
        self.on_configuration: list[Callable[[Configuration], None]] = []
        self.on_role_change: list[Callable[[], None]] = []
        self.on_applied: list[Callable[[], None]] = []
        """Called after a round that applied entries, and after a snapshot was installed."""
        self._announced_index = 0
        self.halted = False
        self._full = False
        self.leader_ready = False
        self._inbox: deque[tuple[str, Frame]] = deque()
        self._scheduled = self._syncing = self._stopped = False
        self._ran_at = runtime.monotonic()
        self._sync_began_at = self._timer_due_at = runtime.monotonic()
        self._alive_due = 0.0
        self._dispatch = Dispatch(self)

    def _align_journal(self) -> None:
        """State and journal were written separately: make the journal continue the state.

        Raises:
            StateBehindJournalError
        """
        applied, base = self.machine.applied_index, self.journal.base()[0]
        if base > max(applied, 1):
            raise StateBehindJournalError(
                f"the journal begins at {base} and the state ends at {applied}: what lies between "
                "is lost here; empty the data directory, and the node is rebuilt from the others"
            )
        if applied and self.journal.term_at(applied) != self.machine.applied_term:
            # A snapshot was installed, or entries were committed and applied before they were
            # synced here. The state is the cluster's: the journal goes on behind it.
            self.journal.reset_to(applied, self.machine.applied_term)

    # --- life

    def start(self) -> None:
        """Restore the membership and begin to run."""
        self.journal.on_append = self._on_journal_append
        self.journal.on_truncate = self.membership.on_truncate
        self.membership.restore(
            self._storage.get(CONFIGURATION_KEY),
            [
                (self.journal[index - self.journal.base()[0]][0], index)
                for index in self.journal.configuration_indexes
            ],
        )
        if self.membership.in_force is None:
            self.links.set_peers(self.initial_peers)
        self.kick()
        self._timer()

    def stop(self) -> None:
        """End without hurry: what is acknowledged is durable already."""
        if self._stopped:
            return
        self._stopped = True
        self.links.close()
        self.journal.flush_now()
        self._storage.checkpoint(force=True)

    def _timer(self) -> None:
        if self._stopped:
            return
        interval_s = self.settings.heartbeat_s / 4
        self._runtime.call_later(interval_s, self._timer)
        now = self._runtime.monotonic()
        self.pace.timer_was_late(now - self._timer_due_at)
        self._timer_due_at = now + interval_s
        self._full = self._dispatch.greatest_fill_ratio() > self.settings.max_fill_ratio
        self.proposals.expire(now)
        self.reads.expire(now)
        self.admission.on_timer(now)
        if now >= self._alive_due:
            self._alive_due = now + _ALIVE_INTERVAL_S
            for peer in self._replicated_peers():
                self.links.send(peer, (int(Kind.ALIVE),))
        if self.leader_ready and self.pace.should_hand_over(self.membership.other_voters):
            logger.warning("hands over: ten times slower than the others for two seconds")
            self.counters["slow_hand_overs"] += 1
            self.admission.hand_over(now + 2 * self.settings.election_timeout_max_s)
        self.kick()

    # --- callers

    def propose(self, request: bytes, deadline: float, on_answer: Callable[[Answer], None]) -> None:
        """Replicate an encoded request. See `Proposals.submit` for the errors."""
        self.proposals.submit(request, deadline, on_answer)
        self.kick()

    def propose_internal(
        self, request: bytes, deadline: float, on_answer: Callable[[Answer], None]
    ) -> None:
        """The same for the leader's own housekeeping, which passes every limit."""
        self.proposals.submit_internal(request, deadline, on_answer)
        self.kick()

    def read(self, deadline: float, on_ready: OnRead) -> None:
        """Call back when this node's state contains everything acknowledged before now."""
        self.reads.read(deadline, on_ready)
        self.kick()

    # --- the loop body

    def kick(self) -> None:
        """Run soon."""
        if not self._scheduled and not self._stopped:
            self._scheduled = True
            self._runtime.call_soon(self._run)

    def kick_after(self, delay_s: float) -> None:
        self._runtime.call_later(delay_s, self.kick)

    def _run(self) -> None:
        """One round. Whatever goes wrong in it, nobody knows what state is left: stop."""
        self._scheduled = False
        if self._stopped:
            return
        try:
            self._go_round()
        except Exception as error:
            logger.critical("the engine failed", exc_info=True)
            self._runtime.stop(f"the engine failed: {error!r}")

    def _go_round(self) -> None:
        now = self._runtime.monotonic()
        if now - self._ran_at > self.settings.election_timeout_min_s / 2:
            self.election.after_gap(now)
        self._ran_at = now
        self.reads.feed(now)
        if not self.raft.is_leader:
            self.proposals.feed(now)
        if self._syncing:
            return
        if self.journal.dirty:
            # The last tick wrote it beside a sync, and it has left for the others: no answer to it
            # is judged before it is durable here.
            self._sync()
            return
        while self._inbox:
            self._dispatch(*self._inbox.popleft())
        self.snapshots.install_checked()
        self.replication.before_tick()
        self._begin_round(now)
        if self._would_count_itself():
            return
        self._tick(now)
        self.transport.flush()
        self._sync()

    def _begin_round(self, now: float) -> None:
        """Send and sync what is new, before the time is taken to apply what is committed.

        The tick that follows may evaluate the commit index beside this sync: what is being synced
        has just left for the others, so none of them can have acknowledged it.
        """
        if self.raft.is_leader and self.membership.other_voters:
            self.proposals.feed(now)
            self.raft.append_queued()
        self.transport.flush()
        self._sync()

    def _would_count_itself(self) -> bool:
        """Alone, this node is the majority, and may not be one before its own sync ends."""
        return self._syncing and not self.membership.other_voters

    def _tick(self, now: float) -> None:
        if self.raft.is_leader and not self.membership.other_voters:
            self.proposals.feed(now)
        self.election.before_tick(now)
        term = self.raft.term
        self.raft.doTick(0.0)
        self.replication.after_tick()
        if self.raft.term != term:
            self.election.campaign_started(now)
        self._after_tick(now)

    def _after_tick(self, now: float) -> None:
        applied = self.raft.last_applied
        if self.membership.on_applied(applied, self._storage):
            self._storage.end_entry()
        if self.raft.is_leader:
            if not self.leader_ready and self.journal.term_at(applied) == self.raft.term:
                self._become_ready()
            self.reads.keep_confirmed(now)
        self.reads.on_applied(applied)
        self._announce(applied)
        self._publish_digest()
        self.snapshots.feed(now)
        self.admission.feed(now)
        if self._storage.checkpoint():
            self._compaction.run(self._storage.durable_index, self._replicated_peers())
        if self.proposals.can_progress or self.raft.commit_index > applied:
            self.kick()

    def _announce(self, applied: int) -> None:
        if applied != self._announced_index:
            self._announced_index = applied
            for callback in self.on_applied:
                callback()

    def _become_ready(self) -> None:
        """The first entry of this leader's term is applied: it may serve."""
        self.leader_ready = True
        self.stamps.lead()
        self.counters["terms_led"] += 1
        logger.info("leads", extra={"term": self.raft.term, "index": self.raft.last_applied})
        for callback in self.on_role_change:
            callback()
        self.kick()

    def _sync(self) -> None:
        """Make the journal durable, and let go what was parked before that began."""
        if self._syncing:
            return
        self.transport.seal()
        if self.journal.dirty:
            self._syncing = True
            self._sync_began_at = self._runtime.monotonic()
            self.journal.flush(self._on_durable)
        else:
            self.transport.release()

    def _on_durable(self, error: OSError | None) -> None:
        if error is not None:
            self._runtime.stop(f"the journal cannot be written: {error}")
        self._syncing = False
        if self._stopped:
            return
        self.pace.sync_took(self._runtime.monotonic() - self._sync_began_at)
        self.transport.release()
        self.kick()

    # --- what the library calls

    def _apply(self, index: int, payload: bytes) -> None:
        """Apply one committed entry. Whatever fails here breaks an invariant."""
        try:
            term = self.journal.term_at(index)
            if term is None:
                raise AssertionError(f"applied entry {index} is not in the journal")
            outcomes = self.machine.apply(index, term, payload)
            self._storage.end_entry()
            self.divergence.note_own(self.machine.applied_index, self.machine.digest)
            if self.machine.checkpoint[0] == index:
                self._digest_due = self.machine.checkpoint[1] + self._range_check.next_digest()
        except DamagedStateError as error:
            logger.critical("a row that entry %d needs is damaged: %s", index, error)
            self.on_diverged()
            self._runtime.stop("the state is damaged")
        except Exception as error:
            logger.critical("apply failed", exc_info=True, extra={"index": index})
            self._runtime.stop(f"entry {index} cannot be applied: {error!r}")
        self._settle(outcomes)

    def _settle(self, outcomes: tuple[UnitOutcome, ...]) -> None:
        if outcomes:
            self.proposals.on_applied(outcomes)

    def _on_state_change(self) -> None:
        """The library changed its role."""
        self.leader_ready = False
        self.replication.reset()
        self.stamps.follow()
        self.proposals.on_role_change()
        self.reads.on_role_change()
        self.admission.on_role_change()
        for callback in self.on_role_change:
            callback()
        self.kick()

    def _on_journal_append(self, command: bytes, index: int, term: int) -> None:
        if command[0] == CONFIGURATION_COMMAND:
            self.membership.on_append(command, index)

    def _on_configuration(self, configuration: Configuration) -> None:
        """A membership record is in force, or the one before it is again."""
        now = self._runtime.monotonic()
        self.raft.set_peers(
            [member.node_id for member in configuration.voters],
            [member.node_id for member in configuration.learners],
            now,
        )
        addresses = {
            member.node_id: member.peer_address
            for member in (*configuration.voters, *configuration.learners)
            if member.node_id != self.identity.node_id
        }
        for callback in self.on_configuration:
            callback(configuration)
        # Nodes of the configuration file stay reachable: one of them may come to be admitted.
        self.links.set_peers({**self.initial_peers, **addresses})
        self.kick()

    def _acknowledge(self, peer: str, index: int) -> None:
        self._dispatch.acknowledge(peer, index)

    def _install(self, incoming: IncomingCopy, index: int, term: int) -> None:
        """Replace the state by a received copy: first the state, then the journal."""
        try:
            self._storage.install_copy(incoming)
            self.machine.reload()
            if self.machine.applied_index != index:
                raise AssertionError(
                    f"the copy holds index {self.machine.applied_index}, not {index}"
                )
            self.journal.reset_to(index, term)
        except Exception as error:
            logger.critical("snapshot installation failed", exc_info=True)
            self._runtime.stop(f"the snapshot cannot be installed: {error!r}")
        self.raft.restore_applied(index)
        self.membership.on_snapshot(self._storage.get(CONFIGURATION_KEY))
        self.divergence.forget()
        self._digest_due = None
        self.proposals.on_snapshot(self.machine.outcome_of)
        self.reads.on_applied(index)
        self._announce(index)
        logger.info("snapshot installed", extra={"index": index, "term": term})

    # --- what the links call

    def hello(self) -> Frame:
        return self.contacts.hello()

    def admit(self, hello: Frame) -> RefusalReason | None:
        reason = self.contacts.admit(hello)
        if reason is None:
            self.admission.on_contact(str(hello[3]))
        return reason

    def on_connected(self, peer: str) -> None:
        self.transport.discard(peer)
        self.raft.resume_sending(peer)
        self.replication.on_connected(peer)
        self.snapshots.on_connected(peer)
        self.admission.on_contact(peer)
        self.kick()

    def on_disconnected(self, peer: str) -> None:
        self.transport.discard(peer)
        self.raft.interrupt_sending(peer)
        self.divergence.on_disconnected(peer)
        self.election.on_link_lost(peer)
        self.kick()

    def on_refused(self, peer: str, reason: RefusalReason) -> None:
        self.contacts.refused(peer, reason)
        if reason is RefusalReason.REGRESSED:
            self.on_regressed()

    def on_frame(self, peer: str, frame: Frame) -> None:
        self.contacts.heard(peer)
        if frame[0] in IMMEDIATE_KINDS:
            self._dispatch(peer, frame)
        else:
            self._inbox.append((peer, frame))

    def on_frames_end(self) -> None:
        self.kick()

    # --- digests

    def _publish_digest(self) -> None:
        if self._digest_due is None:
            return
        digest, self._digest_due = self._digest_due, None
        index = self.machine.checkpoint[0]
        for peer in self.membership.other_voters:
            self.links.send(peer, (int(Kind.DIGEST), index, digest))
        self.judge_digest(self.identity.node_id, index, digest)

    def judge_digest(self, node_id: str, index: int, digest: bytes) -> None:
        """Take a member's digest; stop or halt when the states differ."""
        match self.divergence.report(node_id, index, digest):
            case Verdict.AGREED:
                self.halted = False
            case Verdict.MINORITY:
                logger.critical("this node's state differs from the majority's at %d", index)
                self.on_diverged()
            case Verdict.SPLIT:
                logger.critical("the nodes' states differ at %d and none has a majority", index)
                self.halted = True

    def compare_digest(self, peer: str, on_result: Callable[[bool | None, int], None]) -> None:
        """Ask a peer for its digest and compare it with this node's at the same index."""
        if not self.links.is_connected(peer):
            on_result(None, 0)
        elif self.divergence.compare(peer, on_result):
            self.links.send(peer, (int(Kind.DIGEST_REQUEST),))

    # --- asking

    @property
    def is_blank(self) -> bool:
        """This disk has never been in a cluster."""
        return self.membership.in_force is None

    def now(self) -> float:
        return self._runtime.monotonic()

    def wall_ms(self) -> int:
        return self._runtime.wall_ms()

    def stop_process(self, reason: str) -> NoReturn:
        self._runtime.stop(reason)

    @property
    def own_fill_ratio(self) -> float:
        """How full this node's state and disk are."""
        return self._storage.fill_ratio

    def _replicated_peers(self) -> list[str]:
        configuration = self.membership.in_force
        if configuration is None:
            return []
        return [
            member.node_id
            for member in (*configuration.voters, *configuration.learners)
            if member.node_id != self.identity.node_id
        ]

    def random_bytes(self, count: int) -> bytes:
        return self._runtime.random_bytes(count)

    def expect_peer(self, node_id: str, address: str) -> None:
        """Know a node that is about to be admitted: dial it, and let it dial."""
        self.initial_peers[node_id] = address
        if self.membership.in_force is not None:
            self._on_configuration(self.membership.in_force)

    @property
    def machine_store(self) -> Reader:
        """The state to read, as far as it is applied here."""
        return self._storage

    @property
    def leader_id(self) -> str | None:
        return self.raft.leader_id

    @property
    def known_commit_index(self) -> int:
        """The greatest commit index that a leader told this node of, or its own."""
        return max(self._dispatch.known_commit, self.raft.commit_index)

    def version_of_all_members(self) -> int:
        """The newest version of the state machine that every member can run; 0 when unknown."""
        versions = [SUPPORTED_VERSION]
        for peer in self._replicated_peers():
            contact = self.contacts.get(peer)
            versions.append(contact.state_version if contact is not None else 0)
        return min(versions)

    @property
    def own_member_record(self) -> MemberRecord:
        return MemberRecord(
            self.identity.node_id,
            self.identity.disk_uuid,
            self.identity.peer_address,
            self.identity.api_address,
        )
