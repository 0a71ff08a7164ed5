"""Reading the statements of applications, and refusing those that nobody could undo.

The application's own text is executed, always. It is read for what else has to be asked: which rows
it will change, which it has inserted. What is not understood is refused: a statement that ran
without undo data would be a hole that nobody sees.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NoReturn

from tidelock.sql.dialects import DIALECTS, Dialect
from tidelock.sql.errors import StatementRefusedError
from tidelock.sql.placeholders import Normalised, Style, normalise
from tidelock.sql.statements import Kind, Statement

GREATEST_STATEMENTS: Final = 4096
"""How many texts are kept with what they were found to be."""


def understand(
    dialect: Dialect, text: str, style: Style = Style.FORMAT, *, has_values: bool = True
) -> Statement:
    """Say what a statement does. Repeated texts cost a look-up.

    Raises:
        StatementRefusedError: it cannot be undone, or is not understood.
    """
    found = _understood(dialect.name, text, style, has_values)
    if isinstance(found, Statement):
        return found
    raise StatementRefusedError(found, text)


def load_parser(dialect: Dialect) -> None:
    """Load what reads statements, so that no transaction has to wait for that."""
    understand(dialect, "DELETE FROM t WHERE id = 1", has_values=False)


@lru_cache(maxsize=GREATEST_STATEMENTS)
def _understood(name: str, text: str, style: Style, has_values: bool) -> Statement | str:
    try:
        return _Reader(DIALECTS[name], text, style, has_values=has_values).read()
    except StatementRefusedError as refused:
        return str(refused)


_LEADING: Final = re.compile(
    r"(?:\s+|--[^\n]*(?:\n|$)|\#[^\n]*(?:\n|$)|/\*(?!!).*?\*/|\()*", re.DOTALL
)
_WORD: Final = re.compile(r"[A-Za-z]+")
_CONTROL: Final = re.compile(
    r"""
    (?P<begin>(BEGIN|START\s+TRANSACTION)([\s,]+(WORK|TRANSACTION|DEFERRED|IMMEDIATE|EXCLUSIVE
        |CONCURRENT|ISOLATION|LEVEL|SERIALIZABLE|REPEATABLE|READ|COMMITTED|UNCOMMITTED|ONLY|WRITE
        |NOT|DEFERRABLE|WITH|CONSISTENT|SNAPSHOT)\b)*)
    | (?P<commit>COMMIT|END)(\s+(WORK|TRANSACTION))?
    | ROLLBACK(\s+(WORK|TRANSACTION))?\s+TO(\s+SAVEPOINT)?\s+(?P<back>\S+)
    | (?P<rollback>ROLLBACK|ABORT)(\s+(WORK|TRANSACTION))?
    | SAVEPOINT\s+(?P<set>\S+)
    | RELEASE(\s+SAVEPOINT)?\s+(?P<release>\S+)
    """,
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_CONTROL_WORDS: Final = frozenset(
    {"BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE"}
)
_HARMLESS: Final = frozenset({"SHOW", "DESCRIBE", "DESC", "EXPLAIN", "PRAGMA", "TABLE", "VALUES"})
_CHANGING_PRAGMAS: Final = re.compile(r"\bPRAGMA\b[^=(]*=", re.IGNORECASE)
_INTRODUCER: Final = re.compile(r"(?<![\w@$`.])_[a-z]\w*\s+(?=:b\d)", re.IGNORECASE)
"""What MySQL calls the character set before a text: `_binary %s`, as Django writes it."""
_ANALYZES: Final = re.compile(r"\bANALY[SZ]E\b", re.IGNORECASE)
_SETS_MORE: Final = re.compile(r"\bSET\s+(STATEMENT|PASSWORD|DEFAULT\s+ROLE)\b", re.IGNORECASE)
_IN_QUOTES: Final = re.compile(r"""'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*"|`[^`]*`""", re.DOTALL)
_COMMANDS_IN_COMMENTS: Final = re.compile(r"/\*M?!")

# What to write instead, by the first word.
INSTEAD: Final = {
    "REPLACE": "REPLACE deletes rows without a word; write INSERT … ON DUPLICATE KEY UPDATE "
    "(SQLite: ON CONFLICT DO UPDATE)",
    "MERGE": "write INSERT … ON CONFLICT DO UPDATE, or separate UPDATE and INSERT statements",
    "TRUNCATE": "it cannot be undone from images; write DELETE FROM",
    "LOAD": "insert the rows with executemany",
    "COPY": "insert the rows with executemany",
    "CALL": "what a procedure changes is not seen; execute its statements one by one",
    "EXECUTE": "what was prepared is not seen; execute the statement itself",
    "EXEC": "what it changes is not seen; execute the statements one by one",
    "DO": "what it changes is not seen; execute the statements one by one",
    "XA": "use the XA mode for this resource instead of AT",
    "PREPARE": "execute the statement itself; drivers prepare it by themselves",
    "CREATE": "change the schema outside of global transactions",
    "ALTER": "change the schema outside of global transactions",
    "DROP": "change the schema outside of global transactions",
    "RENAME": "change the schema outside of global transactions",
    "LOCK": "lock the rows with SELECT … FOR UPDATE",
    "USE": "connect to that database",
    "HANDLER": "use SELECT",
    "VACUUM": "do it outside of global transactions",
    "ATTACH": "do it outside of global transactions",
    "DETACH": "do it outside of global transactions",
}


