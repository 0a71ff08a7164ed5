"""Topics: names under which messages reach whoever has subscribed, in one table of the state."""

from __future__ import annotations

from typing import Final

import msgspec

from statemachine import keys
from statemachine.commands.messages import DeleteSubscriber, DeleteTopic, PutSubscriber
from statemachine.outcomes import Applied, Outcome, Rejected, RejectionCode, SubscribersChanged
from statemachine.store import Reader
from statemachine.transactions.desk import Desk

SCHEME: Final = "topic://"
"""A step whose forward call begins with it names a topic instead of a URL."""

GREATEST_SUBSCRIBERS: Final = 100
"""Of one topic."""

GREATEST_ALL_SUBSCRIBERS: Final = 100_000
"""Of all topics together."""


GREATEST_NAME_BYTES: Final = 128
"""Of the name of a topic or of a subscriber."""


class Subscriber(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A row: who is told of a topic's messages, and where."""

    topic: str
    name: str
    url: str
    remark: str
    since_ms: int
    """In wall time: when its URL was set."""


_encode: Final = msgspec.msgpack.Encoder().encode
_rows: Final = msgspec.msgpack.Decoder(Subscriber)

_NAME_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"The names of topics and of their subscribers have 1 to {GREATEST_NAME_BYTES} bytes of UTF-8.",
)
_TOPIC_FULL: Final = Rejected(
    RejectionCode.SUBSCRIBERS_FULL,
    f"The topic has {GREATEST_SUBSCRIBERS} subscribers, the most there may be.",
)
_TABLE_FULL: Final = Rejected(
    RejectionCode.SUBSCRIBERS_FULL,
    f"All topics together have {GREATEST_ALL_SUBSCRIBERS} subscribers, the most there may be.",
)


def topic_of(url: str) -> str | None:
    """Return the topic that a step is for, or None when it is for a URL."""
    return url[len(SCHEME) :] if url.startswith(SCHEME) else None


def get_subscribers(reader: Reader, topic: str) -> list[Subscriber]:
    """Return a topic's subscribers in the order of their names."""
    begin = keys.SUBSCRIBER + keys.terminated(topic)
    rows = reader.scan(begin, _after(topic), limit=GREATEST_SUBSCRIBERS)
    return [_rows.decode(row) for _, row in rows]


def list_topics(reader: Reader, after: str, *, limit: int) -> list[str]:
    """Return names of topics that have subscribers, in order, those after `after`."""
    found: list[str] = []
    begin = _after(after) if after else keys.SUBSCRIBER
    stop = keys.stop_of(keys.SUBSCRIBER)
    while len(found) < limit and (rows := reader.scan(begin, stop, limit=1)):
        topic = _rows.decode(rows[0][1]).topic
        found.append(topic)
        begin = _after(topic)
    return found


def put_subscriber(desk: Desk, command: PutSubscriber) -> Outcome:
    """Add a subscriber, or change where it is told."""
    if not _is_usable(command.topic) or not _is_usable(command.name):
        return _NAME_UNUSABLE
    key = _key(command.topic, command.name)
    row = desk.writes.get(key)
    count = len(get_subscribers(desk.writes, command.topic))
    if row is None:
        if count >= GREATEST_SUBSCRIBERS:
            return _TOPIC_FULL
        if desk.state.subscriber_count >= GREATEST_ALL_SUBSCRIBERS:
            return _TABLE_FULL
        desk.state.subscriber_count += 1
        count += 1
    elif (before := _rows.decode(row)).url == command.url and before.remark == command.remark:
        return _changed(command.topic, False, count)
    subscriber = Subscriber(
        command.topic, command.name, command.url, command.remark, desk.state.wall_ms
    )
    desk.writes.put(key, _encode(subscriber))
    return _changed(command.topic, True, count)


def delete_subscriber(desk: Desk, command: DeleteSubscriber) -> Outcome:
    """Delete one; none of that name changes nothing."""
    if not _is_usable(command.topic) or not _is_usable(command.name):
        return _NAME_UNUSABLE
    key = _key(command.topic, command.name)
    count = len(get_subscribers(desk.writes, command.topic))
    if desk.writes.get(key) is None:
        return _changed(command.topic, False, count)
    desk.writes.delete(key)
    desk.state.subscriber_count -= 1
    return _changed(command.topic, True, count - 1)


def delete_topic(desk: Desk, command: DeleteTopic) -> Outcome:
    """Delete all of a topic."""
    if not _is_usable(command.topic):
        return _NAME_UNUSABLE
    subscribers = get_subscribers(desk.writes, command.topic)
    for subscriber in subscribers:
        desk.writes.delete(_key(command.topic, subscriber.name))
    desk.state.subscriber_count -= len(subscribers)
    return _changed(command.topic, bool(subscribers), 0)


def _is_usable(name: str) -> bool:
    return 0 < len(name.encode()) <= GREATEST_NAME_BYTES


def _key(topic: str, name: str) -> bytes:
    return keys.SUBSCRIBER + keys.terminated(topic) + keys.terminated(name)


def _after(topic: str) -> bytes:
    """Return the first key after all subscribers of a topic."""
    return keys.SUBSCRIBER + keys.terminated(topic)[:-1] + b"\x01"


def _changed(topic: str, changed: bool, count: int) -> Applied:
    return Applied(SubscribersChanged(topic=topic, changed=changed, subscribers=count))
