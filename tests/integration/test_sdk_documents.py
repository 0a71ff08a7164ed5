"""What the example of PROPAGATION.md logs; tests/sdk runs the examples of all pages."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

PAGES = Path(__file__).parents[2] / "docs" / "sdk"
EXAMPLE = re.compile(r"```python\n(import.*?)```\n\nIt prints:\n\n```text\n([^`]*)```", re.DOTALL)


async def run(page: str, folder: Path) -> tuple[str, str, str]:
    """Run the example of a page; return what it prints, what it should, and its errors."""
    ((program, printed),) = EXAMPLE.findall((PAGES / page).read_text(encoding="utf-8"))
    script = folder / "example.py"
    script.write_text(program, encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", str(script)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return out.decode(), printed, err.decode()


async def test_the_example_of_propagation_also_warns_as_its_page_says(tmp_path: Path) -> None:
    out, printed, errors = await run("PROPAGATION.md", tmp_path)
    assert out == printed
    (warning,) = errors.splitlines()
    assert "calls to elsewhere.example:80 within a transaction are no part of it" in warning
