"""DATA_MIGRATION: read by the source's key, converted, written by batches, and compared.

The target is made before the branches begin, for databases do not take it back, and dropped again
when the migration is rolled back. What arrives is read again by its key in the same transaction:
each column of the rows read must have the digest of the converted source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from services.allowed import is_allowed
from services.migration.structure import Column, Table, definition, read_table, type_of
from services.migration.values import UnconvertibleError, converted, digest, for_driver
from services.sources import Source
from tidelock.services import BusinessError, DataMigration
from tidelock.services.data_changes import Mapped, TableOf

Report = Callable[[int, int, int, int], None]
"""Rows read, rows written, rows in all, batches."""

_MASK: Final = 2**64 - 1


class Plan:
    """A migration that has been held against both databases."""

    def __init__(self, wanted: DataMigration, source: Table, target: Table | None) -> None:
        self.wanted = wanted
        self.source = source
        self.mapping = wanted.mapping or tuple(
            Mapped(from_=name, to=name) for name in source.columns
        )
        self.columns = [self._column(mapped) for mapped in self.mapping]
        """As the target has them, or is to have them."""
        self.key = self._key()
        self.creates = target is None
        if target is not None:
            missing = [each.to for each in self.mapping if each.to not in target.columns]
            if missing:
                raise BusinessError(
                    f"The target {_name(wanted.target)} has no column {', '.join(missing)}."
                )
            self.columns = [target.columns[each.to] for each in self.mapping]

    def _column(self, mapped: Mapped) -> Column:
        if mapped.from_ is None:
            return Column(name=mapped.to, kind=_kind_of(mapped.value))
        found = self.source.columns.get(mapped.from_)
        if found is None:
            raise BusinessError(
                f"The source {_name(self.wanted.source)} has no column {mapped.from_!r}."
            )
        if mapped.convert == "cast":
            return Column(name=mapped.to, kind=mapped.type or "text", nullable=found.nullable)
        return Column(
            name=mapped.to,
            kind="text" if mapped.convert in ("trim", "upper", "lower") else found.kind,
            length=found.length,
            precision=found.precision,
            scale=found.scale,
            nullable=found.nullable and mapped.convert != "default",
        )

    def _key(self) -> tuple[str, ...]:
        """Return the columns of the target by which its rows are found again."""
        if not self.source.key:
            raise BusinessError(
                f"The source {_name(self.wanted.source)} has no primary key, by which its rows "
                "would be read batch by batch. Give it one."
            )
        by_source = {each.from_: each.to for each in self.mapping if each.convert in (None, "cast")}
        missing = [name for name in self.source.key if name not in by_source]
        if missing:
            raise BusinessError(
                f"The mapping must carry the primary key of the source: {', '.join(missing)} is "
                "missing, or is converted by something else than cast."
            )
        return tuple(by_source[name] for name in self.source.key)


def plan(sources: dict[str, Source], wanted: DataMigration, allowed: Sequence[str]) -> Plan:
    """Hold what is wanted against the configuration and both databases.

    Raises:
        BusinessError: it cannot be, and why.
    """
    for table in (wanted.source, wanted.target):
        if not is_allowed(allowed, table.data_source, table.table):
            raise BusinessError(
                f"{_name(table)} may not be migrated: it is not in "
                "services.business.migration_allowed of the configuration."
            )
    source = read_table(sources[wanted.source.data_source], wanted.source.table)
    if source is None:
        raise BusinessError(f"There is no table {_name(wanted.source)}.")
    target = sources[wanted.target.data_source]
    made = Plan(wanted, source, read_table(target, wanted.target.table))
    if made.creates:
        for column in made.columns:
            try:
                type_of(target.dialect, column, False)
            except KeyError:
                raise BusinessError(
                    f"Column {column.name!r} is of type {column.kind!r}, for which the target has "
                    "none. Cast it, or create the target table beforehand."
                ) from None
    return made


def create_target(sources: dict[str, Source], made: Plan) -> None:
    """Make the table that is not there. Raises: what the driver raises."""
    target = sources[made.wanted.target.data_source]
    target.execute(definition(target, made.wanted.target.table, made.columns, made.key))


def drop_target(sources: dict[str, Source], table: TableOf) -> None:
    """Take back what `create_target` did, unless somebody has put something into it."""
    target = sources[table.data_source]
    if read_table(target, table.table) is None:
        return
    if not target.query(f"SELECT 1 FROM {target.quote(table.table)} LIMIT 1"):
        target.execute(f"DROP TABLE {target.quote(table.table)}")


def migrate(sources: dict[str, Source], made: Plan, report: Report) -> dict[str, object]:
    """Copy all rows within the transaction, and return what was done.

    Raises:
        BusinessError: a value cannot be converted, or what arrived is not what was sent.
    """
    wanted = made.wanted
    source = sources[wanted.source.data_source]
    target = sources[wanted.target.data_source]
    if source.dialect == "postgresql":
        # Each batch sees what is committed by then; nobody changes the table in between.
        source.execute(f"LOCK TABLE {source.quote(wanted.source.table)} IN SHARE MODE")
    where, parameters = _where(source, wanted)
    quoted = source.quote(wanted.source.table)
    ((total,),) = source.query(f"SELECT COUNT(*) FROM {quoted}{where}", parameters)
    sent, arrived = [0] * len(made.columns), [0] * len(made.columns)
    read = written = batch = 0
    report(read, written, total, batch)
    for rows in _batches(source, made, where, parameters):
        read += len(rows)
        out = [_convert(made, row) for row in rows]
        _write(target, made, out)
        back = _read_again(target, made, out)
        written += len(back)
        for digests, batch_rows in ((sent, out), (arrived, back)):
            for row in batch_rows:
                for at, column in enumerate(made.columns):
                    digests[at] = (digests[at] + digest(row[at], column.kind)) & _MASK
        batch += 1
        report(read, written, total, batch)
    _compare(made, (total, read, written), sent, arrived)
    return {
        "read": read,
        "written": written,
        "batches": batch,
        "created": wanted.target if made.creates else None,
        "checksums": {column.name: f"{sent[at]:016x}" for at, column in enumerate(made.columns)},
    }


def _where(source: Source, wanted: DataMigration) -> tuple[str, list[Any]]:
    parts: list[str] = []
    parameters: list[Any] = []
    for condition in wanted.filter:
        column = source.quote(condition.column)
        if condition.operator in ("IS NULL", "IS NOT NULL"):
            parts.append(f"{column} {condition.operator}")
        else:
            parts.append(f"{column} {condition.operator} %s")
            parameters.append(condition.value)
    return (f" WHERE {' AND '.join(parts)}" if parts else ""), parameters


def _batches(
    source: Source, made: Plan, where: str, parameters: list[Any]
) -> Iterator[list[tuple[Any, ...]]]:
    """Yield rows of the source by its key, their columns in the order of the source."""
    columns = ", ".join(source.quote(name) for name in made.source.columns)
    key = ", ".join(source.quote(name) for name in made.source.key)
    places = [list(made.source.columns).index(name) for name in made.source.key]
    table, size = source.quote(made.wanted.source.table), made.wanted.batch_size
    after: list[Any] = []
    while True:
        behind = f"({key}) > ({', '.join(['%s'] * len(places))})" if after else ""
        whole = where + (f"{' AND ' if where else ' WHERE '}{behind}" if behind else "")
        rows = source.query(
            f"SELECT {columns} FROM {table}{whole} ORDER BY {key} LIMIT {size}",
            [*parameters, *after],
        )
        if rows:
            yield rows
        if len(rows) < size:
            return
        after = [rows[-1][place] for place in places]


def _convert(made: Plan, row: tuple[Any, ...]) -> list[Any]:
    named = dict(zip(made.source.columns, row, strict=True))
    out: list[Any] = []
    for mapped in made.mapping:
        try:
            out.append(converted(mapped, named.get(mapped.from_ or "")))
        except UnconvertibleError as error:
            at = ", ".join(f"{name} = {named[name]!r}" for name in made.source.key)
            raise BusinessError(f"Column {mapped.from_!r} of the row {at}: {error}.") from error
    return out


def _write(target: Source, made: Plan, rows: list[list[Any]]) -> None:
    columns = ", ".join(target.quote(column.name) for column in made.columns)
    places = ", ".join(["%s"] * len(made.columns))
    target.execute_many(
        f"INSERT INTO {target.quote(made.wanted.target.table)} ({columns}) VALUES ({places})",
        [[for_driver(value, target.dialect) for value in row] for row in rows],
    )


def _read_again(target: Source, made: Plan, rows: list[list[Any]]) -> list[tuple[Any, ...]]:
    names = [column.name for column in made.columns]
    places = [names.index(name) for name in made.key]
    columns = ", ".join(target.quote(name) for name in names)
    key = ", ".join(target.quote(name) for name in made.key)
    one = f"({', '.join(['%s'] * len(places))})"
    parameters = [for_driver(row[place], target.dialect) for row in rows for place in places]
    return target.query(
        f"SELECT {columns} FROM {target.quote(made.wanted.target.table)}"
        f" WHERE ({key}) IN ({', '.join([one] * len(rows))})",
        parameters,
    )


def _compare(made: Plan, counts: tuple[int, int, int], sent: list[int], arrived: list[int]) -> None:
    total, read, written = counts
    if not total == read == written:
        raise BusinessError(
            f"The migration is not whole: {total} rows counted, {read} read, {written} found in "
            "the target."
        )
    differ = [column.name for at, column in enumerate(made.columns) if sent[at] != arrived[at]]
    if differ:
        raise BusinessError(
            f"What arrived in {', '.join(differ)} of the target is not what was sent: its type "
            "cannot hold every value. Convert it, or widen the column."
        )


def _kind_of(value: object) -> str:
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "float"
        case _:
            return "text"


def _name(table: TableOf) -> str:
    return f"{table.data_source}.{table.table}"
