"""A cluster of one inside the test's process: the real state machine, no log, no network."""

from __future__ import annotations

from collections.abc import Sequence

from api.cluster import (
    ClusterStatus,
    Consistency,
    Member,
    MembershipError,
    NodeStatus,
    RequestTooLargeError,
    View,
)
from api.routing import NodeState, RejoinRefusedError, RoutingEntry, RoutingTable
from node.change_feed import ChangeFeed
from node.voting import Voter
from statemachine.codec import encode_entry, encode_request, encode_unit
from statemachine.commands import (
    MAX_ENTRY_BYTES,
    AnyCommand,
    FireTimers,
    IdempotencyKey,
    Request,
    ReserveTimestamps,
)
from statemachine.hybrid_clock import LOGICAL_BITS
from statemachine.machine import Machine
from statemachine.memory_store import MemoryStore
from statemachine.outcomes import Position, RequestOutcome
from statemachine.store import DamagedStateError
from statemachine.timers import due_timers

START_MS = 1_700_000_000_000


class LocalCluster:
    """Implements `api.cluster.Cluster`. `fault` makes the next calls fail; time moves by hand."""

    def __init__(self, node_id: str = "n1", store: MemoryStore | None = None) -> None:
        self.node_id = node_id
        self.term = 3
        self.store = MemoryStore() if store is None else store
        self.machine = Machine(self.store)
        self.changes = ChangeFeed(self.store, self.applied_position)
        self.fault: Exception | None = None
        self.lose_answers = False
        self.damage: list[DamagedStateError] = []
        """Apply what is proposed, then say that the outcome is unknown."""
        self.wall_ms = START_MS
        self.elapsed_ms = 0
        self.lifetime_ms: int | None = None
        """Instead of the request's deadline: how long it may take until it is applied."""
        self.leader: str | None = node_id
        self.quorum_confirmed_ms: int | None = 0
        self.caught_up = True
        self.down: list[str] = []
        """Nodes that are not heard and do not vote."""
        self.members = [_member(name, at) for at, name in enumerate(("n1", "n2", "n3"), start=1)]
        self.timeouts_ms: list[int] = []
        self.consistencies: list[Consistency] = []
        self._sequence = 0

    @property
    def digest(self) -> bytes:
        return self.machine.digest

    async def propose(
        self,
        commands: Sequence[AnyCommand],
        *,
        timeout_ms: int,
        idempotency: IdempotencyKey | None = None,
    ) -> RequestOutcome:
        self.timeouts_ms.append(timeout_ms)
        if self.fault is not None and not self.lose_answers:
            raise self.fault
        lifetime_ms = timeout_ms if self.lifetime_ms is None else self.lifetime_ms
        answered = self._apply(commands, lifetime_ms, idempotency)
        self.vote()
        if self.fault is not None:
            raise self.fault
        return answered

    def _apply(
        self,
        commands: Sequence[AnyCommand],
        lifetime_ms: int = 5_000,
        idempotency: IdempotencyKey | None = None,
    ) -> RequestOutcome:
        request = encode_request(
            Request(self.elapsed_ms + lifetime_ms, idempotency, tuple(commands))
        )
        if len(request) > MAX_ENTRY_BYTES:
            raise RequestTooLargeError
        self._sequence += 1
        unit = encode_unit(b"s" * 16, self._sequence, self._sequence, [request])
        index = self.machine.applied_index + 1
        (answered,) = self.machine.apply(
            index, self.term, encode_entry(self.wall_ms, self.elapsed_ms, [unit])
        )
        self.changes.on_applied()
        return answered.requests[0]

    def vote(self) -> None:
        """Let every node that is up say what it has to say to proposals."""
        said = True
        while said:
            said = False
            for member in self.members:
                if member.node_id in self.down:
                    continue
                leads = member.node_id == self.leader
                commands = Voter(member.node_id, self.store).step(0.0, leads=leads)
                if commands:
                    self._apply(commands)
                    said = True

    def let_pass(self, duration_ms: int) -> None:
        """Let time pass, and do what is due then."""
        self.wall_ms += duration_ms
        self.elapsed_ms += duration_ms
        while due := due_timers(self.store, self.elapsed_ms):
            self._apply([FireTimers(timers=due)])

    async def draw_timestamps(self, count: int, *, timeout_ms: int) -> int:
        self.timeouts_ms.append(timeout_ms)
        if self.fault is not None:
            raise self.fault
        first = max(self.machine.reserved_upto + 1, self.wall_ms << LOGICAL_BITS)
        reservation = ReserveTimestamps(term=self.term, upto=first + count - 1)
        self._apply([reservation])
        return first

    async def read(self, consistency: Consistency, *, timeout_ms: int) -> View:
        self.timeouts_ms.append(timeout_ms)
        self.consistencies.append(consistency)
        if self.fault is not None:
            raise self.fault
        return View(reader=self.store, position=self.applied_position(), term=self.term)

    def applied_position(self) -> Position:
        return self.machine.applied_position

    def status(self) -> ClusterStatus:
        leads = self.leader == self.node_id
        nodes = tuple(
            NodeStatus(
                node_id=member.node_id,
                role="LEADER" if member.node_id == self.leader else "FOLLOWER",
                api_address=member.api_address,
                peer_address=member.peer_address,
                match_index=self.machine.applied_index if leads else None,
                last_contact_ms=self._last_contact_ms(member.node_id),
            )
            for member in self.members
        )
        return ClusterStatus(
            cluster_id="c0ffee",
            node_id=self.node_id,
            leader=self.leader,
            term=self.term,
            commit_index=self.machine.applied_index,
            applied_index=self.machine.applied_index,
            voters=tuple(member.node_id for member in self.members),
            nodes=nodes,
            quorum_confirmed_ms=self.quorum_confirmed_ms,
            caught_up=self.caught_up,
        )

    def _last_contact_ms(self, node_id: str) -> int:
        if node_id in self.down:
            return 60_000
        return 0 if node_id == self.node_id else 12

    def report_damage(self, error: DamagedStateError) -> None:
        self.damage.append(error)

    async def transfer_leadership(self, target: str | None, *, timeout_ms: int) -> str:
        if self.fault is not None:
            raise self.fault
        if target is not None and all(member.node_id != target for member in self.members):
            raise MembershipError("NOT_A_MEMBER", f"{target} is not a member.")
        self.leader = "n2" if target is None else target
        return self.leader

    async def add_member(self, member: Member, *, timeout_ms: int) -> None:
        if self.fault is not None:
            raise self.fault
        self.members.append(member)

    async def remove_member(self, node_id: str, *, timeout_ms: int) -> None:
        if self.fault is not None:
            raise self.fault
        kept = [member for member in self.members if member.node_id != node_id]
        if len(kept) == len(self.members):
            raise MembershipError("NOT_A_MEMBER", f"{node_id} is not a member.")
        self.members = kept


