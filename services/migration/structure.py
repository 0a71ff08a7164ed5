"""What a table consists of, and how the other kind of database spells that."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from services.sources import Source


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """A column of a table."""

    name: str
    kind: str
    """integer, decimal, float, boolean, text, date, time, timestamp, bytes, json, uuid."""
    length: int | None = None
    """Characters of a text, where it is bounded."""
    precision: int | None = None
    scale: int | None = None
    nullable: bool = True


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A table with its key."""

    columns: dict[str, Column]
    key: tuple[str, ...]


_KINDS: Final = {
    "integer": ("tinyint", "smallint", "mediumint", "int", "integer", "bigint", "year"),
    "decimal": ("decimal", "numeric", "money"),
    "float": ("float", "double", "real", "double precision"),
    "boolean": ("boolean",),
    "text": (
        "char", "varchar", "character", "character varying", "text", "tinytext", "mediumtext",
        "longtext", "enum", "set", "citext", "bpchar",
    ),
    "date": ("date",),
    "time": ("time", "time without time zone"),
    "timestamp": ("datetime", "timestamp", "timestamp without time zone"),
    "zoned": ("timestamp with time zone",),
    "bytes": ("binary", "varbinary", "blob", "tinyblob", "mediumblob", "longblob", "bytea"),
    "json": ("json", "jsonb"),
    "uuid": ("uuid",),
}  # fmt: skip
_KIND_OF: Final = {name: kind for kind, names in _KINDS.items() for name in names}

_COLUMNS: Final = """SELECT column_name, data_type, character_maximum_length, numeric_precision,
    numeric_scale, is_nullable FROM information_schema.columns
    WHERE table_schema = {schema} AND table_name = %s ORDER BY ordinal_position"""
_KEY: Final = """SELECT k.column_name FROM information_schema.table_constraints c
    JOIN information_schema.key_column_usage k ON k.constraint_name = c.constraint_name
        AND k.table_schema = c.table_schema AND k.table_name = c.table_name
    WHERE c.constraint_type = 'PRIMARY KEY' AND c.table_schema = {schema} AND c.table_name = %s
    ORDER BY k.ordinal_position"""
_SCHEMA: Final = {"mysql": "DATABASE()", "postgresql": "current_schema()"}


def read_table(source: Source, name: str) -> Table | None:
    """Return the structure of a table in the source's own schema, None when there is none.

    A column of a type that is not known here has its name as its kind.
    """
    schema = _SCHEMA[source.dialect]
    rows = source.query(_COLUMNS.format(schema=schema), [name])
    if not rows:
        return None
    columns = [_column(*row) for row in rows]
    key = source.query(_KEY.format(schema=schema), [name])
    return Table(
        columns={column.name: column for column in columns},
        key=tuple(str(column) for (column,) in key),
    )


def _column(
    name: Any, data_type: Any, length: Any, precision: Any, scale: Any, nullable: Any
) -> Column:
    kind = _KIND_OF.get(str(data_type).lower(), str(data_type).lower())
    return Column(
        name=str(name),
        kind=kind,
        length=None if length is None else int(length),
        precision=None if precision is None else int(precision),
        scale=None if scale is None else int(scale),
        nullable=str(nullable).upper() == "YES",
    )


_PLAIN: Final = {
    "mysql": {
        "integer": "BIGINT", "float": "DOUBLE", "boolean": "BOOLEAN", "date": "DATE",
        "time": "TIME(6)", "timestamp": "DATETIME(6)", "zoned": "DATETIME(6)",
        "bytes": "LONGBLOB", "json": "LONGTEXT", "uuid": "CHAR(36)",
    },
    "postgresql": {
        "integer": "bigint", "float": "double precision", "boolean": "boolean", "date": "date",
        "time": "time", "timestamp": "timestamp", "zoned": "timestamp with time zone",
        "bytes": "bytea", "json": "jsonb", "uuid": "uuid",
    },
}  # fmt: skip
_GREATEST_VARCHAR: Final = 16_000
_MYSQL_KEY_LENGTH: Final = 191
_MYSQL_PRECISION: Final = (65, 30)


def definition(source: Source, name: str, columns: list[Column], key: tuple[str, ...]) -> str:
    """Return the statement that makes a table of such columns in a source."""
    parts = [
        f"{source.quote(column.name)} {type_of(source.dialect, column, column.name in key)}"
        + ("" if column.nullable and column.name not in key else " NOT NULL")
        for column in columns
    ]
    quoted = ", ".join(source.quote(column) for column in key)
    return f"CREATE TABLE {source.quote(name)} ({', '.join(parts)}, PRIMARY KEY ({quoted}))"


def type_of(dialect: str, column: Column, in_key: bool) -> str:
    """Return how a dialect spells a column's type, wide enough for every value of it."""
    match column.kind:
        case "decimal":
            if column.precision is None:
                return "numeric" if dialect == "postgresql" else "DECIMAL({}, {})".format(
                    *_MYSQL_PRECISION
                )  # fmt: skip
            return f"DECIMAL({column.precision}, {column.scale or 0})"
        case "text":
            return _text(dialect, column.length, in_key)
        case kind:
            return _PLAIN[dialect][kind]


def _text(dialect: str, length: int | None, in_key: bool) -> str:
    if length is not None and length <= _GREATEST_VARCHAR:
        return f"VARCHAR({length})"
    if dialect == "postgresql":
        return "text"
    return f"VARCHAR({_MYSQL_KEY_LENGTH})" if in_key else "LONGTEXT"
