"""Values of every type come out of a database whole, and go back in as they were."""

# ruff: noqa: E501 (one type a line)
from __future__ import annotations

import sqlite3
from decimal import Decimal
from typing import Any

import pytest

from tests.databases.connections import DIALECT_OF, DRIVERS, Database
from tidelock.sql.catalog import Catalog, TableName, search_path
from tidelock.sql.postgresql_columns import PINNED
from tidelock.sql.session import MARK, Session
from tidelock.sql.tables import Table
from tidelock.sql.values import Value, decode, encode, same

pytestmark = pytest.mark.databases

COLUMNS = {
    "mysql": {
        "TINYINT": ["-128", "127"],
        "BIGINT UNSIGNED": ["18446744073709551615"],
        "INT(5) ZEROFILL": ["7"],
        "YEAR": ["1901", "0"],
        "DECIMAL(65,30)": ["12345678901234567890123456789012345.123456789012345678901234567890", "-0"],
        "FLOAT": ["0.1", "16777217", "-1e-38", "3.4028234e38"],
        "DOUBLE": ["0.1", "5e-324", "1.7976931348623157e308", "-0.0"],
        "BIT(64)": ["b'1111000011110000111100001111000011110000111100001111000011110001'"],
        "BIT(1)": ["b'0'"],
        "DATE": ["'2026-02-28'", "'9999-12-31'", "'0000-00-00'"],
        "DATETIME(6)": ["'2026-01-01 01:02:03.000001'", "'9999-12-31 23:59:59.999999'"],
        "TIMESTAMP(6) NULL": ["'2026-10-25 00:30:00.000001'", "'1970-01-01 00:00:01'"],
        "TIME(6)": ["'-838:59:59.999999'", "'00:00:00.000001'"],
        "CHAR(9)": ["'a '", "'ß'", "''"],
        "VARCHAR(99)": ["'ÄÖ😀 \\\\ %s \\0 '", "'trailing  '"],
        "VARCHAR(99) CHARACTER SET latin1": ["'ÄÖ€'"],
        "LONGTEXT": ["'x'"],
        "BINARY(4)": ["x'00FF'"],
        "VARBINARY(9)": ["x'00FF5C2725'", "''"],
        "LONGBLOB": ["x'80'"],
        "JSON": ["'{\"a\": [1, 1.0, \"é\"], \"b\": null}'"],
        "ENUM('a','B')": ["'B'"],
        "SET('a','b','c')": ["'a,c'", "''"],
        "POINT": ["ST_GeomFromText('POINT(0.1 -2)', 4326)"],
        "UUID": ["'123e4567-e89b-12d3-a456-426655440000'"],
        "INET6": ["'2001:db8::1'"],
    },
    "postgresql": {
        "smallint": ["-32768"],
        "bigint": ["9223372036854775807"],
        "numeric": ["1e-1000", "'NaN'", "'Infinity'", "1.50", "0.00"],
        "numeric(9,3)": ["-1.5"],
        "real": ["0.1", "16777217", "'NaN'"],
        "double precision": ["0.1", "5e-324", "'-0'", "'-Infinity'", "'NaN'"],
        "boolean": ["true", "false"],
        "text": ["'ÄÖ😀 \\ %s $1 ? '", "''"],
        "varchar(9)": ["'a '"],
        "char(5)": ["'ab'"],
        '"char"': ["'x'"],
        "bytea": [r"'\x00ff5c'", "''"],
        "date": ["'2026-02-28'", "'infinity'", "'0044-03-15 BC'", "'5874897-12-31'"],
        "time": ["'24:00:00'", "'00:00:00.000001'"],
        "timetz": ["'01:02:03.4+05:30'"],
        "timestamp": ["'2026-01-01 01:02:03.000001'", "'-infinity'", "'0044-03-15 12:00 BC'"],
        "timestamptz": ["'2026-10-25 02:30:00.5+01'", "'infinity'", "'0044-03-15 12:00+00 BC'"],
        "interval": ["'1 mon -3 days -04:05:06.000007'", "'0'", "'-1 year 2 days 00:00:01.5'"],
        "money": ["'-12.34'"],
        "uuid": ["'123e4567-e89b-12d3-a456-426655440000'"],
        "json": ["'{\"b\": 1,  \"a\": 1.0}'", "'null'"],
        "jsonb": ["'{\"b\": 1,  \"a\": 1.00}'"],
        "xml": ["'<a>1</a>'"],
        "inet": ["'10.0.0.1/8'"],
        "macaddr": ["'08:00:2b:01:02:03'"],
        "bit(5)": ["B'10101'"],
        "varbit": ["B'1'", "B''"],
        "int[]": ["'{1,NULL,3}'", "'[2:3]={1,2}'", "'{{1,2},{3,4}}'"],
        "text[]": ["ARRAY['a,b', NULL, 'NULL', '\"', '']"],
        "timestamptz[]": ["ARRAY['2026-10-25 02:30:00+01'::timestamptz]"],
        "float8[]": ["ARRAY[0.1, 'NaN']"],
        "bytea[]": [r"ARRAY['\x00'::bytea]"],
        "mood": ["'so so'"],
        "mood[]": ["ARRAY['so so'::mood]"],
        "positive": ["7"],
        "pair": ["ROW(1, '2026-01-01 00:00+02')"],
        "tstzrange": ["'[2026-01-01 00:00+02,)'"],
        "int4multirange": ["'{[1,3),[5,6)}'"],
        "point": ["'(0.1,-2)'"],
        "tsvector": ["'a:1 b:2'"],
    },
    "sqlite": {
        "INTEGER": ["-9223372036854775808", "'text in it'", "1.5"],
        "TEXT": ["'ÄÖ😀 '", "''", "x'00'", "7"],
        "REAL": ["0.1", "5e-324", "1", "9e999"],
        "BLOB": ["x'00FF'", "x''", "'a'", "1"],
        "NUMERIC": ["1.50", "'1e5'"],
        "DATE": ["'2026-02-28'"],
        "": ["1", "1.0", "'1'", "x'31'"],
    },
}  # fmt: skip
BEFOREHAND = {
    "mysql": [],
    "postgresql": [
        "CREATE TYPE mood AS ENUM ('good', 'so so')",
        "CREATE DOMAIN positive AS int CHECK (VALUE > 0)",
        "CREATE TYPE pair AS (a int, b timestamptz)",
    ],
    "sqlite": [],
}
LENIENT = "SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO'"
"""As whoever restores rows sets it: what was there is valid."""


