"""Watching: what was applied, in order, as server-sent events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Final

import msgspec
from aiohttp import web

from api import requests
from api.cluster import Consistency, NoQuorumError
from api.endpoints import READ_ERRORS, Endpoint, Parameter
from api.errors import Problem, refuse_field
from api.event_stream import MEDIA_TYPE, EventStream, comment
from api.requests import LAST_EVENT_ID, POSITION
from api.service import Service
from api.watch_messages import KINDS, WatchMessage, select
from api.watchers import RETRY_MS, Watcher, Watchers
from statemachine.change_log import CompactedError
from statemachine.outcomes import Position

OLDEST: Final = Position(0, 0)

ALL_KINDS: Final = frozenset(KINDS)

GREATEST_KINDS_LENGTH: Final = 1_000


class Watching:
    """The handler of `/api/v1/watch`."""

    def __init__(self, service: Service, watchers: Watchers) -> None:
        self._service = service
        self._watchers = watchers

    async def watch(self, request: web.Request) -> EventStream:
        kinds = _kinds(request)
        after = self._begin(request)
        cluster = self._service.cluster
        if after is None or after > cluster.applied_position():
            try:
                after = await self._reach(after, request)
            except NoQuorumError:
                return self._stream(_nobody_leads, cluster.applied_position())
        # Refused now, the client is told by the status; once the stream has begun, by an event.
        cluster.changes.read(after)
        if self._watchers.is_full:
            raise Problem(
                "TOO_MANY_WATCHERS",
                f"{len(self._watchers)} watch this node already. Ask another node.",
            )
        watcher = Watcher(kinds, after)
        return self._stream(lambda stream: self._watchers.serve(watcher, stream), after)

    def _begin(self, request: web.Request) -> Position | None:
        """Return the position behind which the client wants to go on, None for now."""
        wanted = request.query.get("from")
        begin = None if wanted is None else _from(wanted)
        last_id = request.headers.get(LAST_EVENT_ID)
        if last_id:
            # An exact resumption, even of a log of which nothing had been seen.
            return requests.position(str(LAST_EVENT_ID), last_id)
        return self._oldest() if begin == OLDEST else begin

    def _oldest(self) -> Position:
        """Return the position behind which everything is kept."""
        try:
            self._service.cluster.changes.read(OLDEST)
        except CompactedError as error:
            return error.oldest
        return OLDEST

    async def _reach(self, after: Position | None, request: web.Request) -> Position:
        """Return `after`, or the end of the log, once this node has applied as much.

        A client may come from a node that was ahead. But a position of another cluster, or of one
        that was made anew, would be waited for until this one gets there, and what it did before
        would be missed.

        Raises:
            Problem, NoQuorumError
        """
        view = await self._service.cluster.read(
            Consistency.LINEARIZABLE,
            timeout_ms=requests.timeout_ms(request, self._service.settings),
        )
        if after is None:
            return view.position
        if after > view.position:
            raise Problem(
                "POSITION_UNKNOWN",
                f"The log of this cluster ends at {view.position}, before {after}. The position "
                "is of another cluster, or this one was made anew: read the state you need, then "
                "watch from now on.",
            )
        return after

    def _stream(
        self, run: Callable[[EventStream], Awaitable[None]], position: Position
    ) -> EventStream:
        return EventStream(self._service.replies.head(200, MEDIA_TYPE, position), run)


async def _nobody_leads(stream: EventStream) -> None:
    """End a stream that could not begin, in a way after which browsers try again."""
    stream.send(b"retry: %d\n\n" % RETRY_MS)
    stream.send(comment("no majority confirms a leader to this node; connect to another node"))


def _from(text: str) -> Position:
    return OLDEST if text == "0" else requests.position("from", text)


def _kinds(request: web.Request) -> frozenset[str]:
    wanted = request.query.get("kinds")
    if wanted is None:
        return ALL_KINDS
    if len(wanted) > GREATEST_KINDS_LENGTH:
        refuse_field("kinds", f"must be at most {GREATEST_KINDS_LENGTH} characters")
    try:
        return select(wanted)
    except ValueError as error:
        refuse_field("kinds", str(error))


def endpoints(service: Service, watchers: Watchers) -> list[Endpoint]:
    watching = Watching(service, watchers)
    return [
        Endpoint(
            method="GET",
            path="/api/v1/watch",
            operation="watch",
            summary="What is applied, in order, as server-sent events",
            tag="watch",
            handler=watching.watch,
            answer=None,
            described=(WatchMessage,),
            media_type=MEDIA_TYPE,
            streams=True,
            parameters=(
                Parameter(
                    name="from",
                    type=Annotated[str, msgspec.Meta(pattern=rf"^0$|{POSITION}")],
                    description="The position behind which to begin; `0` for the oldest that is "
                    "kept. From now on unless given. `Last-Event-ID` counts before it.",
                ),
                Parameter(
                    name="kinds",
                    type=Annotated[str, msgspec.Meta(max_length=GREATEST_KINDS_LENGTH)],
                    description="The kinds of changes to tell, separated by commas; `lock.*` for "
                    f"all that begin so. All unless given: {', '.join(KINDS)}.",
                ),
            ),
            errors=(*READ_ERRORS, "COMPACTED", "POSITION_UNKNOWN", "TOO_MANY_WATCHERS"),
            timed=True,
        )
    ]
