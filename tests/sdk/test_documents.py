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
from typing import Final

import pytest

from tests.databases.servers import Server
from tests.meta.documents import ROOT, name_of
from tests.meta.sdk_pages import ADDRESS, PAGES, Page
from tidelock.testing import Coordinator

PORTS: Final = {"3306": "mariadb", "5432": "postgresql"}
"""Where a page finds servers, each with an empty database `shop`."""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("path", PAGES, ids=name_of)
async def test_a_page_prints_what_it_says(
    path: Path, tmp_path: Path, tidelock_coordinator: Coordinator, request: pytest.FixtureRequest
) -> None:
    page = Page(path)
    program = page.program.replace(ADDRESS, tidelock_coordinator.url)
    for port, kind in PORTS.items():
        if f"port={port}" in program:
            server: Server = request.getfixturevalue(kind)
            name = request.getfixturevalue(f"{kind}_database")
            program = program.replace(f"port={port}", f"port={server.port}")
            # Each kind of server has a database of this name, spelled as its driver wants it.
            spelled = {"mariadb": ('database="shop"', f'database="{name}"')}
            before, after = spelled.get(kind, ("dbname=shop", f"dbname={name}"))
            program = program.replace(before, after)
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
    # The page's process has ended, so what it was still to be told waits for the next one.
    await asyncio.to_thread(tidelock_coordinator.assert_clean, guards=False)
