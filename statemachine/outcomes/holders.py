"""Who stands in the way of what was asked, told with a rejection."""

from __future__ import annotations

import msgspec


class LockHolder(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True, tag=1
):
    """Who holds a lock; of several that share it, the one that has held it longest."""

    owner: str
    mode: str
    fencing_token: int
    expires_at_ms: int
    """In wall time, milliseconds since the epoch."""


class RowLockHolder(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True, tag=2
):
    """Which branch holds a row."""

    xid: str
    branch_id: int
    resource_id: str
    table: str
    key: tuple[int | str | bool | None, ...]
    since_ms: int
    """In wall time, milliseconds since the epoch."""


AnyHolder = LockHolder | RowLockHolder
