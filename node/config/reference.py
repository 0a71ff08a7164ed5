"""The settings as documents: the annotated sample, the reference table, and what is in force.

`python -m node.config.reference` rewrites `cluster.conf` and the table in docs/CONFIGURATION.md; a
test compares both with the settings.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from node.config.address import Address
from node.config.declared import (
    Setting,
    cluster_node_settings,
    field_of,
    sections,
    settings,
)
from node.config.sections import ClusterNode, Config
from node.config.values import OPTIONAL_PATH

ROOT: Final = Path(__file__).resolve().parents[2]
SAMPLE: Final = ROOT / "cluster.conf"
DOCUMENT: Final = ROOT / "docs" / "CONFIGURATION.md"

TABLE_BEGIN: Final = "<!-- settings: written by `python -m node.config.reference` -->"
TABLE_END: Final = "<!-- end of settings -->"

_WIDTH: Final = 96

_SAMPLE_HEAD: Final = """\
# Configuration of a Tidelock cluster (TOML).
#
# One file serves all nodes; each is told which one it is:
#     python -m node --config cluster.conf --node-id n1
# A setting that is commented out is shown with its default. An environment variable
# TIDELOCK_<SECTION>_<KEY> overrides any of them, as in TIDELOCK_LOG_LEVEL=debug.
# `python -m node --check-config` reports every mistake at once.
# docs/CONFIGURATION.md says more. This file is written by `python -m node.config.reference`.
"""

_SAMPLE_NODES: Final = tuple(
    ClusterNode(
        id=f"n{number}",
        api=Address("127.0.0.1", 7100 + number),
        peer=Address("127.0.0.1", 7200 + number),
    )
    for number in (1, 2, 3)
)

_EXAMPLES: Final = {
    "node.id": "n1",
    "node.data_dir": ".tidelock/n1",
    "node.api_address": Address("127.0.0.1", 7101),
    "node.peer_address": Address("127.0.0.1", 7201),
    "node.advertise_api_address": Address("127.0.0.1", 7101),
    "node.advertise_peer_address": Address("127.0.0.1", 7201),
}
"""Shown, commented out, where the default follows from other settings: as it would for n1."""


def sample() -> str:
    """Return the text of the annotated `cluster.conf`."""
    parts = [_SAMPLE_HEAD]
    for section in sections():
        parts.append(f"\n# {_summary(section)}\n[{section}]\n")
        parts.extend(_annotated(setting) for setting in settings_of(section))
    return "".join(parts)


def table() -> str:
    """Return the reference of all settings, in Markdown."""
    parts: list[str] = []
    for section in sections():
        rows = settings_of(section)
        if section == "cluster":
            rows = [rows[0], *cluster_node_settings().values(), *rows[1:]]
        lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
        lines.extend(_row(setting) for setting in rows)
        parts.append(f"### [{section}]\n\n{_summary(section)}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def effective(config: Config) -> str:
    """Return what is in force, as TOML that could be loaded again."""
    parts: list[str] = []
    for section in sections():
        lines = [f"[{section}]"]
        for setting in settings_of(section):
            value = getattr(getattr(config, field_of(section)), setting.name)
            lines.append(f"{setting.name} = {as_toml(value)}")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def settings_of(section: str) -> list[Setting]:
    return [setting for setting in settings().values() if setting.section == section]


def as_toml(value: object) -> str:
    """Return a setting's value as TOML writes it."""
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case ClusterNode():
            return _inline({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
        case Mapping():
            return _inline(value)
        case None:
            return '""'
        case tuple() if all(isinstance(item, str) for item in value):
            return "[" + ", ".join(as_toml(item) for item in value) + "]"
        case tuple():
            return "[\n" + "".join(f"    {as_toml(item)},\n" for item in value) + "]"
        case _:
            return json.dumps(str(value), ensure_ascii=False)


def _inline(value: Mapping[str, object]) -> str:
    pairs = ", ".join(f"{_toml_key(key)} = {as_toml(item)}" for key, item in value.items())
    return f"{{ {pairs} }}" if pairs else "{}"


def _toml_key(key: str) -> str:
    return json.dumps(key) if "." in key else key


def _summary(section: str) -> str:
    return inspect.cleandoc(sections()[section].__doc__ or "")


def _annotated(setting: Setting) -> str:
    meaning = setting.meaning
    if setting.minimum is not None:
        meaning += f" From {setting.minimum} to {setting.maximum}."
    if setting.rule:
        meaning += f" Default: {setting.rule}."
    comment = textwrap.fill(
        meaning.replace("`", ""),
        _WIDTH,
        initial_indent="# ",
        subsequent_indent="# ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    if setting.key == "cluster.nodes":
        line = f"nodes = {as_toml(_SAMPLE_NODES)}"
    else:
        shown = setting.default if setting.has_default else _EXAMPLES[setting.key]
        line = f"# {setting.name} = {as_toml(shown)}"
    return f"\n{comment}\n{line}\n"


def _row(setting: Setting) -> str:
    default = "required"
    if setting.rule:
        default = setting.rule
    elif setting.has_default:
        default = f"`{as_toml(setting.default)}`"
    cells = (f"`{setting.key}`", _kind(setting), default, setting.meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _kind(setting: Setting) -> str:
    if setting.minimum is not None:
        return f"{setting.minimum} to {setting.maximum}"
    if choices := getattr(setting.kind, "__members__", None):
        return ", ".join(f"`{as_toml(choice.value)}`" for choice in choices.values())
    known = {
        bool: "`true`, `false`",
        str: "text",
        tuple[str, ...]: "list",
        Path: "path",
        OPTIONAL_PATH: "path",
        Address: "`host:port`",
    }
    return known.get(setting.kind, "list" if setting.name == "nodes" else "table")


def with_table(document: str) -> str:
    """Return the document with its table renewed."""
    pattern = re.compile(re.escape(TABLE_BEGIN) + ".*?" + re.escape(TABLE_END), re.DOTALL)
    renewed, count = pattern.subn(lambda _: f"{TABLE_BEGIN}\n\n{table()}\n{TABLE_END}", document)
    if count != 1:
        raise ValueError(f"the document holds {count} tables of settings, not one")
    return renewed


if __name__ == "__main__":
    SAMPLE.write_text(sample(), encoding="utf-8")
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
