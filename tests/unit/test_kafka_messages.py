"""What is said to Kafka's client, and heard from it: Debian has no package of a broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from tidelock.messages import Message, Published
from tidelock.messages import kafka as module
from tidelock.messages.kafka import Kafka

MESSAGE = Message(id="m1", topic="paid", payload='{"ä":1}', reply_to="back")


class Producer:
    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes, bytes, list[tuple[str, bytes]]]] = []

    async def send_and_wait(self, topic: str, value: bytes, key: bytes, headers: Any) -> None:
        self.sent.append((topic, value, key, headers))


class Consumer:
    def __init__(self, records: list[Any]) -> None:
        self.records = records
        self.said: list[str] = []

    async def start(self) -> None:
        self.said.append("start")

    async def stop(self) -> None:
        self.said.append("stop")

    async def commit(self) -> None:
        self.said.append("commit")

    async def __aiter__(self) -> AsyncIterator[Any]:
        for record in self.records:
            yield record


def record_of(sent: tuple[str, bytes, bytes, Any]) -> Any:
    return SimpleNamespace(value=sent[1], headers=tuple(sent[3]))


async def test_what_is_sent_is_what_is_received_and_acknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_PAUSE_S", 0.001)
    producer = Producer()
    carrying = Kafka(producer, bootstrap_servers="nowhere:1", prefix="t.")
    assert await carrying.publish(MESSAGE) is Published.ACCEPTED
    (sent,) = producer.sent
    assert (sent[0], sent[2]) == ("t.paid", b"m1")
    strange = SimpleNamespace(value=None, headers=())
    consumer = Consumer([strange, record_of(sent)])
    monkeypatch.setattr(carrying, "_consumer", lambda topic, group: consumer)
    heard: list[Message] = []

    async def handle(message: Message) -> None:
        heard.append(message)
        if len(heard) == 1:
            raise OSError("down")

    async with asyncio.timeout(20):
        await carrying.subscribe("paid", "mail", handle)
    assert heard == [MESSAGE, MESSAGE]
    assert consumer.said == ["start", "commit", "commit", "stop"]
    assert producer.sent[1][:2] == ("t.back", b'{"acknowledged":"m1"}')
