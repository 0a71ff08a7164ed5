"""Layers of configuration: the file, then environment variables, then the command line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from node.config.declared import Setting, environment_name, sections, settings
from node.config.peer_list import is_peer_list, read_peer_list
from node.config.problems import Problem
from node.config.values import (
    UnusableValueError,
    convert,
    did_you_mean,
    problems_of,
    shown,
    value_from_text,
)

GREATEST_FILE_BYTES: Final = 1 << 20

COMMAND_LINE: Final = "the command line"

# Kubernetes sets such variables for a service whose name begins with tidelock.
_SERVICE_LINK: Final = re.compile(
    r"_(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_[0-9]+_(?:TCP|UDP|SCTP)(?:_\w+)?)?)\Z"
)


@dataclass(slots=True)
class Draft:
    """Values that were given, by key, and everything found wrong on the way."""

    values: dict[str, object] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    """Keys without a usable value; rules that need one of them are not judged."""

    def origin_of(self, key: str) -> str:
        return self.origins.get(key, "default")

    def take(self, setting: Setting, value: object, *, origin: str, base: Path) -> None:
        """Accept a value as TOML gave it; later layers replace earlier ones."""
        self.origins[setting.key] = origin
        try:
            self.values[setting.key] = convert(setting, value, base=base)
        except UnusableValueError as error:
            self.reject(setting, error, origin)

    def take_text(self, setting: Setting, text: str, *, origin: str, base: Path) -> None:
        try:
            value = value_from_text(setting, text)
        except UnusableValueError as error:
            self.reject(setting, error, origin)
        else:
            self.take(setting, value, origin=origin, base=base)

    def reject(self, setting: Setting, error: UnusableValueError, origin: str) -> None:
        self.problems += problems_of(error, setting.key, origin)
        self.broken.add(setting.key)


def read_file(draft: Draft, path: Path) -> None:
    origin = path.name
    text = _text_of(draft, path)
    if text is None:
        return
    if is_peer_list(text):
        peers, problems = read_peer_list(text, origin)
        draft.origins["cluster.nodes"] = origin
        if problems:
            draft.problems += problems
            draft.broken.add("cluster.nodes")
        else:
            draft.take(settings()["cluster.nodes"], peers, origin=origin, base=path.parent)
        return
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        mend = "Mend the TOML there, or keep to one host:port a line for a plain list of peers"
        _file_problem(draft, str(path), f"it is not TOML: {error}", mend)
        return
    _read_tree(draft, tree, origin, path.parent)


def read_environment(draft: Draft, environ: Mapping[str, str], base: Path) -> None:
    """Take `TIDELOCK_<SECTION>_<KEY>`; other variables of that prefix are not ours to judge."""
    by_variable = {setting.variable: setting for setting in settings().values()}
    prefixes = tuple(environment_name(f"{section}_") for section in sections())
    for variable in sorted(environ):
        if setting := by_variable.get(variable):
            draft.take_text(setting, environ[variable], origin=variable, base=base)
        elif variable.startswith(prefixes) and not _SERVICE_LINK.search(variable):
            guess = did_you_mean(variable, by_variable)
            mend = f"Did you mean {guess}? If not, unset it" if guess else "Unset it"
            draft.problems.append(
                Problem(key="", origin=variable, wrong="it overrides no setting", mend=mend)
            )


def read_overrides(draft: Draft, overrides: Mapping[str, str], base: Path) -> None:
    """Take `section.name` → text from the command line.

    Raises:
        KeyError: a key is no setting; that is a fault of the program, not of its user.
    """
    for key, text in overrides.items():
        draft.take_text(settings()[key], text, origin=COMMAND_LINE, base=base)


def _text_of(draft: Draft, path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            content = file.read(GREATEST_FILE_BYTES + 1)
        if len(content) > GREATEST_FILE_BYTES:
            wrong, mend = f"it is larger than {GREATEST_FILE_BYTES} bytes", "Give the right file"
        else:
            return content.decode("utf-8-sig").replace("\r\n", "\n")
    except OSError as error:
        wrong = f"it cannot be read: {error.strerror}"
        mend = "Name a configuration with --config FILE; cluster.conf in the source is a sample"
    except UnicodeDecodeError as error:
        wrong, mend = f"byte {error.start} is not UTF-8", "Save the file as UTF-8"
    _file_problem(draft, str(path), wrong, mend)
    return None


def _file_problem(draft: Draft, origin: str, wrong: str, mend: str) -> None:
    draft.problems.append(Problem(key="", origin=origin, wrong=wrong, mend=mend))
    # What the file would have said is unknown, so nothing in it is judged as missing.
    draft.broken.update(settings())


def _read_tree(draft: Draft, tree: dict[str, object], origin: str, base: Path) -> None:
    for section, content in _flattened(tree).items():
        if section not in sections():
            draft.problems.append(_unknown_section(section, origin))
        elif not isinstance(content, dict):
            wrong = f"{shown(content)} stands where a section should"
            mend = f"Write [{section}] on a line of its own and the settings below it"
            draft.problems.append(Problem(key=section, origin=origin, wrong=wrong, mend=mend))
        else:
            for name, value in content.items():
                if setting := settings().get(f"{section}.{name}"):
                    draft.take(setting, value, origin=origin, base=base)
                else:
                    draft.problems.append(_unknown_key(section, name, origin))


def _flattened(tree: dict[str, object]) -> dict[str, object]:
    """Return the tables by section: one that only holds others, as `gateways`, is none itself."""
    groups = {section.partition(".")[0] for section in sections() if "." in section}
    found: dict[str, object] = {}
    for name, content in tree.items():
        if name in groups and isinstance(content, dict):
            found |= {f"{name}.{inner}": each for inner, each in content.items()}
        else:
            found[name] = content
    return found


def _unknown_section(section: str, origin: str) -> Problem:
    homes = [setting.section for setting in settings().values() if setting.name == section]
    if homes:
        return Problem(
            key=section,
            origin=origin,
            wrong="it stands outside its section",
            mend=f"Put it under [{homes[0]}]",
        )
    guess = did_you_mean(section, sections())
    known = ", ".join(f"[{name}]" for name in sections())
    mend = f"Did you mean [{guess}]? If not, remove it" if guess else f"The sections are {known}"
    return Problem(key=section, origin=origin, wrong="there is no such section", mend=mend)


def _unknown_key(section: str, name: str, origin: str) -> Problem:
    of_section = [setting.name for setting in settings().values() if setting.section == section]
    homes = [setting.section for setting in settings().values() if setting.name == name]
    if homes:
        mend = f"Put it under [{homes[0]}]"
    elif guess := did_you_mean(name, of_section):
        mend = f"Did you mean {section}.{guess}? If not, remove it"
    else:
        mend = f"Remove it; [{section}] has " + ", ".join(of_section)
    return Problem(
        key=f"{section}.{name}", origin=origin, wrong="there is no such setting", mend=mend
    )
