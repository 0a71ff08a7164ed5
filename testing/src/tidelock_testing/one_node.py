"""The engine of a cluster of one in memory: the real state machine, and every entry is applied."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from api.cluster import ClusterStatus, Consistency, Member, MembershipError, NodeStatus, View
from node.change_feed import ChangeFeed
from node.consensus.foundation import Identity
from node.consensus.messages import Frame
from node.consensus.notices import Notices
from node.consensus.proposals import Answer
from node.consensus.settings import EngineSettings
from node.consensus.stamps import Stamps
from node.voting import Voter
from statemachine.codec import encode_request, encode_unit
from statemachine.commands import (
    ActivateVersion,
    AnyCommand,
    FireTimers,
    IdempotencyKey,
    Request,
    ReserveTimestamps,
)
from statemachine.gates import SUPPORTED_VERSION
from statemachine.hybrid_clock import LOGICAL_BITS
from statemachine.machine import Machine
from statemachine.memory_store import MemoryStore
from statemachine.outcomes import Position, RequestOutcome
from statemachine.store import DamagedStateError
from statemachine.timers import due_timers
from tidelock_testing.time_by_hand import AdvancingRuntime

NODE_ID: Final = "testing"

_SESSION: Final = bytes(16)


class Term:
    """There is one, and it does not end."""

    term = 1
    is_leader = True


class OneNode:
    """`node.delivery.leader.Leader`: everything that calls to branches need of an engine."""

    leader_ready = True

    def __init__(self, runtime: AdvancingRuntime) -> None:
        self.runtime = runtime
        self.machine_store = MemoryStore()
        self.machine = Machine(self.machine_store)
        self.identity = Identity(
            node_id=NODE_ID, disk_uuid=bytes(16), peer_address="", api_address=""
        )
        self.settings = EngineSettings()
        self.notices = Notices(runtime)
        self.stamps = Stamps(runtime, self.machine)
        self.raft = Term()
        self.reads = self
        self._sequence = 0
        self.stamps.lead()
        self.apply([ActivateVersion(version=SUPPORTED_VERSION)])

    @property
    def quorum_confirmed_at(self) -> float:
        """The majority is here, and agrees at any time."""
        return self.now()

    def now(self) -> float:
        return self.runtime.monotonic()

    def read(self, deadline: float, on_ready: Callable[[Exception | None], None]) -> None:
        self.runtime.call_soon(lambda: on_ready(None))

    def propose_internal(
        self, request: bytes, deadline: float, on_answer: Callable[[Answer], None]
    ) -> None:
        def propose() -> None:
            on_answer(self.apply_request(request))

        # Never from here: who proposes is in the middle of something.
        self.runtime.call_soon(propose)

    def send_channel_frame(self, peer: str, frame: Frame) -> bool:
        """There is no other node."""
        return False

    def apply(
        self,
        commands: Sequence[AnyCommand],
        timeout_ms: int = 5_000,
        idempotency: IdempotencyKey | None = None,
    ) -> RequestOutcome:
        """Apply commands as one request, at once."""
        expires_at_ms = self.stamps.elapsed_ms() + 2 * timeout_ms + 1_000
        return self.apply_request(
            encode_request(Request(expires_at_ms, idempotency, tuple(commands)))
        )

    def apply_request(self, request: bytes) -> RequestOutcome:
        """Apply an encoded request."""
        self._sequence += 1
        unit = encode_unit(_SESSION, self._sequence, self._sequence, [request])
        index = self.machine.applied_index + 1
        (answered,) = self.machine.apply(index, Term.term, self.stamps.entry([unit]))
        self.notices.applied()
        return answered.requests[0]

    def fire_timers(self) -> None:
        """Do what is due by now."""
        while due := due_timers(self.machine_store, self.stamps.elapsed_ms()):
            self.apply([FireTimers(timers=due)])


class OneCluster:
    """`api.cluster.Cluster` over it."""

    def __init__(self, node: OneNode) -> None:
        self._node = node
        self._voter = Voter(NODE_ID, node.machine_store)
        self._votes_seen: tuple[int, int] | None = None
        self.changes = ChangeFeed(node.machine_store, self.applied_position)
        node.notices.on_applied.append(self.changes.on_applied)
        self.node_id = NODE_ID
        self.term = Term.term
        self.api_address = ""
        """Where the API is served, once it is."""

    async def propose(
        self,
        commands: Sequence[AnyCommand],
        *,
        timeout_ms: int,
        idempotency: IdempotencyKey | None = None,
    ) -> RequestOutcome:
        answered = self._node.apply(commands, timeout_ms, idempotency)
        self._vote()
        return answered

    async def propose_internal(
        self, commands: Sequence[AnyCommand], *, timeout_ms: int
    ) -> RequestOutcome:
        return self._node.apply(commands, timeout_ms)

    async def read(self, consistency: Consistency, *, timeout_ms: int) -> View:
        return View(self._node.machine_store, self.applied_position(), self.term)

    async def draw_timestamps(self, count: int, *, timeout_ms: int) -> int:
        machine, wall_ms = self._node.machine, self._node.runtime.wall_ms()
        first = max(machine.reserved_upto + 1, wall_ms << LOGICAL_BITS)
        self._node.apply([ReserveTimestamps(term=self.term, upto=first + count - 1)])
        return first

    def applied_position(self) -> Position:
        return self._node.machine.applied_position

    def status(self) -> ClusterStatus:
        index = self._node.machine.applied_index
        return ClusterStatus(
            cluster_id=NODE_ID,
            node_id=NODE_ID,
            leader=NODE_ID,
            term=self.term,
            commit_index=index,
            applied_index=index,
            voters=(NODE_ID,),
            nodes=(
                NodeStatus(
                    node_id=NODE_ID,
                    role="LEADER",
                    api_address=self.api_address,
                    peer_address="",
                    match_index=index,
                    last_contact_ms=0,
                ),
            ),
            quorum_confirmed_ms=0,
            caught_up=True,
        )

    def report_damage(self, error: DamagedStateError) -> None:
        asyncio.get_running_loop().call_exception_handler({"message": str(error)})

    async def transfer_leadership(self, target: str | None, *, timeout_ms: int) -> str:
        if target not in (None, NODE_ID):
            raise MembershipError("NOT_A_MEMBER", f"{target} is not a member.")
        return NODE_ID

    async def add_member(self, member: Member, *, timeout_ms: int) -> None:
        raise MembershipError("TIMED_OUT", "A coordinator for tests has one member.")

    async def remove_member(self, node_id: str, *, timeout_ms: int) -> None:
        raise MembershipError("TIMED_OUT", "A coordinator for tests has one member.")

    def _vote(self) -> None:
        """Say what the one member has to say to proposals."""
        while self._votes_seen != self._node.machine.proposals_revision:
            self._votes_seen = self._node.machine.proposals_revision
            commands = self._voter.step(self._node.now(), leads=True)
            if commands:
                self._node.apply(commands)
