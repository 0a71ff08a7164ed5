"""The command `tidelock`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.databases.connections import Database
from tidelock.command_line.commands import DIALECTS, TABLES, tidelock

RUN = Path(sys.executable).with_name("tidelock")


def said(*arguments: str) -> str:
    done = CliRunner().invoke(tidelock, arguments)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("database", DIALECTS, indirect=True)
def test_the_printed_statements_make_the_table(database: Database, name: str) -> None:
    for _ in range(2):
        database.sql(*statements(said(name, "ddl", "--dialect", database.dialect)))


def statements(text: str) -> list[str]:
    return [each.strip() for each in text.split(";\n") if each.strip()]


@pytest.mark.parametrize("name", TABLES)
def test_the_table_may_have_another_name(name: str) -> None:
    assert "mine" in said(name, "ddl", "--dialect", "sqlite", "--table", "mine")


@pytest.mark.parametrize(
    "arguments",
    [
        ["undo-log", "ddl"],
        ["undo-log", "ddl", "--dialect", "oracle"],
        ["barrier", "ddl", "--dialect", "mysql", "--table", "a b"],
    ],
)
def test_what_cannot_be_is_refused_with_the_option(arguments: list[str]) -> None:
    done = CliRunner().invoke(tidelock, arguments)
    assert done.exit_code == 2
    assert "--dialect" in done.output or "--table" in done.output


def test_the_command_is_installed_and_knows_its_version() -> None:
    done = subprocess.run([RUN, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("tidelock, version 0.")


def test_without_its_extra_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['click'] = None\n"
        "from tidelock.command_line.entry import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().endswith('pip install "tidelock[cli]"')
