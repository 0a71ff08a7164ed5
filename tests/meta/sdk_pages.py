"""The pages of docs/sdk as programs."""

from __future__ import annotations

from pathlib import Path

from tests.meta.documents import FENCE, ROOT

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

    @property
    def program(self) -> str:
        """All of it."""
        return "\n".join([*self.lines, ""])
