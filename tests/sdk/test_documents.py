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

from tests.meta.documents import ROOT, name_of
from tests.meta.sdk_pages import ADDRESS, PAGES, Page
from tidelock.testing import Coordinator


@pytest.mark.timeout(120)
@pytest.mark.parametrize("path", PAGES, ids=name_of)
async def test_a_page_prints_what_it_says(
    path: Path, tmp_path: Path, tidelock_coordinator: Coordinator
) -> None:
    page = Page(path)
    program = page.program.replace(ADDRESS, tidelock_coordinator.url)
    script = tmp_path / path.with_suffix(".py").name
    script.write_text(program, encoding="utf-8")
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
