"""What every recorded change has in common."""

from __future__ import annotations

from typing import ClassVar

import msgspec


class Change(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True
):
    """The base of what watchers are told. Tags follow the rules of commands.

    A field is an integer, a text, a boolean, None, a vector of names and integers, or a tuple or
    struct of these: a watcher gets it as JSON under the same name in camel case.
    """

    kind: ClassVar[str]
    """What a watcher filters by: the resource and a participle, `lock.granted`."""
