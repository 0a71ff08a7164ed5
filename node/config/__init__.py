"""Configuration of a node: one frozen `Config`, or every fault at once.

`sections` declares the settings, `reading` takes the file, the environment and the command line,
`rules` binds settings together, `identity` finds out which node this is.
"""

from node.config.address import Address
from node.config.loading import Arguments, Launch, load, load_for_process, parse_arguments
from node.config.problems import ConfigError, Problem
from node.config.sections import (
    ChannelsConfig,
    ClockConfig,
    ClusterConfig,
    ClusterNode,
    Config,
    EventsConfig,
    HealthConfig,
    HttpConfig,
    LogConfig,
    LogFormat,
    LogLevel,
    NodeConfig,
    RaftConfig,
    SecurityConfig,
    StorageConfig,
    WatchConfig,
)
from node.config.transaction_sections import DeliveryConfig, SyncConfig, TransactionsConfig

__all__ = [
    "Address",
    "Arguments",
    "ChannelsConfig",
    "ClockConfig",
    "ClusterConfig",
    "ClusterNode",
    "Config",
    "ConfigError",
    "DeliveryConfig",
    "EventsConfig",
    "HealthConfig",
    "HttpConfig",
    "Launch",
    "LogConfig",
    "LogFormat",
    "LogLevel",
    "NodeConfig",
    "Problem",
    "RaftConfig",
    "SecurityConfig",
    "StorageConfig",
    "SyncConfig",
    "TransactionsConfig",
    "WatchConfig",
    "load",
    "load_for_process",
    "parse_arguments",
]
