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

# Every run tries the same examples, so that what passed for a change passes again. Those who look
# for new ones, as every night does, ask for them:  scripts/test --hypothesis-profile exploring
# A busy machine must not fail a property.
settings.register_profile(
    "exploring",
    parent=settings(),
    deadline=None,
    derandomize=False,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "repeating", parent=settings.get_profile("exploring"), derandomize=True, database=None
)
settings.load_profile("repeating")
