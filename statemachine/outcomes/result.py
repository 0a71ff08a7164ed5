"""What every result has in common."""

from __future__ import annotations

import msgspec


class Result(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True
):
    """The base of what an applied command answers. Tags follow the rules of commands."""
