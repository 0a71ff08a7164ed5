"""Synchronisation rounds: participants report their clocks, and take the maximum of all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from aiohttp import web

from api import json_text, requests
from api.endpoints import (
    BODY_ERRORS,
    CONSISTENCY,
    READ_ERRORS,
    WRITE_ERRORS,
    Endpoint,
    Parameter,
)
from api.errors import Problem, refuse_field
from api.replies import Reply
from api.service import Service, applied
from api.shapes import Answer, Body, Name
from api.vectors import NAME_SCHEMA, VectorAnswer, entries
from statemachine.commands import AcknowledgeSync, CloseSyncRound, ReportClock
from statemachine.outcomes import ClockReported, SyncAcknowledged, SyncRoundClosed
from statemachine.state import load_state
from statemachine.store import Reader
from statemachine.sync_rounds import (
    GREATEST_ENTRIES,
    GREATEST_TIMESTAMP,
    ROUNDS_KEPT,
    Report,
    Round,
    RoundNode,
    Target,
    get_round,
    list_rounds,
    read_nodes,
    read_reports,
    target_of,
)

DEFAULT_ROUNDS: Final = 10

ReportedCount = Annotated[
    int,
    msgspec.Meta(
        ge=0,
        le=GREATEST_TIMESTAMP - 1,
        description="A Lamport timestamp after which there is room for another one.",
    ),
]

ReportedVector = Annotated[
    dict[str, Any],
    msgspec.Meta(
        description="A counter for each participant; a missing one counts as 0. Counters are "
        "integers below 2^63 - 1, written without fraction or exponent.",
        extra_json_schema={
            "additionalProperties": {
                "type": "integer",
                "minimum": 0,
                "maximum": GREATEST_TIMESTAMP - 1,
            },
            "propertyNames": NAME_SCHEMA,
            "maxProperties": GREATEST_ENTRIES,
        },
    ),
]

RoundNumber = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
RoundLimit = Annotated[int, msgspec.Meta(ge=1, le=ROUNDS_KEPT)]


class ReportBody(Body, frozen=True, kw_only=True):
    """The clocks that a participant keeps itself."""

    node_id: Name
    lamport: ReportedCount = 0
    """Where its Lamport clock stands; 0 when it has none."""
    vector: ReportedVector = msgspec.field(default_factory=dict)
    """Its vector clock; empty when it has none."""


class RunBody(Body, frozen=True, kw_only=True):
    """Nothing needs to be said."""


class AcknowledgementBody(Body, frozen=True, kw_only=True):
    """A participant has taken the target of a round into its clocks."""

    round: RoundNumber
    node_id: Name


class Reported(Answer, frozen=True, kw_only=True):
    """The open round, with this report."""

    round: int
    target_lamport: int
    """The greatest that was reported so far."""
    target_vector: VectorAnswer


class Lag(Answer, frozen=True, kw_only=True):
    """How far reported clocks are behind the target: target less reported, never below 0."""

    lamport: int
    vector: VectorAnswer
    """For each entry of the target, those that are reached as well."""


class ReportingNode(Answer, frozen=True, kw_only=True):
    """A participant and the clocks that it reported."""

    node_id: str
    lamport: int
    vector: VectorAnswer
    lag: Lag


class SyncRound(Answer, frozen=True, kw_only=True):
    """A round that was closed just now."""

    round: int
    target_lamport: int
    target_vector: VectorAnswer
    nodes: list[ReportingNode]
    synchronised: bool
    """All nodes have acknowledged it."""


class OpenNode(ReportingNode, frozen=True, kw_only=True):
    reported_at: int
    """When it last reported or acknowledged, milliseconds since the epoch."""


class OpenRound(Answer, frozen=True, kw_only=True):
    """The round that gathers reports."""

    round: int
    target_lamport: int
    target_vector: VectorAnswer
    nodes: list[OpenNode]
    """Those that report and were not silent for three intervals."""


class ClosedNode(ReportingNode, frozen=True, kw_only=True):
    acknowledged: bool
    acknowledged_at: int | None
    """Milliseconds since the epoch."""


class ClosedRound(Answer, frozen=True, kw_only=True):
    round: int
    target_lamport: int
    target_vector: VectorAnswer
    index: int
    """The log entry that closed it."""
    closed_at: int
    """Milliseconds since the epoch."""
    synchronised: bool
    synchronised_at: int | None
    nodes: list[ClosedNode]


class SyncStatus(Answer, frozen=True, kw_only=True):
    interval_ms: int
    """How often a round closes by itself when somebody is behind."""
    open: OpenRound
    rounds: list[ClosedRound]
    """The last ones, the newest first."""


class Acknowledged(Answer, frozen=True, kw_only=True):
    round: int
    node_id: str
    synchronised: bool
    """All reporters of the round have acknowledged it."""


class Synchronisations:
    """The handlers of `/api/v1/sync`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._reports = msgspec.json.Decoder(ReportBody)
        self._runs = msgspec.json.Decoder(RunBody)
        self._acknowledgements = msgspec.json.Decoder(AcknowledgementBody)

    async def report(self, request: web.Request) -> Reply:
        service = self._service
        body = await requests.read_json(request, service.settings)
        asked = json_text.decode(body, self._reports)
        command = ReportClock(
            node_id=requests.name("nodeId", asked.node_id),
            lamport=asked.lamport,
            vector=_vector(asked.vector),
            own=False,
        )
        outcome = await service.propose(request, body, (command,))
        reported = applied(outcome)
        assert isinstance(reported, ClockReported)
        answer = Reported(
            round=reported.round,
            target_lamport=reported.target_lamport,
            target_vector=reported.target_vector,
        )
        return service.written(202, answer, outcome, outcome.position)

    async def run(self, request: web.Request) -> Reply:
        service = self._service
        body = b""
        if request.body_exists:
            body = await requests.read_json(request, service.settings)
            json_text.decode(body, self._runs)
        command = CloseSyncRound(only_if_behind=False)
        outcome = await service.propose(request, body, (command,))
        ended = applied(outcome)
        assert isinstance(ended, SyncRoundClosed)
        reader = (await service.own_view()).reader
        closed = get_round(reader, ended.round)
        if closed is None:
            raise Problem(
                "SYNC_ROUND_NOT_FOUND", f"Round {ended.round} was closed and is no longer kept."
            )
        answer = SyncRound(
            round=ended.round,
            target_lamport=closed.target_lamport,
            target_vector=closed.target_vector,
            nodes=[
                _node(node_id, node, _target(closed))
                for node_id, node in read_nodes(reader, ended.round).items()
            ],
            synchronised=closed.synchronised_ms is not None,
        )
        return service.written(200, answer, outcome, outcome.position)

    async def acknowledge(self, request: web.Request) -> Reply:
        service = self._service
        body = await requests.read_json(request, service.settings)
        asked = json_text.decode(body, self._acknowledgements)
        command = AcknowledgeSync(round=asked.round, node_id=requests.name("nodeId", asked.node_id))
        outcome = await service.propose(request, body, (command,))
        found = applied(outcome)
        assert isinstance(found, SyncAcknowledged)
        answer = Acknowledged(
            round=found.round, node_id=found.node_id, synchronised=found.synchronised
        )
        return service.written(200, answer, outcome, outcome.position)

    async def show(self, request: web.Request) -> Reply:
        limit = requests.integer(request, "limit", DEFAULT_ROUNDS, least=1, greatest=ROUNDS_KEPT)
        view = await self._service.view(request)
        state = load_state(view.reader)
        status = SyncStatus(
            interval_ms=state.sync_interval_ms,
            open=_open_round(state.sync_round, read_reports(view.reader)),
            rounds=[
                _closed_round(view.reader, number, closed)
                for number, closed in list_rounds(view.reader, limit=limit)
            ],
        )
        return self._service.replies.success(200, status, view.position)