class _Reader:
    """Reads one text."""

    def __init__(self, dialect: Dialect, text: str, style: Style, *, has_values: bool) -> None:
        self.dialect = dialect
        self.original = text
        self.normal: Normalised = normalise(text, style, dialect.name, has_values=has_values)
        self.text = self.normal.text

    def refuse(self, why: str) -> NoReturn:
        shown = " ".join(self.original.split())
        shown = shown if len(shown) <= 200 else f"{shown[:199]}…"
        raise StatementRefusedError(
            f"this statement cannot take part in a global transaction: {why}. It was: {shown}",
            self.original,
        )

    def read(self) -> Statement:
        if "\0" in self.original:
            self.refuse("it contains a NUL character")
        if self.text.strip() == ";":
            # SQLAlchemy asks PostgreSQL so for signs of life.
            return Statement(kind=Kind.READ, text=self.text)
        first = self._first_word()
        if self.dialect.name == "mysql" and _COMMANDS_IN_COMMENTS.search(
            _IN_QUOTES.sub("", self.text)
        ):
            self.refuse("commands stand in a comment of it; write them plainly")
        if first in _CONTROL_WORDS or first in _HARMLESS or first == "SET":
            # These are not parsed, so nothing else may stand behind them.
            self._is_alone()
        if first in _CONTROL_WORDS:
            return self._control()
        if first in INSTEAD:
            self.refuse(INSTEAD[first])
        if first == "SET":
            return self._setting()
        if first in _HARMLESS:
            if _ANALYZES.search(self.text) and first in {"EXPLAIN", "DESC", "DESCRIBE"}:
                self.refuse("EXPLAIN ANALYZE executes what it explains; leave ANALYZE out")
            if first == "PRAGMA" and _CHANGING_PRAGMAS.search(self.text):
                self.refuse("set pragmas before the transaction begins")
            return Statement(kind=Kind.READ, text=self.text)
        if first not in {"SELECT", "WITH", "INSERT", "UPDATE", "DELETE"}:
            self.refuse(
                f"{first or 'it'} is not known to be harmless. Known are SELECT, INSERT, UPDATE "
                "and DELETE; do anything else outside of global transactions"
            )
        return self._parsed()

    def _first_word(self) -> str:
        start = _LEADING.match(self.text)
        at = start.end() if start else 0
        word = _WORD.match(self.text, at)
        return word.group().upper() if word else ""

    def _control(self) -> Statement:
        text = self.text.strip().rstrip(";").strip()
        found = _CONTROL.fullmatch(text)
        if found is None:
            self.refuse("begin and end transactions with the connection's own methods")
        groups = found.groupdict()
        if groups["begin"]:
            return Statement(kind=Kind.BEGIN, text=self.text)
        if groups["commit"]:
            return Statement(kind=Kind.COMMIT, text=self.text)
        if groups["rollback"]:
            return Statement(kind=Kind.ROLLBACK, text=self.text)
        for kind, name in (
            (Kind.ROLLBACK_TO, groups["back"]),
            (Kind.SAVEPOINT, groups["set"]),
            (Kind.RELEASE, groups["release"]),
        ):
            if name:
                return Statement(kind=kind, text=self.text, savepoint=_savepoint(name))
        raise AssertionError(f"a control statement of no kind: {text}")

    def _is_alone(self) -> None:
        if ";" in self.text.rstrip("; \t\r\n"):
            self.refuse("there are several in one text; execute them one by one")

    def _setting(self) -> Statement:
        if _SETS_MORE.search(self.text):
            self.refuse(
                "it does more than to set something; do that outside, or execute it plainly"
            )
        if re.search(r"\bautocommit\b", self.text, re.IGNORECASE):
            self.refuse("a local transaction must end with the connection's commit()")
        return Statement(kind=Kind.SETTING, text=self.text)

    def _parsed(self) -> Statement:
        # Half a second, which not every process needs to spend.
        import sqlglot  # noqa: PLC0415
        from sqlglot import exp  # noqa: PLC0415
        from sqlglot.errors import SqlglotError  # noqa: PLC0415

        from tidelock.sql.insert_shapes import InsertShape  # noqa: PLC0415
        from tidelock.sql.shapes import Shape  # noqa: PLC0415

        try:
            text = self._without_introducers()
            trees = [tree for tree in sqlglot.parse(text, read=self.dialect.parser) if tree]
            tokens = sqlglot.tokenize(text, read=self.dialect.parser)
        except (SqlglotError, RecursionError) as error:
            first = str(error).partition("\n")[0]
            self.refuse(f"it was not understood ({first}); write it in simpler terms")
        if len(trees) != 1:
            self.refuse("there are several in one text; execute them one by one")
        tree = trees[0]
        for inner in tree.find_all(exp.Insert, exp.Update, exp.Delete, exp.Merge):
            if inner is not tree:
                self.refuse("it changes rows within a WITH; execute the parts one by one")
        shape = Shape(self, tree, tokens)
        match tree:
            case exp.Update():
                return shape.update()
            case exp.Delete():
                return shape.delete()
            case exp.Insert():
                return InsertShape(self, tree, tokens).insert()
            case exp.Query():
                return shape.select()
        return self.refuse("it was not understood; write it in simpler terms")

    def _without_introducers(self) -> str:
        """Return the text for the parser, which knows no `_binary` before a placeholder; each
        position stays what it is.
        """
        if self.dialect.name != "mysql":
            return self.text
        return _INTRODUCER.sub(lambda found: " " * len(found.group()), self.text)


def _savepoint(name: str) -> str:
    name = name.rstrip(";")
    if len(name) >= 2 and name[0] == name[-1] and name[0] in "\"`'[":
        return name[1:-1]
    return name.lower()
