"""Answers about version vectors, versioned objects and vector clocks."""

from __future__ import annotations

from typing import Any

from tidelock.client.answers.answer import Answer, Vector
from tidelock.clocks import Relation


class KeyVersion(Answer, frozen=True, kw_only=True):
    """The version vector of a key."""

    key: str
    version_vector: Vector


class IncrementedVersion(KeyVersion, frozen=True, kw_only=True):
    """A version vector after an increment."""

    event_id: str


class MergedVersion(KeyVersion, frozen=True, kw_only=True):
    """A version vector after a merge; `relation` is of the stored one, before, to the received."""

    relation: Relation


class Comparison(Answer, frozen=True, kw_only=True):
    """The relation of the first to the second."""

    relation: Relation


class VersionEvent(Answer, frozen=True, kw_only=True):
    """A stored change of a version."""

    event_id: str
    type: str
    key: str
    node_id: str | None = None
    version_vector: Vector | None = None
    relation: Relation | None = None
    context: Vector | None = None
    count: int | None = None
    siblings: int | None = None
    created_at: int


class Sibling(Answer, frozen=True, kw_only=True):
    """One of the concurrent values of an object."""

    value: Any  # whatever JSON was written
    node_id: str
    count: int


class VersionedObject(Answer, frozen=True, kw_only=True):
    """An object's concurrent values; who writes with `context` resolves them."""

    key: str
    siblings: list[Sibling]
    context: Vector
    event_id: str | None = None


class ParticipantClock(Answer, frozen=True, kw_only=True):
    """A participant's vector clock."""

    node_id: str
    vector_clock: Vector


class SentMessage(ParticipantClock, frozen=True, kw_only=True):
    """The clock to send along with a message."""

    message_id: str


class ReceivedMessage(ParticipantClock, frozen=True, kw_only=True):
    """The clock after a message."""

    relation: Relation


class VectorEvent(ParticipantClock, frozen=True, kw_only=True):
    """A stored tick, send or receive."""

    event_id: str
    type: str
    message_id: str | None = None
    message: Any = None  # whatever JSON was sent
    relation: Relation | None = None
    created_at: int
