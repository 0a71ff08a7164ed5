"""What holds for all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from tests.brokers.fixtures import nats_broker, rabbitmq_broker, redis_broker
from tests.databases.fixtures import (
    database,
    mariadb,
    mariadb_database,
    postgresql,
    postgresql_database,
    sqlite_file,
)

__all__ = [
    "database",
    "mariadb",
    "mariadb_database",
    "nats_broker",
    "postgresql",
    "postgresql_database",
    "rabbitmq_broker",
    "redis_broker",
    "sqlite_file",
]

# A busy machine must not fail a property; where CI is set, Hypothesis repeats the same examples.
settings.register_profile(
    "tidelock",
    parent=settings(),
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tidelock")
