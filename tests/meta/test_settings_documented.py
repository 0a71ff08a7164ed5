"""Every setting is in the code, in the annotated sample and in the documents, and all agree."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest

from node.config import Config, ConfigError, load
from node.config.address import Address
from node.config.declared import Setting, cluster_node_settings, sections, settings
from node.config.reference import DOCUMENT, SAMPLE, effective, sample, with_table

ALL_SETTINGS = list(settings().values())
RENEW = "run `python -m node.config.reference`"


def uncommented(text: str) -> str:
    """Return the sample with every commented-out setting switched on."""
    return re.sub(r"(?m)^# ([a-z_]+ = )", r"\1", text)


def test_the_sample_is_what_the_settings_say() -> None:
    assert SAMPLE.read_text(encoding="utf-8") == sample(), RENEW


def test_the_reference_is_what_the_settings_say() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    assert document == with_table(document), RENEW


def test_every_field_of_the_configuration_is_a_setting() -> None:
    fields = [
        f"{section}.{field.name}"
        for section in (field.name.replace("_", ".") for field in dataclasses.fields(Config))
        for field in dataclasses.fields(sections()[section])
    ]
    assert fields == list(settings())


def test_the_sample_names_every_setting_once_and_no_other() -> None:
    text = SAMPLE.read_text(encoding="utf-8")
    found: list[str] = []
    section = ""
    for line in text.splitlines():
        if header := re.fullmatch(r"\[([\w.]+)\]", line):
            section = header[1]
        elif name := re.match(r"(?:# )?([a-z_]+) = ", line):
            found.append(f"{section}.{name[1]}")
    assert found == list(settings())


def test_the_sample_shows_the_defaults() -> None:
    tree = tomllib.loads(uncommented(SAMPLE.read_text(encoding="utf-8")))
    for setting in ALL_SETTINGS:
        if setting.has_default:
            table = tree
            for part in setting.section.split("."):
                table = table[part]
            shown = table[setting.name]
            default = setting.default
            if isinstance(default, tuple):
                default = list(default)
            elif isinstance(default, Address):
                default = str(default)
            assert shown == ("" if default is None else default), setting.key


def test_the_sample_with_everything_switched_on_means_what_it_means_as_it_stands(
    tmp_path: Path,
) -> None:
    text = SAMPLE.read_text(encoding="utf-8")
    file = tmp_path / "cluster.conf"
    file.write_text(text, encoding="utf-8")
    as_it_stands = load(file, overrides={"node.id": "n1"})
    file.write_text(uncommented(text), encoding="utf-8")
    assert load(file) == as_it_stands


def test_what_is_in_force_can_be_loaded_again(tmp_path: Path) -> None:
    overrides = {"node.id": "n3", "cluster.dial_overrides": "n1=127.0.0.1:1", "log.level": "error"}
    config = load(SAMPLE, overrides=overrides)
    file = tmp_path / "cluster.conf"
    file.write_text(effective(config), encoding="utf-8")
    assert load(file) == config


@pytest.mark.parametrize("setting", ALL_SETTINGS, ids=lambda setting: str(setting.key))
def test_a_setting_says_what_it_means_and_when_it_has_no_default(setting: Setting) -> None:
    assert setting.meaning.endswith(".")
    assert len(setting.meaning) > 20
    assert setting.has_default or setting.rule or setting.key == "cluster.nodes"
    if setting.kind is int:
        assert setting.minimum is not None
        assert setting.maximum is not None
        assert isinstance(setting.default, int)
        assert setting.minimum <= setting.default <= setting.maximum


def test_the_document_names_every_setting_in_its_table() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| `([\w.\[\]]+)` \|", document)
    nested = [setting.key for setting in cluster_node_settings().values()]
    assert sorted(rows) == sorted([*settings(), *nested])


def test_the_mistakes_shown_in_the_document_are_reported_in_these_words(tmp_path: Path) -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    example = re.search(r"```\n(the configuration has .*?)\n```", document, re.DOTALL)
    assert example is not None
    file = tmp_path / "cluster.conf"
    file.write_text(
        SAMPLE.read_text(encoding="utf-8")
        .replace("# election_timeout_min_ms = 300", "election_timeout_min_ms = 100")
        .replace("# interval_ms = 1000\n", "intervall_ms = 1000\n"),
        encoding="utf-8",
    )
    with pytest.raises(ConfigError) as caught:
        load(file, overrides={"node.id": "n1"})
    assert sorted(str(caught.value).splitlines()) == sorted(example[1].splitlines())


def test_the_list_of_peers_in_the_document_can_be_loaded(tmp_path: Path) -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    example = re.search(r"```\n(# three machines.*?)\n```", document, re.DOTALL)
    assert example is not None
    file = tmp_path / "cluster.conf"
    file.write_text(example[1], encoding="utf-8")
    environ = {"TIDELOCK_SECURITY_INSECURE": "true"}
    config = load(file, environ=environ, overrides={"node.id": "n1"})
    assert [node.api.port for node in config.cluster.nodes] == [7101, 7101, 7101]
