"""Type checkers see all that applications use."""

from __future__ import annotations

import ast
import tomllib

import pytest

import tidelock
import tidelock.testing
from tests.meta.documents import ROOT

SAMPLE = ROOT / "tests" / "meta" / "public_surface.py"


def _dotted(node: ast.expr) -> str:
    match node:
        case ast.Attribute(value=value, attr=attr):
            return f"{_dotted(value)}.{attr}"
        case ast.Name(id=name):
            return name
    return ""


def test_every_public_name_is_in_the_sample() -> None:
    tree = ast.parse(SAMPLE.read_text(encoding="utf-8"))
    used = {_dotted(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    public = {f"tidelock.{name}" for name in tidelock.__all__}
    public |= {f"tidelock.testing.{name}" for name in tidelock.testing.__all__}
    assert not public - used, "tests/meta/public_surface.py says nothing of these"


def test_the_sample_is_checked_strictly() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert settings["strict"] is True
    assert "tests" in settings["files"]
    assert not [
        override
        for override in settings.get("overrides", [])
        if any("tests" in module for module in override["module"])
    ]
    source = SAMPLE.read_text(encoding="utf-8")
    assert "type: ignore" not in source
    assert "cast(" not in source


def test_every_public_name_is_documented() -> None:
    undocumented = [
        name for name in tidelock.__all__ if not getattr(tidelock, name).__doc__
    ]  # fmt: skip
    assert not undocumented


def test_names_are_those_that_are_exported() -> None:
    assert sorted(tidelock.__all__) == tidelock.__all__
    assert dir(tidelock) == tidelock.__all__


@pytest.mark.parametrize("package", ["tidelock", "tidelock_testing"])
def test_the_packages_tell_type_checkers_that_they_are_typed(package: str) -> None:
    places = {"tidelock": ROOT / "sdk" / "src", "tidelock_testing": ROOT / "testing" / "src"}
    assert (places[package] / package / "py.typed").is_file()
