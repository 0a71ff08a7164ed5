"""This node's part in data proposals: it votes, reports what it applied, and decides.

Every node runs it. What there is to do stands in the replicated state: proposals that this node
owes a ballot, and proposals whose votes suffice. So a node that was away finds what it missed by
looking, in whatever way its state got here, and saying something twice does no harm.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from node.cluster import EngineCluster
from node.consensus.engine import Engine
from statemachine.commands import AnyCommand, Ballot, DecideProposal, VoteProposals
from statemachine.outcomes import Applied
from statemachine.store import DamagedStateError, Reader
from statemachine.stored_proposals import (
    GREATEST_BALLOTS,
    ProposalState,
    decidable_proposals,
    get_proposal,
    objection,
    owed_ballots,
)

logger = logging.getLogger(__name__)

TAKE_OVER_S: Final = 0.5
"""The leader decides in the place of a proposer that did not for so long."""

GREATEST_DECISIONS: Final = 64
"""Decisions that are proposed together; the next ones follow at once."""

_TIMEOUT_MS: Final = 5_000
_RETRY_S: Final = 0.2


class Voter:
    """What one node has to say to the proposals of a state. It does no I/O and reads no clock."""

    def __init__(self, node_id: str, reader: Reader) -> None:
        self._node_id = node_id
        self._reader = reader
        self._awaited: dict[str, float] = {}
        """Decisions that others owe, and since when this leader waits for them."""

    def step(self, now: float, *, leads: bool) -> list[AnyCommand]:
        """Return what this node should propose, of the state as it is. `now` is in seconds."""
        commands: list[AnyCommand] = []
        ballots = self._ballots()
        if ballots:
            commands.append(VoteProposals(node_id=self._node_id, ballots=ballots))
        commands += [
            DecideProposal(proposal_id=proposal_id)
            for proposal_id in self._to_decide(now, leads=leads)
        ]
        return commands

    def pause_s(self, now: float) -> float | None:
        """How long until a step may have something to say though nothing changes; None: never."""
        if not self._awaited:
            return None
        return max(0.0, min(self._awaited.values()) + TAKE_OVER_S - now)

    def _ballots(self) -> tuple[Ballot, ...]:
        ballots: list[Ballot] = []
        for proposal_id in owed_ballots(self._reader, self._node_id, limit=GREATEST_BALLOTS):
            row = get_proposal(self._reader, proposal_id)
            if row is None:
                raise DamagedStateError(f"proposal {proposal_id!r} is missing")
            why_not = objection(row)
            applied = row.state is ProposalState.COMMITTED
            ballots.append(Ballot(proposal_id, not why_not, why_not, applied))
        return tuple(ballots)

    def _to_decide(self, now: float, *, leads: bool) -> list[str]:
        """The holder of the request decides; when it does not, the leader does."""
        due: list[str] = []
        awaited: dict[str, float] = {}
        for proposer, proposal_id in decidable_proposals(self._reader):
            since = self._awaited.get(proposal_id, now)
            if proposer == self._node_id or (leads and now - since >= TAKE_OVER_S):
                due.append(proposal_id)
            elif leads:
                awaited[proposal_id] = since
        self._awaited = awaited
        return due[:GREATEST_DECISIONS]


class Voting:
    """Runs a node's `Voter` whenever the state has something for it, one request at a time.

    What gathers meanwhile goes together with the next request.
    """

    def __init__(self, engine: Engine, cluster: EngineCluster, reader: Reader) -> None:
        self._engine = engine
        self._cluster = cluster
        self._voter = Voter(cluster.node_id, reader)
        self._seen: tuple[int, int] | None = None
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._engine.notices.on_applied.append(self._on_applied)
        self._engine.notices.on_role_change.append(self._woken.set)
        self._task = asyncio.create_task(self._run(), name="voting")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _on_applied(self) -> None:
        if self._engine.machine.proposals_revision != self._seen:
            self._woken.set()

    async def _run(self) -> None:
        while True:
            try:
                await self._work()
                await self._sleep(self._voter.pause_s(self._engine.now()))
            except DamagedStateError as error:
                self._cluster.report_damage(error)
                return
            except Exception as error:
                # Unknown, or no leader: what is still to be said is found again.
                logger.info("voting was interrupted: %r", error)
                await asyncio.sleep(_RETRY_S)

    async def _work(self) -> None:
        """Say everything that there is to say."""
        while True:
            self._woken.clear()
            self._seen = self._engine.machine.proposals_revision
            commands = self._voter.step(self._engine.now(), leads=self._engine.leader_ready)
            if not commands:
                return
            answer = await self._cluster.propose_internal(commands, timeout_ms=_TIMEOUT_MS)
            if not any(isinstance(outcome, Applied) for outcome in answer.outcomes):
                logger.warning("nothing of what was voted was taken: %r", answer.outcomes[0])
                await asyncio.sleep(_RETRY_S)

    async def _sleep(self, pause_s: float | None) -> None:
        try:
            async with asyncio.timeout(pause_s):
                await self._woken.wait()
        except TimeoutError:
            return
