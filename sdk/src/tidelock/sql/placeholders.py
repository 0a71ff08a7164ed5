"""Placeholders in the statements of applications, in the five ways in which drivers write them.

A statement is *normalised* once: each placeholder becomes `:b0`, `:b1`, … which every dialect's
parser understands, and is remembered by the position or the name of its value. Parts of it can then
be put into statements of our own (`Normalised.canonical`), with their values picked from the
application's.

Of `format` (`%s`, `%(name)s`) the drivers know no quotes: what looks like a placeholder is one,
in a text literal as well. The others are found by the database, which does know quotes.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec

MARK: Final = "\0"
"""Where a value goes in a canonical statement: a character that no SQL text contains."""


class Style(enum.Enum):
    """How a driver writes the place of a value."""

    FORMAT = "format"
    """`%s`, `%(name)s`, and `%%` for a per cent sign: PyMySQL, asyncmy, psycopg."""
    QMARK = "qmark"
    """`?`, `?2`, `:name`, `@name`, `$name`: sqlite3, aiosqlite."""
    NUMERIC_DOLLAR = "numeric_dollar"
    """`$1`: asyncpg."""


Key = int | str
"""Which value a placeholder stands for: its position from 0, or its name."""


class Mark(msgspec.Struct, frozen=True):
    """A placeholder in a normalised text."""

    start: int
    end: int
    key: Key


class Fragment(msgspec.Struct, frozen=True):
    """A part of an application's statement, in canonical form, and what its values are."""

    text: str
    keys: tuple[Key, ...] = ()


class Normalised(msgspec.Struct, frozen=True):
    """A statement with its placeholders made alike."""

    text: str
    marks: tuple[Mark, ...]

    def fragment(self, start: int, end: int) -> Fragment:
        """Return what stands between two positions of `text`, in canonical form."""
        parts: list[str] = []
        keys: list[Key] = []
        at = start
        for mark in self.marks:
            if mark.start >= start and mark.end <= end:
                parts += [self.text[at : mark.start], MARK]
                keys.append(mark.key)
                at = mark.end
        parts.append(self.text[at:end])
        return Fragment("".join(parts), tuple(keys))


_LITERALS: Final = {
    # Text, names and comments of each database, within which nothing is a placeholder.
    "postgresql": r"""\b[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/"""
    r"""|\$(?P<tag>[A-Za-z_]\w*)?\$.*?\$(?P=tag)?\$""",
    "sqlite": r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/""",
}
_FORMAT: Final = re.compile(r"%(?:(?P<percent>%)|\((?P<name>[^)]*)\)[sbt]|[sbt])")
_QMARK: Final = r"\?(?P<number>\d+)?|(?<![:\w])[:@$](?P<name>[A-Za-z_]\w*)"
_DOLLAR: Final = r"\$(?P<number>\d+)"


def _pattern(own: str, dialect: str) -> re.Pattern[str]:
    literals = _LITERALS[dialect]
    if dialect == "postgresql":
        # A tag that is not there matches nothing twice, which a group in a pattern cannot say.
        literals = literals.replace("(?P=tag)?", "(?(tag)(?P=tag))")
    return re.compile(f"(?P<literal>{literals})|{own}", re.DOTALL)


_PATTERNS: Final = {
    (Style.QMARK, "sqlite"): _pattern(_QMARK, "sqlite"),
    (Style.NUMERIC_DOLLAR, "postgresql"): _pattern(_DOLLAR, "postgresql"),
}


def normalise(text: str, style: Style, dialect: str, *, has_values: bool) -> Normalised:
    """Make the placeholders of a statement alike.

    `has_values` says whether the application gives any: without, `%` is an ordinary character.
    """
    if style is Style.FORMAT:
        if not has_values:
            return Normalised(text, ())
        return _replaced(text, _FORMAT)
    return _replaced(text, _PATTERNS[style, dialect])


def _replaced(text: str, pattern: re.Pattern[str]) -> Normalised:
    parts: list[str] = []
    marks: list[Mark] = []
    at = length = nameless = 0
    for found in pattern.finditer(text):
        groups = found.groupdict()
        if groups.get("literal") is not None:
            continue
        before = text[at : found.start()]
        parts.append(before)
        length += len(before)
        at = found.end()
        if groups.get("percent"):
            parts.append("%")
            length += 1
            continue
        key: Key
        if groups.get("number"):
            key = int(groups["number"]) - 1
            nameless = max(nameless, key + 1)
        elif groups.get("name"):
            key = groups["name"]
        else:
            key = nameless
            nameless += 1
        name = f":b{len(marks)}"
        parts.append(name)
        marks.append(Mark(length, length + len(name), key))
        length += len(name)
    parts.append(text[at:])
    return Normalised("".join(parts), tuple(marks))


@lru_cache(maxsize=4096)
def rendered(text: str, style: Style, *, has_values: bool) -> str:
    """Return a canonical statement as a driver wants it."""
    match style:
        case Style.FORMAT:
            return text.replace("%", "%%").replace(MARK, "%s") if has_values else text
        case Style.QMARK:
            return text.replace(MARK, "?")
        case Style.NUMERIC_DOLLAR:
            first, *others = text.split(MARK)
            return first + "".join(f"${at}{part}" for at, part in enumerate(others, start=1))


Values = Sequence[Any] | Mapping[str, Any] | None
"""What an application gives with a statement."""


def as_values(given: object) -> Values:
    """Return what was given as a sequence or a mapping: some drivers take a lone value too."""
    if given is None or isinstance(given, (Mapping, list, tuple)):
        return given
    if isinstance(given, Sequence) and not isinstance(given, (str, bytes, bytearray)):
        return given
    return (given,)


def picked(keys: Sequence[Key], given: Values) -> tuple[Any, ...]:
    """Return the values of placeholders.

    Raises: LookupError, TypeError: what was given does not fit the statement.
    """
    if not keys:
        return ()
    if given is None:
        raise LookupError("the statement has placeholders, and no values were given with it")
    if isinstance(given, Mapping):
        return tuple(given[key] for key in keys)  # type: ignore[index]  # a name, or it is raised
    return tuple(given[key] for key in keys)  # type: ignore[index]
