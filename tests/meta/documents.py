"""The repository's text files, as the tests about them read them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^(```|~~~)")
HEADING = re.compile(r"^(#{1,6}) +(.*?) *#*$")


def files(*suffixes: str) -> list[Path]:
    """All files of the checkout with one of the suffixes, but for what tools keep in hidden folders
    and in caches.
    """
    return sorted(
        path
        for path in _walk(ROOT)
        if path.suffix in suffixes and not path.is_symlink() and path.is_file()
    )


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir():
            if not path.name.startswith((".", "__")) and path.name not in {"dist", "build"}:
                yield from _walk(path)
        else:
            yield path


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def split_code(text: str) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Separate prose from fenced code: the lines of prose, and (language, lines) of each block."""
    prose: list[str] = []
    blocks: list[tuple[str, list[str]]] = []
    fence = ""
    for line in text.splitlines():
        stripped = line.strip()
        if fence:
            if stripped == fence:
                fence = ""
            else:
                blocks[-1][1].append(line)
        elif opening := FENCE.match(stripped):
            fence = opening.group(1)
            blocks.append((stripped[3:].strip(), []))
        else:
            prose.append(line)
    return prose, blocks


def headings(path: Path) -> list[tuple[int, str]]:
    """(level, text) of each heading, in order."""
    prose, _ = split_code(path.read_text(encoding="utf-8"))
    found = (HEADING.match(line) for line in prose)
    return [(len(heading.group(1)), heading.group(2)) for heading in found if heading]


def anchors(path: Path) -> set[str]:
    """What a link may name after `#`: the headings, as code hosts turn them into anchors."""
    seen: dict[str, int] = {}
    found: set[str] = set()
    for _, text in headings(path):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("`", "").lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        repeated = seen.get(slug, 0)
        seen[slug] = repeated + 1
        found.add(f"{slug}-{repeated}" if repeated else slug)
    return found
