"""The declared settings as a list, for the reader and the documents."""

from __future__ import annotations

import dataclasses
import functools
import typing
from typing import Any, Final

from node.config.sections import ClusterNode, Config

ENVIRONMENT_PREFIX: Final = "TIDELOCK_"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    section: str
    name: str
    kind: Any
    """The annotated type, resolved."""
    meaning: str
    default: object
    """`dataclasses.MISSING` when the setting has none."""
    rule: str | None
    """How the value follows from others when it is left out."""
    minimum: int | None
    maximum: int | None

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable that overrides it."""
        return environment_name(f"{self.section}_{self.name}")

    @property
    def has_default(self) -> bool:
        return self.default is not dataclasses.MISSING


def environment_name(key: str) -> str:
    """Return the variable of a setting, or how those of a section begin."""
    return f"{ENVIRONMENT_PREFIX}{key}".upper().replace(".", "_")


@functools.cache
def sections() -> dict[str, type]:
    """Section name to the dataclass of its settings, in the order of the documents."""
    declared = typing.get_type_hints(Config)
    return {name.replace("_", "."): kind for name, kind in declared.items()}


def field_of(section: str) -> str:
    """Return the field of `Config` that holds a section: `gateways_dtm` of `gateways.dtm`."""
    return section.replace(".", "_")


@functools.cache
def settings() -> dict[str, Setting]:
    """Every setting by `section.name`."""
    found = [
        setting
        for section, declared in sections().items()
        for setting in _settings_of(section, declared)
    ]
    return {setting.key: setting for setting in found}


@functools.cache
def cluster_node_settings() -> dict[str, Setting]:
    """What one table in `cluster.nodes` holds, by name."""
    return {setting.name: setting for setting in _settings_of("cluster.nodes[]", ClusterNode)}


def _settings_of(section: str, declared: type) -> list[Setting]:
    kinds = typing.get_type_hints(declared)
    return [
        Setting(
            section=section,
            name=field.name,
            kind=kinds[field.name],
            meaning=field.metadata["meaning"],
            default=_default_of(field),
            rule=field.metadata.get("rule"),
            minimum=field.metadata.get("minimum"),
            maximum=field.metadata.get("maximum"),
        )
        for field in dataclasses.fields(declared)
    ]


def _default_of(field: dataclasses.Field[Any]) -> object:
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()
