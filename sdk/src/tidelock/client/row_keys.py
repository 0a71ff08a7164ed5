"""Rows by the parts of their primary keys, as the cluster locks them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tidelock.client.answers import RowLockMode

KeyPart = int | str | bool | None
"""Compared by type and value. What JSON has no type for is a text, tagged so that it is told from
other texts."""

LockKeys = Mapping[str, Sequence[Sequence[KeyPart]]]
"""Rows by table; each row is the parts of its primary key, as `{"shop.stock": [["a-1"]]}`."""


class RowsToLock(msgspec.Struct, frozen=True, rename="camel"):
    """Rows of one mode, for a branch that wants rows of both."""

    lock_keys: LockKeys
    lock_mode: RowLockMode = "EXCLUSIVE"


def rows_of(
    lock_keys: LockKeys | None, lock_mode: RowLockMode | None, locks: Sequence[RowsToLock]
) -> dict[str, Any]:
    """Return the part of a body that names rows, in its short form and in its long one.

    Raises: TypeError: a part of a key has a type that two clients might spell differently.
    """
    for each in locks:
        check_keys(each.lock_keys)
    if lock_keys is not None:
        check_keys(lock_keys)
    return {"lockKeys": lock_keys, "lockMode": lock_mode, "locks": list(locks) or None}


def check_keys(lock_keys: LockKeys) -> LockKeys:
    """Return rows that a request names. Raises: TypeError."""
    for table, rows in lock_keys.items():
        for row in rows:
            if isinstance(row, str):
                raise TypeError(f"row {row!r} of {table} must be the list of its key: [{row!r}]")
            for part in row:
                if part is not None and not isinstance(part, (int, str)):
                    raise TypeError(
                        f"a key of {table} has a part of type {type(part).__name__}; make it an "
                        "int, or a str that every application makes the same way"
                    )
    return lock_keys
