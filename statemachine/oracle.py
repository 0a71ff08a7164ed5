"""The replicated half of the timestamp oracle: which timestamps a leader may give out.

Reservations follow each other without overlap, in the order of the log, and one belongs to the
leader whose term its entry has. So all that a leader gives out is greater than all that leaders of
earlier terms gave out or still might. The other half is in `node.consensus.oracle`.
"""

from __future__ import annotations

from typing import Final

from statemachine.commands import ReserveTimestamps
from statemachine.hybrid_clock import GREATEST_ENCODED
from statemachine.outcomes import Applied, Outcome, TimestampsReserved
from statemachine.rejections import CLOCK_OVERFLOW
from statemachine.state import MachineState

GREATEST_COUNT: Final = 1_000_000
"""How many timestamps one caller can draw at once."""


def reserve(state: MachineState, command: ReserveTimestamps) -> Outcome:
    """Set aside what lies between the last reservation and `upto`.

    A leader's proposal that reaches the log only in the term of its successor reserves nothing.
    """
    if command.upto > GREATEST_ENCODED:
        return CLOCK_OVERFLOW
    after = state.reserved_upto
    if command.term == state.applied_term:
        state.reserved_upto = max(after, command.upto)
    return Applied(TimestampsReserved(after=after, upto=state.reserved_upto))
