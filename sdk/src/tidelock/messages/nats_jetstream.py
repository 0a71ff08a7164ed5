"""Messages by NATS: a subject for each topic, kept by a stream of JetStream."""

from __future__ import annotations

from typing import Final

from tidelock.messages.failures import survive
from tidelock.messages.message import ID_HEADER, REPLY_HEADER, Handle, Message, Published, handled

try:
    from nats.aio.client import Client as Nats
    from nats.js.api import ConsumerConfig, StreamConfig
except ImportError as missing:  # pragma: no cover
    raise ImportError(f'{missing}; it comes with: pip install "tidelock[nats]"') from missing

_WAIT_S: Final = 1.0
_AT_ONCE: Final = 16

DEDUPLICATED_BY: Final = "Nats-Msg-Id"
"""JetStream drops what was published under the same id within its window (2 minutes)."""


class NatsJetStream:
    """Publishes to, and subscribes to, a stream; the connection stays the caller's.

    The stream holds the subjects `<prefix>.<topic>`. `ensure_stream` makes one that suffices.
    """

    def __init__(
        self,
        client: Nats,
        *,
        stream: str = "tidelock",
        prefix: str = "tidelock",
        again_after_s: float = 30.0,
    ) -> None:
        """What a member of a group leaves unhandled comes to another one after `again_after_s`."""
        self._js = client.jetstream()
        self._stream = stream
        self._prefix = prefix
        self._again_after_s = again_after_s

    async def ensure_stream(self) -> None:
        """Make the stream where it is missing, with all subjects below the prefix, on disk."""
        await self._js.add_stream(StreamConfig(name=self._stream, subjects=[f"{self._prefix}.>"]))

    async def publish(self, message: Message) -> Published:
        """Publish it, and wait until the stream has it."""
        headers = {ID_HEADER: message.id, DEDUPLICATED_BY: f"{message.topic} {message.id}"}
        if message.reply_to:
            headers[REPLY_HEADER] = message.reply_to
        await self._js.publish(
            f"{self._prefix}.{message.topic}",
            message.payload.encode(),
            stream=self._stream,
            headers=headers,
        )
        return Published.ACCEPTED

    async def subscribe(self, topic: str, group: str, handle: Handle) -> None:
        """Bring each message of a topic to one member of the group, until cancelled."""
        subscription = await self._js.pull_subscribe(
            f"{self._prefix}.{topic}",
            durable=_durable(group, topic),
            stream=self._stream,
            config=ConsumerConfig(ack_wait=self._again_after_s),
        )
        try:
            while True:
                try:
                    brought = await subscription.fetch(_AT_ONCE, timeout=_WAIT_S)
                except TimeoutError:  # the client raises its own kind, or the plain one
                    continue
                for one in brought:
                    headers = one.headers or {}
                    try:
                        message = Message(
                            id=headers.get(ID_HEADER, ""),
                            topic=topic,
                            payload=one.data.decode(),
                            reply_to=headers.get(REPLY_HEADER, ""),
                        )
                    except ValueError:  # somebody else's, which nobody can handle
                        await one.term()
                        continue
                    if await survive(handled(message, handle, self)):
                        await one.ack()
                    else:
                        await one.nak(delay=_WAIT_S)
        finally:
            await subscription.unsubscribe()


def _durable(group: str, topic: str) -> str:
    """Return the name of a group's consumer of a topic, without the dots that names cannot have."""
    return f"{group}-{topic}".replace("_", "__").replace(".", "_-")