async def table_of(session: Session) -> Table:
    return await Catalog().table(session, TableName("t"), await search_path(session))


async def image(session: Session, table: Table) -> list[list[Value]]:
    """Read the whole table, in the order of `id`."""
    quote = session.dialect.quote
    parts = [column.form.read(quote(column.name)) for column in table.columns]
    found = await session.execute(f"SELECT {', '.join(parts)} FROM t ORDER BY id")
    return [
        [column.form.decode(raw) for column, raw in zip(table.columns, row, strict=True)]
        for row in found.rows
    ]


async def as_restorers_do(session: Session) -> None:
    if session.dialect.name == "mysql":
        await session.execute(f"{LENIENT}, time_zone = '+00:00'")
    if session.dialect.name == "postgresql":
        for name, value in PINNED.items():
            await session.execute(f"SELECT set_config('{name}', '{value}', false)")


CASES = [
    pytest.param(driver, driver, declared, id=f"{driver}-{declared or 'nothing'}")
    for driver in DRIVERS
    for declared in COLUMNS[DIALECT_OF[driver]]
]


@pytest.mark.parametrize(("database", "driver", "declared"), CASES, indirect=["database"])
async def test_a_value_is_read_kept_and_restored_exactly(
    database: Database, driver: str, declared: str
) -> None:
    written = COLUMNS[database.dialect][declared]
    database.sql(
        *BEFOREHAND[database.dialect],
        f"CREATE TABLE t (id INT PRIMARY KEY, v {declared})",
        *(f"INSERT INTO t VALUES ({at}, NULL)" for at in range(len(written) + 1)),
    )
    async with database.session(driver) as session:
        await session.begin()
        await as_restorers_do(session)
        for at, expression in enumerate(written):
            # As a text, so that nobody takes it for placeholders.
            await session.execute(f"UPDATE t SET v = {expression} WHERE id = {at}")
        table = await table_of(session)
        before = await image(session, table)
        kept = [decode(encode(row)) for row in before]
        whole = "SELECT * FROM t ORDER BY id"
        if database.dialect == "postgresql":
            whole = "SELECT t::text FROM t ORDER BY id"
        expected = (await session.execute(whole)).rows
        await session.execute("UPDATE t SET v = NULL")
        for row in kept:
            assert isinstance(row, list)
            form = table.columns[1].form
            text = f"UPDATE t SET v = {form.write} WHERE id = {MARK}"
            await session.execute(text, (form.encode(row[1]), row[0]))
        after = await image(session, table)
        assert all(same(one, other) for one, other in zip(before, after, strict=True))
        assert repr((await session.execute(whole)).rows) == repr(expected)
        await session.rollback()
    assert before[-1][1] is None
    assert all(row[1] is not None for row in before[:-1])


