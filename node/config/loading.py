"""From a file, the environment and the command line to one checked Config."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from node.config.declared import field_of, sections, settings
from node.config.identity import IsLocal, is_local_host, resolve_node
from node.config.problems import ConfigError, Problem
from node.config.reading import (
    COMMAND_LINE,
    Draft,
    read_environment,
    read_file,
    read_overrides,
)
from node.config.rules import RULES
from node.config.sections import ClusterConfig, Config

DEFAULT_FILE: Final = "cluster.conf"
FILE_VARIABLE: Final = "TIDELOCK_CONFIG"


def load(
    path: Path | str,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, str] | None = None,
    is_local: IsLocal = is_local_host,
    working_dir: Path | None = None,
) -> Config:
    """Read `path`, lay `environ` and then `overrides` over it, and check everything.

    `environ` holds `TIDELOCK_<SECTION>_<KEY>` variables beside any others; `overrides` maps
    `section.name` to text. `is_local` tells which hosts of `cluster.nodes` are this machine, which
    matters only when no node id is given. A relative path in the file starts at the file's folder,
    one from elsewhere at `working_dir` (default: the process's).

    Raises:
        ConfigError: with every fault that was found.
    """
    path = Path(path)
    base = path.absolute().parent
    working_dir = (working_dir or Path()).absolute()
    draft = Draft()
    read_file(draft, path.absolute())
    read_environment(draft, environ or {}, working_dir)
    read_overrides(draft, overrides or {}, working_dir)
    _find_missing(draft, path)
    config = _build(draft, base, is_local)
    draft.problems += _broken_rules(draft, config)
    if draft.problems:
        raise ConfigError(draft.problems)
    return config


def _find_missing(draft: Draft, path: Path) -> None:
    if "cluster.nodes" not in draft.values and "cluster.nodes" not in draft.broken:
        draft.broken.add("cluster.nodes")
        draft.problems.append(
            Problem(
                key="cluster.nodes",
                origin=path.name,
                wrong="it is missing",
                mend='List every node under [cluster]: nodes = [{id = "n1", api = "host:port", '
                'peer = "host:port"}, ...]',
            )
        )


def _build(draft: Draft, base: Path, is_local: IsLocal) -> Config:
    """Build a Config even from a broken draft, with defaults where a value is unusable."""
    built: dict[str, Any] = {"node": resolve_node(draft, base, is_local)}
    for section, declared in sections().items():
        if section in built:
            continue
        given = {
            field.name: draft.values[f"{section}.{field.name}"]
            for field in dataclasses.fields(declared)
            if f"{section}.{field.name}" in draft.values
        }
        if declared is ClusterConfig:
            given.setdefault("nodes", ())
        built[field_of(section)] = declared(**given)
    return Config(**built)


def _broken_rules(draft: Draft, config: Config) -> list[Problem]:
    found: list[Problem] = []
    for rule in RULES:
        if not draft.broken.isdisjoint(rule.needs):
            continue
        for key, wrong, mend in rule.check(config):
            origin = draft.origin_of(_declared_key(key))
            found.append(Problem(key=key, origin=origin, wrong=wrong, mend=mend))
    return found


def _declared_key(key: str) -> str:
    """`cluster.nodes` of `cluster.nodes[2].api`, `cluster.dial_overrides` of what lies below."""
    parts = key.partition("[")[0].split(".")
    return ".".join(parts[: 3 if ".".join(parts[:3]) in settings() else 2])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """What the command line said."""

    config: Path | None
    node_id: str | None
    data_dir: str | None
    bootstrap: bool
    check_config: bool


class Launch(NamedTuple):
    """All that a process needs to know to begin."""

    config: Config
    bootstrap: bool
    """Form a new cluster of `cluster.nodes`. Given to one of them only."""
    check_config: bool
    """Only check the configuration, then end."""


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Read the arguments after the program's name.

    Raises:
        SystemExit: they make no sense (2), or help was asked for (0).
    """
    parser = argparse.ArgumentParser(
        prog="python -m node",
        description="Run one node of a Tidelock cluster.",
        epilog="Every setting is described in docs/CONFIGURATION.md.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"the configuration (default: ${FILE_VARIABLE}, else {DEFAULT_FILE})",
    )
    parser.add_argument("--node-id", metavar="ID", help="which node of cluster.nodes this is")
    parser.add_argument("--data-dir", metavar="DIR", help="where this node keeps its data")
    parser.add_argument(
        "--bootstrap",
        action="store_true",
        help="form a new cluster of the nodes in cluster.nodes; for one node only, and only once",
    )
    parser.add_argument(
        "--check-config",
        action="store_true",
        help="only check the configuration: report every mistake in it, and end",
    )
    found = parser.parse_args(argv)
    return Arguments(
        config=found.config,
        node_id=found.node_id,
        data_dir=found.data_dir,
        bootstrap=found.bootstrap,
        check_config=found.check_config,
    )


def load_for_process(argv: Sequence[str], environ: Mapping[str, str]) -> Launch:
    """Read arguments and configuration of this process.

    Raises:
        ConfigError: with every fault that was found.
        SystemExit: the arguments make no sense (2), or help was asked for (0).
    """
    arguments = parse_arguments(argv)
    overrides: dict[str, str] = {}
    if arguments.node_id is not None:
        overrides["node.id"] = arguments.node_id
    if arguments.data_dir is not None:
        overrides["node.data_dir"] = arguments.data_dir
    path = arguments.config or Path(environ.get(FILE_VARIABLE) or DEFAULT_FILE)
    config = load(path, environ=environ, overrides=overrides)
    if arguments.bootstrap and config.own_entry is None:
        raise ConfigError(
            [
                Problem(
                    key="node.id",
                    origin=COMMAND_LINE,
                    wrong=f'"{config.node.id}" is not in cluster.nodes, so it cannot bootstrap',
                    mend="Add it to cluster.nodes, or leave out --bootstrap to join a cluster",
                )
            ]
        )
    return Launch(config, arguments.bootstrap, arguments.check_config)
