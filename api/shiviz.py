"""Space-time diagrams as logs that ShiViz reads (https://bestchai.bitbucket.io/shiviz/).

ShiViz wants vector clocks in which the events of each host count from 1 without a gap, and an event
in the log for each that a clock counts. The clocks of a `Diagram` are made so.

A file that it opens begins with the expression by which it finds events, then a line for the
expression between executions, of which we have one. Each event is two lines:

    ORDER_PLACED
    orders {"orders":1} 000000000000000400000000 2026-11-21T15:04:54.072Z
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

from statemachine.space_time import Shown

MEDIA_TYPE: Final = "text/plain; charset=utf-8"

EXPRESSION: Final = r"(?<event>.*)\n(?<host>\S*) (?<clock>\{.*\}) (?<id>[0-9a-f]*) (?<date>\S*)"

HEAD: Final = f"{EXPRESSION}\n\n".encode()

_encode: Final = msgspec.json.Encoder().encode

# A host is a word, and `participants` of the request takes names as they stand in the log.
_ESCAPES: Final = str.maketrans({"%": "%25", " ": "%20", ",": "%2C"})


def host(name: str) -> str:
    """Return a participant's name as one word."""
    return name.translate(_ESCAPES)


def lines_of(shown: Shown) -> bytes:
    """Return the lines of one event."""
    # ShiViz cuts blanks off at the ends of a log.
    text = shown.text.strip() or shown.kind
    head = f"{text}\n{host(shown.node_id)} ".encode()
    tail = f" {shown.event.hex()} {_date(shown.created_at_ms)}\n".encode()
    return head + _encode(_hosts(shown.clock)) + tail


def _hosts(clock: Mapping[str, int]) -> dict[str, int]:
    return {host(name): count for name, count in clock.items()}


def _date(wall_ms: int) -> str:
    moment = datetime.fromtimestamp(wall_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{moment}.{wall_ms % 1000:03d}Z"
