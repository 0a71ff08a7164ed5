"""Type checkers see all that applications use."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

import tidelock
import tidelock.barrier
import tidelock.client
import tidelock.clocks
import tidelock.messages
import tidelock.saga
import tidelock.services
import tidelock.testing
import tidelock.xa
from tests.meta.documents import ROOT

SDK = ROOT / "sdk" / "src"
INNER = {"tidelock.client.answers"}
"""What lists names for other packages of the SDK."""
SAMPLE = ROOT / "tests" / "meta" / "public_surface.py"
SAMPLES = {
    SAMPLE: [tidelock, tidelock.testing],
    ROOT / "tests" / "meta" / "public_packages.py": [
        tidelock.barrier,
        tidelock.client,
        tidelock.clocks,
        tidelock.messages,
        tidelock.saga,
        tidelock.services,
        tidelock.xa,
    ],
}


def _dotted(node: ast.expr) -> str:
    match node:
        case ast.Attribute(value=value, attr=attr):
            return f"{_dotted(value)}.{attr}"
        case ast.Name(id=name):
            return name
    return ""


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.stem)
def test_every_public_name_is_in_a_sample(sample: Path) -> None:
    tree = ast.parse(sample.read_text(encoding="utf-8"))
    used = {_dotted(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    public = {f"{each.__name__}.{name}" for each in SAMPLES[sample] for name in each.__all__}
    assert not public - used, f"{sample.name} says nothing of these"


def test_every_package_with_public_names_has_a_sample() -> None:
    """What is public is what a package lists."""
    sampled = {each.__name__ for packages in SAMPLES.values() for each in packages}
    listed = {
        ".".join(file.parent.relative_to(SDK).parts)
        for file in SDK.glob("tidelock/**/__init__.py")
        if "__all__" in file.read_text(encoding="utf-8")
    }
    assert listed - INNER == sampled


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.stem)
def test_the_sample_is_checked_strictly(sample: Path) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert settings["strict"] is True
    assert "tests" in settings["files"]
    assert not [
        override
        for override in settings.get("overrides", [])
        if any("tests" in module for module in override["module"])
    ]
    source = sample.read_text(encoding="utf-8")
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
