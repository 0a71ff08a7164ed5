"""The example of docs/sdk/PROPAGATION.md is run as it stands there."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "sdk" / "PROPAGATION.md"
(EXAMPLE,) = re.findall(
    r"```python\n(import[^`]*(?:`[^`]+`[^`]*)*?)```\n\nIt prints:\n\n```text\n([^`]*)```",
    PAGE.read_text(encoding="utf-8"),
)


async def test_the_example_prints_what_the_page_says(tmp_path: Path) -> None:
    program, printed = EXAMPLE
    script = tmp_path / "example.py"
    script.write_text(program, encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", str(script)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert out.decode() == printed
    (warning,) = err.decode().splitlines()
    assert "calls to elsewhere.example:80 within a transaction are no part of it" in warning
