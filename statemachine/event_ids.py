"""The identity of a stored event: the position of the command that stored it.

As text it is 24 hexadecimal digits, 16 of the entry and 8 of the place, so ids have one width and
sort as texts in the order in which the events were committed.
"""

from __future__ import annotations

import re
from typing import Final

from statemachine.outcomes import Position

_TEXT: Final = re.compile(r"[0-9a-f]{24}")
_ENTRY_DIGITS: Final = 16


def format_event_id(entry: int, place: int) -> str:
    """Return the id of the event that the command at this position stored."""
    return f"{entry:016x}{place:08x}"


def parse_event_id(text: str) -> Position | None:
    """Return the position that `text` names, or None when it is not an event id."""
    if _TEXT.fullmatch(text) is None:
        return None
    return Position(int(text[:_ENTRY_DIGITS], 16), int(text[_ENTRY_DIGITS:], 16))
