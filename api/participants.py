"""Participants: who has a logical clock here. They join by themselves with their first event."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from aiohttp import web

from api import json_text, requests
from api.endpoints import (
    BODY_ERRORS,
    CONSISTENCY,
    PAGE,
    READ_ERRORS,
    WRITE_ERRORS,
    Endpoint,
    Parameter,
)
from api.replies import Reply
from api.service import Service, applied
from api.shapes import Answer, Body, Name, Page
from statemachine.commands import JoinParticipant, LeaveParticipant
from statemachine.members import list_participants
from statemachine.outcomes import ParticipantChanged


class JoinBody(Body, frozen=True, kw_only=True):
    """A participant to make known."""

    node_id: Name


class Membership(Answer, frozen=True, kw_only=True):
    """Whether a participant takes part."""

    node_id: str
    active: bool
    changed: bool
    """False when it was so before."""


class Participant(Answer, frozen=True, kw_only=True):
    node_id: str
    active: bool
    lamport_timestamp: int
    since: int
    """When it last joined or left, milliseconds since the epoch."""


MembershipT = TypeVar("MembershipT", bound=Membership)


def membership_answer(changed: ParticipantChanged, shape: type[MembershipT]) -> MembershipT:
    return shape(node_id=changed.node_id, active=changed.active, changed=changed.changed)


class Participants:
    """The handlers of `/api/v1/participants`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._joins = msgspec.json.Decoder(JoinBody)

    async def join(self, request: web.Request) -> Reply:
        body = await requests.read_json(request, self._service.settings)
        asked = json_text.decode(body, self._joins)
        command = JoinParticipant(node_id=requests.name("nodeId", asked.node_id))
        return await self._change(request, body, command)

    async def leave(self, request: web.Request) -> Reply:
        body = await requests.read_body(request, self._service.settings)
        command = LeaveParticipant(node_id=requests.path_name(request, "nodeId"))
        return await self._change(request, body, command)

    async def _change(
        self, request: web.Request, body: bytes, command: JoinParticipant | LeaveParticipant
    ) -> Reply:
        outcome = await self._service.propose(request, body, (command,))
        changed = applied(outcome)
        assert isinstance(changed, ParticipantChanged)
        return self._service.written(
            200, membership_answer(changed, Membership), outcome, outcome.position
        )

    async def list(self, request: web.Request) -> Reply:
        limit, cursor = requests.page(request)
        view = await self._service.view(request)
        found, next_cursor = list_participants(view.reader, cursor=cursor, limit=limit)
        items = [
            Participant(
                node_id=participant.node_id,
                active=participant.active,
                lamport_timestamp=participant.lamport_timestamp,
                since=participant.since_ms,
            )
            for participant in found
        ]
        page = Page(items=items, next_cursor=next_cursor)
        return self._service.replies.success(200, page, view.position)


def endpoints(service: Service) -> list[Endpoint]:
    participants = Participants(service)
    path = "/api/v1/participants"
    tag = "participants"
    return [
        Endpoint(
            method="POST",
            path=path,
            operation="joinParticipant",
            summary="Make a participant known before its first event",
            tag=tag,
            handler=participants.join,
            body=JoinBody,
            answer=Membership,
            errors=(*BODY_ERRORS, *WRITE_ERRORS),
            writes=True,
            timed=True,
        ),
        Endpoint(
            method="DELETE",
            path=f"{path}/{{nodeId}}",
            operation="leaveParticipant",
            summary="Mark a participant as departed; its clock and events stay",
            tag=tag,
            handler=participants.leave,
            answer=Membership,
            parameters=(Parameter(name="nodeId", type=Name, description="The participant."),),
            errors=(*WRITE_ERRORS, "PARTICIPANT_NOT_FOUND", "BODY_TIMEOUT"),
            writes=True,
            timed=True,
        ),
        Endpoint(
            method="GET",
            path=path,
            operation="listParticipants",
            summary="Participants in order of name",
            tag=tag,
            handler=participants.list,
            answer=Page[Participant],
            parameters=(*PAGE, CONSISTENCY),
            errors=READ_ERRORS,
            timed=True,
        ),
    ]
