"""Messages by Kafka: a Kafka topic for each topic, a consumer group for each group."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any, Final

from tidelock.messages.failures import survive
from tidelock.messages.message import ID_HEADER, REPLY_HEADER, Handle, Message, Published, handled

try:
    from aiokafka import (  # type: ignore[import-untyped]
        AIOKafkaConsumer,
        AIOKafkaProducer,
    )
except ImportError as missing:  # pragma: no cover
    raise ImportError(f'{missing}; it comes with: pip install "tidelock[kafka]"') from missing

_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 60.0


class Kafka:
    """Publishes by a producer that was started, and subscribes by consumers of its own.

    Start the producer with `acks="all"` (and `enable_idempotence=True`). Within a partition
    messages come in order, and one that fails holds up those behind it.
    """

    def __init__(self, producer: Any, *, bootstrap_servers: str, prefix: str = "") -> None:
        """`producer` is an `AIOKafkaProducer`, which stays the caller's."""
        self._producer: AIOKafkaProducer = producer
        self._bootstrap_servers = bootstrap_servers
        self._prefix = prefix

    async def publish(self, message: Message) -> Published:
        """Send it, and wait until the brokers have it."""
        headers = [(ID_HEADER, message.id.encode())]
        if message.reply_to:
            headers.append((REPLY_HEADER, message.reply_to.encode()))
        await self._producer.send_and_wait(
            self._prefix + message.topic,
            message.payload.encode(),
            key=message.id.encode(),
            headers=headers,
        )
        return Published.ACCEPTED

    async def subscribe(self, topic: str, group: str, handle: Handle) -> None:
        """Bring each message of a topic to one member of the group, until cancelled."""
        consumer = self._consumer(self._prefix + topic, group)
        await consumer.start()
        try:
            async for record in consumer:
                message = message_of(topic, record)
                if message is not None:
                    await self._handle(message, handle)
                await consumer.commit()
        finally:
            await consumer.stop()

    async def _handle(self, message: Message, handle: Handle) -> None:
        """Have it handled until that succeeds: Kafka gives nothing back."""
        for attempts in count(1):
            if await survive(handled(message, handle, self)):
                return
            await asyncio.sleep(min(_PAUSE_S * attempts, _LONGEST_PAUSE_S))

    def _consumer(self, topic: str, group: str) -> Any:
        return AIOKafkaConsumer(
            topic,
            group_id=group,
            bootstrap_servers=self._bootstrap_servers,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )


def message_of(topic: str, record: Any) -> Message | None:
    """Return the message of a record; None when somebody else wrote it, which nobody can handle."""
    headers = dict(record.headers)
    try:
        return Message(
            id=headers.get(ID_HEADER, b"").decode(),
            topic=topic,
            payload=(record.value or b"").decode(),
            reply_to=headers.get(REPLY_HEADER, b"").decode(),
        )
    except ValueError:
        return None