def _member(node_id: str, place: int) -> Member:
    return Member(
        node_id=node_id,
        peer_address=f"127.0.0.1:{7200 + place}",
        api_address=f"127.0.0.1:{7100 + place}",
    )


class LocalRouting:
    """Implements `api.routing.RoutingView` over a table that tests set."""

    def __init__(self) -> None:
        self.entries = [_healthy(node_id) for node_id in ("n1", "n2", "n3")]

    def fail(self, node_id: str) -> None:
        self._enter(node_id, NodeState.FAILED, "Three checks in a row were missed.")

    def suspect(self, node_id: str) -> None:
        self._enter(node_id, NodeState.SUSPECT, "The last check was missed.")

    def _enter(self, node_id: str, state: NodeState, reason: str) -> None:
        entered = RoutingEntry(
            node_id=node_id,
            in_rotation=state is NodeState.SUSPECT,
            state=state,
            reason=reason,
            since_ms=START_MS + 3_000,
        )
        self.entries = [entered if node.node_id == node_id else node for node in self.entries]

    def table(self) -> RoutingTable:
        return RoutingTable(nodes=tuple(self.entries))

    async def rejoin(self, node_id: str) -> NodeState:
        states = {node.node_id: node.state for node in self.entries}
        if states[node_id] is NodeState.SUSPECT:
            raise RejoinRefusedError("REJOIN_REFUSED", "The node has not failed.")
        return NodeState.RECOVERING if states[node_id] is NodeState.FAILED else NodeState.HEALTHY


def _healthy(node_id: str) -> RoutingEntry:
    return RoutingEntry(
        node_id=node_id, in_rotation=True, state=NodeState.HEALTHY, reason="", since_ms=START_MS
    )
