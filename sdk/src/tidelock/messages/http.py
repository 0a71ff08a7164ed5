"""Messages by HTTP: one URL for each topic. A receiver that answers 2xx has done what it had to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiohttp import ClientSession, ClientTimeout

from tidelock.messages.message import (
    ID_HEADER,
    REPLY_HEADER,
    TOPIC_HEADER,
    Message,
    Published,
    PublishRefusedError,
)

TIMEOUT_S: Final = 10.0
_ACCEPTED: Final = 202
_GREATEST_SAID: Final = 200


class HttpError(Exception):
    """A receiver did not accept a message; it is sent again."""


class HttpPublisher:
    """POSTs each message to the URL of its topic. Close it, or use it as `async with`."""

    def __init__(
        self,
        urls: Mapping[str, str],
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """`headers` are sent with each message, such as a token. Redirects are not followed."""
        self._urls = dict(urls)
        self._headers = dict(headers or {})
        self._timeout = ClientTimeout(total=timeout_s)
        self._session: ClientSession | None = None

    async def __aenter__(self) -> HttpPublisher:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def publish(self, message: Message) -> Published:
        """Send it: 202 means that it will be done, any other 2xx that it is.

        Raises:
            PublishRefusedError: its topic has no URL.
            HttpError: another status. aiohttp.ClientError, TimeoutError: no answer.
        """
        url = self._urls.get(message.topic)
        if url is None:
            raise PublishRefusedError(f"no URL is known for the topic {message.topic}")
        if self._session is None:
            self._session = ClientSession(timeout=self._timeout)
        headers = {
            **self._headers,
            "Content-Type": "application/json",
            ID_HEADER: message.id,
            TOPIC_HEADER: message.topic,
        }
        if message.reply_to:
            headers[REPLY_HEADER] = message.reply_to
        async with self._session.post(
            url, data=message.payload.encode(), headers=headers, allow_redirects=False
        ) as response:
            if not 200 <= response.status < 300:
                said = (await response.content.read(_GREATEST_SAID)).decode(errors="replace")
                raise HttpError(f"{url} answered {response.status}: {said}")
            return Published.ACCEPTED if response.status == _ACCEPTED else Published.ACKNOWLEDGED


def message_of_request(headers: Mapping[str, str], body: bytes) -> Message:
    """Return the message that a request brings, for the receiver's inbox.

    Raises:
        ValueError: it brings none: answer 400.
    """
    found = {name.lower(): value for name, value in headers.items()}
    return Message(
        id=found.get(ID_HEADER.lower(), ""),
        topic=found.get(TOPIC_HEADER.lower(), ""),
        payload=body.decode(),
        reply_to=found.get(REPLY_HEADER.lower(), ""),
    )
