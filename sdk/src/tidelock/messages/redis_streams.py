"""Messages by Redis: a stream for each topic, with consumer groups."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Final

from tidelock.messages.failures import survive
from tidelock.messages.message import Handle, Message, Published, handled

try:
    from redis.asyncio import Redis
    from redis.exceptions import ResponseError
except ImportError as missing:  # pragma: no cover
    raise ImportError(f'{missing}; it comes with: pip install "tidelock[redis]"') from missing

_WAIT_MS: Final = 1_000
_AT_ONCE: Final = 16


class RedisStreams:
    """Publishes to, and subscribes to, streams; the client stays the caller's.

    A message of which a member of a group died, or failed, comes to another one after
    `again_after_ms`. What Redis has not written to disk is lost with it: `appendfsync always`.
    """

    def __init__(
        self,
        client: Redis,
        *,
        prefix: str = "",
        greatest_length: int | None = None,
        again_after_ms: int = 30_000,
    ) -> None:
        """`prefix` comes before each topic. Streams are cut to about `greatest_length` messages,
        read or not; unless given, they grow.
        """
        self._client = client
        self._prefix = prefix
        self._greatest_length = greatest_length
        self._again_after_ms = again_after_ms

    async def publish(self, message: Message) -> Published:
        """Append it to the stream of its topic."""
        fields: dict[Any, Any] = {
            "id": message.id,
            "payload": message.payload,
            "replyTo": message.reply_to,
        }
        await self._client.xadd(
            self._prefix + message.topic, fields, maxlen=self._greatest_length, approximate=True
        )
        return Published.ACCEPTED

    async def subscribe(self, topic: str, group: str, handle: Handle) -> None:
        """Bring each message of a topic to one member of the group, until cancelled.

        A group that is new begins with the first message that the stream has.
        """
        stream, member = self._prefix + topic, uuid.uuid4().hex
        try:
            await self._client.xgroup_create(stream, group, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        while True:
            for number, fields in await self._next(stream, group, member):
                message = _message(topic, fields)
                if message is not None and not await survive(handled(message, handle, self)):
                    continue
                await self._client.xack(stream, group, number)

    async def _next(self, stream: str, group: str, member: str) -> list[tuple[Any, Any]]:
        """Return messages that were left unacknowledged for long, else new ones."""
        claimed: Any = await self._client.xautoclaim(
            stream, group, member, min_idle_time=self._again_after_ms, count=_AT_ONCE
        )
        if claimed[1]:
            return [(number, fields) for number, fields in claimed[1] if fields]
        found: Any = await self._client.xreadgroup(
            group, member, {stream: ">"}, count=_AT_ONCE, block=_WAIT_MS
        )
        return [entry for _, entries in found or [] for entry in entries]


def _message(topic: str, fields: Mapping[Any, Any]) -> Message | None:
    """Return the message of an entry; None when somebody else wrote it, which nobody can handle."""
    found = {_text(name): _text(value) for name, value in fields.items()}
    try:
        return Message(
            id=found.get("id", ""),
            topic=topic,
            payload=found.get("payload", ""),
            reply_to=found.get("replyTo", ""),
        )
    except ValueError:
        return None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
