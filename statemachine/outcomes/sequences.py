"""Result of the sequences' command."""

from __future__ import annotations

from statemachine.outcomes.result import Result


class SequenceAdvanced(Result, frozen=True, tag=33):
    """The numbers from `first` to `last`, both included, are the caller's."""

    name: str
    first: int
    last: int
