"""Copies the server's rooms under a private name, for a distribution that others install.

`node`, `api` and `statemachine` are names that applications use themselves. So the copy lives in
`tidelock_testing._rooms`, and each import of a room names that place.
"""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

ROOMS = ("node", "api", "statemachine")
PRIVATE = "tidelock_testing._rooms"


def rewritten(source: str) -> str:
    """Return a module's text with its imports of rooms changed to the private place.

    Raises:
        ValueError: `import node.x` binds a name that would differ: `from node import x` does not.
    """
    lines = source.splitlines(keepends=True)
    for statement in ast.walk(ast.parse(source)):
        if isinstance(statement, ast.Import):
            for name in statement.names:
                if name.name.partition(".")[0] in ROOMS:
                    raise ValueError(f"line {statement.lineno}: write `from … import …` of a room")
        elif isinstance(statement, ast.ImportFrom) and statement.level == 0:
            module = statement.module or ""
            if module.partition(".")[0] in ROOMS:
                at = statement.lineno - 1
                lines[at] = lines[at].replace(f"from {module}", f"from {PRIVATE}.{module}", 1)
    return "".join(lines)


def copy(rooms: Path, package: Path, target: Path) -> None:
    """Put the package `tidelock_testing`, with the rooms in it, into the empty folder `target`."""
    shutil.copytree(package, target / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    private = target / package.name / "_rooms"
    private.mkdir()
    (private / "__init__.py").write_text(
        '"""The server\'s rooms. Nothing here is an interface."""\n'
    )
    for room in ROOMS:
        shutil.copytree(rooms / room, private / room, ignore=shutil.ignore_patterns("__pycache__"))
    for module in (target / package.name).rglob("*.py"):
        module.write_text(rewritten(module.read_text(encoding="utf-8")), encoding="utf-8")
