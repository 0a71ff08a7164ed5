"""Which deaths are tried where: `python -m tests.crash_matrix [--missing]`.

It collects the tests and reads their parameters: a point of `tidelock.crash_points`, a database or
a driver, and what dies there (the process, unless a parameter `dies` says otherwise). A cell of the
table says at how many points of a mode that death is tried on that database. A cell that cannot be
is in `ABSENT`, with the reason; every other one that no test tries is listed by `--missing`.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from typing import Any, Final, NamedTuple

import pytest

from tidelock.crash_points import POINTS

FOLDERS: Final = ("tests/sdk", "tests/databases", "tests/integration")
DIES: Final = ("process", "connection", "leader")
DATABASES: Final = ("mysql", "postgresql", "sqlite")

_DIALECTS: Final = {
    "mariadb": "mysql", "pymysql": "mysql", "asyncmy": "mysql", "psycopg": "postgresql",
    "asyncpg": "postgresql", "sqlite3": "sqlite", "aiosqlite": "sqlite",
    **{name: name for name in DATABASES},
}  # fmt: skip
_OF_MODULES: Final = {
    "test_xa_crashes": ("mysql", "postgresql"),
    "test_xa_deaths_beside_the_process": ("mysql", "postgresql"),
}
"""Tests that always use these."""

Cell = tuple[str, str, str]
"""A point, a database (empty: none is at stake), and what dies."""


WITHOUT_DATABASE: Final = ("rm.*", "fence.*-fence-enter", "fence.*-fence-done")
"""Points at which no database is at stake."""


class Absence(NamedTuple):
    """Cells that cannot be, by patterns of `fnmatch`."""

    point: str
    database: str
    dies: str
    reason: str


ABSENT: Final = (
    Absence("*", "", "connection", "no database is at stake, so no connection of one"),
    Absence("*", "sqlite", "connection", "a file has no connection that ends without its process"),
    Absence("xa.*", "sqlite", "*", "SQLite has no prepared transactions"),
    Absence("at.*-take-back", "sqlite", "*", "it lets no decision overtake who writes"),
    Absence("outbox.*", "*", "leader", "an outbox speaks to no coordinator"),
    Absence("inbox.*", "*", "leader", "an inbox speaks to no coordinator"),
)


class Collected:
    """A plugin of pytest that notes what tests are parametrised by."""

    def __init__(self) -> None:
        self.cells: dict[Cell, int] = defaultdict(int)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Take part in the collection."""
        for item in items:
            spec: Any = getattr(item, "callspec", None)
            if spec is not None:
                for cell in cells_of(item.path.stem, spec.params):
                    self.cells[cell] += 1


def cells_of(module: str, parameters: dict[str, Any]) -> Iterator[Cell]:
    """Yield what one test tries."""
    texts = {name: value for name, value in parameters.items() if isinstance(value, str)}
    points = {text.partition(":")[0] for text in texts.values()} & POINTS.keys()
    found = {_DIALECTS[text] for text in texts.values() if text in _DIALECTS}
    databases: Iterable[str] = sorted(found) or _OF_MODULES.get(module, ("",))
    for point in points:
        for database in databases:
            yield point, database, texts.get("dies", "process")


def collected() -> Collected:
    """Collect the tests of all folders.

    Raises:
        RuntimeError: they cannot be.
    """
    plugin = Collected()
    with open(os.devnull, "w") as nowhere:
        before, sys.stdout = sys.stdout, nowhere
        try:
            code = pytest.main(["--collect-only", "-q", *FOLDERS], plugins=[plugin])
        finally:
            sys.stdout = before
    if code != pytest.ExitCode.OK:
        raise RuntimeError(f"pytest cannot collect the tests: {code!r}")
    return plugin


def table(cells: Iterable[Cell]) -> list[str]:
    """Return the matrix as a table of Markdown: points tried, of how many there are."""
    tried = set(cells)
    heads = [(dies, database) for dies in DIES for database in DATABASES]
    lines = [
        "| points of | "
        + " | ".join(f"{dies}, {where}" for dies, where in heads)
        + " | anywhere |",
        "|---" * (len(heads) + 2) + "|",
    ]
    for mode in dict.fromkeys(name.partition(".")[0] for name in POINTS):
        names = [name for name in POINTS if name.startswith(f"{mode}.")]
        counts = [sum((name, where, dies) in tried for name in names) for dies, where in heads]
        anywhere = sum(any(cell[0] == name for cell in tried) for name in names)
        lines.append(f"| {mode} | {' | '.join(map(str, counts))} | {anywhere} of {len(names)} |")
    return lines


def required() -> Iterator[Cell]:
    """Yield every cell that can be."""
    for point in POINTS:
        is_without = any(fnmatch(point, pattern) for pattern in WITHOUT_DATABASE)
        for dies in DIES:
            for database in ("",) if is_without else DATABASES:
                if reason_of((point, database, dies)) is None:
                    yield point, database, dies


def reason_of(cell: Cell) -> str | None:
    """Return why a cell cannot be; None: it can."""
    for *patterns, reason in ABSENT:
        if all(fnmatch(part, pattern) for part, pattern in zip(cell, patterns, strict=True)):
            return reason
    return None


def missing(cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells that can be and that no parametrised test tries."""
    tried = set(cells)
    return [cell for cell in required() if cell not in tried]


def main() -> None:
    """Print it."""
    found = collected()
    print("\n".join(table(found.cells)))
    print(f"\n{sum(found.cells.values())} tests, {len(found.cells)} cells, {len(POINTS)} points")
    if "--missing" in sys.argv[1:]:
        for point, database, dies in missing(found.cells):
            print(f"{point}: {dies}{database and f', {database}'}")
        for absence in ABSENT:
            where = f"{absence.point}: {absence.dies}, {absence.database or 'no database'}"
            print(f"cannot be: {where}: {absence.reason}")


if __name__ == "__main__":
    main()
