"""Configurations of members, as tests of them speak of them."""

from __future__ import annotations

from node.consensus.membership import (
    Configuration,
)
from tests.simulation.cluster import SimulatedCluster

CONFIGURED = (2, 0)


def voters(configuration: Configuration | None) -> list[str]:
    return [member.node_id for member in configuration.voters] if configuration else []


def is_voter(cluster: SimulatedCluster, name: str) -> bool:
    engine = cluster.engine(name)
    return engine is not None and engine.membership.is_voter
