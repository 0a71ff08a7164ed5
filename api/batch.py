"""Many operations in one request: one replicated request, one answer for each operation.

All operations are checked before any is proposed, so an invalid one changes nothing. What the state
machine rejects is rejected alone: its result says so and the others stand.
"""

from __future__ import annotations

import asyncio
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
from api.vector_clocks import (
    ReceiveBody,
    ReceivedMessage,
    SendBody,
    SentMessage,
    TickBody,
    TickedClock,
    receive_answer,
    receive_command,
    send_answer,
    send_command,
    tick_answer,
    tick_command,
    vector_event,
)
from api.versions import (
    IncrementBody,
    IncrementedVersion,
    MergeBody,
    MergedVersion,
    increment_answer,
    increment_command,
    merge_answer,
    merge_command,
    version_event,
)
from statemachine.commands import (
    AnyCommand,
    IncrementVersion,
    JoinParticipant,
    LeaveParticipant,
    RecordEvent,
    SendMessage,
    TickVector,
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
    VectorAdvanced,
    VersionAdvanced,
)
from statemachine.store import Reader


class EventOperation(EventBody, frozen=True, kw_only=True, tag_field="op", tag="timestamp.event"):
    """As the body of `POST /api/v1/timestamp/event`."""


class SyncOperation(SyncBody, frozen=True, kw_only=True, tag_field="op", tag="timestamp.sync"):
    """As the body of `POST /api/v1/timestamp/sync`."""


class JoinOperation(JoinBody, frozen=True, kw_only=True, tag_field="op", tag="participant.join"):
    """As the body of `POST /api/v1/participants`."""


class LeaveOperation(Body, frozen=True, kw_only=True, tag_field="op", tag="participant.leave"):
    """As `DELETE /api/v1/participants/{nodeId}`."""

    node_id: Name


class IncrementOperation(
    IncrementBody, frozen=True, kw_only=True, tag_field="op", tag="version.increment"
):
    """As the body of `POST /api/v1/version/increment`."""


class MergeOperation(MergeBody, frozen=True, kw_only=True, tag_field="op", tag="version.merge"):
    """As the body of `POST /api/v1/version/merge`."""


class TickOperation(TickBody, frozen=True, kw_only=True, tag_field="op", tag="vector.tick"):
    """As the body of `POST /api/v1/vector-clock/tick`."""


class SendOperation(SendBody, frozen=True, kw_only=True, tag_field="op", tag="vector.send"):
    """As the body of `POST /api/v1/vector-clock/send`."""


class ReceiveOperation(
    ReceiveBody, frozen=True, kw_only=True, tag_field="op", tag="vector.receive"
):
    """As the body of `POST /api/v1/vector-clock/receive`."""


Operation = (
    EventOperation
    | SyncOperation
    | JoinOperation
    | LeaveOperation
    | IncrementOperation
    | MergeOperation
    | TickOperation
    | SendOperation
    | ReceiveOperation
)


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


class IncrementedResult(IncrementedVersion, frozen=True, kw_only=True):
    status: int = 200


class MergedResult(MergedVersion, frozen=True, kw_only=True):
    status: int = 200


class TickedResult(TickedClock, frozen=True, kw_only=True):
    status: int = 200


class SentResult(SentMessage, frozen=True, kw_only=True):
    status: int = 200


class ReceivedResult(ReceivedMessage, frozen=True, kw_only=True):
    status: int = 200


RESULTS: Final = (
    EventResult,
    SyncedResult,
    MembershipResult,
    IncrementedResult,
    MergedResult,
    TickedResult,
    SentResult,
    ReceivedResult,
    ProblemBody,
)
"""What a result can be. Only its members tell which: no field names the operation again."""


# msgspec cannot tell untagged structs apart when it decodes, and so will not describe their union.
Results = Annotated[
    list[Any],
    msgspec.Meta(extra_json_schema={"items": {"anyOf": [reference(result) for result in RESULTS]}}),
]


class BatchAnswer(Answer, frozen=True, kw_only=True):
    results: Results
    """One for each operation, in order. `status` is what the operation alone would answer."""


_RESULTS_AT_ONCE: Final = 32
"""A result may be made of some ten rows of the state; others are served in between."""

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
        reader = (await service.own_view()).reader
        results = []
        for at, (command, one) in enumerate(zip(commands, outcome.outcomes, strict=True)):
            if at % _RESULTS_AT_ONCE == _RESULTS_AT_ONCE - 1:
                await asyncio.sleep(0)
                reader = (await service.own_view()).reader
            results.append(_result(command, one, entry, place + at, reader))
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
                case IncrementOperation():
                    commands.append(increment_command(operation, default_node_id))
                case MergeOperation():
                    commands.append(merge_command(operation, default_node_id))
                case TickOperation():
                    commands.append(tick_command(operation))
                case SendOperation():
                    commands.append(send_command(operation))
                case ReceiveOperation():
                    commands.append(receive_command(operation))
                case _:
                    assert_never(operation)
    except Problem as problem:
        raise problem.within(f"operations[{len(commands)}]") from None
    return commands


def _result(
    command: AnyCommand, outcome: Outcome, entry: int, place: int, reader: Reader
) -> msgspec.Struct:
    if isinstance(outcome, Rejected):
        return Problem(outcome.code.value, outcome.detail).body()
    assert isinstance(outcome, Applied), "nothing in a batch waits"
    result = outcome.result
    if isinstance(result, VersionAdvanced | VectorAdvanced):
        try:
            return _advanced(command, result, reader)
        except Problem as problem:
            return problem.body()
    if isinstance(command, RecordEvent):
        assert isinstance(result, EventRecorded)
        return event_answer(command, result, format_event_id(entry, place), EventResult)
    if isinstance(result, EventRecorded):
        return sync_answer(result, format_event_id(entry, place), SyncedResult)
    assert isinstance(result, ParticipantChanged)
    return membership_answer(result, MembershipResult)


def _advanced(
    command: AnyCommand, result: VersionAdvanced | VectorAdvanced, reader: Reader
) -> msgspec.Struct:
    """Raises: Problem: the event that the result is made of is no longer stored."""
    if isinstance(result, VersionAdvanced):
        version = version_event(reader, result)
        if isinstance(command, IncrementVersion):
            return increment_answer(version, IncrementedResult)
        return merge_answer(version, MergedResult)
    event = vector_event(reader, result)
    match command:
        case TickVector():
            return tick_answer(event, TickedResult)
        case SendMessage():
            return send_answer(event, SentResult)
        case _:
            return receive_answer(event, ReceivedResult)


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
            errors=(*BODY_ERRORS, *WRITE_ERRORS, "STATE_DAMAGED"),
            writes=True,
            timed=True,
        )
    ]
