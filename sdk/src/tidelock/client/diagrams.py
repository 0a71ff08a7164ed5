"""Space-time diagrams: stored events, and what happened before what."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, TypedDict, TypeVar, Unpack

from tidelock.client.answers import ShivizLog, SpaceTime
from tidelock.client.attempts import JsonOf, Read
from tidelock.client.resource import Reading, Resource, names, onwards, reading_of
from tidelock.client.transport import Received

T = TypeVar("T")

_PATH: Final = "/api/v1/export/space-time"
_NEXT_CURSOR: Final = "Tidelock-Next-Cursor"


class Window(TypedDict, total=False):
    """Which part of the log is drawn; everything unless given."""

    participants: Sequence[str]
    kinds: Sequence[str]
    """Of `timestamp`, `version`, `vector`."""
    begin: str | int
    """The id of an event, or milliseconds since the epoch."""
    end: str | int
    """Likewise; not drawn itself."""
    events: int
    """At most so many in one diagram."""


class Drawing(Window, Reading, total=False):
    """What every diagram takes."""


class Diagrams(Resource):
    """Diagrams, each complete for itself: a log that is too long for one is drawn in several."""

    def edges(self, **drawing: Unpack[Drawing]) -> AsyncIterator[SpaceTime]:
        """Iterate over diagrams as events and the edges between them."""
        return self._drawn("edges", JsonOf(SpaceTime), lambda found: found.next_cursor, drawing)

    def shiviz(self, **drawing: Unpack[Drawing]) -> AsyncIterator[ShivizLog]:
        """Iterate over diagrams as logs that ShiViz opens."""
        return self._drawn("shiviz", _log_of, lambda found: found.next_cursor, drawing)

    async def _drawn(
        self,
        form: str,
        read: Read[T],
        next_cursor: Callable[[T], str | None],
        drawing: Drawing,
    ) -> AsyncIterator[T]:
        participants, kinds = drawing.get("participants"), drawing.get("kinds")
        if participants is not None:
            participants = ",".join(map(_escaped, names("participants", participants)))
        if kinds is not None:
            kinds = ",".join(names("kinds", kinds))
        query: dict[str, object] = {
            "format": form,
            "participants": participants,
            "kinds": kinds,
            "from": drawing.get("begin"),
            "to": drawing.get("end"),
            "limit": drawing.get("events"),
        }
        reading = reading_of(drawing)
        cursor: str | None = None
        while True:
            found = await self._read(_PATH, read, {**query, "cursor": cursor}, **reading)
            yield found
            following = next_cursor(found)
            if following is None:
                return
            cursor = onwards(cursor, following)


def _escaped(name: str) -> str:
    return name.replace("%", "%25").replace(",", "%2C")


def _log_of(answer: Received) -> ShivizLog:
    if not answer.headers.get("Content-Type", "").startswith("text/plain"):
        raise ValueError("it is no log")
    return ShivizLog(
        text=answer.content.decode(), next_cursor=answer.headers.get(_NEXT_CURSOR) or None
    )
