"""A configuration that is only a list of peers: one `host:port` a line, as Nacos keeps it."""

from __future__ import annotations

import re
from typing import Final

from node.config.problems import Problem
from node.config.values import UnusableValueError, node_of_peer, problems_of

_TOML_HEADER: Final = re.compile(r"\[\[?[^\[\]:]*\]\]?\Z")


def is_peer_list(text: str) -> bool:
    """Whether the file is a list of peers and not TOML, which has headers and equals signs."""
    lines = [line for _, line in _entries(text)]
    return bool(lines) and not any("=" in line or _TOML_HEADER.match(line) for line in lines)


def read_peer_list(text: str, origin: str) -> tuple[list[str], list[Problem]]:
    """Return the entries in order, and what is wrong with any of them, by line."""
    peers: list[str] = []
    problems: list[Problem] = []
    for number, line in _entries(text):
        try:
            node_of_peer(line, len(peers))
        except UnusableValueError as error:
            problems += problems_of(error, "cluster.nodes", f"{origin}, line {number}")
        peers.append(line)
    return peers, problems


def _entries(text: str) -> list[tuple[int, str]]:
    numbered = enumerate(text.splitlines(), start=1)
    stripped = ((number, line.partition("#")[0].strip()) for number, line in numbered)
    return [(number, line) for number, line in stripped if line]
