"""Rows that are to be locked, as clients write them: by table, each by the parts of its key."""

from __future__ import annotations

import enum
from typing import Annotated, Final

import msgspec

from api import requests
from api.errors import refuse_field
from api.shapes import END, PRINTABLE, Body
from statemachine.transactions.locking import GREATEST_LOCKS
from statemachine.transactions.row_locks import RowLock

GREATEST_RESOURCE_LENGTH: Final = 256
GREATEST_PART_LENGTH: Final = 512
GREATEST_PARTS: Final = 16
GREATEST_LISTS: Final = 100

ResourceId = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=GREATEST_RESOURCE_LENGTH,
        description="What the branch changes: a database or a service. The same one has the same "
        f"name everywhere. Printable, at most {GREATEST_RESOURCE_LENGTH} bytes of UTF-8.",
        extra_json_schema={"pattern": PRINTABLE},
        examples=["mysql:stock-db/shop"],
    ),
]

KeyPart = (
    Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    | Annotated[str, msgspec.Meta(max_length=GREATEST_PART_LENGTH)]
    | bool
    | None
)
"""Compared by type and value; what JSON has no type for is a text that the client tags."""

RowKey = Annotated[list[KeyPart], msgspec.Meta(min_length=1, max_length=GREATEST_PARTS)]

LockKeys = Annotated[
    dict[str, Annotated[list[RowKey], msgspec.Meta(min_length=1, max_length=GREATEST_LOCKS)]],
    msgspec.Meta(
        min_length=1,
        max_length=GREATEST_LISTS,
        description="Rows by table; each row is the list of the parts of its primary key.",
        examples=[{"shop.stock": [["a-1"], ["a-2"]]}],
        extra_json_schema={
            "propertyNames": {
                "pattern": f"^(?=.{{1,{GREATEST_RESOURCE_LENGTH}}}{END}){PRINTABLE[1:]}"
            }
        },
    ),
]


class LockMode(enum.StrEnum):
    EXCLUSIVE = "EXCLUSIVE"
    SHARED = "SHARED"


class RowLocksWanted(Body, frozen=True, kw_only=True):
    """Rows of one mode."""

    lock_keys: LockKeys
    lock_mode: LockMode = LockMode.EXCLUSIVE


Locks = Annotated[list[RowLocksWanted], msgspec.Meta(max_length=GREATEST_LISTS)]


def resource(path: str, text: str) -> str:
    """Return the name of a resource or a table."""
    return requests.name(path, text, GREATEST_RESOURCE_LENGTH)


def row_locks(
    resource_id: str,
    locks: list[RowLocksWanted],
    lock_keys: LockKeys | None = None,
    lock_mode: LockMode = LockMode.EXCLUSIVE,
) -> tuple[RowLock, ...]:
    """Return the rows that a request names, in its long form and in its short one.

    Raises:
        Problem
    """
    wanted: list[RowLock] = []
    for at, each in enumerate(locks):
        _add(wanted, resource_id, f"locks[{at}].lockKeys", each.lock_keys, each.lock_mode)
    if lock_keys is not None:
        _add(wanted, resource_id, "lockKeys", lock_keys, lock_mode)
    return tuple(wanted)


def _add(
    wanted: list[RowLock], resource_id: str, path: str, lock_keys: LockKeys, mode: LockMode
) -> None:
    exclusive = mode is LockMode.EXCLUSIVE
    for table, keys in lock_keys.items():
        resource(path, table)
        wanted += [RowLock(resource_id, table, tuple(key), exclusive) for key in keys]
        if len(wanted) > GREATEST_LOCKS:
            refuse_field(
                path, f"names more than {GREATEST_LOCKS} rows with those before it; send them apart"
            )
