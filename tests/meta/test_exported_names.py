"""What applications may import, and nothing else by accident."""

from __future__ import annotations

import ast
import doctest
import sys
from importlib import resources
from pathlib import Path

import tidelock.client
import tidelock.clocks
import tidelock.errors
from tests.meta.documents import ROOT


def test_the_clocks_export_these_names() -> None:
    assert tidelock.clocks.__all__ == [
        "ClockError",
        "ClockOverflowError",
        "ClockSkewError",
        "ClockValueError",
        "Dot",
        "DottedVersionVector",
        "DottedVersionVectorSet",
        "Floor",
        "HybridClock",
        "HybridTimestamp",
        "IntervalTreeClock",
        "LamportClock",
        "Pruned",
        "Relation",
        "Retirements",
        "UndecidedError",
        "VectorClock",
        "VersionVector",
        "WireFormatError",
        "compare",
        "covers",
        "merge",
    ]


def test_the_client_exports_these_names() -> None:
    assert tidelock.client.__all__ == [
        "Applied",
        "BlockingClient",
        "BlockingLock",
        "BusinessCall",
        "Client",
        "Lock",
        "MessageStep",
        "Retry",
        "RowsToLock",
        "SagaStep",
        "TccBranch",
    ]


def test_the_errors_are_drawn_in_their_module() -> None:
    drawn = tidelock.errors.__doc__
    assert drawn is not None
    for name, error in vars(tidelock.errors).items():
        if isinstance(error, type) and issubclass(error, Exception):
            assert f" {name}" in drawn, name


def test_every_public_name_of_the_clocks_is_exported_or_a_module() -> None:
    modules = {
        module.stem
        for module in Path(str(resources.files(tidelock.clocks))).glob("*.py")
        if module.stem != "__init__"
    }
    public = {name for name in vars(tidelock.clocks) if not name.startswith("_")}
    assert public - modules == set(tidelock.clocks.__all__)


def test_every_exported_name_is_documented() -> None:
    for name in tidelock.clocks.__all__:
        exported = getattr(tidelock.clocks, name)
        assert exported.__doc__, f"{name} has no docstring"
        members = [member for key, member in vars(exported).items() if not key.startswith("_")]
        assert all(member.__doc__ for member in members if callable(member)), name


def test_the_clocks_import_nothing_that_is_not_a_pure_part_of_the_standard_library() -> None:
    pure = {
        *("__future__", "base64", "collections", "dataclasses", "enum", "hashlib", "json"),
        *("types", "typing", "tidelock"),
    }
    assert pure - {"tidelock"} <= sys.stdlib_module_names
    for source in Path(str(resources.files(tidelock.clocks))).glob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.module is not None
                assert node.module.partition(".")[0] in pure, f"{source.name}: {node.module}"
            elif isinstance(node, ast.Import):
                assert {name.name.partition(".")[0] for name in node.names} <= pure, source.name


def test_the_sdk_tells_type_checkers_that_it_is_typed() -> None:
    assert resources.files("tidelock").joinpath("py.typed").is_file()


def test_the_examples_of_the_sdk_show_what_really_comes_out() -> None:
    failures, tried = doctest.testfile(str(ROOT / "sdk" / "README.md"), module_relative=False)
    assert tried > 0
    assert failures == 0
