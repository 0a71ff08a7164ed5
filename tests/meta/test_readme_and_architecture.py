"""The documents that newcomers read first show what really comes out, and leave no module out."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

from tests.meta.documents import ROOT, name_of, split_code

README_FILES = [ROOT / "README.md", ROOT / "README.zh.md"]
ROOMS = ("node", "api", "services", "statemachine", "sdk/src/tidelock", "testing", "examples")


@pytest.mark.parametrize("readme", README_FILES, ids=name_of)
def test_the_examples_of_a_readme_show_what_really_comes_out(readme: Path) -> None:
    failures, tried = doctest.testfile(str(readme), module_relative=False)
    assert tried > 0
    assert failures == 0


def test_the_two_readmes_show_the_same_code() -> None:
    english, chinese = (split_code(path.read_text(encoding="utf-8"))[1] for path in README_FILES)
    assert chinese == english


def test_the_architecture_names_every_module() -> None:
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = {target.removeprefix("../") for target in re.findall(r"\]\(([^)#]+\.py)\)", text)}
    # Configuration is a room of its own, of which the architecture names the doors.
    missing = [
        name_of(module)
        for room in ROOMS
        for module in sorted((ROOT / room).rglob("*.py"))
        if module.name != "__init__.py" and "config" not in module.parts
        if name_of(module) not in named
    ]
    assert not missing, f"docs/ARCHITECTURE.md does not say what these are about: {missing}"
