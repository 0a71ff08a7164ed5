"""Servers of Redis, NATS and RabbitMQ, started once a worker process when the first test asks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.brokers.servers import Broker, nats_server, rabbitmq_server, redis_server


@pytest.fixture(scope="session")
def redis_broker() -> Iterator[Broker]:
    with redis_server() as broker:
        yield broker


@pytest.fixture(scope="session")
def nats_broker() -> Iterator[Broker]:
    with nats_server() as broker:
        yield broker


@pytest.fixture(scope="session")
def rabbitmq_broker() -> Iterator[Broker]:
    with rabbitmq_server() as broker:
        yield broker