def _vector(asked: Mapping[str, Any]) -> dict[str, int]:
    """Raises: Problem: the vector, or an entry of it, is none; it is named."""
    if len(asked) > GREATEST_ENTRIES:
        refuse_field("vector", f"has more than {GREATEST_ENTRIES} entries")
    vector = entries("vector", asked)
    for name, count in vector.items():
        if count >= GREATEST_TIMESTAMP:
            refuse_field(f"vector.{name}", f"must be an integer from 0 to {GREATEST_TIMESTAMP - 1}")
    return vector


def _open_round(number: int, reports: Mapping[str, Report]) -> OpenRound:
    target = target_of(reports.values())
    return OpenRound(
        round=number,
        target_lamport=target.lamport,
        target_vector=target.vector,
        nodes=[
            OpenNode(
                node_id=node_id,
                lamport=report.lamport,
                vector=report.vector,
                lag=_lag(target, report),
                reported_at=report.reported_ms,
            )
            for node_id, report in reports.items()
        ],
    )


def _closed_round(reader: Reader, number: int, closed: Round) -> ClosedRound:
    target = _target(closed)
    return ClosedRound(
        round=number,
        target_lamport=target.lamport,
        target_vector=target.vector,
        index=closed.closed_at.entry,
        closed_at=closed.closed_ms,
        synchronised=closed.synchronised_ms is not None,
        synchronised_at=closed.synchronised_ms,
        nodes=[
            ClosedNode(
                node_id=node_id,
                lamport=node.lamport,
                vector=node.vector,
                lag=_lag(target, node),
                acknowledged=node.acknowledged_ms is not None,
                acknowledged_at=node.acknowledged_ms,
            )
            for node_id, node in read_nodes(reader, number).items()
        ],
    )


