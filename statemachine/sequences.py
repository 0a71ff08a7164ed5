"""Sequences: whole numbers from 1, each given once and none left out."""

from __future__ import annotations

from typing import Final

from statemachine import keys
from statemachine.commands import AdvanceSequence
from statemachine.outcomes import Applied, Outcome, Rejected, RejectionCode, SequenceAdvanced
from statemachine.store import Reader
from statemachine.write_buffer import WriteBuffer

GREATEST_COUNT: Final = 1_000_000
"""How many numbers can be taken at once."""

GREATEST_NUMBER: Final = keys.GREATEST_NUMBER
"""The last number of a sequence."""

_NAME_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"The sequence's name is empty or longer than {keys.GREATEST_NAME_BYTES - 1} bytes of UTF-8. "
    "Use a shorter name.",
)

_COUNT_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"count is not from 1 to {GREATEST_COUNT}. Take fewer numbers at once.",
)

_EXHAUSTED: Final = Rejected(
    RejectionCode.SEQUENCE_EXHAUSTED,
    f"The sequence has fewer numbers left below {GREATEST_NUMBER + 1} than were asked for. None "
    "was taken. Use another sequence.",
)


def advance(writes: WriteBuffer, command: AdvanceSequence) -> Outcome:
    """Take the next `count` numbers."""
    name, count = command.name, command.count
    if not name or len(keys.terminated(name)) > keys.GREATEST_NAME_BYTES:
        return _NAME_UNUSABLE
    if not 1 <= count <= GREATEST_COUNT:
        return _COUNT_UNUSABLE
    last = last_number(writes, name)
    if count > GREATEST_NUMBER - last:
        return _EXHAUSTED
    writes.put(_key(name), keys.pack_number(last + count))
    return Applied(SequenceAdvanced(name=name, first=last + 1, last=last + count))


def last_number(reader: Reader, name: str) -> int:
    """Return the last number that was taken, 0 when none was."""
    if len(keys.terminated(name)) > keys.GREATEST_NAME_BYTES:
        return 0
    row = reader.get(_key(name))
    return 0 if row is None else int.from_bytes(row, "big")


def _key(name: str) -> bytes:
    return keys.SEQUENCE + keys.terminated(name)
