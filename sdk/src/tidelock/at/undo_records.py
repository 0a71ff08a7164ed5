"""What a branch changed, as it is kept in `rollback_info`.

MessagePack with the values of `tidelock.sql.values`, in a fixed order of fields; the first number
is the version of that order. Larger than 64 KiB it is compressed.
"""

from __future__ import annotations

import enum
import zlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from tidelock.at.images import Image, Row
from tidelock.errors import TidelockError
from tidelock.sql.values import Value, ValueFormatError, decode_tree, packed

VERSION: Final = 1
COMPRESSED_FROM_BYTES: Final = 64 * 1024
GREATEST_BYTES: Final = 1 << 30
"""Of what is compressed; no undo record is as large."""


class UndoRecordError(TidelockError):
    """What stands in `rollback_info` cannot be read."""


class Operation(enum.StrEnum):
    """What was done to rows."""

    INSERT = "INSERT"
    UPDATE = "UPDATE"
    DELETE = "DELETE"


class ChangedRow(msgspec.Struct, frozen=True):
    """A row before and after."""

    key: tuple[Value, ...]
    before: tuple[Value, ...] | None
    """None: there was no such row."""
    after: tuple[Value, ...] | None
    """None: there is no such row any more."""


class Change(msgspec.Struct, frozen=True):
    """What one statement did to rows of one table."""

    operation: Operation
    schema: str
    table: str
    columns: tuple[str, ...]
    """Those that images hold."""
    rows: tuple[ChangedRow, ...]


def change_of(
    operation: Operation, image: Image, pairs: Sequence[tuple[Row | None, Row | None]]
) -> Change:
    """Return the change that images of rows before and after show."""
    rows = []
    for before, after in pairs:
        known = before or after
        assert known is not None
        rows.append(
            ChangedRow(
                known.key,
                None if before is None else before.values,
                None if after is None else after.values,
            )
        )
    columns = tuple(column.name for column in image.columns)
    return Change(operation, image.table.schema, image.table.name, columns, tuple(rows))


def _packed_row(values: tuple[Value, ...] | None) -> Any:
    return None if values is None else [packed(value) for value in values]


def encode(changes: Sequence[Change]) -> tuple[bytes, str]:
    """Return changes as bytes, and how they are compressed: `none` or `zlib`.

    Raises:
        ValueFormatError: a value cannot be kept.
    """
    tree = [
        VERSION,
        [
            [
                change.operation.value,
                change.schema,
                change.table,
                list(change.columns),
                [
                    [_packed_row(row.key), _packed_row(row.before), _packed_row(row.after)]
                    for row in change.rows
                ],
            ]
            for change in changes
        ],
    ]
    try:
        body = msgspec.msgpack.encode(tree)
    except UnicodeEncodeError as error:
        raise ValueFormatError(f"a text is no Unicode text: {error}") from None
    if len(body) <= COMPRESSED_FROM_BYTES:
        return body, "none"
    return zlib.compress(body, 1), "zlib"


def decode(body: bytes, compression: str) -> list[Change]:
    """Return the changes that `encode` made bytes of.

    Raises:
        UndoRecordError
    """
    try:
        if compression == "zlib":
            inflating = zlib.decompressobj()
            body = inflating.decompress(body, GREATEST_BYTES)
            if not inflating.eof:
                raise UndoRecordError("the undo record is cut off, or larger than any can be")
        version, changes = decode_tree(body)
        if version != VERSION:
            raise UndoRecordError(
                f"the undo record has version {version}; a newer release of the SDK wrote it"
            )
        return [
            Change(
                Operation(operation),
                schema,
                table,
                tuple(columns),
                tuple(
                    ChangedRow(tuple(key), _values(before), _values(after))
                    for key, before, after in rows
                ),
            )
            for operation, schema, table, columns, rows in changes
        ]
    except (msgspec.DecodeError, ValueFormatError, ValueError, TypeError, zlib.error) as error:
        raise UndoRecordError(f"the undo record cannot be read: {error}") from None


def _values(values: list[Value] | None) -> tuple[Value, ...] | None:
    return None if values is None else tuple(values)