@pytest.mark.parametrize("database", ["mysql"], indirect=True)
async def test_a_timestamp_is_the_same_in_every_zone(database: Database) -> None:
    database.sql("CREATE TABLE t (id INT PRIMARY KEY, v TIMESTAMP NULL)")
    images = []
    async with database.session("pymysql") as session:
        await session.execute("SET time_zone = '+01:00'")
        await session.execute("INSERT INTO t VALUES (1, '2026-10-25 02:30:00')")
        for zone in ("+00:00", "-07:00"):
            await session.execute(f"SET time_zone = '{zone}'")
            images.append(await image(session, await table_of(session)))
    assert images[0] == images[1]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_settings_of_a_connection_change_no_image(database: Database) -> None:
    database.sql(
        "CREATE TABLE t (id int PRIMARY KEY, a timestamptz, b date, c interval, d float8, e bytea)",
        r"INSERT INTO t VALUES (1, '2026-10-25 02:30+01', '2026-02-03', '1 mon -1 day', 0.1, '\x00')",
    )
    images = []
    async with database.session("psycopg") as session:
        table = await table_of(session)
        for settings in (
            {"TimeZone": "UTC", "DateStyle": "ISO", "IntervalStyle": "postgres"},
            {"TimeZone": "Asia/Tokyo", "DateStyle": "German", "IntervalStyle": "sql_standard"},
            {"extra_float_digits": "-9", "bytea_output": "escape", "DateStyle": "SQL, DMY"},
        ):
            for name, value in settings.items():
                await session.execute(f"SELECT set_config('{name}', '{value}', false)")
            images.append(await image(session, table))
    assert images[0] == images[1] == images[2]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_converters_of_an_application_change_no_image(database: Database) -> None:
    sqlite3.register_converter("shout", lambda raw: raw.decode().upper())
    database.sql(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v SHOUT)", "INSERT INTO t VALUES (1, 'a')"
    )
    async with database.session("sqlite3", detect_types=sqlite3.PARSE_DECLTYPES) as session:
        assert await image(session, await table_of(session)) == [[1, "a"]]


def key_cases() -> list[Any]:
    return [
        ("mysql", "VARCHAR(20) COLLATE utf8mb4_general_ci", ["'a'", "'A'", "'á'", "'a '"], 1),
        ("mysql", "VARCHAR(20) COLLATE utf8mb4_bin", ["'a'", "'A'", "'a '"], 2),
        ("mysql", "VARCHAR(20) COLLATE utf8mb4_nopad_bin", ["'a'", "'a '"], 2),
        ("mysql", "BIGINT UNSIGNED", ["18446744073709551615", "9223372036854775807"], 2),
        ("mysql", "DECIMAL(9,3)", ["1", "1.000"], 1),
        ("postgresql", "text", ["'a'", "'A'", "'a '"], 3),
        ("postgresql", "char(3)", ["'a'", "'a '"], 1),
        ("postgresql", "numeric", ["1.0", "1.00", "1"], 1),
        ("sqlite", "TEXT COLLATE NOCASE", ["'a'", "'A'"], 1),
        ("sqlite", "TEXT", ["'a'", "'A'"], 2),
        ("sqlite", "NUMERIC", ["1", "1.0"], 1),
    ]


@pytest.mark.parametrize(
    ("database", "declared", "spellings", "rows"), key_cases(), indirect=["database"]
)
async def test_spellings_of_one_row_make_one_key(
    database: Database, declared: str, spellings: list[str], rows: int
) -> None:
    keys = set()
    driver = {"mysql": "pymysql", "postgresql": "psycopg", "sqlite": "sqlite3"}[database.dialect]
    database.sql(f"CREATE TABLE t (v {declared} PRIMARY KEY)")
    for spelling in spellings:
        database.sql("DELETE FROM t", f"INSERT INTO t VALUES ({spelling})")
        async with database.session(driver) as session:
            column = (await table_of(session)).key_columns[0]
            quoted = session.dialect.quote(column.name)
            folded = column.form.key(quoted) if column.form.key else "NULL"
            found = await session.execute(f"SELECT {column.form.read(quoted)}, {folded} FROM t")
            ((raw, fold),) = found.rows
            keys.add(column.form.part(column.form.decode(raw), fold))
    assert len(keys) == rows


def test_numbers_of_any_length_make_a_key() -> None:
    from tidelock.sql.columns import identify_decimal  # noqa: PLC0415

    assert identify_decimal(Decimal("1" + "0" * 40)) == "decimal:1" + "0" * 40
    assert identify_decimal(Decimal("-0.00")) == "decimal:0"
    assert identify_decimal(Decimal("0.500")) == "decimal:0.5"
    assert identify_decimal(Decimal("1E+3")) == "decimal:1000"
