"""The client of a Tidelock cluster."""

from tidelock.client.cluster_client import Client

__all__ = ["Client"]
