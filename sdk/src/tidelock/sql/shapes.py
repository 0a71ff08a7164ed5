"""What parsed statements consist of: the parts of UPDATE, DELETE and locking SELECT, and what all
four have in common. `tidelock.sql.insert_shapes` has those of INSERT.

This imports sqlglot, which takes half a second: `tidelock.sql.reading` does so when it must.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any, Final, NoReturn, Protocol

from sqlglot import Token, TokenType, exp

from tidelock.sql.catalog import TableName
from tidelock.sql.dialects import Dialect
from tidelock.sql.placeholders import Fragment, Key, Normalised
from tidelock.sql.statements import Kind, Name, Statement

# What it does not understand is refused with a message; it need not say so in the log as well.
logging.getLogger("sqlglot").setLevel(logging.ERROR)

# Of these two evaluations may differ, so that the image would be of other rows than were changed.
_VOLATILE: Final = frozenset(
    {
        "RAND", "RANDOM", "UUID", "UUID_SHORT", "SYSDATE", "SLEEP", "BENCHMARK", "LAST_INSERT_ID",
        "GEN_RANDOM_UUID", "CLOCK_TIMESTAMP", "STATEMENT_TIMESTAMP", "TIMEOFDAY", "NEXTVAL",
        "SETVAL", "RANDOMBLOB", "CHANGES", "TOTAL_CHANGES", "LAST_INSERT_ROWID", "NEWID",
        "UUID_GENERATE_V4", "UUID_GENERATE_V1", "PG_SLEEP", "ROW_COUNT", "FOUND_ROWS", "GET_LOCK",
    }
)  # fmt: skip
_CLOCKS: Final = frozenset(
    {
        "NOW", "CURRENT_TIMESTAMP", "CURRENT_DATE", "CURRENT_TIME", "LOCALTIME", "LOCALTIMESTAMP",
        "CURDATE", "CURTIME", "UTC_TIMESTAMP", "UTC_DATE", "UTC_TIME", "UNIX_TIMESTAMP",
        "DATETIME", "JULIANDAY", "UNIXEPOCH", "STRFTIME", "TS_OR_DS_TO_DATE",
    }
)  # fmt: skip
_FOLLOWS_THE_CLOCK: Final = re.compile(r"'\s*now\s*'", re.IGNORECASE)


class Reader(Protocol):
    """Who reads the statement."""

    dialect: Dialect
    normal: Normalised
    text: str

    def refuse(self, why: str) -> NoReturn:
        """Raise that the statement cannot take part."""
        ...


class Shape:
    """What a parsed statement of the four kinds consists of."""

    def __init__(self, reader: Reader, tree: Any, tokens: Sequence[Token]) -> None:
        self.reader = reader
        self.tree = tree
        self.text = reader.text
        self.tokens = [token for token in tokens if token.text != ";"]
        self.tops = self._at_depth_zero()

    def _at_depth_zero(self) -> list[Token]:
        depth = 0
        found = []
        for token in self.tokens:
            if token.token_type in {TokenType.R_PAREN, TokenType.R_BRACKET}:
                depth -= 1
            if depth == 0:
                found.append(token)
            if token.token_type in {TokenType.L_PAREN, TokenType.L_BRACKET}:
                depth += 1
        return found

    def find(self, *words: str, after: int = 0) -> int | None:
        """Return where one of the words stands outside of parentheses, as a keyword."""
        quoted = {TokenType.IDENTIFIER, TokenType.STRING}
        for token in self.tops:
            if token.start < after or token.token_type in quoted:
                continue
            if token.text.upper() in words:
                return int(token.start)
        return None

    @property
    def end(self) -> int:
        return int(self.tokens[-1].end) + 1

    def fragment(self, start: int, end: int) -> Fragment:
        found = self.reader.normal.fragment(start, end)
        return Fragment(found.text.strip(), found.keys)

    def refuse(self, why: str) -> NoReturn:
        self.reader.refuse(why)

    # What the four have in common

    def table(self, node: Any) -> tuple[TableName, str]:
        """Return the one table that a statement changes, and what its columns are qualified by."""
        if not isinstance(node, exp.Table):
            self.refuse("it changes something else than one table")
        if node.args.get("joins"):
            self.refuse("it changes several tables, or joins them; change one table at a time")
        if node.args.get("catalog"):
            self.refuse("it names a table of another database; connect to that database")
        if node.args.get("sample") or node.args.get("partition"):
            self.refuse("name the table alone, without a sample or a partition")
        name, schema = node.this, node.args.get("db")
        if not isinstance(name, exp.Identifier):
            self.refuse("it changes something else than one table")
        alias = node.args.get("alias")
        label = alias.this if alias is not None else name
        return (
            TableName(
                name.this,
                schema.this if schema is not None else "",
                bool(name.args.get("quoted")),
                bool(schema is not None and schema.args.get("quoted")),
            ),
            self._label(label),
        )

    def _label(self, node: Any) -> str:
        name: str = node.this
        if node.args.get("quoted"):
            return self.reader.dialect.quote(name)
        return name

    def name(self, node: Any) -> Name:
        if isinstance(node, exp.Column):
            node = node.this
        if not isinstance(node, exp.Identifier):
            self.refuse("a column in it is not named plainly")
        return Name(str(node.this), bool(node.args.get("quoted")))

    def no_with(self) -> None:
        if self.tree.args.get("with_") or self.tree.args.get("with"):
            self.refuse("leave WITH out: read first, then change what was found")

    def condition(self) -> tuple[Fragment, Fragment, tuple[Name, ...] | None]:
        """Return the WHERE of an UPDATE or a DELETE, its ORDER BY with LIMIT, and by what."""
        returning = self.find("RETURNING")
        end = self.end if returning is None else returning
        ordering = self.find("ORDER BY", "ORDER", "LIMIT")
        if ordering is not None and ordering < end:
            order, stop = self.fragment(ordering, end), ordering
        else:
            order, stop = Fragment(""), end
        start = self.find("WHERE")
        where = Fragment("") if start is None else self.fragment(start, stop)
        for part in (self.tree.args.get("where"), self.tree.args.get("order")):
            if part is not None:
                self._is_steady(part)
        return where, order, self._ordered_by()

    def matched(self) -> tuple[tuple[Name, Key], ...]:
        """Return which columns WHERE wants to equal a value, beside whatever else it wants."""
        where = self.tree.args.get("where")
        pending = [] if where is None else [where.this]
        found: list[tuple[Name, Key]] = []
        while pending:
            node = pending.pop()
            if isinstance(node, exp.Paren):
                pending.append(node.this)
            elif isinstance(node, exp.And):
                pending += [node.this, node.expression]
            elif isinstance(node, exp.EQ):
                value = node.expression
                while isinstance(value, (exp.Paren, exp.Cast)):
                    value = value.this
                column = node.this
                if isinstance(column, exp.Column) and isinstance(value, exp.Placeholder):
                    number = int(value.name.removeprefix("b"))
                    found.append((self.name(column), self.reader.normal.marks[number].key))
        return tuple(found)

    def _ordered_by(self) -> tuple[Name, ...] | None:
        order = self.tree.args.get("order")
        if order is None:
            return ()
        found = []
        for each in order.expressions:
            inner = each.this
            if not isinstance(inner, exp.Column):
                return None
            found.append(self.name(inner))
        return tuple(found)

    def _is_steady(self, part: Any) -> None:
        """Refuse a condition that may hold for other rows when it is evaluated again."""
        if part.find(exp.Subquery, exp.Select, exp.Exists) is not None:
            self.refuse(
                "its WHERE has a sub-query; SELECT the keys FOR UPDATE first, then name them"
            )
        for each in part.find_all(exp.Func):
            name = (each.name if isinstance(each, exp.Anonymous) else each.sql_name()).upper()
            if name in _VOLATILE:
                self.refuse(f"{name} in its WHERE or ORDER BY gives another value each time")
        source = part.sql(dialect=self.reader.dialect.parser)
        if part.find(exp.SessionParameter, exp.Parameter) is not None or "@" in source.replace(
            "@>", ""
        ).replace("<@", "").replace("@@", ""):
            self.refuse("its WHERE refers to a variable; give the value as a parameter")
        if self.reader.dialect.name != "postgresql":
            self._follows_no_clock(part, source)

    def _follows_no_clock(self, part: Any, source: str) -> None:
        found = part.find(
            exp.CurrentTimestamp, exp.CurrentDate, exp.CurrentTime, exp.CurrentDatetime
        )
        names = {
            (each.name if isinstance(each, exp.Anonymous) else each.sql_name()).upper()
            for each in part.find_all(exp.Func)
        }
        asks = bool(names & _CLOCKS) and (
            self.reader.dialect.name == "mysql" or _FOLLOWS_THE_CLOCK.search(source)
        )
        if found is not None or asks:
            self.refuse("its WHERE follows the clock; give the time as a parameter")

    def returning(self) -> tuple[Name, ...] | None:
        node = self.tree.args.get("returning")
        if node is None:
            return None
        found = []
        for each in node.expressions:
            if isinstance(each, exp.Star):
                found.append(Name("*"))
            elif isinstance(each, exp.Column) and not isinstance(each.this, exp.Star):
                found.append(self.name(each))
            elif isinstance(each, exp.Column):
                found.append(Name("*"))
            else:
                found.append(Name(""))
        return tuple(found)

    # UPDATE, DELETE, SELECT

    def update(self) -> Statement:
        self.no_with()
        tree = self.tree
        if tree.args.get("from_") or tree.args.get("from") or tree.args.get("joins"):
            self.refuse("it joins another table; SELECT the values first, then UPDATE by key")
        start = self.find("SET")
        first = self.find("UPDATE")
        assert start is not None
        assert first is not None
        head = self.text[first:start]
        if "," in re.sub(r"`[^`]*`|\"[^\"]*\"", "", head):
            self.refuse("it changes several tables; change one table at a time")
        if re.search(r"\bOR\s+(REPLACE|IGNORE|ROLLBACK|ABORT|FAIL)\b", head, re.IGNORECASE):
            self.refuse("leave OR … out: a row that conflicts must fail the statement")
        if re.search(r"\bIGNORE\b", head, re.IGNORECASE):
            self.refuse("leave IGNORE out: a row that conflicts must fail the statement")
        table, alias = self.table(tree.this)
        columns: list[Name] = []
        for assignment in tree.expressions:
            if not isinstance(assignment, exp.EQ):
                self.refuse("an assignment in it is not of the form column = expression")
            left = assignment.this
            sides = left.expressions if isinstance(left, exp.Tuple) else [left]
            if isinstance(left, exp.Paren):
                sides = [left.this]
            for side in sides:
                inner = side
                while isinstance(inner, exp.Bracket):
                    # One element of an array, or one key of a document: the column is changed.
                    inner = inner.this
                columns.append(self.name(inner))
        if not columns:
            self.refuse("it sets nothing; write it in simpler terms")
        where, order, ordered_by = self.condition()
        return Statement(
            kind=Kind.UPDATE,
            text=self.text,
            table=table,
            alias=alias,
            target=self.fragment(self._after("UPDATE", "LOW_PRIORITY"), start),
            columns=tuple(columns),
            where=where,
            matches=self.matched(),
            order=order,
            order_columns=ordered_by,
            returning=self.returning(),
        )

    def _after(self, *words: str) -> int:
        """Return where the table begins, after these words at the beginning."""
        at = 0
        for token in self.tokens:
            if token.text.upper() not in words:
                break
            at = int(token.end) + 1
        return at

    def delete(self) -> Statement:
        self.no_with()
        tree = self.tree
        if tree.args.get("tables") or tree.args.get("using"):
            self.refuse("it joins tables; SELECT the keys FOR UPDATE first, then DELETE by key")
        start = self.find("FROM")
        if start is None:
            self.refuse("write DELETE FROM")
        if re.search(r"\bIGNORE\b", self.text[:start], re.IGNORECASE):
            self.refuse("leave IGNORE out: a row that cannot be deleted must fail the statement")
        table, alias = self.table(tree.this)
        where, order, ordered_by = self.condition()
        stops = [
            self.find("WHERE"),
            self.find("ORDER BY", "ORDER", "LIMIT"),
            self.find("RETURNING"),
        ]
        stop = min([each for each in stops if each is not None], default=self.end)
        return Statement(
            kind=Kind.DELETE,
            text=self.text,
            table=table,
            alias=alias,
            target=self.fragment(start + len("FROM"), stop),
            where=where,
            matches=self.matched(),
            order=order,
            order_columns=ordered_by,
            returning=self.returning(),
        )

    def select(self) -> Statement:
        tree = self.tree
        for each in tree.find_all(exp.Into):
            self.refuse(f"SELECT … INTO makes a table or a file ({each.sql()}); leave INTO out")
        if re.search(r"\bINTO\s+(OUTFILE|DUMPFILE|@)", self.text, re.IGNORECASE):
            self.refuse("SELECT … INTO writes a file or a variable; leave INTO out")
        locks = [each for each in tree.find_all(exp.Select) if each.args.get("locks")]
        shares = re.search(r"\bLOCK\s+IN\s+SHARE\s+MODE\b", self.text, re.IGNORECASE)
        if not locks and shares is None:
            return Statement(kind=Kind.READ, text=self.text)
        simple = isinstance(tree, exp.Select) and not (
            tree.args.get("with_") or tree.args.get("joins") or tree.args.get("distinct")
            or tree.args.get("group") or tree.args.get("having")
        )  # fmt: skip
        source = tree.args.get("from_") if simple else None
        if source is None or not isinstance(source.this, exp.Table):
            self.refuse("SELECT … FOR UPDATE of one table at a time, without joins or grouping")
        table, alias = self.table(source.this)
        start = self.find("FROM")
        assert start is not None
        stop = self.find("FOR", "LOCK", after=start) or self.end
        return Statement(
            kind=Kind.READ_LOCKING,
            text=self.text,
            table=table,
            alias=alias,
            source=self.fragment(start, stop),
            where=self.fragment(stop, self.end),
            shares=all(
                not lock.args.get("update") for each in locks for lock in each.args["locks"]
            ),
        )
