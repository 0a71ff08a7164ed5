"""From what TOML or the environment says to the value of a setting, or to what is wrong with it."""

from __future__ import annotations

import enum
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from node.config.address import Address
from node.config.declared import Setting, cluster_node_settings
from node.config.problems import Problem
from node.config.sections import ClusterNode

API_PORT_BELOW_PEER_PORT: Final = 100
"""A node given as `host:port` serves its API this much below its peer port."""

NODE_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}\Z")

OPTIONAL_PATH: Final = Path | None
"""The kind of a setting that names a file, or none when it is empty."""

_INTEGER_TEXT: Final = re.compile(r"[+-]?[0-9]+(?:_[0-9]+)*\Z")
_TRUTHS: Final = {
    "true": True, "yes": True, "on": True, "1": True,
    "false": False, "no": False, "off": False, "0": False,
}  # fmt: skip


class UnusableValueError(Exception):
    """A value cannot be taken; carries one or more of (path below the key, wrong, mend)."""

    def __init__(self, *faults: tuple[str, str, str]) -> None:
        super().__init__(faults)
        self.faults = faults


def convert(setting: Setting, value: object, *, base: Path) -> object:
    """Return `value`, as TOML gave it, as the type of the setting. Paths start at `base`.

    Raises:
        UnusableValueError
    """
    if setting.kind is Path:
        return base / _path(value)
    if setting.kind == OPTIONAL_PATH:
        return None if value == "" else base / _path(value)
    if isinstance(setting.kind, type) and issubclass(setting.kind, enum.Enum):
        return _choice(setting.kind, value)
    return _CONVERSIONS[setting.kind](setting, value)


def value_from_text(setting: Setting, text: str) -> object:
    """Return the text of an environment variable as TOML would give it.

    Raises:
        UnusableValueError
    """
    stripped = text.strip()
    if setting.kind is bool and stripped.lower() in _TRUTHS:
        return _TRUTHS[stripped.lower()]
    if setting.kind is int and _INTEGER_TEXT.match(stripped):
        return int(stripped)
    if setting.key == "cluster.nodes" or setting.kind == tuple[str, ...]:
        return _list_from_text(stripped)
    if setting.key in ("cluster.dial_overrides", "cluster.api_dial_overrides"):
        return _table_from_text(stripped)
    return stripped


def problems_of(error: UnusableValueError, key: str, origin: str) -> Iterable[Problem]:
    for path, wrong, mend in error.faults:
        yield Problem(key=key + path, origin=origin, wrong=wrong, mend=mend)


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that `name` was probably meant to be."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return close[0] if close else None


def shown(value: object) -> str:
    """Return a value as a message shows it: as TOML would write it, and not without end."""
    match value:
        case bool():
            text = str(value).lower()
        case str():
            text = '"' + value.encode("unicode_escape").decode() + '"'
        case dict():
            text = "a table"
        case list():
            text = "a list"
        case _:
            text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _fault(wrong: str, mend: str, path: str = "") -> UnusableValueError:
    return UnusableValueError((path, wrong, mend))


