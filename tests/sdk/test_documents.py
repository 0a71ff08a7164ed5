"""The examples of docs/sdk are run as they stand there.

Each page is one program: its blocks marked `python` in order, in a process and an empty folder of
its own, against a coordinator that listens where the page says `http://127.0.0.1:7101`. What a
block prints is compared with the `text` block that follows it, when one does; what is logged is
not. Fragments that are not to be run are marked `py`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.meta.documents import FENCE, ROOT, name_of
from tidelock.testing import Coordinator

PAGES = sorted((ROOT / "docs" / "sdk").glob("*.md"))
ADDRESS = "http://127.0.0.1:7101"
BEHIND_A_BLOCK = "print(chr(0), end='', flush=True)"


class Page:
    """A page as a program whose lines have the page's numbers, so that a traceback leads there."""

    def __init__(self, path: Path) -> None:
        self.lines: list[str] = []
        self.printed: list[str | None] = []
        """For each block what it should print; None: whatever it likes."""
        language = ""
        follows = False
        text: list[str] = []
        for line in path.read_text(encoding="utf-8").splitlines():
            stripped = line.strip()
            source = ""
            if language and stripped == "```":
                if language == "python":
                    source = BEHIND_A_BLOCK
                    self.printed.append(None)
                    follows = True
                elif language == "text" and follows:
                    self.printed[-1] = "".join(f"{each}\n" for each in text)
                    follows = False
                language = ""
            elif language:
                source = line if language == "python" else ""
                text.append(line)
            elif FENCE.match(stripped):
                language, text = stripped[3:].strip() or "none", []
                follows = follows and language == "text"
            self.lines.append(source)
        assert not language, f"{path}: a block does not end"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("path", PAGES, ids=name_of)
async def test_a_page_prints_what_it_says(
    path: Path, tmp_path: Path, tidelock_coordinator: Coordinator
) -> None:
    page = Page(path)
    program = "\n".join(page.lines).replace(ADDRESS, tidelock_coordinator.url)
    script = tmp_path / path.with_suffix(".py").name
    script.write_text(f"{program}\n", encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", script.name),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    *printed, rest = out.decode().split("\0")
    assert rest == ""
    assert len(printed) == len(page.printed)
    for said, expected in zip(printed, page.printed, strict=True):
        assert expected is None or said == expected
    await asyncio.to_thread(tidelock_coordinator.assert_clean)


def test_every_page_is_listed_in_the_index() -> None:
    index = (ROOT / "docs" / "SDK.md").read_text(encoding="utf-8")
    missing = [path.name for path in PAGES if f"(sdk/{path.name}" not in index]
    assert not missing, f"docs/SDK.md does not lead to {missing}"


def test_every_page_shows_something_that_runs() -> None:
    idle = [path.name for path in PAGES if not Page(path).printed]
    assert not idle, f"no block of these pages is marked `python`: {idle}"
