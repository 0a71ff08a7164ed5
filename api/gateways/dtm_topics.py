"""Topics as DTM keeps them: values of the category `topics`, each a list of its subscribers.

Here they are the cluster's topics, so that a subscription is known to every node at once.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import msgspec

from api.gateways.dtm_answers import DtmError
from statemachine.store import Reader
from statemachine.transactions.topics import (
    GREATEST_NAME_BYTES,
    Subscriber,
    get_subscribers,
    list_topics,
)

CATEGORY: Final = "topics"


class _Listed(msgspec.Struct):
    url: str
    remark: str


class Kv(msgspec.Struct):
    """One value."""

    id: int
    cat: str
    k: str
    v: str
    version: int
    """Greater after each subscription."""


class Kvs(msgspec.Struct):
    """The answer to `queryKV`."""

    kv: list[Kv]


class KvPage(msgspec.Struct):
    """The answer to `scanKV`."""

    kv: list[Kv]
    next_position: str


def subscriber_name(url: str) -> str:
    """Return the name under which a URL is subscribed: itself, or a digest of a long one."""
    if len(url.encode()) <= GREATEST_NAME_BYTES:
        return url
    return "url:" + blake2b(url.encode(), digest_size=20).hexdigest()


def check_topic(topic: str) -> str:
    """Raises: DtmError: it is no name of a topic."""
    if not topic:
        raise DtmError("empty topic")
    if len(topic.encode()) > GREATEST_NAME_BYTES:
        raise DtmError(f"a topic's name has at most {GREATEST_NAME_BYTES} bytes")
    return topic


def check_new(reader: Reader, topic: str, url: str) -> None:
    """Raises: DtmError: the URL has subscribed."""
    if any(each.url == url for each in get_subscribers(reader, topic)):
        raise DtmError("this url exists")


def subscriber_of(reader: Reader, topic: str, url: str) -> Subscriber:
    """Return who subscribed with a URL. Raises: DtmError: nobody, or there is no such topic."""
    subscribers = get_subscribers(reader, topic)
    if not subscribers:
        raise DtmError("no such a topic")
    for each in subscribers:
        if each.url == url:
            return each
    raise DtmError("no such an url ")


def query(reader: Reader, category: str, key: str) -> Kvs:
    """Return the values of a category, those of one key when it is named."""
    if category != CATEGORY:
        return Kvs([])
    if not key:
        return Kvs(scan(reader, category, "", limit=1_000).kv)
    found = get_subscribers(reader, key) if len(key.encode()) <= GREATEST_NAME_BYTES else []
    return Kvs([_kv(key, found)] if found else [])


def scan(reader: Reader, category: str, position: str, *, limit: int) -> KvPage:
    """Return values in the order of their keys, those behind `position`."""
    if category != CATEGORY:
        return KvPage([], "")
    if len(position.encode()) > GREATEST_NAME_BYTES:
        raise DtmError("position is none that was answered before")
    topics = list_topics(reader, position, limit=limit)
    listed = [_kv(topic, get_subscribers(reader, topic)) for topic in topics]
    return KvPage(listed, topics[-1] if len(topics) == limit else "")


def _kv(topic: str, subscribers: list[Subscriber]) -> Kv:
    listed = [_Listed(each.url, each.remark) for each in subscribers]
    return Kv(
        id=int.from_bytes(blake2b(topic.encode(), digest_size=6).digest(), "big"),
        cat=CATEGORY,
        k=topic,
        v=msgspec.json.encode(listed).decode(),
        version=max((each.since_ms for each in subscribers), default=0),
    )
