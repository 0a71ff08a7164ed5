"""What the documents say about the repository is so."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from api.watch_messages import KINDS
from tests.meta.documents import ROOT, anchors, files, headings, name_of, split_code

LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
REFERENCE = re.compile(r"^\[[^\]]+\]:\s+<?(\S+?)>?(?:\s|$)")
ELSEWHERE = re.compile(r"^[a-z][a-z0-9+.-]*:")
# Folders in which machines keep somebody's files.
MACHINE_PATH = re.compile(r"(?<![\w.}])/(?:work|root|home|Users)/\w")
SHELL_LANGUAGES = {"sh", "bash", "shell", "console"}
# What a reader has on any machine, apart from what the repository itself brings.
ORDINARY_COMMANDS = {"cd", "curl", "docker", "export", "git", "kill", "make", "pip", "uv"}

documents = files(".md")


@pytest.mark.parametrize("document", documents, ids=name_of)
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    prose, _ = split_code(document.read_text(encoding="utf-8"))
    broken = []
    for line in prose:
        shown = re.sub(r"`[^`]*`", "", line)
        for target in LINK.findall(shown) + REFERENCE.findall(shown):
            if ELSEWHERE.match(target):
                continue
            place, _, anchor = target.partition("#")
            path = (document.parent / place).resolve() if place else document
            if not path.exists() or not path.is_relative_to(ROOT):
                broken.append(f"{target}: no such file")
            elif anchor and path.suffix == ".md" and anchor not in anchors(path):
                broken.append(f"{target}: no such heading")
    assert not broken, "\n".join(broken)


def test_the_two_readmes_have_the_same_structure() -> None:
    english, chinese = ROOT / "README.md", ROOT / "README.zh.md"
    assert english.exists(), "README.zh.md has no README.md beside it"
    assert chinese.exists(), "README.md has no README.zh.md beside it"

    def levels(path: Path) -> list[int]:
        return [level for level, _ in headings(path)]

    def languages(path: Path) -> list[str]:
        return [language for language, _ in split_code(path.read_text(encoding="utf-8"))[1]]

    assert levels(chinese) == levels(english), (headings(english), headings(chinese))
    assert languages(chinese) == languages(english)


@pytest.mark.parametrize(
    "file", files(".md", ".py", ".pyi", ".toml", ".conf", ".yaml", ".yml"), ids=name_of
)
def test_no_file_names_a_place_on_somebodys_machine(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    named = [f"{n}: {line.strip()}" for n, line in enumerate(lines, 1) if MACHINE_PATH.search(line)]
    assert not named, "\n".join(named)


def commands(document: Path) -> list[list[str]]:
    """The commands in shell blocks, as words. In a console block only lines with a prompt count."""
    _, blocks = split_code(document.read_text(encoding="utf-8"))
    found = []
    for language, lines in blocks:
        if language not in SHELL_LANGUAGES:
            continue
        joined = "\n".join(lines).replace("\\\n", " ").splitlines()
        if language == "console":
            joined = [line[2:] for line in joined if line.startswith("$ ")]
        for line in joined:
            if words := re.sub(r"(^|\s)#.*", "", line).split():
                found.append(words)
    return found


readmes = [path for path in documents if path.parent == ROOT]


@pytest.mark.parametrize("document", readmes, ids=name_of)
def test_every_command_shown_exists(document: Path) -> None:
    missing = []
    for words in commands(document):
        first = words[0]
        if "/" in first:
            path = ROOT / first
            if not path.is_file() or not path.stat().st_mode & 0o100:
                missing.append(f"{first}: no such executable file")
        elif first not in ORDINARY_COMMANDS and not (ROOT / ".venv" / "bin" / first).exists():
            missing.append(f"{first}: neither an ordinary command nor in the environment")
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize("document", readmes, ids=name_of)
def test_every_subcommand_of_the_cluster_script_shown_exists(document: Path) -> None:
    shown = {
        words[1]
        for words in commands(document)
        if words[0] == "scripts/cluster" and len(words) > 1 and not words[1].startswith("-")
    }
    if not shown:
        return
    answer = subprocess.run(
        [ROOT / "scripts" / "cluster", "--help"], capture_output=True, text=True, check=True
    )
    known = set(re.findall(r"[a-z]+", answer.stdout))
    assert shown <= known, f"scripts/cluster does not know: {sorted(shown - known)}"


@pytest.mark.parametrize("document", documents, ids=name_of)
def test_every_script_and_make_target_mentioned_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    missing = {
        f"scripts/{script}"
        for script in re.findall(r"(?<![\w/])scripts/([a-z_]+(?:\.cfg)?)", text)
        if not (ROOT / "scripts" / script).exists()
    }
    missing |= {
        f"make {target}"
        for target in re.findall(r"(?:`|^\s*\$? ?)make ([a-z]+)", text, re.MULTILINE)
        if target not in targets
    }
    assert not missing, sorted(missing)


def test_every_decision_record_is_listed_and_has_the_agreed_headings() -> None:
    folder = ROOT / "docs" / "adr"
    index = (folder / "README.md").read_text(encoding="utf-8")
    records = sorted(folder.glob("[0-9]*.md"))
    assert records
    for number, record in enumerate(records, 1):
        assert record.name.startswith(f"{number:04}-"), f"{record.name} breaks the numbering"
        assert f"({record.name})" in index, f"{record.name} is not listed in docs/adr/README.md"
        (_, title), *sections = headings(record)
        assert title.startswith(f"{number:04}. ")
        assert f"{number:04}]({record.name}) {title[6:]}" in index, f"{record.name}: other title"
        assert [text for _, text in sections] == [
            "Context",
            "Decision",
            "Consequences",
            "Alternatives",
        ]
        assert re.search(r"^Status: (accepted|superseded by \d{4})$", record.read_text(), re.M)


def test_every_kind_of_change_is_listed_where_watching_is_described() -> None:
    text = (ROOT / "docs" / "WATCH.md").read_text(encoding="utf-8")
    missing = [kind for kind in KINDS if f"`{kind}`" not in text]
    assert not missing, f"docs/WATCH.md does not say what these are: {missing}"


def test_the_shell_can_read_every_shell_script() -> None:
    bash = shutil.which("bash")
    assert bash
    for script in (ROOT / "scripts").iterdir():
        if script.is_file() and b"bash" in script.read_bytes().partition(b"\n")[0]:
            subprocess.run([bash, "-n", script], check=True)
