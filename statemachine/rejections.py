"""Rejections that more than one command can answer.

The sentence of a rejection, here and in other modules, is stored with the outcome and so is part of
the digest: nodes that word it differently part. Another wording needs a version as a command does.
"""

from __future__ import annotations

from typing import Final

from statemachine import keys
from statemachine.outcomes import Rejected, RejectionCode

NAME_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"nodeId is empty or longer than {keys.GREATEST_NAME_BYTES - 1} bytes of UTF-8. "
    "Use a shorter name.",
)

KEY_NAME_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"key is empty or longer than {keys.GREATEST_NAME_BYTES - 1} bytes of UTF-8. "
    "Use a shorter name.",
)

CLOCK_OVERFLOW: Final = Rejected(
    RejectionCode.CLOCK_OVERFLOW,
    "The event's timestamp would reach 2**63, beyond what a clock can hold. Check the timestamps "
    "that are sent to it.",
)
