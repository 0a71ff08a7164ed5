"""What every command has in common."""

from __future__ import annotations

import msgspec


class Command(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True
):
    """The base of every command. Subclasses set `tag` to an integer that is never reused."""