def _node(node_id: str, node: RoundNode, target: Target) -> ReportingNode:
    return ReportingNode(
        node_id=node_id, lamport=node.lamport, vector=node.vector, lag=_lag(target, node)
    )


def _target(closed: Round) -> Target:
    return Target(closed.target_lamport, closed.target_vector)


def _lag(target: Target, reported: Report | RoundNode) -> Lag:
    count_of = reported.vector.get
    return Lag(
        lamport=target.lamport - reported.lamport,
        vector={name: count - count_of(name, 0) for name, count in target.vector.items()},
    )


def endpoints(service: Service) -> list[Endpoint]:
    synchronisations = Synchronisations(service)
    path = "/api/v1/sync"
    tag = "synchronisation"
    return [
        Endpoint(
            method="POST",
            path=f"{path}/report",
            operation="reportClock",
            summary="Report a participant's clocks into the open round",
            tag=tag,
            handler=synchronisations.report,
            body=ReportBody,
            answer=Reported,
            status=202,
            errors=(
                *BODY_ERRORS,
                *WRITE_ERRORS,
                "CLOCK_OVERFLOW",
                "VECTOR_TOO_LARGE",
                "SYNC_REPORTERS_FULL",
            ),
            writes=True,
            timed=True,
        ),
        Endpoint(
            method="POST",
            path=f"{path}/run",
            operation="runSync",
            summary="Close the open round: the maximum of what was reported becomes its target",
            tag=tag,
            handler=synchronisations.run,
            body=RunBody,
            body_required=False,
            answer=SyncRound,
            errors=(*BODY_ERRORS, *WRITE_ERRORS, "SYNC_ROUND_NOT_FOUND"),
            writes=True,
            timed=True,
        ),
        Endpoint(
            method="POST",
            path=f"{path}/ack",
            operation="acknowledgeSync",
            summary="Say that a participant has taken the target of a closed round",
            tag=tag,
            handler=synchronisations.acknowledge,
            body=AcknowledgementBody,
            answer=Acknowledged,
            errors=(
                *BODY_ERRORS,
                *WRITE_ERRORS,
                "SYNC_ROUND_NOT_FOUND",
                "SYNC_ROUND_OPEN",
                "NOT_A_REPORTER",
            ),
            writes=True,
            timed=True,
        ),
        Endpoint(
            method="GET",
            path=f"{path}/status",
            operation="getSyncStatus",
            summary="The open round, the last closed ones, and who is behind",
            tag=tag,
            handler=synchronisations.show,
            answer=SyncStatus,
            parameters=(
                Parameter(
                    name="limit",
                    type=RoundLimit,
                    description=f"At most so many closed rounds; {DEFAULT_ROUNDS} unless given.",
                ),
                CONSISTENCY,
            ),
            errors=READ_ERRORS,
            timed=True,
        ),
    ]
