"""Result of the timestamp oracle's command."""

from __future__ import annotations

from statemachine.outcomes.result import Result


class TimestampsReserved(Result, frozen=True, tag=30):
    """The timestamps above `after` up to `upto` are the proposer's; none when the two are equal."""

    after: int
    upto: int
