"""The timestamp oracle: integers that are unique and increase in real time over the cluster."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web

from api import json_text, requests
from api.endpoints import BODY_ERRORS, Endpoint
from api.replies import Reply
from api.service import Service
from api.shapes import Answer, Body
from statemachine.oracle import GREATEST_COUNT

TimestampCount = Annotated[
    int, msgspec.Meta(ge=1, le=GREATEST_COUNT, description="How many timestamps to draw.")
]


class DrawBody(Body, frozen=True, kw_only=True):
    """How many timestamps are wanted."""

    count: TimestampCount = 1


class Drawn(Answer, frozen=True, kw_only=True):
    """Timestamps that are the caller's alone, in a row. Each is 46 bits of milliseconds above 18 of
    counter."""

    first: int
    last: int
    count: int


class Oracle:
    """The handler of `/api/v1/tso`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._draws = msgspec.json.Decoder(DrawBody)

    async def draw(self, request: web.Request) -> Reply:
        """Answer new timestamps each time, whatever idempotency key comes with it."""
        service = self._service
        body = await requests.read_optional_json(request, service.settings)
        count = json_text.decode(body, self._draws).count if body else 1
        first = await service.cluster.draw_timestamps(
            count, timeout_ms=requests.timeout_ms(request, service.settings)
        )
        answer = Drawn(first=first, last=first + count - 1, count=count)
        return service.replies.success(200, answer)


def endpoints(service: Service) -> list[Endpoint]:
    return [
        Endpoint(
            method="POST",
            path="/api/v1/tso",
            operation="drawTimestamps",
            summary="Timestamps that nobody else has and that increase in real time",
            tag="timestamp oracle",
            handler=Oracle(service).draw,
            body=DrawBody,
            body_required=False,
            answer=Drawn,
            errors=(*BODY_ERRORS, "NO_QUORUM", "OVERLOADED", "CLOCK_OVERFLOW"),
            ignores_key=True,
            timed=True,
        )
    ]
