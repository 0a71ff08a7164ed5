"""The engine as the HTTP layer sees it: callbacks become futures, facts become a status."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from uuid import UUID

from api.cluster import (
    ClusterStatus,
    Consistency,
    Member,
    MembershipError,
    NodeStatus,
    NoQuorumError,
    View,
)
from node.change_feed import ChangeFeed
from node.consensus.admission import ADD, REMOVE, TRANSFER
from node.consensus.engine import Engine
from node.consensus.proposals import Answer
from statemachine.codec import encode_request
from statemachine.commands import AnyCommand, IdempotencyKey, Request
from statemachine.outcomes import Position, RequestOutcome
from statemachine.store import DamagedStateError, Reader

_CLOSE_BEHIND_ENTRIES = 64
_RETRY_S = 0.05
_ANSWER_FIRST_S = 0.05


class EngineCluster:
    """`api.cluster.Cluster` on one node's engine."""

    def __init__(self, engine: Engine, reader: Reader, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._reader = reader
        self._loop = loop
        self._node_id = engine.identity.node_id
        self._changes = ChangeFeed(reader, self.applied_position)
        engine.notices.on_applied.append(self._changes.on_applied)
        self.on_damage: Callable[[DamagedStateError], object] = lambda error: engine.stop_process(
            f"the state is damaged: {error}"
        )

    @property
    def node_id(self) -> str:
        return self._node_id

    @property
    def term(self) -> int:
        return self._engine.raft.term

    def applied_position(self) -> Position:
        return self._engine.machine.applied_position

    @property
    def changes(self) -> ChangeFeed:
        return self._changes

    # --- writing

    def propose(
        self,
        commands: Sequence[AnyCommand],
        *,
        timeout_ms: int,
        idempotency: IdempotencyKey | None = None,
    ) -> asyncio.Future[RequestOutcome]:
        return self._submit(self._engine.propose, commands, timeout_ms, idempotency)

    def propose_internal(
        self, commands: Sequence[AnyCommand], *, timeout_ms: int
    ) -> asyncio.Future[RequestOutcome]:
        """The same for the leader's own housekeeping, which no limit refuses."""
        return self._submit(self._engine.propose_internal, commands, timeout_ms, None)

    def _submit(
        self,
        submit: Callable[[bytes, float, Callable[[Answer], None]], None],
        commands: Sequence[AnyCommand],
        timeout_ms: int,
        idempotency: IdempotencyKey | None,
    ) -> asyncio.Future[RequestOutcome]:
        engine = self._engine
        future: asyncio.Future[RequestOutcome] = self._loop.create_future()
        # The caller knows at its deadline; the log refuses the request a little later, so that
        # two clocks which differ by that little do not reject what is still waited for.
        expires_at_ms = engine.stamps.elapsed_ms() + 2 * timeout_ms + 1_000
        request = encode_request(Request(expires_at_ms, idempotency, tuple(commands)))

        def answer(result: Answer) -> None:
            if future.done():
                return
            if isinstance(result, RequestOutcome):
                future.set_result(result)
            else:
                future.set_exception(result)

        submit(request, engine.now() + timeout_ms / 1000, answer)
        return future

    def draw_timestamps(self, count: int, *, timeout_ms: int) -> asyncio.Future[int]:
        future: asyncio.Future[int] = self._loop.create_future()

        def drawn(first: int | Exception) -> None:
            if future.done():
                return
            if isinstance(first, int):
                future.set_result(first)
            else:
                future.set_exception(first)

        self._engine.draw(count, self._engine.now() + timeout_ms / 1000, drawn)
        return future

    # --- reading

    async def read(self, consistency: Consistency, *, timeout_ms: int) -> View:
        if consistency is Consistency.LINEARIZABLE:
            future: asyncio.Future[None] = self._loop.create_future()
            self._engine.read(
                self._engine.now() + timeout_ms / 1000, lambda error: _settle(future, error)
            )
            await future
        return View(self._reader, self.applied_position(), self.term)

    # --- status

    def status(self) -> ClusterStatus:
        engine = self._engine
        configuration = engine.membership.in_force
        now = engine.now()
        confirmed_s = now - engine.reads.quorum_confirmed_at
        confirmed = int(confirmed_s * 1000) if confirmed_s < 1e9 else None
        cluster_id = engine.membership.cluster_id
        behind = engine.known_commit_index - engine.raft.last_applied
        return ClusterStatus(
            cluster_id=str(UUID(bytes=cluster_id)) if cluster_id is not None else None,
            node_id=self._node_id,
            leader=engine.leader_id,
            term=engine.raft.term,
            commit_index=engine.raft.commit_index,
            applied_index=engine.raft.last_applied,
            voters=tuple(
                member.node_id for member in (configuration.voters if configuration else ())
            ),
            nodes=self._nodes(now),
            quorum_confirmed_ms=confirmed,
            caught_up=engine.leader_id is not None and behind <= _CLOSE_BEHIND_ENTRIES,
        )

    def _nodes(self, now: float) -> tuple[NodeStatus, ...]:
        configuration = self._engine.membership.in_force
        if configuration is None:
            return ()
        learners = {member.node_id for member in configuration.learners}
        members = sorted(
            (*configuration.voters, *configuration.learners), key=lambda member: member.node_id
        )
        return tuple(
            NodeStatus(
                node_id=member.node_id,
                role=self._role(member.node_id, learner=member.node_id in learners),
                api_address=member.api_address,
                peer_address=member.peer_address,
                match_index=self._match_index(member.node_id),
                last_contact_ms=self._last_contact_ms(member.node_id, now),
            )
            for member in members
        )

    def _role(self, node_id: str, *, learner: bool) -> str:
        if learner:
            return "LEARNER"
        if node_id == self._engine.leader_id:
            return "LEADER"
        return (
            "FOLLOWER"
            if self._last_contact_ms(node_id, self._engine.now()) is not None
            else ("UNKNOWN")
        )

    def _match_index(self, node_id: str) -> int | None:
        engine = self._engine
        if node_id == self._node_id:
            return engine.journal.durable_index
        return engine.raft.match_index(node_id) if engine.raft.is_leader else None

    def _last_contact_ms(self, node_id: str, now: float) -> int | None:
        if node_id == self._node_id:
            return 0
        heard_at = self._engine.contacts.heard_at(node_id)
        return None if heard_at is None else int((now - heard_at) * 1000)

    # --- membership

    def report_damage(self, error: DamagedStateError) -> None:
        # Not from within the handler, so that its client is answered first.
        self._loop.call_later(_ANSWER_FIRST_S, self.on_damage, error)

    async def transfer_leadership(self, target: str | None, *, timeout_ms: int) -> str:
        before = self._engine.leader_id
        deadline = self._engine.now() + timeout_ms / 1000
        if before is not None and target == before:
            return before
        await self._ask(TRANSFER, target or "", deadline)
        while self._engine.leader_id in (None, before):
            if self._engine.now() >= deadline:
                raise NoQuorumError("leadership was handed over and nobody took it in time")
            await asyncio.sleep(_RETRY_S)
        return str(self._engine.leader_id)

    async def add_member(self, member: Member, *, timeout_ms: int) -> None:
        deadline = self._engine.now() + timeout_ms / 1000
        await self._ask(ADD, member.node_id, deadline, member.peer_address, member.api_address)

    async def remove_member(self, node_id: str, *, timeout_ms: int) -> None:
        deadline = self._engine.now() + timeout_ms / 1000
        while True:
            try:
                await self._ask(REMOVE, node_id, deadline)
            except MembershipError as error:
                # A leader that is to be removed hands over first; its successor removes it.
                if error.code != "NO_LEADER" or self._engine.now() >= deadline:
                    raise
                await asyncio.sleep(_RETRY_S)
            else:
                return

    async def _ask(
        self,
        kind: str,
        node_id: str,
        deadline: float,
        peer_address: str = "",
        api_address: str = "",
    ) -> None:
        future: asyncio.Future[None] = self._loop.create_future()

        def done(code: str, detail: str) -> None:
            _settle(future, MembershipError(code, detail) if code else None)

        self._engine.admission.ask(kind, node_id, deadline, done, peer_address, api_address)
        try:
            async with asyncio.timeout(max(0.0, deadline - self._engine.now()) + 1.0):
                await future
        except TimeoutError:
            raise MembershipError(
                "TIMED_OUT", "the deadline passed; what was begun may still complete"
            ) from None


def _settle(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
