"""Which deaths are tried where: `python -m tests.crash_matrix [--missing]`.

It collects the tests and reads their parameters: a point of `tidelock.crash_points`, a database or
a driver, and what dies there (the process, unless a parameter `dies` says otherwise). A cell of the
table says at how many points of a mode that death is tried on that database.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, Final

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


def missing(cells: Iterable[Cell]) -> list[str]:
    """Return the points at which no parametrised test dies at all."""
    tried = {point for point, _, _ in cells}
    return [name for name in POINTS if name not in tried]


def main() -> None:
    """Print it."""
    found = collected()
    print("\n".join(table(found.cells)))
    print(f"\n{sum(found.cells.values())} tests, {len(found.cells)} cells, {len(POINTS)} points")
    if "--missing" in sys.argv[1:]:
        print("\n".join(missing(found.cells)))


if __name__ == "__main__":
    main()
