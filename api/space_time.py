"""Space-time diagrams: stored events and what happened before what, for programs and for ShiViz."""

from __future__ import annotations

import asyncio
import enum
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Final, TypeVar
from urllib.parse import unquote

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from api import requests, shiviz
from api.cluster import View
from api.endpoints import CONSISTENCY, READ_ERRORS, Endpoint, Parameter
from api.errors import refuse_field
from api.replies import JSON, Reply
from api.service import Service
from api.shapes import END, PRINTABLE_COMMA_LIST, Answer, Cursor
from statemachine import keys
from statemachine.change_log import compacted
from statemachine.event_ids import parse_event_id
from statemachine.paging import decode_cursor, encode_cursor
from statemachine.positions import Position
from statemachine.space_time import Diagram, Edge, Kind, Link, Shown, first_at, read_events
from statemachine.store import Reader

NEXT_CURSOR: Final = "Tidelock-Next-Cursor"
"""The header that says how a log goes on, since the log itself cannot."""

DEFAULT_EVENTS: Final = 1_000
GREATEST_EVENTS: Final = 10_000
GREATEST_EXAMINED: Final = 20_000
"""How many events of the log a page looks at before it ends, whatever it found."""

GREATEST_PARTICIPANTS: Final = 100
"""How many participants can be named."""

_EVENTS_AT_ONCE: Final = 100
"""Read before others are served: a row may have 64 KiB."""
_MADE_AT_ONCE: Final = 250

T = TypeVar("T")
Made = TypeVar("Made")

_BOUND: Final = rf"^(?:[0-9a-f]{{24}}|[0-9]{{1,15}}){END}"
_KINDS: Final = rf"^(?:timestamp|version|vector)(?:,(?:timestamp|version|vector)){{0,2}}{END}"

_is_bound: Final = re.compile(_BOUND).match
_are_kinds: Final = re.compile(_KINDS).match

Bound = Annotated[str, msgspec.Meta(pattern=_BOUND)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=GREATEST_EVENTS)]


class Format(enum.StrEnum):
    """As what a diagram is answered."""

    EDGES = "edges"
    SHIVIZ = "shiviz"


class SpaceTimeNode(Answer, frozen=True, kw_only=True, omit_defaults=True):
    """An event of a diagram."""

    event_id: str
    node_id: str
    kind: str
    """As a watch has it: `timestamp.event`, `vector.sent`."""
    label: str
    created_at: int
    """Milliseconds since the epoch."""
    lamport_timestamp: int | UnsetType = UNSET
    key: str | UnsetType = UNSET
    message_id: str | UnsetType = UNSET


class SpaceTimeEdge(Answer, frozen=True, kw_only=True):
    """One event happened right before another."""

    source: str
    """The id of the earlier event."""
    target: str
    kind: Link


class SpaceTime(Answer, frozen=True, kw_only=True):
    """Consecutive events of the log, and all that orders them among themselves."""

    nodes: list[SpaceTimeNode]
    """In the order of the log."""
    edges: list[SpaceTimeEdge]
    """One event happened before another exactly if edges lead from it to the other."""
    next_cursor: str | None
    """Of the next diagram, which is complete for itself. None at the end."""


