"""The client's examples in the SDK's README are run as they stand there."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

from tests.integration.serving import serving

README = Path(__file__).parents[2] / "sdk" / "README.md"

EXAMPLES = re.findall(
    r"```python\n((?:import|from)[^`]*?)```\n\nIt prints:\n\n```text\n([^`]*)```",
    README.read_text(encoding="utf-8"),
)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 3


@pytest.mark.parametrize(
    ("program", "printed"), EXAMPLES, ids=["asyncio", "blocking", "transactions"]
)
async def test_an_example_prints_what_the_readme_says(
    program: str, printed: str, tmp_path: Path
) -> None:
    async with serving() as api:
        # Both addresses become that of the one node. It names others, which are nobody's.
        here = f'"http://127.0.0.1:{api.port}"'
        program = re.sub(r"\[\"http[^\]]*\]", f"[{here}], discover=False", program)
        script = tmp_path / "example.py"
        script.write_text(program, encoding="utf-8")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", str(script)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
    assert (out.decode(), err.decode()) == (printed, "")
