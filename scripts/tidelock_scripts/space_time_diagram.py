"""The space-time diagram of docs/CLOCKS.md, drawn with the clocks that it explains.

`python -m scripts.tidelock_scripts.space_time_diagram` writes docs/images/space-time.svg anew. The
positions are given here; the numbers and the colours come from the clocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tidelock.clocks import LamportClock, Relation, VectorClock

DIAGRAM: Final = Path(__file__).resolve().parents[2] / "docs" / "images" / "space-time.svg"

PARTICIPANTS: Final = ("a", "b", "c")
WIDTH, HEIGHT = 880, 366
LEFT, STEP = 70, 84
TOP, GAP = 54, 98
RADIUS = 8

INK, PAPER, LINE = "#1f2937", "#ffffff", "#9ca3af"


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a participant at a place of its line; a receipt names the event that sent."""

    name: str
    place: float
    received: str | None = None

    @property
    def participant(self) -> str:
        return self.name[0]

    @property
    def x(self) -> float:
        return round(LEFT + STEP * self.place, 1)

    @property
    def y(self) -> int:
        return TOP + GAP * PARTICIPANTS.index(self.participant)


EVENTS: Final = (
    Event("a1", 0.9),
    Event("c1", 1.3),
    Event("b1", 1.6),
    Event("a2", 2.2),
    Event("c2", 3.1),
    Event("b2", 3.3, received="a2"),
    Event("a3", 4.6),
    Event("b3", 4.7),
    Event("c3", 5.9, received="b3"),
    Event("b4", 6.5),
    Event("c4", 7.4),
    Event("a4", 8.8, received="c4"),
)
FOCUS: Final = "b3"

# Fill, edge, and what the legend says; concurrent events are hollow, so that no colour is needed.
LOOKS: Final = {
    Relation.BEFORE: ("#2563eb", "#2563eb", "before b3: b3 can know of it"),
    Relation.EQUAL: ("#dc2626", "#dc2626", "b3 itself"),
    Relation.AFTER: ("#15803d", "#15803d", "after b3: it can know of b3"),
    Relation.CONCURRENT: (PAPER, INK, "concurrent with b3"),
}


def stamps() -> dict[str, tuple[LamportClock, VectorClock]]:
    """Run the history: the Lamport and the vector clock of each event."""
    found: dict[str, tuple[LamportClock, VectorClock]] = {}
    latest = {name: (LamportClock(), VectorClock()) for name in PARTICIPANTS}
    for event in EVENTS:
        lamport, vector = latest[event.participant]
        if event.received is None:
            after = lamport.tick(), vector.tick(event.participant)
        else:
            message = found[event.received]
            after = (
                lamport.receive(message[0].time),
                vector.receive(message[1], event.participant),
            )
        found[event.name] = latest[event.participant] = after
    return found


def diagram() -> str:
    """Return the SVG."""
    clocks = stamps()
    by_name = {event.name: event for event in EVENTS}
    parts = [_line(name) for name in PARTICIPANTS]
    parts += [_message(by_name[e.received], e) for e in EVENTS if e.received is not None]
    for event in EVENTS:
        lamport, vector = clocks[event.name]
        relation = vector.compare(clocks[FOCUS][1])
        parts.append(_event(event, lamport, vector, relation))
    parts.append(_legend())
    body = "\n".join(parts)
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" \
width="{WIDTH}" height="{HEIGHT}" role="img" aria-labelledby="title what" \
font-family="system-ui, Helvetica, Arial, sans-serif" font-size="13" fill="{INK}">
<title id="title">What happened before what among three participants</title>
<desc id="what">Time runs to the right. a2 sends to b2, b3 to c3, c4 to a4. Above each event is \
its vector clock, below it its name and Lamport time.</desc>
<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" \
orient="auto"><path d="M0 1 L10 5 L0 9 z" fill="{INK}"/></marker></defs>
<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="{PAPER}"/>
{body}
</svg>
"""


def _line(participant: str) -> str:
    y = TOP + GAP * PARTICIPANTS.index(participant)
    return (
        f'<text x="{LEFT - 34}" y="{y + 5}" font-size="16" font-weight="bold">'
        f"{participant}</text>\n"
        f'<line x1="{LEFT}" y1="{y}" x2="{WIDTH - 24}" y2="{y}" stroke="{LINE}" '
        'stroke-width="1.5"/>'
    )


def _message(sent: Event, received: Event) -> str:
    length = ((received.x - sent.x) ** 2 + (received.y - sent.y) ** 2) ** 0.5
    # From edge to edge of both circles.
    part = (RADIUS + 2) / length
    x1, y1 = sent.x + (received.x - sent.x) * part, sent.y + (received.y - sent.y) * part
    x2, y2 = received.x - (received.x - sent.x) * part, received.y - (received.y - sent.y) * part
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{INK}" '
        'stroke-width="1.5" marker-end="url(#head)"/>'
    )


def _event(event: Event, lamport: LamportClock, vector: VectorClock, relation: Relation) -> str:
    fill, edge, _ = LOOKS[relation]
    counts = " ".join(str(vector.of(name)) for name in PARTICIPANTS)
    return (
        f'<circle cx="{event.x}" cy="{event.y}" r="{RADIUS}" fill="{fill}" stroke="{edge}" '
        'stroke-width="2"/>\n'
        f'<text {_beside_messages(event, event.y - 16)} font-weight="bold" '
        f'font-family="ui-monospace, Menlo, monospace">[{counts}]</text>\n'
        f"<text {_beside_messages(event, event.y + 26)}>{event.name} · {lamport.time}</text>"
    )


def _beside_messages(event: Event, y: int) -> str:
    """Where a label above or below an event stands, so that no arrow runs through it."""
    for other in EVENTS:
        connected = event.name == other.received or other.name == event.received
        if connected and (other.y < event.y) == (y < event.y):
            if other.x > event.x:
                return f'x="{event.x + 5}" y="{y}" text-anchor="end"'
            return f'x="{event.x - 5}" y="{y}" text-anchor="start"'
    return f'x="{event.x}" y="{y}" text-anchor="middle"'


def _legend() -> str:
    y = HEIGHT - 46
    parts = [
        f'<text x="{LEFT}" y="{y + 30}" fill="#4b5563">Above an event: its vector clock '
        "[a b c]. Below: its name and Lamport time.</text>"
    ]
    x = LEFT
    for fill, edge, meaning in LOOKS.values():
        parts.append(
            f'<circle cx="{x}" cy="{y}" r="{RADIUS - 2}" fill="{fill}" stroke="{edge}" '
            f'stroke-width="2"/><text x="{x + 14}" y="{y + 5}">{meaning}</text>'
        )
        x += 50 + 7 * len(meaning)
    return "\n".join(parts)


if __name__ == "__main__":
    DIAGRAM.parent.mkdir(exist_ok=True)
    DIAGRAM.write_text(diagram(), encoding="utf-8")
