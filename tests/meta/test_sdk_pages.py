"""The pages of docs/sdk are listed, and hold programs. tests/sdk runs these."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.meta.documents import ROOT, name_of
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
