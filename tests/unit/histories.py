"""Histories of a few processes that exchange messages, and the happened-before relation on them.

The relation is computed from its definition (Lamport 1978), not by any clock, so that clocks can be
held against it.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

PROCESSES = 4
GREATEST_LENGTH = 40


@dataclass(frozen=True)
class Happening:
    """One event: local (or a send) when it receives nothing, else the receipt of a message."""

    process: int
    received_from: int | None
    """Index, in the history, of the event that sent the message."""
    physical_ms: int
    """What the process's physical clock showed; it need not agree with anybody's."""


@st.composite
def histories(draw: st.DrawFn, *, greatest_skew_ms: int = 1_000) -> list[Happening]:
    """Draw a history; the physical clocks run up to `greatest_skew_ms` from the true time.

    True time advances from event to event or stands still; a physical clock may run backwards.
    """
    history: list[Happening] = []
    true_ms = greatest_skew_ms + 1  # above 0, where a new clock stands
    for index in range(draw(st.integers(0, GREATEST_LENGTH))):
        true_ms += draw(st.sampled_from([0, 0, 1, 10, 5_000]))
        skew_ms = draw(st.integers(-greatest_skew_ms, greatest_skew_ms))
        message = draw(st.none() | st.integers(0, index - 1)) if index else None
        process = draw(st.integers(0, PROCESSES - 1))
        history.append(Happening(process, message, true_ms + skew_ms))
    return history


def happened_before(history: list[Happening]) -> list[frozenset[int]]:
    """For each event the indexes of all that happened before it: the transitive closure of
    "earlier in the same process" and "sent what it received".
    """
    causes: list[frozenset[int]] = []
    latest: dict[int, int] = {}
    for index, event in enumerate(history):
        direct = {latest.get(event.process), event.received_from} - {None}
        closure = {cause for cause in direct if cause is not None}
        for cause in tuple(closure):
            closure |= causes[cause]
        causes.append(frozenset(closure))
        latest[event.process] = index
    return causes
