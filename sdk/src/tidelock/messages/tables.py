"""What the tables of messages have in common."""

from __future__ import annotations

from typing import Final

from tidelock.barrier.tables import qualified
from tidelock.sql.dialects import DIALECTS

__all__ = ["WORDS", "created", "qualified"]

WORDS: Final = {
    "mysql": {
        "word": "VARCHAR({0}) CHARACTER SET ascii COLLATE ascii_bin NOT NULL",
        "text": "LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL",
        "end": " ENGINE=InnoDB",
    },
    "postgresql": {"word": "VARCHAR({0}) NOT NULL", "text": "TEXT NOT NULL", "end": ""},
    "sqlite": {"word": "TEXT NOT NULL", "text": "TEXT NOT NULL", "end": ""},
}
"""How each dialect says short ASCII, long text, and the end of a table."""


def created(dialect: str, table: str, columns: str) -> str:
    """Return the statement that creates a table where it is missing.

    In `columns`, `<word N>` and `<text>` stand for types.

    Raises:
        ValueError: `dialect` is not mysql, postgresql or sqlite, or `table` is no name.
    """
    if dialect not in WORDS:
        raise ValueError(f"{dialect!r} is no dialect known here: {', '.join(WORDS)}")
    words = WORDS[dialect]
    for length in (8, 64, 200, 500):
        columns = columns.replace(f"<word {length}>", words["word"].format(length))
    columns = columns.replace("<text>", words["text"])
    name = qualified(DIALECTS[dialect], table)
    return f"CREATE TABLE IF NOT EXISTS {name} (\n{columns}\n){words['end']}"
