"""What a node does for resource managers, put together."""

from __future__ import annotations

from api.channels import Channels
from api.settings import ApiSettings
from node.cluster import EngineCluster
from node.config import ChannelsConfig
from node.consensus.engine import Engine
from node.consensus.runtime import Runtime
from node.delivery.cleaner import Cleaner
from node.delivery.lost_nodes import LostNodes
from node.delivery.managers import Managers
from node.delivery.relay import OpenChannels, Relay
from statemachine.store import Reader


class ConnectedManagers:
    """The channels of this node, the way to those of others, and what the leader does with them."""

    def __init__(
        self,
        engine: Engine,
        cluster: EngineCluster,
        reader: Reader,
        runtime: Runtime,
        settings: ApiSettings,
        config: ChannelsConfig,
    ) -> None:
        self.channels = Channels(cluster, settings)
        self._relay = Relay(engine, runtime, OpenChannels(self.channels))
        self.calls = Managers(
            engine, runtime, self._relay, call_timeout_s=config.call_timeout_ms / 1000
        )
        self._cleaner = Cleaner(
            engine, cluster, reader, self._relay, clean_after_ms=config.clean_after_ms
        )
        self._lost_nodes = LostNodes(engine, cluster, reader)

    def start(self) -> None:
        self.channels.start()
        self._cleaner.start()
        self._lost_nodes.start()

    async def close(self) -> None:
        """Begin nothing more. Calls of other leaders go on until the API has stopped."""
        await self._cleaner.close()
        await self._lost_nodes.close()

    def stop(self) -> None:
        """Wait for nobody any longer."""
        self._relay.close()
