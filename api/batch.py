"""Many operations in one request: one replicated request, one answer for each operation.

All operations are checked before any is proposed, so an invalid one changes nothing. What the state
machine rejects is rejected alone: its result says so and the others stand.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, assert_never

import msgspec
from aiohttp import web

from api import json_text, requests
from api.endpoints import BODY_ERRORS, WRITE_ERRORS, Endpoint
from api.errors import Problem, ProblemBody, of_rejection
from api.participants import JoinBody, Membership, membership_answer
from api.replies import Reply
from api.service import Service
from api.settings import GREATEST_OPERATIONS
from api.shapes import Answer, Body, Name, reference
from api.timestamps import (
    Event,
    EventBody,
    SyncBody,
    Synced,
    event_answer,
    event_command,
    sync_answer,
    sync_command,
)
from statemachine.commands import (
    AnyCommand,
    JoinParticipant,
    LeaveParticipant,
    RecordEvent,
)
from statemachine.event_ids import format_event_id
from statemachine.outcomes import (
    Applied,
    EventRecorded,
    Outcome,
    ParticipantChanged,
    Position,
    Rejected,
    RejectionCode,
)


class EventOperation(EventBody, frozen=True, kw_only=True, tag_field="op", tag="timestamp.event"):
    """As the body of `POST /api/v1/timestamp/event`."""


class SyncOperation(SyncBody, frozen=True, kw_only=True, tag_field="op", tag="timestamp.sync"):
    """As the body of `POST /api/v1/timestamp/sync`."""


class JoinOperation(JoinBody, frozen=True, kw_only=True, tag_field="op", tag="participant.join"):
    """As the body of `POST /api/v1/participants`."""


class LeaveOperation(Body, frozen=True, kw_only=True, tag_field="op", tag="participant.leave"):
    """As `DELETE /api/v1/participants/{nodeId}`."""

    node_id: Name


Operation = EventOperation | SyncOperation | JoinOperation | LeaveOperation


class BatchBody(Body, frozen=True, kw_only=True):
    operations: Annotated[
        list[Operation], msgspec.Meta(min_length=1, max_length=GREATEST_OPERATIONS)
    ]
    """Done in this order."""


class EventResult(Event, frozen=True, kw_only=True):
    status: int = 200


class SyncedResult(Synced, frozen=True, kw_only=True):
    status: int = 200


class MembershipResult(Membership, frozen=True, kw_only=True):
    status: int = 200


RESULTS: Final = (EventResult, SyncedResult, MembershipResult, ProblemBody)
"""What a result can be. Only its members tell which: no field names the operation again."""


# msgspec cannot tell untagged structs apart when it decodes, and so will not describe their union.
Results = Annotated[
    list[Any],
    msgspec.Meta(extra_json_schema={"items": {"anyOf": [reference(result) for result in RESULTS]}}),
]


class BatchAnswer(Answer, frozen=True, kw_only=True):
    results: Results
    """One for each operation, in order. `status` is what the operation alone would answer."""


_WHOLE_REQUEST: Final = frozenset(
    {
        RejectionCode.REQUEST_EXPIRED,
        RejectionCode.IDEMPOTENCY_KEY_REUSED,
        RejectionCode.IDEMPOTENCY_TABLE_FULL,
        RejectionCode.SESSION_WINDOW_EXCEEDED,
    }
)
"""What befalls a request as a whole: then nothing of it was applied."""


class Batches:
    """The handler of `/api/v1/batch`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._batches = msgspec.json.Decoder(BatchBody)

    async def run(self, request: web.Request) -> Reply:
        service = self._service
        body = await requests.read_json(request, service.settings)
        operations = json_text.decode(body, self._batches).operations
        commands = _commands(operations, service.cluster.node_id)
        outcome = await service.propose(request, body, commands)
        first = outcome.outcomes[0]
        if isinstance(first, Rejected) and first.code in _WHOLE_REQUEST:
            raise of_rejection(first, outcome)
        entry, place = outcome.position.entry, outcome.position.place
        results = [
            _result(command, one, entry, at)
            for at, (command, one) in enumerate(
                zip(commands, outcome.outcomes, strict=True), start=place
            )
        ]
        last = Position(entry, place + len(commands) - 1)
        return service.written(200, BatchAnswer(results=results), outcome, last)


def _commands(operations: list[Operation], default_node_id: str) -> list[AnyCommand]:
    """Raises: Problem: an operation is invalid; its place is in the path."""
    commands: list[AnyCommand] = []
    try:
        for operation in operations:
            match operation:
                case EventOperation():
                    commands.append(event_command(operation, default_node_id))
                case SyncOperation():
                    commands.append(sync_command(operation, default_node_id))
                case JoinOperation():
                    node_id = requests.name("nodeId", operation.node_id)
                    commands.append(JoinParticipant(node_id=node_id))
                case LeaveOperation():
                    node_id = requests.name("nodeId", operation.node_id)
                    commands.append(LeaveParticipant(node_id=node_id))
                case _:
                    assert_never(operation)
    except Problem as problem:
        raise problem.within(f"operations[{len(commands)}]") from None
    return commands


def _result(command: AnyCommand, outcome: Outcome, entry: int, place: int) -> msgspec.Struct:
    if isinstance(outcome, Rejected):
        return Problem(outcome.code.value, outcome.detail).body()
    assert isinstance(outcome, Applied), "nothing in a batch waits"
    result = outcome.result
    if isinstance(command, RecordEvent):
        assert isinstance(result, EventRecorded)
        return event_answer(command, result, format_event_id(entry, place), EventResult)
    if isinstance(result, EventRecorded):
        return sync_answer(result, format_event_id(entry, place), SyncedResult)
    assert isinstance(result, ParticipantChanged)
    return membership_answer(result, MembershipResult)


def endpoints(service: Service) -> list[Endpoint]:
    batches = Batches(service)
    return [
        Endpoint(
            method="POST",
            path="/api/v1/batch",
            operation="runBatch",
            summary="Up to 1,000 operations, replicated as one",
            tag="batch",
            handler=batches.run,
            body=BatchBody,
            answer=BatchAnswer,
            described=RESULTS,
            errors=(*BODY_ERRORS, *WRITE_ERRORS),
            writes=True,
            timed=True,
        )
    ]
