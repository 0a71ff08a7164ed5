"""HTML that cannot be broken by what stands in it: every text is escaped unless it is markup."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final

VOID: Final = frozenset({"input", "link", "meta", "wbr"})
"""Elements without content and without an end."""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | None | Iterable["Child"]
"""A text, markup, nothing, or several of these."""


def element(name: str, /, *children: Child, **attributes: str | bool | None) -> Markup:
    """Return an element.

    Attributes are written with underscores for dashes, and with one behind what Python has taken
    (`class_`). True stands for an attribute without a value; False and None leave it out.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{joined(children)}</{name}>")


def joined(child: Child) -> Markup:
    """Return children one after the other."""
    if child is None:
        return Markup("")
    if isinstance(child, Markup):
        return child
    if isinstance(child, str):
        return Markup(escape(child))
    return Markup("".join(map(joined, child)))


def prose(text: str) -> Markup:
    """Return a text in which backquotes surround code."""
    parts = text.split("`")
    return joined(
        element("code", part) if at % 2 and at < len(parts) - 1 else part
        for at, part in enumerate(parts)
    )


def paragraphs(text: str) -> Markup:
    """Return a text in which empty lines separate paragraphs."""
    return joined(element("p", prose(part)) for part in text.split("\n\n") if part)


def _attribute(key: str, value: str | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(value)}"'
