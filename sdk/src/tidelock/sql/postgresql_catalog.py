"""What PostgreSQL tells of a table."""

from __future__ import annotations

from typing import Any, Final

from tidelock.sql.postgresql_columns import form_of
from tidelock.sql.session import MARK, Session
from tidelock.sql.tables import Column, Index, Reference, Table, Trigger

_TABLE = f"""
SELECT c.oid::text, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text,
       CASE WHEN c.relispartition THEN 'partition' WHEN c.relkind = 'r' AND EXISTS (
         SELECT 1 FROM pg_catalog.pg_inherits AS i WHERE c.oid IN (i.inhrelid, i.inhparent)
       ) THEN 'heir' ELSE '' END
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = {MARK}::text AND c.relname = {MARK}::text
"""
# A domain is followed down to the type that it restricts.
_COLUMNS = f"""
WITH RECURSIVE types AS (
  SELECT a.attnum, t.oid, t.typbasetype, t.typtype, t.typname, t.typelem, t.typcategory
  FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
  WHERE a.attrelid = {MARK}::text::oid AND a.attnum > 0 AND NOT a.attisdropped
  UNION ALL
  SELECT s.attnum, t.oid, t.typbasetype, t.typtype, t.typname, t.typelem, t.typcategory
  FROM types AS s JOIN pg_catalog.pg_type AS t ON t.oid = s.typbasetype WHERE s.typtype = 'd'
)
SELECT a.attname::text, s.typname::text, s.typtype::text,
       quote_ident(n.nspname) || '.' || quote_ident(d.typname),
       CASE WHEN s.typcategory = 'A' THEN
         coalesce((SELECT CASE e.typtype WHEN 'e' THEN 'enum' ELSE e.typname END
                   FROM pg_catalog.pg_type AS e WHERE e.oid = s.typelem), '') ELSE '' END::text,
       (a.attcollation = 0 OR coalesce(
         (SELECT c.collisdeterministic FROM pg_catalog.pg_collation AS c
          WHERE c.oid = a.attcollation), true))::text,
       (NOT a.attnotnull)::text, pg_get_expr(b.adbin, b.adrelid)::text,
       a.attidentity::text, a.attgenerated::text
FROM pg_catalog.pg_attribute AS a
JOIN types AS s ON s.attnum = a.attnum AND s.typtype <> 'd'
JOIN pg_catalog.pg_type AS d ON d.oid = a.atttypid
JOIN pg_catalog.pg_namespace AS n ON n.oid = d.typnamespace
LEFT JOIN pg_catalog.pg_attrdef AS b ON b.adrelid = a.attrelid AND b.adnum = a.attnum
WHERE a.attrelid = {MARK}::text::oid ORDER BY a.attnum
"""
_INDEXES = f"""
SELECT c.relname::text, i.indisprimary::text, (i.indpred IS NOT NULL)::text,
       (i.indexprs IS NOT NULL)::text, coalesce(a.attname::text, '')
FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
CROSS JOIN LATERAL unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY AS k(attnum, position)
LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = {MARK}::text::oid AND i.indisunique ORDER BY i.indexrelid, k.position
"""
_REFERENCES = f"""
SELECT c.conname::text, c.conrelid::regclass::text, c.confupdtype::text, c.confdeltype::text,
       a.attname::text
FROM pg_catalog.pg_constraint AS c
CROSS JOIN LATERAL unnest(c.confkey) WITH ORDINALITY AS k(attnum, position)
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.confrelid AND a.attnum = k.attnum
WHERE c.confrelid = {MARK}::text::oid AND c.contype = 'f' ORDER BY c.oid, k.position
"""
_TRIGGERS = f"""
SELECT tgname::text, tgtype::text FROM pg_catalog.pg_trigger
WHERE tgrelid = {MARK}::text::oid AND NOT tgisinternal AND tgenabled <> 'D'
"""
_RULES = f"""
SELECT rulename::text, ev_type::text FROM pg_catalog.pg_rewrite
WHERE ev_class = {MARK}::text::oid AND ev_type <> '1'
"""

