"""Messages by RabbitMQ: one exchange, a routing key for each topic, a queue for each group."""

from __future__ import annotations

import asyncio
from typing import Final

from tidelock.messages.failures import survive
from tidelock.messages.message import REPLY_HEADER, Handle, Message, Published, handled

try:
    from aio_pika import DeliveryMode, ExchangeType
    from aio_pika import Message as AmqpMessage
    from aio_pika.abc import (
        AbstractChannel,
        AbstractConnection,
        AbstractExchange,
        AbstractIncomingMessage,
    )
except ImportError as missing:  # pragma: no cover
    raise ImportError(f'{missing}; it comes with: pip install "tidelock[rabbitmq]"') from missing

_AT_ONCE: Final = 16
_PAUSE_S: Final = 1.0


class RabbitMq:
    """Publishes to, and subscribes to, an exchange; the connection stays the caller's.

    A message to which no queue is bound yet is not taken, and is published again: so that none is
    lost before its first receiver has subscribed.
    """

    def __init__(self, connection: AbstractConnection, *, exchange: str = "tidelock") -> None:
        self._connection = connection
        self._name = exchange
        self._lock = asyncio.Lock()
        self._publishing: AbstractExchange | None = None

    async def publish(self, message: Message) -> Published:
        """Publish it, and wait until the queues have it.

        Raises:
            aio_pika.exceptions.PublishError: no queue is bound.
        """
        headers = {REPLY_HEADER: message.reply_to} if message.reply_to else {}
        exchange = await self._exchange()
        await exchange.publish(
            AmqpMessage(
                message.payload.encode(),
                message_id=message.id,
                headers=dict(headers),
                content_type="application/json",
                delivery_mode=DeliveryMode.PERSISTENT,
            ),
            routing_key=message.topic,
            mandatory=True,
        )
        return Published.ACCEPTED

    async def subscribe(self, topic: str, group: str, handle: Handle) -> None:
        """Bring each message of a topic to one member of the group, until cancelled.

        Its queue is `<topic>.<group>`, and gets what is published once it is there.
        """
        channel = await self._connection.channel()
        try:
            await channel.set_qos(prefetch_count=_AT_ONCE)
            exchange = await self._declared(channel)
            queue = await channel.declare_queue(f"{topic}.{group}", durable=True)
            await queue.bind(exchange, routing_key=topic)
            async with queue.iterator() as brought:
                async for one in brought:
                    await self._handle(topic, one, handle)
        finally:
            await channel.close()

    async def _handle(self, topic: str, one: AbstractIncomingMessage, handle: Handle) -> None:
        reply_to = one.headers.get(REPLY_HEADER, "")
        try:
            message = Message(
                id=one.message_id or "",
                topic=topic,
                payload=one.body.decode(),
                reply_to=str(reply_to),
            )
        except ValueError:  # somebody else's, which nobody can handle
            await one.reject(requeue=False)
            return
        if await survive(handled(message, handle, self)):
            await one.ack()
        else:
            await asyncio.sleep(_PAUSE_S)
            await one.nack(requeue=True)

    async def _exchange(self) -> AbstractExchange:
        async with self._lock:
            if self._publishing is None:
                channel = await self._connection.channel(
                    publisher_confirms=True, on_return_raises=True
                )
                self._publishing = await self._declared(channel)
            return self._publishing

    async def _declared(self, channel: AbstractChannel) -> AbstractExchange:
        return await channel.declare_exchange(self._name, ExchangeType.DIRECT, durable=True)
