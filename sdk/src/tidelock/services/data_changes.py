"""What BATCH_UPDATE and DATA_MIGRATION take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Identifier = Annotated[str, Meta(min_length=1, max_length=63)]
"""Of a table or a column."""
SourceName = Literal["primary", "secondary"]
Scalar = str | int | float | bool | None


class _Shape(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A JSON object in which nothing is misspelt."""


class RowUpdate(_Shape, frozen=True, kw_only=True):
    """One row, and what it is to hold."""

    data_source: SourceName
    table: Identifier
    key: Annotated[dict[Identifier, Scalar], Meta(min_length=1, max_length=16)]
    """Columns that name one row."""
    set: Annotated[dict[Identifier, Scalar], Meta(min_length=1, max_length=100)]


class BatchUpdate(_Shape, frozen=True, kw_only=True):
    """Rows of both sources: all of them are changed, or none."""

    updates: Annotated[tuple[RowUpdate, ...], Meta(min_length=1, max_length=10_000)]

    def faults(self) -> Iterator[tuple[str, str]]:
        """Yield where it makes no sense, beyond its types: a path and what is wrong there."""
        for at, update in enumerate(self.updates):
            for column, value in update.key.items():
                if value is None:
                    yield f"updates[{at}].key.{column}", "is null, which no row has as its key"


class TableOf(_Shape, frozen=True, kw_only=True):
    """A table of one of the sources."""

    data_source: SourceName
    table: Identifier


class Condition(_Shape, frozen=True, kw_only=True):
    """Rows for which this does not hold are left where they are."""

    column: Identifier
    operator: Literal["=", "<>", "<", "<=", ">", ">=", "LIKE", "IS NULL", "IS NOT NULL"] = "="
    value: Scalar = None


class Mapped(_Shape, frozen=True, kw_only=True):
    """A column of the target, and where it comes from."""

    from_: Identifier | None = msgspec.field(default=None, name="from")
    """A column of the source; left out for a constant."""
    to: Identifier
    convert: Literal["cast", "trim", "upper", "lower", "default", "constant"] | None = None
    type: Literal["integer", "decimal", "text", "boolean", "date", "timestamp"] | None = None
    """Of `cast`."""
    value: Scalar = None
    """Of `default`, where the source has NULL, and of `constant`."""


class DataMigration(_Shape, frozen=True, kw_only=True):
    """Copy a table of one source into a table of the other."""

    source: TableOf
    target: TableOf
    filter: Annotated[tuple[Condition, ...], Meta(max_length=32)] = ()
    mapping: Annotated[tuple[Mapped, ...], Meta(max_length=200)] = ()
    """Empty: every column under its own name."""
    batch_size: Annotated[int, Meta(ge=1, le=10_000)] = 500

    def faults(self) -> Iterator[tuple[str, str]]:
        """Yield where it makes no sense, beyond its types: a path and what is wrong there."""
        if self.source.data_source == self.target.data_source:
            yield "target.dataSource", "is that of the source; data is moved to the other one"
        for at, condition in enumerate(self.filter):
            is_null = condition.operator in ("IS NULL", "IS NOT NULL")
            if is_null != (condition.value is None):
                what = "is not for this operator" if is_null else "is missing; NULL is `IS NULL`"
                yield f"filter[{at}].value", what
        seen: set[str] = set()
        for at, mapped in enumerate(self.mapping):
            path = f"mapping[{at}]"
            if mapped.to in seen:
                yield f"{path}.to", "is the target of another mapping, too"
            seen.add(mapped.to)
            if (mapped.from_ is None) != (mapped.convert == "constant"):
                constant = mapped.convert == "constant"
                yield f"{path}.from", "is not for a constant" if constant else "is missing"
            if (mapped.type is None) == (mapped.convert == "cast"):
                cast = mapped.convert == "cast"
                yield f"{path}.type", "is missing: cast to what?" if cast else "is for cast only"
            if mapped.value is not None and mapped.convert not in ("default", "constant"):
                yield f"{path}.value", "is for default and constant only"
            if mapped.value is None and mapped.convert == "default":
                yield f"{path}.value", "is missing: what is the default?"