class SpaceTimes:
    """The handler of `/api/v1/export/space-time`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def export(self, request: web.Request) -> Reply:
        wanted = _format(request)
        limit = requests.integer(
            request, "limit", DEFAULT_EVENTS, least=1, greatest=GREATEST_EVENTS
        )
        diagram = Diagram(_participants(request), _kinds(request))
        first, last = _bound(request, "from"), _bound(request, "to")
        cursor = request.query.get("cursor")
        after = b"" if cursor is None else decode_cursor(cursor)[: keys.EVENT_BYTES] + b"\0"
        view = await self._service.view(request)
        position = view.position
        start = max(after, _packed(view.reader, position, first, b""))
        behind = keys.pack_event(position.entry, position.place) + b"\0"
        stop = min(behind, _packed(view.reader, position, last, behind))
        next_cursor = await self._read(view, diagram, start, stop, limit)
        replies = self._service.replies
        if wanted is Format.SHIVIZ:
            lines = await _made(diagram.shown, shiviz.lines_of)
            more = "" if next_cursor is None else f"{NEXT_CURSOR}: {next_cursor}\r\n"
            log = b"".join([shiviz.HEAD, *lines])
            return replies.of_bytes(200, shiviz.MEDIA_TYPE, log, position, more)
        answer = SpaceTime(
            nodes=await _made(diagram.shown, _node),
            edges=await _made(diagram.edges, _edge),
            next_cursor=next_cursor,
        )
        return replies.success(200, answer, position)

    async def _read(
        self, view: View, diagram: Diagram, start: bytes, stop: bytes, limit: int
    ) -> str | None:
        """Fill the diagram, a part at a time. Return where it goes on, None when it does not."""
        examined = 0
        last = b""
        while True:
            if last and compacted(view.reader) > Position(*keys.unpack_event(last)):
                # What followed has just been trimmed: the next diagram begins behind it.
                return encode_cursor(last)
            events = read_events(view.reader, start, stop, limit=_EVENTS_AT_ONCE)
            for event, row in events:
                full = len(diagram.shown) >= limit or diagram.is_full
                if full or examined >= GREATEST_EXAMINED:
                    return encode_cursor(last)
                diagram.add(event, row)
                last = event
                examined += 1
            if len(events) < _EVENTS_AT_ONCE:
                return None
            start = last + b"\0"
            await asyncio.sleep(0)
            view = await self._service.own_view()


async def _made(items: Sequence[T], make: Callable[[T], Made]) -> list[Made]:
    """Make something of each item, and let others be served in between."""
    made: list[Made] = []
    for start in range(0, len(items), _MADE_AT_ONCE):
        await asyncio.sleep(0)
        made += map(make, items[start : start + _MADE_AT_ONCE])
    return made


def _format(request: web.Request) -> Format:
    try:
        return Format(request.query.get("format", Format.EDGES))
    except ValueError:
        refuse_field("format", "must be edges or shiviz")


def _participants(request: web.Request) -> frozenset[str] | None:
    text = request.query.get("participants")
    if text is None:
        return None
    names = text.split(",")
    if len(names) > GREATEST_PARTICIPANTS:
        refuse_field("participants", f"must be at most {GREATEST_PARTICIPANTS} names")
    return frozenset(requests.name("participants", unquote(name)) for name in names)


def _kinds(request: web.Request) -> tuple[Kind, ...]:
    text = request.query.get("kinds")
    if text is None:
        return tuple(Kind)
    if _are_kinds(text) is None:
        refuse_field("kinds", "must be some of timestamp, version and vector, with commas")
    return tuple(Kind(kind) for kind in text.split(","))


def _bound(request: web.Request, name: str) -> str | None:
    text = request.query.get(name)
    if text is not None and _is_bound(text) is None:
        refuse_field(name, "must be an event id or milliseconds since the epoch")
    return text


def _packed(reader: Reader, position: Position, bound: str | None, default: bytes) -> bytes:
    """Return where in the log a bound is: at an event, or at the first one of a time."""
    if bound is None:
        return default
    event = parse_event_id(bound)
    if event is not None:
        return keys.pack_event(event.entry, event.place)
    return first_at(reader, int(bound), position.entry)


def _node(shown: Shown) -> SpaceTimeNode:
    return SpaceTimeNode(
        event_id=shown.event.hex(),
        node_id=shown.node_id,
        kind=shown.kind,
        label=shown.text,
        created_at=shown.created_at_ms,
        lamport_timestamp=UNSET if shown.lamport is None else shown.lamport,
        key=UNSET if shown.key is None else shown.key,
        message_id=UNSET if shown.message_id is None else shown.message_id,
    )


def _edge(edge: Edge) -> SpaceTimeEdge:
    return SpaceTimeEdge(source=edge.source.hex(), target=edge.target.hex(), kind=edge.link)


def endpoints(service: Service) -> list[Endpoint]:
    return [
        Endpoint(
            method="GET",
            path="/api/v1/export/space-time",
            operation="exportSpaceTime",
            summary="Stored events and what happened before what, also as a log for ShiViz",
            tag="export",
            handler=SpaceTimes(service).export,
            answer=SpaceTime,
            media_type=JSON,
            text_media_type=shiviz.MEDIA_TYPE,
            parameters=(
                Parameter(
                    name="format",
                    type=Format,
                    description="`edges` unless given: nodes and edges as JSON. `shiviz`: a log "
                    f"that ShiViz opens; `{NEXT_CURSOR}` is its `nextCursor`.",
                ),
                Parameter(
                    name="participants",
                    type=Annotated[str, msgspec.Meta(pattern=PRINTABLE_COMMA_LIST)],
                    description=f"Only events of these, at most {GREATEST_PARTICIPANTS}, separated "
                    "by commas; percent signs and commas within a name as `%25` and `%2C`. Order "
                    "that runs through others remains.",
                ),
                Parameter(
                    name="kinds",
                    type=Annotated[str, msgspec.Meta(pattern=_KINDS)],
                    description="Only events of these kinds, separated by commas, and only the "
                    "order that they make: timestamp, version, vector.",
                    example="timestamp,vector",
                ),
                Parameter(
                    name="from",
                    type=Bound,
                    description="Where to begin: the id of an event, or a time in milliseconds "
                    "since the epoch. With the oldest unless given.",
                    example="1760000000000",
                ),
                Parameter(
                    name="to",
                    type=Bound,
                    description="Before what to end, likewise. With the newest unless given.",
                    example="1769000000000",
                ),
                Parameter(
                    name="limit",
                    type=Limit,
                    description=f"At most so many events; {DEFAULT_EVENTS} unless given. Fewer "
                    f"when clocks are large, or when {GREATEST_EXAMINED} were looked at.",
                ),
                Parameter(
                    name="cursor", type=Cursor, description="`nextCursor` of the diagram before."
                ),
                CONSISTENCY,
            ),
            errors=READ_ERRORS,
            timed=True,
        )
    ]
