"""Two-phase messages, and the topics under which they reach whoever has subscribed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, Unpack

import msgspec

from tidelock.client.answers import (
    Message,
    Page,
    SubscriberChange,
    Topic,
    TopicSummary,
    TransactionState,
)
from tidelock.client.resource import Listing, Reading, Resource, Writing, part
from tidelock.client.transactions import is_of

_MESSAGES: Final = "/api/v1/messages"
_TOPICS: Final = "/api/v1/topics"


class MessageStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """To whom a message goes: a URL, or all who subscribe to a topic when it is submitted."""

    action: str | None = None
    topic: str | None = None
    payload: Any = None  # what is delivered


class Messages(Resource):
    """Messages that are prepared before the work that they tell of, and submitted after it."""

    async def prepare(
        self,
        query: str,
        steps: Sequence[MessageStep],
        *,
        xid: str | None = None,
        name: str | None = None,
        delay_ms: int | None = None,
        query_after_ms: int | None = None,
        **options: Unpack[Writing],
    ) -> TransactionState:
        """Keep a message until it is submitted or aborted.

        When neither comes for `query_after_ms`, 10 s unless given, the URL `query` is asked: 2xx
        means submit, 409 abort, and anything else ask again. `delay_ms` is from the submission to
        the first delivery.

        Raises: TransactionExistsError
        """
        body = {
            "query": query,
            "steps": steps,
            "xid": xid,
            "name": name,
            "delayMs": delay_ms,
            "timeoutMs": query_after_ms,
        }
        check = None if xid is None else is_of(xid)
        return await self._post(_MESSAGES, body, TransactionState, check, **options)

    async def submit(
        self, xid: str, *, wait_ms: int = 0, **options: Unpack[Writing]
    ) -> TransactionState:
        """Have it delivered, and wait until everybody has accepted it.

        It waits up to `wait_ms`, by which the deadline is put off.

        Raises: TransactionNotFoundError; TransactionDecidedError: it was aborted.
        """
        return await self._decide(xid, "submit", {"waitMs": wait_ms}, wait_ms, **options)

    async def abort(
        self, xid: str, *, reason: str | None = None, **options: Unpack[Writing]
    ) -> TransactionState:
        """Give it up.

        Raises: TransactionNotFoundError; TransactionDecidedError: it was submitted.
        """
        return await self._decide(xid, "abort", {"reason": reason}, 0, **options)

    async def get(self, xid: str, **options: Unpack[Reading]) -> Message:
        """Return a message, and how far its delivery is. Raises `TransactionNotFoundError`."""
        return await self._get(f"{_MESSAGES}/{part(xid)}", Message, **options)

    async def _decide(
        self,
        xid: str,
        verb: str,
        body: dict[str, Any],
        wait_ms: int,
        **options: Unpack[Writing],
    ) -> TransactionState:
        path = f"{_MESSAGES}/{part(xid)}/{verb}"
        return await self._post_waiting(
            path, body, TransactionState, is_of(xid), wait_ms, **options
        )


class Topics(Resource):
    """Topics, which exist as long as somebody subscribes to them."""

    def list(self, **options: Unpack[Listing]) -> AsyncIterator[TopicSummary]:
        """Iterate over the topics, by name."""
        return self._all(_TOPICS, Page[TopicSummary], {}, **options)

    async def get(self, topic: str, **options: Unpack[Reading]) -> Topic:
        """Return who is told of a topic's messages."""
        return await self._get(_subscribers(topic), Topic, **options)

    async def subscribe(
        self,
        topic: str,
        name: str,
        url: str,
        *,
        remark: str | None = None,
        **options: Unpack[Writing],
    ) -> SubscriberChange:
        """Have messages that are submitted from now on delivered to a URL."""
        path = f"{_subscribers(topic)}/{part(name)}"
        body = {"url": url, "remark": remark}
        return await self._write("PUT", path, body, SubscriberChange, **options)

    async def unsubscribe(
        self, topic: str, name: str, **options: Unpack[Writing]
    ) -> SubscriberChange:
        """End a subscription."""
        path = f"{_subscribers(topic)}/{part(name)}"
        return await self._write("DELETE", path, None, SubscriberChange, **options)


def _subscribers(topic: str) -> str:
    return f"{_TOPICS}/{part(topic)}/subscribers"
