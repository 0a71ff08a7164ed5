"""Versioned objects: values that only writers replace who had read them."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Raw

from api import json_text, requests
from api.endpoints import (
    BODY_ERRORS,
    CONSISTENCY,
    READ_ERRORS,
    WRITE_ERRORS,
    Endpoint,
    Parameter,
)
from api.errors import refuse_size
from api.replies import Reply
from api.service import Service, applied
from api.settings import GREATEST_VALUE_BYTES
from api.shapes import Answer, Body, Name
from api.vectors import Vector, VectorAnswer, entries
from statemachine.commands import WriteObject
from statemachine.event_ids import format_event_id
from statemachine.objects import get_object
from statemachine.outcomes import ObjectWritten
from statemachine.outcomes import Sibling as StoredSibling

Value = Annotated[
    Raw,
    msgspec.Meta(
        description=f"Any JSON, at most {GREATEST_VALUE_BYTES} bytes as sent. Numbers have 64 "
        f"bits, nesting ends at {json_text.GREATEST_DEPTH}."
    ),
]


class WriteBody(Body, frozen=True, kw_only=True):
    """A value to write."""

    node_id: Name
    """The participant through which it is written: a server of many clients may be one."""
    context: Vector | None = None
    """What the writer had read: the `context` that came with it. Left out: nothing."""
    value: Value


class Sibling(Answer, frozen=True, kw_only=True):
    """A current value."""

    value: Raw
    node_id: str
    count: int
    """It is the `count`-th write of this participant to the object."""


class VersionedObject(Answer, frozen=True, kw_only=True):
    """An object: more than one value are siblings, written apart from each other."""

    key: str
    siblings: list[Sibling]
    """None of an object that was never written."""
    context: VectorAnswer
    """What the reader of this answer has read; it belongs into the reader's next write."""


class WrittenObject(VersionedObject, frozen=True, kw_only=True):
    """An object right after a write."""

    event_id: str


def siblings(stored: tuple[StoredSibling, ...]) -> list[Sibling]:
    return [
        Sibling(value=Raw(each.value), node_id=each.node_id, count=each.count) for each in stored
    ]


class Objects:
    """The handlers of `/api/v1/version/objects`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._writes = msgspec.json.Decoder(WriteBody)

    async def write(self, request: web.Request) -> Reply:
        service = self._service
        key = requests.path_name(request, "key")
        body = await requests.read_json(request, service.settings)
        asked = json_text.decode(body, self._writes)
        value = bytes(asked.value)
        if len(value) > GREATEST_VALUE_BYTES:
            refuse_size("value", len(value), GREATEST_VALUE_BYTES)
        command = WriteObject(
            key=key,
            node_id=requests.name("nodeId", asked.node_id),
            context=entries("context", asked.context or {}),
            value=value,
        )
        outcome = await service.propose(request, body, (command,))
        written = applied(outcome)
        assert isinstance(written, ObjectWritten)
        position = outcome.position
        answer = WrittenObject(
            key=key,
            siblings=siblings(written.siblings),
            context=written.context,
            event_id=format_event_id(position.entry, position.place),
        )
        return service.written(200, answer, outcome, position)

    async def get(self, request: web.Request) -> Reply:
        key = requests.path_name(request, "key")
        view = await self._service.view(request)
        found = get_object(view.reader, key)
        answer = VersionedObject(key=key, siblings=siblings(found.siblings), context=found.context)
        return self._service.replies.success(200, answer, view.position)


def endpoints(service: Service) -> list[Endpoint]:
    objects = Objects(service)
    path = "/api/v1/version/objects/{key}"
    tag = "versioned objects"
    key = Parameter(name="key", type=Name, description="The object.")
    return [
        Endpoint(
            method="POST",
            path=path,
            operation="writeObject",
            summary="Write a value, which replaces what its writer had read",
            tag=tag,
            handler=objects.write,
            body=WriteBody,
            answer=WrittenObject,
            parameters=(key,),
            errors=(
                *BODY_ERRORS,
                *WRITE_ERRORS,
                "CLOCK_OVERFLOW",
                "TOO_MANY_SIBLINGS",
                "VECTOR_TOO_LARGE",
            ),
            writes=True,
            timed=True,
        ),
        Endpoint(
            method="GET",
            path=path,
            operation="getObject",
            summary="The current values of an object, and the context of the next write",
            tag=tag,
            handler=objects.get,
            answer=VersionedObject,
            parameters=(key, CONSISTENCY),
            errors=READ_ERRORS,
            timed=True,
        ),
    ]
