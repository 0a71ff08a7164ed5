"""Data proposals: every node votes, a majority decides, and the committed data is found by its key.

The answer to a proposal waits a little for the nodes that are well, so that it shows what each of
them voted and that it applied the decision. Nodes that are not well are shown as PENDING.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Annotated, Final

import msgspec
from aiohttp import web
from msgspec import Raw

from api import json_text, requests
from api.cluster import NoQuorumError, OutcomeUnknownError
from api.endpoints import (
    BODY_ERRORS,
    CONSISTENCY,
    READ_ERRORS,
    WRITE_ERRORS,
    Endpoint,
    Parameter,
)
from api.errors import Problem, of_rejection, refuse_size
from api.replies import Reply
from api.service import Service
from api.shapes import Answer, Body, Name, Timestamp
from statemachine.commands import ProposeData
from statemachine.outcomes import (
    Applied,
    Pending,
    Position,
    ProposalDecided,
    Rejected,
    RequestOutcome,
)
from statemachine.proposals import GREATEST_DATA_BYTES
from statemachine.stored_proposals import (
    ProposalRow,
    ProposalState,
    decision,
    get_committed,
    get_proposal,
    written_id,
)

GATHERING_S: Final = 1.0
"""How long an answer waits, once the proposal is decided, for what well nodes have to say."""

WELL_MS: Final = 1_500
"""A node that was heard so lately is well: members make themselves heard every second."""

ProposalId = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | Name
"""A text, or an integer that is answered as one; 7 and "7" are the same id."""

Data = Annotated[
    Raw, msgspec.Meta(description=f"Any JSON, at most {GREATEST_DATA_BYTES} bytes as sent.")
]


class ProposalBody(Body, frozen=True, kw_only=True):
    """Data to agree on."""

    id: ProposalId | None = None
    """Proposed again with the same content, it answers the same. Left out: the cluster makes one.
    """
    key: Name | None = None
    """What the committed data is found under; the id when it is left out."""
    data: Data
    timestamp: Timestamp
    """Must be above the committed one of the key."""


class Decision(Answer, frozen=True, kw_only=True):
    """A proposal that was committed."""

    id: int | str
    key: str
    timestamp: int
    status: str
    """PROPOSED, COMMITTED, REJECTED or EXPIRED."""
    index: int | None
    """The log entry that decided it; null while it is undecided."""
    term: int | None
    votes: dict[str, str]
    """ACCEPT, REJECT or PENDING for each node that may vote."""
    reasons: dict[str, str]
    """Why nodes voted REJECT."""
    applied_by: dict[str, int]
    """The nodes that reported to have applied the commit, and the log entry at which they did."""


class Proposal(Decision, frozen=True, kw_only=True):
    """A proposal as it stands."""

    reason: str
    """Why it was not committed; empty otherwise."""
    proposed_by: str
    """The node that took the request."""
    proposed_at: int
    """Milliseconds since the epoch."""
    decided_at: int | None


class CommittedData(Answer, frozen=True, kw_only=True):
    """What the nodes agreed on."""

    key: str
    data: Raw
    timestamp: int
    index: int
    """The log entry that committed it."""
    term: int
    proposal_id: int | str
    committed_at: int
    """Milliseconds since the epoch."""


def proposal_command(
    asked: ProposalBody, proposer: str, voters: Iterable[str], window_ms: int
) -> ProposeData:
    """Raises: Problem"""
    proposal_id = "" if asked.id is None else str(asked.id)
    data = bytes(asked.data)
    if len(data) > GREATEST_DATA_BYTES:
        refuse_size("data", len(data), GREATEST_DATA_BYTES)
    return ProposeData(
        proposal_id=requests.name("id", proposal_id) if proposal_id else "",
        integer_id=isinstance(asked.id, int),
        key="" if asked.key is None else requests.name("key", asked.key),
        data=data,
        timestamp=asked.timestamp,
        proposer=proposer,
        voters=tuple(sorted(voters)),
        window_ms=window_ms,
    )


class Proposals:
    """The handlers of `/api/v1/consensus`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._bodies = msgspec.json.Decoder(ProposalBody)

    async def propose(self, request: web.Request) -> Reply:
        service = self._service
        body = await requests.read_json(request, service.settings)
        asked = json_text.decode(body, self._bodies)
        timeout_ms = requests.timeout_ms(request, service.settings)
        voters = service.cluster.status().voters
        if not voters:
            raise NoQuorumError("this node knows of no voters")
        # The last quarter is for the client to hear that the votes did not suffice.
        command = proposal_command(asked, service.cluster.node_id, voters, timeout_ms * 3 // 4)
        ends_at = asyncio.get_running_loop().time() + timeout_ms / 1000
        outcome = await service.propose(request, body, (command,))
        decided = await self._decided(outcome, command, ends_at)
        row = await self._gathered(decided, ends_at)
        if decided.status != ProposalState.COMMITTED.name:
            raise _refused(decided, row, outcome)
        return service.written(200, _decision(decided, row), outcome, decided.decided_at)

    async def _decided(
        self, outcome: RequestOutcome, command: ProposeData, ends_at: float
    ) -> ProposalDecided:
        """Wait for the decision."""
        found = outcome.outcomes[0]
        if isinstance(found, Pending):
            ticket = found.ticket
            try:
                async with asyncio.timeout_at(ends_at):
                    found = await self._service.cluster.changes.settled(ticket)
            except TimeoutError:
                raise OutcomeUnknownError("the proposal was not decided in time") from None
            except LookupError:
                return await self._remembered(command, ticket)
        if isinstance(found, Rejected):
            raise of_rejection(found, outcome)
        assert isinstance(found, Applied)
        assert isinstance(found.result, ProposalDecided)
        return found.result

    async def _remembered(self, command: ProposeData, ticket: Position) -> ProposalDecided:
        """The wait is forgotten; the proposal may not be."""
        row = await self._row(command.proposal_id)
        if row is None or row.proposed_at != ticket or row.state is ProposalState.PROPOSED:
            raise _not_found(command.proposal_id)
        return decision(command.proposal_id, row)

    async def _gathered(self, decided: ProposalDecided, ends_at: float) -> ProposalRow | None:
        """Return the proposal once all nodes that are well have said all they have to.

        None when it is forgotten already.
        """
        cluster = self._service.cluster
        ends_at = min(ends_at, asyncio.get_running_loop().time() + GATHERING_S)
        try:
            async with asyncio.timeout_at(ends_at):
                while True:
                    row = await self._row(decided.proposal_id)
                    if row is None or not self._is_awaited(row):
                        return row
                    await cluster.changes.wait(cluster.applied_position())
        except TimeoutError:
            return await self._row(decided.proposal_id)

    def _is_awaited(self, row: ProposalRow) -> bool:
        """Tell whether a node that is well owes the proposal something."""
        well = [
            node.node_id
            for node in self._service.cluster.status().nodes
            if node.last_contact_ms is not None and node.last_contact_ms <= WELL_MS
        ]
        commits = row.state is ProposalState.COMMITTED
        return any(
            voter in well and (vote is None or (commits and not vote.applied))
            for voter, vote in zip(row.voters, row.votes, strict=True)
        )

    async def _row(self, proposal_id: str) -> ProposalRow | None:
        """Return the proposal as this node has it."""
        return get_proposal((await self._service.own_view()).reader, proposal_id)

    async def get_proposal(self, request: web.Request) -> Reply:
        proposal_id = requests.path_name(request, "id")
        view = await self._service.view(request)
        row = get_proposal(view.reader, proposal_id)
        if row is None:
            raise _not_found(proposal_id)
        return self._service.replies.success(200, _proposal(proposal_id, row), view.position)

    async def get_data(self, request: web.Request) -> Reply:
        key = requests.path_name(request, "key")
        view = await self._service.view(request)
        value = get_committed(view.reader, key)
        if value is None:
            raise Problem("DATA_NOT_FOUND", f"Nothing is committed under {key!r}.")
        answer = CommittedData(
            key=key,
            data=Raw(value.data),
            timestamp=value.timestamp,
            index=value.committed_at.entry,
            term=value.term,
            proposal_id=written_id(value.proposal_id, value),
            committed_at=value.committed_ms,
        )
        return self._service.replies.success(200, answer, view.position)


def _votes(decided: ProposalDecided) -> tuple[dict[str, str], dict[str, str]]:
    """Return the votes and the reasons, by node."""
    votes = {cast.node_id: cast.vote for cast in decided.votes}
    return votes, {cast.node_id: cast.reason for cast in decided.votes if cast.reason}


def _applied_by(row: ProposalRow) -> Iterator[tuple[str, int]]:
    for voter, vote in zip(row.voters, row.votes, strict=True):
        if vote is not None and vote.applied:
            yield voter, row.decided_at.entry


def _decision(decided: ProposalDecided, row: ProposalRow | None) -> Decision:
    """Return the answer of a committed proposal, with what became known since it was decided."""
    if row is not None:
        decided = decision(decided.proposal_id, row)
    votes, reasons = _votes(decided)
    return Decision(
        id=written_id(decided.proposal_id, decided),
        key=decided.key,
        timestamp=decided.timestamp,
        status=decided.status,
        index=decided.decided_at.entry,
        term=decided.term,
        votes=votes,
        reasons=reasons,
        applied_by={} if row is None else dict(_applied_by(row)),
    )


def _proposal(proposal_id: str, row: ProposalRow) -> Proposal:
    votes, reasons = _votes(decision(proposal_id, row))
    undecided = row.state is ProposalState.PROPOSED
    return Proposal(
        id=written_id(proposal_id, row),
        key=row.key,
        timestamp=row.timestamp,
        status=row.state.name,
        index=None if undecided else row.decided_at.entry,
        term=None if undecided else row.decided_term,
        votes=votes,
        reasons=reasons,
        applied_by=dict(_applied_by(row)),
        reason=row.reason,
        proposed_by=row.proposer,
        proposed_at=row.proposed_ms,
        decided_at=None if undecided else row.decided_ms,
    )


def _refused(decided: ProposalDecided, row: ProposalRow | None, outcome: RequestOutcome) -> Problem:
    """Return the problem of a proposal that was not committed."""
    votes, reasons = _votes(decided if row is None else decision(decided.proposal_id, row))
    expired = decided.status == ProposalState.EXPIRED.name
    problem = Problem("PROPOSAL_EXPIRED" if expired else "REJECTED", decided.reason)
    problem.votes = votes
    problem.reasons = reasons
    problem.position = decided.decided_at
    problem.replayed = outcome.replayed
    return problem


def _not_found(proposal_id: str) -> Problem:
    return Problem(
        "PROPOSAL_NOT_FOUND",
        f"No proposal {proposal_id!r} is kept: there never was one, or its retention has ended.",
    )


def endpoints(service: Service) -> list[Endpoint]:
    proposals = Proposals(service)
    path = "/api/v1/consensus"
    tag = "consensus"
    return [
        Endpoint(
            method="POST",
            path=f"{path}/proposals",
            operation="proposeData",
            summary="Lay data before all nodes, which vote; a majority commits or rejects it",
            tag=tag,
            handler=proposals.propose,
            body=ProposalBody,
            answer=Decision,
            errors=(
                *BODY_ERRORS,
                *WRITE_ERRORS,
                "REJECTED",
                "PROPOSAL_EXPIRED",
                "PROPOSAL_ID_TAKEN",
                "PROPOSAL_NOT_FOUND",
                "PROPOSALS_FULL",
                "COMMITTED_KEYS_FULL",
            ),
            writes=True,
            timed=True,
        ),
        Endpoint(
            method="GET",
            path=f"{path}/proposals/{{id}}",
            operation="getProposal",
            summary="A proposal with its votes, and who applied its commit",
            tag=tag,
            handler=proposals.get_proposal,
            answer=Proposal,
            parameters=(
                Parameter(name="id", type=Name, description="The proposal; an integer as text."),
                CONSISTENCY,
            ),
            errors=(*READ_ERRORS, "PROPOSAL_NOT_FOUND"),
            timed=True,
        ),
        Endpoint(
            method="GET",
            path=f"{path}/data/{{key}}",
            operation="getCommittedData",
            summary="The data that was committed last under a key",
            tag=tag,
            handler=proposals.get_data,
            answer=CommittedData,
            parameters=(
                Parameter(name="key", type=Name, description="The key."),
                CONSISTENCY,
            ),
            errors=(*READ_ERRORS, "DATA_NOT_FOUND"),
            timed=True,
        ),
    ]
