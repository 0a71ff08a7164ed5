"""What an INSERT consists of: its rows, where each of their values comes from, its conflicts.

As `tidelock.sql.shapes`, this imports sqlglot.
"""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from tidelock.sql.shapes import Shape
from tidelock.sql.statements import Cell, CellKind, Conflict, Kind, Name, Statement


class InsertShape(Shape):
    """What a parsed INSERT consists of."""

    def insert(self) -> Statement:
        """Return what it does."""
        self.no_with()
        tree = self.tree
        alternative = str(tree.args.get("alternative") or "").upper()
        if alternative == "REPLACE":
            self.refuse("OR REPLACE deletes rows without a word; write ON CONFLICT DO UPDATE")
        if alternative not in {"", "ABORT", "IGNORE"}:
            self.refuse(f"OR {alternative} ends more than the statement; leave it out")
        if tree.args.get("overwrite") or tree.args.get("where"):
            self.refuse("it was not understood; write INSERT INTO table (columns) VALUES (…)")
        inner = tree.this
        names: tuple[Name, ...] = ()
        if isinstance(inner, exp.Schema):
            names = tuple(self.name(each) for each in inner.expressions)
            inner = inner.this
        table, alias = self.table(inner)
        source = tree.args.get("expression")
        conflict = self._conflict(alternative)
        is_query = isinstance(source, exp.Query) and not isinstance(source, exp.Values)
        if is_query and (conflict is not None or source.find(exp.Table) is not None):
            self.refuse("INSERT … SELECT; SELECT the rows first, then insert them")
        return Statement(
            kind=Kind.INSERT,
            text=self.text,
            table=table,
            alias=alias,
            columns=names,
            rows=() if is_query else self._rows(source),
            conflict=conflict,
            returning=self.returning(),
        )

    def _conflict(self, alternative: str) -> Conflict | None:
        node = self.tree.args.get("conflict")
        if node is None:
            ignores = self.tree.args.get("ignore") or alternative == "IGNORE"
            return Conflict() if ignores else None
        if self.tree.args.get("ignore"):
            self.refuse("leave IGNORE out when there is ON DUPLICATE KEY UPDATE")
        if "NOTHING" in str(node.args.get("action") or "").upper():
            return Conflict()
        updates: list[str] = []
        for assignment in node.expressions:
            if not isinstance(assignment, exp.EQ):
                self.refuse("an assignment in it is not of the form column = expression")
            left = assignment.this
            sides = left.expressions if isinstance(left, exp.Tuple) else [left]
            updates += [self.name(side).name for side in sides]
        return Conflict(tuple(updates))

    def _rows(self, source: Any) -> tuple[tuple[Cell, ...], ...]:
        if source is None or (self.find("DEFAULT") is not None and self.find("VALUES") is None):
            return ((),)
        if not isinstance(source, exp.Values):
            self.refuse("it was not understood; write INSERT INTO table (columns) VALUES (…)")
        start = self.find("VALUES", "VALUE")
        if start is None:
            return self._assigned_rows(source)
        nodes = [
            each.expressions if isinstance(each, exp.Tuple) else [each.unnest()]
            for each in source.expressions
        ]
        spans = self._tuples(start, len(nodes))
        if [len(row) for row in nodes] != [len(row) for row in spans]:
            self.refuse("its VALUES were not understood; write one parenthesis a row")
        return tuple(
            tuple(self._cell(node, span) for node, span in zip(row, where, strict=True))
            for row, where in zip(nodes, spans, strict=True)
        )

    def _assigned_rows(self, source: Any) -> tuple[tuple[Cell, ...], ...]:
        """Read MySQL's INSERT … SET a = 1, b = 2."""
        start = self.find("SET")
        if start is None or len(source.expressions) != 1:
            self.refuse("it was not understood; write INSERT INTO table (columns) VALUES (…)")
        stop = self.find("ON", "RETURNING", after=start) or self.end
        spans: list[tuple[int, int]] = []
        at: int | None = None
        for token in self.tops:
            if token.start < start or token.start >= stop:
                continue
            if token.text == "=" and at is None:
                at = int(token.end) + 1
            elif token.text == "," and at is not None:
                spans.append((at, int(token.start)))
                at = None
        if at is not None:
            spans.append((at, stop))
        nodes = source.expressions[0].expressions
        if len(nodes) != len(spans):
            self.refuse("it was not understood; write INSERT INTO table (columns) VALUES (…)")
        return (tuple(self._cell(node, span) for node, span in zip(nodes, spans, strict=True)),)

    def _tuples(self, start: int, count: int) -> list[list[tuple[int, int]]]:
        """Return where the values of each row stand."""
        rows: list[list[tuple[int, int]]] = []
        depth = 0
        at = 0
        for token in self.tokens:
            if token.start <= start or len(rows) > count:
                continue
            text = token.text if token.end - token.start < 1 else ""
            if text in {"(", "["}:
                depth += 1
                if depth == 1:
                    if len(rows) == count:
                        break
                    rows.append([])
                    at = int(token.end) + 1
            elif text in {")", "]"}:
                depth -= 1
                if depth == 0:
                    rows[-1].append((at, int(token.start)))
            elif text == "," and depth == 1:
                rows[-1].append((at, int(token.start)))
                at = int(token.end) + 1
            elif depth == 0 and text != ",":
                break
        return rows

    def _cell(self, node: Any, span: tuple[int, int]) -> Cell:
        fragment = self.fragment(*span)
        bare = node.unnest() if isinstance(node, exp.Paren) else node
        if isinstance(bare, exp.Null):
            return Cell(CellKind.DEFAULT, fragment, is_null=True)
        if fragment.text.upper() == "DEFAULT":
            return Cell(CellKind.DEFAULT, fragment)
        while isinstance(bare, (exp.Cast, exp.Neg, exp.Paren)):
            bare = bare.this
        if isinstance(bare, (exp.Placeholder, exp.Literal, exp.Boolean, exp.Parameter)):
            return Cell(CellKind.GIVEN, fragment)
        hexadecimal = (exp.HexString, exp.BitString, exp.ByteString, exp.National)
        return Cell(
            CellKind.GIVEN if isinstance(bare, hexadecimal) else CellKind.COMPUTED, fragment
        )
