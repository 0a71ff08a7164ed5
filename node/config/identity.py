"""Which node this process is, and the addresses and folder that follow from it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from node.config.address import Address
from node.config.declared import settings
from node.config.problems import Problem
from node.config.reading import Draft
from node.config.sections import ClusterNode, NodeConfig
from node.config.values import did_you_mean

DATA_FOLDER: Final = ".tidelock"

IsLocal = Callable[[str], bool]

_UNKNOWN: Final = Address("localhost", 1)
"""Stands for an address that could not be found; its key is in `Draft.broken`."""


def is_local_host(host: str) -> bool:
    """Whether `host` names this machine: whether a socket can be bound to one of its addresses."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return False
    return any(_can_bind(family, address) for family, _, _, _, address in found)


def _can_bind(family: int, address: Any) -> bool:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind(address)
    except OSError as error:
        # Without the right to bind, the address is here all the same.
        return error.errno == errno.EACCES
    return True


def resolve_node(draft: Draft, base: Path, is_local: IsLocal) -> NodeConfig:
    """Complete [node] from `cluster.nodes`. What cannot be found is reported in the draft."""
    values = draft.values
    nodes = cast("tuple[ClusterNode, ...]", values.get("cluster.nodes", ()))
    node_id = _own_id(draft, nodes, is_local)
    entry = next((node for node in nodes if node.id == node_id), None)
    api = _own_addresses(draft, "api", entry.api if entry else None)
    peer = _own_addresses(draft, "peer", entry.peer if entry else None)
    if node_id and entry is None and not draft.broken.isdisjoint(_ADDRESS_KEYS):
        _explain_missing_addresses(draft, node_id, nodes)
    return NodeConfig(
        id=node_id or "unknown",
        data_dir=cast(Path, values.get("node.data_dir", base / DATA_FOLDER / (node_id or "-"))),
        api_address=api.bound,
        peer_address=peer.bound,
        advertise_api_address=api.advertised,
        advertise_peer_address=peer.advertised,
        uvloop=bool(values.get("node.uvloop", settings()["node.uvloop"].default)),
    )


def _own_id(draft: Draft, nodes: Iterable[ClusterNode], is_local: IsLocal) -> str | None:
    """Return the id that was given, or the one of the only entry on this machine."""
    given = draft.values.get("node.id")
    if isinstance(given, str):
        return given
    if "node.id" not in draft.broken and "cluster.nodes" not in draft.broken:
        local = [node.id for node in nodes if is_local(node.peer.host)]
        if len(local) == 1:
            return local[0]
        if local:
            wrong = f"{', '.join(local)} are all on this machine"
        else:
            wrong = "no entry of cluster.nodes is on this machine"
        mend = "Say which node this is: --node-id, TIDELOCK_NODE_ID or node.id"
        draft.problems.append(Problem(key="node.id", origin="not given", wrong=wrong, mend=mend))
    draft.broken.add("node.id")
    return None


class _Pair(NamedTuple):
    bound: Address
    advertised: Address


_ADDRESS_KEYS: Final = (
    "node.api_address",
    "node.peer_address",
    "node.advertise_api_address",
    "node.advertise_peer_address",
)


def _own_addresses(draft: Draft, kind: str, listed: Address | None) -> _Pair:
    """Return where the node listens and where it is reached; each may follow from the other."""
    bound_key, advertised_key = f"node.{kind}_address", f"node.advertise_{kind}_address"
    bound = cast("Address | None", draft.values.get(bound_key))
    advertised = cast("Address | None", draft.values.get(advertised_key))
    if listed is not None and advertised is not None and advertised != listed:
        draft.problems.append(
            Problem(
                key=advertised_key,
                origin=draft.origin_of(advertised_key),
                wrong=f"{advertised} is not the address of this node in cluster.nodes, {listed}",
                mend="Remove it: the address in cluster.nodes is the one that others use",
            )
        )
    advertised = listed or advertised or bound
    if advertised is None:
        draft.broken.update((bound_key, advertised_key))
        return _Pair(bound or _UNKNOWN, _UNKNOWN)
    return _Pair(bound or advertised, advertised)


def _explain_missing_addresses(draft: Draft, node_id: str, nodes: tuple[ClusterNode, ...]) -> None:
    if "cluster.nodes" in draft.broken or any(
        problem.key in _ADDRESS_KEYS for problem in draft.problems
    ):
        return
    guess = did_you_mean(node_id, [node.id for node in nodes])
    listed = f"Did you mean {guess}? If not, give" if guess else "Give"
    draft.problems.append(
        Problem(
            key="node.id",
            origin=draft.origin_of("node.id"),
            wrong=f'"{node_id}" is not in cluster.nodes, so its addresses are not known',
            mend=f"{listed} node.api_address and node.peer_address, or add it to cluster.nodes",
        )
    )
