"""The client of a Tidelock cluster: `Client` for asyncio, `BlockingClient` for everything else."""

from tidelock.client.blocking import BlockingClient, BlockingLock
from tidelock.client.cluster_client import Client
from tidelock.client.leases import Lock
from tidelock.client.messages import MessageStep
from tidelock.client.row_keys import RowsToLock
from tidelock.client.runs import Retry, SagaStep, TccBranch
from tidelock.client.services import BusinessCall
from tidelock.client.watching import Applied

__all__ = [
    "Applied",
    "BlockingClient",
    "BlockingLock",
    "BusinessCall",
    "Client",
    "Lock",
    "MessageStep",
    "Retry",
    "RowsToLock",
    "SagaStep",
    "TccBranch",
]
