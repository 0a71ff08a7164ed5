"""A message on its way, and what carries it."""

from __future__ import annotations

import enum
import re
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import msgspec

from tidelock.errors import TidelockError

GREATEST_ID: Final = 64
GREATEST_TOPIC: Final = 200
GREATEST_PAYLOAD_BYTES: Final = 1 << 20

ID_HEADER: Final = "Tidelock-Message-Id"
TOPIC_HEADER: Final = "Tidelock-Topic"
REPLY_HEADER: Final = "Tidelock-Reply-To"
"""Names of what travels beside a payload, in HTTP and in brokers."""

_ID: Final = re.compile(rf"[!-~]{{1,{GREATEST_ID}}}")
_TOPIC: Final = re.compile(rf"(?=.{{1,{GREATEST_TOPIC}}}\Z)[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")


class PublishRefusedError(TidelockError):
    """A message will never be taken as it is: publishing it again is useless."""


class Published(enum.Enum):
    """How far a message has come when it was published."""

    ACCEPTED = "ACCEPTED"
    """A broker keeps it for its receivers."""
    ACKNOWLEDGED = "ACKNOWLEDGED"
    """Its receiver has done what it had to do."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message."""

    id: str
    """The same in each repetition, 1 to 64 visible characters of ASCII."""
    topic: str
    """1 to 200 of `A-Z a-z 0-9 _ -`, with single dots between."""
    payload: str
    """JSON, of at most 1 MiB."""
    reply_to: str = ""
    """The topic for the acknowledgement; empty when none is wanted."""

    def __post_init__(self) -> None:
        if _ID.fullmatch(self.id) is None:
            raise ValueError(
                f"an id is 1 to {GREATEST_ID} visible characters of ASCII, not {self.id[:80]!r}"
            )
        for name in (self.topic, self.reply_to or "none"):
            if _TOPIC.fullmatch(name) is None:
                raise ValueError(
                    f"a topic is 1 to {GREATEST_TOPIC} of A-Z a-z 0-9 _ -, with single dots "
                    f"between, not {name[:80]!r}"
                )
        if len(self.payload.encode()) > GREATEST_PAYLOAD_BYTES:
            raise ValueError(f"a payload has at most {GREATEST_PAYLOAD_BYTES} bytes")

    @property
    def acknowledgement(self) -> Message | None:
        """What tells the sender that it was done; None when it does not want to hear."""
        if not self.reply_to:
            return None
        payload = msgspec.json.encode({"acknowledged": self.id}).decode()
        return Message(id=self.id, topic=self.reply_to, payload=payload)


Handle = Callable[[Message], Awaitable[object]]
"""Does what a message asks for. When it raises, the message comes again."""


class Publisher(Protocol):
    """Takes messages away."""

    async def publish(self, message: Message) -> Published:
        """Publish a message; it is safe when this returns.

        Raises:
            PublishRefusedError: it never will be taken.
            Anything else: nobody knows; it is published again.
        """
        ...


class Subscriber(Protocol):
    """Brings messages."""

    async def subscribe(self, topic: str, group: str, handle: Handle) -> None:
        """Bring each message of a topic to one member of a group, at least once, until cancelled.

        When `handle` returns, the message is acknowledged to the broker, and to its sender if that
        wants to hear; when it raises, the message comes again.

        Raises:
            What the broker's client raises when the connection is lost: subscribe again.
        """
        ...


async def handled(message: Message, handle: Handle, publisher: Publisher) -> None:
    """Have a message handled, and tell its sender if that wants to hear."""
    await handle(message)
    answer = message.acknowledgement
    if answer is not None:
        await publisher.publish(answer)
