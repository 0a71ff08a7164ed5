"""Shapes that several resources share: names, numbers, lists."""

from __future__ import annotations

from typing import Annotated, Final, Generic, TypeVar

import msgspec

from api.settings import GREATEST_NAME_LENGTH, GREATEST_PAGE
from statemachine.paging import GREATEST_CURSOR_LENGTH

END: Final = r"$(?!\n)"
"""The end of a pattern: Python's `$` alone lets a last line feed pass."""

_UNPRINTABLE: Final = (
    r"\u0000-\u001F\u007F-\u009F"  # controls
    r"\u00A0\u1680\u2000-\u200A\u202F\u205F\u3000"  # blanks that look like a space, or like nothing
    r"\u00AD\u061C\u180E\u200B-\u200F\u2028-\u202E\u2060-\u206F\uFEFF"  # invisible
    r"\uFFF9-\uFFFB\uFFFE\uFFFF"  # annotations, and no characters at all
    "\U000e0000-\U000e007f"  # tags: text inside of text
)

PRINTABLE: Final = f"^[^{_UNPRINTABLE}]*{END}"
"""What a name may consist of. Spelled out, because what Python calls printable differs from release
to release, and a schema has no word for it.
"""

PRINTABLE_COMMA_LIST: Final = (
    f"^[^{_UNPRINTABLE},]{{1,128}}(?:,[^{_UNPRINTABLE},]{{1,128}}){{0,99}}{END}"
)
"""The same for a list of up to 100 names with commas between them."""

Name = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=GREATEST_NAME_LENGTH,
        description=f"Printable characters, at most {GREATEST_NAME_LENGTH} bytes of UTF-8.",
        extra_json_schema={"pattern": PRINTABLE},
    ),
]

NodeId = Annotated[
    str, msgspec.Meta(description="A node of the cluster.", examples=["n1", "n2", "n3"])
]

Timestamp = Annotated[
    int,
    msgspec.Meta(
        ge=0,
        le=2**63 - 1,
        description="A Lamport timestamp, written without fraction or exponent.",
    ),
]

Cursor = Annotated[
    str,
    msgspec.Meta(
        max_length=GREATEST_CURSOR_LENGTH,
        description="Where a page ended. Only lists make cursors.",
        pattern=rf"^(?:[0-9a-f]{{2}})*{END}",
    ),
]

PageLimit = Annotated[int, msgspec.Meta(ge=1, le=GREATEST_PAGE)]

SCHEMAS: Final = "#/components/schemas/{name}"
"""Where the OpenAPI document keeps what is described once."""

Item = TypeVar("Item")


def reference(described: type[msgspec.Struct]) -> dict[str, str]:
    """Return a reference to the schema of a type."""
    return {"$ref": SCHEMAS.format(name=described.__name__)}


class Body(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The base of what clients send: a field that is not known is refused."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The base of what is answered."""


class Page(msgspec.Struct, Generic[Item], frozen=True, kw_only=True, rename="camel"):
    """A part of a list. The next part is asked for with `cursor`; the last has none."""

    items: list[Item]
    next_cursor: str | None
