"""Sequences: whole numbers from 1, each given once and none left out."""

from __future__ import annotations

from typing import Annotated

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
from api.replies import Reply
from api.service import Service, applied
from api.shapes import Answer, Body, Name
from statemachine.commands import AdvanceSequence
from statemachine.outcomes import SequenceAdvanced
from statemachine.sequences import GREATEST_COUNT, last_number

SequenceCount = Annotated[
    int, msgspec.Meta(ge=1, le=GREATEST_COUNT, description="How many numbers to take.")
]


class NextBody(Body, frozen=True, kw_only=True):
    """How many numbers are wanted."""

    count: SequenceCount = 1


class Taken(Answer, frozen=True, kw_only=True):
    """Numbers that are the caller's alone, both ends included."""

    first: int
    last: int


class Sequence(Answer, frozen=True, kw_only=True):
    name: str
    last: int
    """The last number that was taken; 0 for a sequence that was never used."""


class Sequences:
    """The handlers of `/api/v1/sequences`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._nexts = msgspec.json.Decoder(NextBody)

    async def take(self, request: web.Request) -> Reply:
        service = self._service
        body = await requests.read_optional_json(request, service.settings)
        asked = json_text.decode(body, self._nexts) if body else NextBody()
        name = requests.path_name(request, "name")
        command = AdvanceSequence(name=name, count=asked.count)
        outcome = await service.propose(request, body, (command,))
        taken = applied(outcome)
        assert isinstance(taken, SequenceAdvanced)
        answer = Taken(first=taken.first, last=taken.last)
        return service.written(200, answer, outcome, outcome.position)

    async def show(self, request: web.Request) -> Reply:
        name = requests.path_name(request, "name")
        view = await self._service.view(request)
        answer = Sequence(name=name, last=last_number(view.reader, name))
        return self._service.replies.success(200, answer, view.position)


def endpoints(service: Service) -> list[Endpoint]:
    sequences = Sequences(service)
    path = "/api/v1/sequences/{name}"
    tag = "sequences"
    name = Parameter(name="name", type=Name, description="The sequence.")
    return [
        Endpoint(
            method="POST",
            path=f"{path}/next",
            operation="takeFromSequence",
            summary="The next numbers of a sequence",
            tag=tag,
            handler=sequences.take,
            body=NextBody,
            body_required=False,
            answer=Taken,
            parameters=(name,),
            errors=(*BODY_ERRORS, *WRITE_ERRORS, "SEQUENCE_EXHAUSTED"),
            writes=True,
            timed=True,
        ),
        Endpoint(
            method="GET",
            path=path,
            operation="getSequence",
            summary="How far a sequence has got",
            tag=tag,
            handler=sequences.show,
            answer=Sequence,
            parameters=(name, CONSISTENCY),
            errors=READ_ERRORS,
            timed=True,
        ),
    ]
