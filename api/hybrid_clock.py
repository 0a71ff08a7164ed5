"""The cluster's hybrid logical clock: its next timestamp, and timestamps received from outside."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from aiohttp import web

from api import json_text, requests
from api.endpoints import BODY_ERRORS, KEYLESS_WRITE_ERRORS, WRITE_ERRORS, Endpoint
from api.replies import Reply
from api.service import Service, applied
from api.shapes import Answer, Body
from statemachine.commands import ObserveHybridTime, TickHybridClock
from statemachine.hybrid_clock import LOGICAL_BITS
from statemachine.outcomes import HybridClockTicked, RequestOutcome

_LOGICAL_MASK: Final = (1 << LOGICAL_BITS) - 1

WallMs = Annotated[
    int,
    msgspec.Meta(ge=0, le=2**46 - 1, description="Milliseconds since the epoch."),
]

Logical = Annotated[
    int,
    msgspec.Meta(
        ge=0, le=_LOGICAL_MASK, description="Counts the events within one millisecond, from 0."
    ),
]


class Hlc(Answer, frozen=True, kw_only=True):
    """A hybrid timestamp."""

    wall_ms: int
    logical: int


class ReceivedHlc(Body, frozen=True, kw_only=True):
    """A hybrid timestamp that came with a message."""

    wall_ms: WallMs
    logical: Logical


class NowBody(Body, frozen=True, kw_only=True):
    """Nothing needs to be said; an empty body will do as well."""


class ObserveBody(Body, frozen=True, kw_only=True):
    hlc: ReceivedHlc


class HybridTime(Answer, frozen=True, kw_only=True):
    """What the clock shows."""

    hlc: Hlc
    encoded: int
    """The same as one integer that sorts alike: 46 bits of milliseconds above 18 of counter."""


def hlc(encoded: int) -> Hlc:
    return Hlc(wall_ms=encoded >> LOGICAL_BITS, logical=encoded & _LOGICAL_MASK)


class HybridClocks:
    """The handlers of `/api/v1/hlc`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._nows = msgspec.json.Decoder(NowBody)
        self._observations = msgspec.json.Decoder(ObserveBody)

    async def now(self, request: web.Request) -> Reply:
        """Answer a new timestamp each time, whatever idempotency key comes with it."""
        service = self._service
        body = await requests.read_optional_json(request, service.settings)
        if body:
            json_text.decode(body, self._nows)
        outcome = await service.cluster.propose(
            (TickHybridClock(),), timeout_ms=requests.timeout_ms(request, service.settings)
        )
        return self._ticked(outcome)

    async def observe(self, request: web.Request) -> Reply:
        service = self._service
        body = await requests.read_json(request, service.settings)
        received = json_text.decode(body, self._observations).hlc
        command = ObserveHybridTime(
            timestamp=received.wall_ms << LOGICAL_BITS | received.logical,
            max_skew_ms=service.settings.max_skew_ms,
        )
        return self._ticked(await service.propose(request, body, (command,)))

    def _ticked(self, outcome: RequestOutcome) -> Reply:
        ticked = applied(outcome)
        assert isinstance(ticked, HybridClockTicked)
        answer = HybridTime(hlc=hlc(ticked.hlc), encoded=ticked.hlc)
        return self._service.written(200, answer, outcome, outcome.position)


def endpoints(service: Service) -> list[Endpoint]:
    clocks = HybridClocks(service)
    path = "/api/v1/hlc"
    tag = "hybrid clock"
    return [
        Endpoint(
            method="POST",
            path=f"{path}/now",
            operation="tickHybridClock",
            summary="The next hybrid timestamp",
            tag=tag,
            handler=clocks.now,
            body=NowBody,
            body_required=False,
            answer=HybridTime,
            errors=(*BODY_ERRORS, *KEYLESS_WRITE_ERRORS, "CLOCK_OVERFLOW"),
            ignores_key=True,
            timed=True,
        ),
        Endpoint(
            method="POST",
            path=f"{path}/observe",
            operation="observeHybridTime",
            summary="Raise the hybrid clock above a received timestamp",
            tag=tag,
            handler=clocks.observe,
            body=ObserveBody,
            answer=HybridTime,
            errors=(*BODY_ERRORS, *WRITE_ERRORS, "CLOCK_OVERFLOW", "CLOCK_SKEW_TOO_LARGE"),
            writes=True,
            timed=True,
        ),
    ]
