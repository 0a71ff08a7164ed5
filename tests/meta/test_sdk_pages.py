"""The pages of docs/sdk are listed, and hold programs. tests/sdk runs these."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from tests.meta.documents import ROOT, name_of, split_code
from tests.meta.sdk_pages import PAGES, Page


def test_every_page_is_listed_in_the_index() -> None:
    index = (ROOT / "docs" / "SDK.md").read_text(encoding="utf-8")
    missing = [path.name for path in PAGES if f"(sdk/{path.name}" not in index]
    assert not missing, f"docs/SDK.md does not lead to {missing}"


def test_every_page_shows_something_that_runs() -> None:
    idle = [path.name for path in PAGES if not Page(path).printed]
    assert not idle, f"no block of these pages is marked `python`: {idle}"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_page_is_a_program(path: Path) -> None:
    # Who reads this in a traceback: a fragment that cannot run is to be marked `py`.
    compile(Page(path).program, path, "exec")


NAME = re.compile(r"`[^`]*?\btidelock\.([a-z_A-Z]+(?:\.[a-z_A-Z]+)*)")
TALKING = [ROOT / "docs" / "SDK.md", ROOT / "docs" / "MIGRATION.md"]


@pytest.mark.parametrize("path", TALKING, ids=name_of)
def test_every_name_of_the_sdk_in_an_overview_exists(path: Path) -> None:
    prose, _ = split_code(path.read_text(encoding="utf-8"))
    named = {name for line in prose for name in NAME.findall(line)}
    missing = [name for name in sorted(named) if not _is_there(f"tidelock.{name}")]
    assert not missing, f"{path}: no such names in tidelock: {missing}"


def _is_there(dotted: str) -> bool:
    """Tell whether a dotted name is a module, or an attribute of one."""
    parts = dotted.split(".")
    found: object = importlib.import_module(parts[0])
    for at, part in enumerate(parts[1:], start=2):
        try:
            found = getattr(found, part)
        except AttributeError:
            try:
                found = importlib.import_module(".".join(parts[:at]))
            except ModuleNotFoundError:
                return False
    return True