_ACTIONS: Final = {
    "a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT",
}  # fmt: skip
_EVENT_BITS: Final = {4: "INSERT", 8: "DELETE", 16: "UPDATE"}
_RULE_EVENTS: Final = {"2": "UPDATE", "3": "INSERT", "4": "DELETE"}
_SHARES: Final = {
    "partition": "it is a partition; change the table that it is a part of, so that each of its "
    "rows is locked by one name",
    "heir": "it inherits from another table, or is inherited from, so that one row has two names",
}
_KINDS: Final = {"v": "view", "m": "materialized view", "f": "foreign table", "S": "sequence"}


async def read_table(session: Session, schema: str, name: str) -> Table | None:
    """Describe a table, None when there is none."""
    found = await session.execute(_TABLE, (schema, name))
    if not found.rows:
        return None
    oid, schema, name, kind, persistence, shares = found.rows[0]
    columns = [_column(row) for row in (await session.execute(_COLUMNS, (oid, oid))).rows]
    indexes, primary = _indexes((await session.execute(_INDEXES, (oid,))).rows)
    rules = [
        Trigger(str(rule), frozenset({_RULE_EVENTS[event]}))
        for rule, event in (await session.execute(_RULES, (oid,))).rows
    ]
    unsuitable = ""
    if kind not in {"r", "p"}:
        unsuitable = f"it is a {_KINDS.get(kind, 'relation of another kind')}; change tables"
    elif persistence == "t":
        unsuitable = "it is temporary, and no other connection can undo its changes"
    elif shares:
        unsuitable = _SHARES[shares]
    else:
        strange = [each for each in columns if isinstance(each, str)]
        unsuitable = f"of {', '.join(strange)} no exact image can be made" if strange else ""
    return Table(
        schema,
        name,
        tuple(each for each in columns if isinstance(each, Column)),
        primary,
        indexes=indexes,
        references=_references((await session.execute(_REFERENCES, (oid,))).rows),
        triggers=(
            *(
                Trigger(str(trigger), _events(int(bits)))
                for trigger, bits in (await session.execute(_TRIGGERS, (oid,))).rows
            ),
            *rules,
        ),
        unsuitable=unsuitable,
        number=oid,
    )


def _column(row: tuple[Any, ...]) -> Column | str:
    name, base, kind, cast, element, deterministic, nullable, default, identity, generated = row
    form = form_of(base, kind, cast, element=element, is_deterministic=deterministic == "true")
    if form is None:
        return f"{name} ({base})"
    counted = identity in {"a", "d"} or str(default or "").startswith("nextval(")
    return Column(
        name,
        form,
        nullable=nullable == "true",
        default=default,
        generates=counted,
        is_computed=generated not in {"", "\0"},
    )


def _indexes(rows: list[tuple[Any, ...]]) -> tuple[tuple[Index, ...], tuple[str, ...]]:
    primary: tuple[str, ...] = ()
    found: dict[str, tuple[list[str], bool, bool, bool]] = {}
    for name, is_primary, is_partial, has_expressions, column in rows:
        flags = (is_primary == "true", is_partial == "true", has_expressions == "true")
        found.setdefault(name, ([], *flags))[0].append(column)
    indexes = []
    for name, (columns, is_primary_key, partial, expressions) in found.items():
        if is_primary_key:
            primary = tuple(columns)
        indexes.append(Index(name, None if expressions else tuple(columns), is_partial=partial))
    return tuple(indexes), primary


def _references(rows: list[tuple[Any, ...]]) -> tuple[Reference, ...]:
    found: dict[tuple[str, str], tuple[list[str], str, str]] = {}
    for name, table, on_update, on_delete, column in rows:
        known = found.setdefault((name, table), ([], _ACTIONS[on_update], _ACTIONS[on_delete]))
        known[0].append(column)
    return tuple(
        Reference(name, table, tuple(columns), on_update, on_delete)
        for (name, table), (columns, on_update, on_delete) in found.items()
    )


def _events(bits: int) -> frozenset[str]:
    return frozenset(event for bit, event in _EVENT_BITS.items() if bits & bit)