def _truth(setting: Setting, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise _fault(f"{shown(value)} is not true or false", "Write true or false")


def _integer(setting: Setting, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _fault(f"{shown(value)} is not a whole number", f"Write {_range(setting)}")
    too_small = setting.minimum is not None and value < setting.minimum
    too_great = setting.maximum is not None and value > setting.maximum
    if too_small or too_great:
        raise _fault(
            f"{value} is {'below the least' if too_small else 'above the greatest'} value allowed",
            f"Write {_range(setting)}",
        )
    return value


def _range(setting: Setting) -> str:
    return f"a whole number from {setting.minimum} to {setting.maximum}"


def _text(setting: Setting, value: object) -> str:
    if not isinstance(value, str):
        raise _fault(f"{shown(value)} is not text", "Write it in quotes")
    if setting.name == "id":
        return _node_id(value)
    return value


def _node_id(value: str) -> str:
    if not NODE_ID.match(value):
        raise _fault(
            f"{shown(value)} cannot be a node's id",
            "Use 1 to 32 letters, digits, '.', '_' or '-', beginning with a letter or digit",
        )
    return value


def _path(value: object) -> Path:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise _fault(f"{shown(value)} is not a path", "Write the path of a folder, in quotes")
    return Path(value)


def _choice(choices: type[enum.Enum], value: object) -> enum.Enum:
    known = [str(choice.value) for choice in choices]
    if isinstance(value, str) and value.lower() in known:
        return choices(value.lower())
    raise _fault(
        f"{shown(value)} is not one of the choices",
        "Write one of " + ", ".join(f'"{choice}"' for choice in known),
    )


def _texts(setting: Setting, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _fault(f"{shown(value)} is not a list of texts", 'Write ["one", "another"]')
    return tuple(value)


def _address(setting: Setting, value: object) -> Address:
    if not isinstance(value, str):
        raise _fault(f"{shown(value)} is not an address", 'Write "host:port", in quotes')
    try:
        return Address.parse(value)
    except ValueError as error:
        raise _fault(str(error), 'Write "host:port", as in "127.0.0.1:7101"') from None


def _addresses_by_node(setting: Setting, value: object) -> MappingProxyType[str, Address]:
    if not isinstance(value, dict):
        raise _fault(
            f"{shown(value)} is not a table", 'Write {n2 = "host:port"}, one entry for each node'
        )
    found: dict[str, Address] = {}
    faults: list[tuple[str, str, str]] = []
    for node_id, text in value.items():
        try:
            found[_node_id(node_id)] = _address(setting, text)
        except UnusableValueError as error:
            faults += [(f".{node_id}", wrong, mend) for _, wrong, mend in error.faults]
    if faults:
        raise UnusableValueError(*faults)
    return MappingProxyType(found)


def _nodes(setting: Setting, value: object) -> tuple[ClusterNode, ...]:
    if not isinstance(value, list):
        raise _fault(
            f"{shown(value)} is not a list",
            'Write one {id = "n1", api = "host:port", peer = "host:port"} for each node',
        )
    found: list[ClusterNode] = []
    faults: list[tuple[str, str, str]] = []
    for place, item in enumerate(value):
        try:
            found.append(_node(item, place))
        except UnusableValueError as error:
            faults += [(f"[{place}]{path}", wrong, mend) for path, wrong, mend in error.faults]
    if faults:
        raise UnusableValueError(*faults)
    return tuple(found)


def _node(item: object, place: int) -> ClusterNode:
    if isinstance(item, str):
        return node_of_peer(item, place)
    if not isinstance(item, dict):
        raise _fault(
            f"{shown(item)} is neither a table nor a text",
            'Write {id = "n1", api = "host:port", peer = "host:port"} or "host:port"',
        )
    declared = cluster_node_settings()
    faults: list[tuple[str, str, str]] = []
    for name in item:
        if name not in declared:
            guess = did_you_mean(name, declared)
            mend = f'Did you mean "{guess}"? If not, remove it' if guess else "Remove it"
            faults.append((f".{name}", "there is no such key", mend))
    values: dict[str, Any] = {}
    for name, setting in declared.items():
        if name not in item:
            faults.append((f".{name}", "it is missing", setting.meaning.rstrip(".")))
            continue
        try:
            values[name] = _CONVERSIONS[setting.kind](setting, item[name])
        except UnusableValueError as error:
            faults += [(f".{name}", wrong, mend) for _, wrong, mend in error.faults]
    if faults:
        raise UnusableValueError(*faults)
    return ClusterNode(**values)


def node_of_peer(text: str, place: int) -> ClusterNode:
    """Derive id and API address of a node that is known by `host:port` alone."""
    try:
        peer = Address.parse(text)
    except ValueError as error:
        raise _fault(str(error), 'Write "host:port", as in "10.0.0.1:7201"') from None
    api_port = peer.port - API_PORT_BELOW_PEER_PORT
    if api_port < 1:
        raise _fault(
            f"no API port can be derived from the peer port {peer.port}",
            f"Use a peer port above {API_PORT_BELOW_PEER_PORT}, or write the node as a table of "
            "id, api and peer",
        )
    return ClusterNode(id=f"n{place + 1}", api=Address(peer.host, api_port), peer=peer)


def _list_from_text(text: str) -> object:
    if not text.startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        if re.match(r"\[[0-9A-Fa-f:.]+\]:", text):  # a plain list that begins with an IPv6 address
            return [part.strip() for part in text.split(",") if part.strip()]
        raise _fault(
            f"it is not a TOML list: {error}",
            "Write host:port,host:port,... or a TOML list in one line",
        ) from None


def _table_from_text(text: str) -> object:
    found: dict[str, str] = {}
    for part in text.split(","):
        if not part.strip():
            continue
        node_id, equals, address = part.partition("=")
        if not equals:
            raise _fault(f"{shown(part.strip())} has no '='", "Write n2=host:port,n3=host:port")
        found[node_id.strip()] = address.strip()
    return found


_CONVERSIONS: Final[dict[Any, Callable[[Setting, object], object]]] = {
    bool: _truth,
    int: _integer,
    str: _text,
    tuple[str, ...]: _texts,
    Address: _address,
    tuple[ClusterNode, ...]: _nodes,
    Mapping[str, Address]: _addresses_by_node,
}
