"""Answers about two-phase messages and the topics that they go to."""

from __future__ import annotations

from typing import Literal

from tidelock.client.answers.answer import Answer
from tidelock.client.answers.statuses import BranchStatus
from tidelock.client.answers.transactions import BranchFailure, TransactionState

DeliveryStatus = Literal["PREPARED", BranchStatus]
"""PREPARED before the submission; then as a branch, REGISTERED until it is accepted."""


class Delivery(Answer, frozen=True, kw_only=True):
    """One of those that a message goes to."""

    name: str
    """The number of its step, and of the subscriber behind a dash when the topic has several."""
    action: str | None
    """Where it goes; None for a topic, as long as the message is not submitted."""
    topic: str | None
    status: DeliveryStatus
    attempts: int
    """How often it was not accepted."""
    next_attempt_at: int | None
    """Milliseconds since the epoch."""
    error: BranchFailure | None


class CheckBack(Answer, frozen=True, kw_only=True):
    """How the sender of a message is asked what became of its work."""

    url: str
    attempts: int
    next_attempt_at: int | None
    """Milliseconds since the epoch; None once the message was submitted or aborted."""
    error: BranchFailure | None


class Message(TransactionState, frozen=True, kw_only=True):
    """A message, and how far its delivery is."""

    name: str
    submitted: bool
    query: CheckBack | None
    """None when the retention of its details is over."""
    steps: list[Delivery]


class SubscriberChange(Answer, frozen=True, kw_only=True):
    """A subscription that was made, changed or ended."""

    topic: str
    name: str
    changed: bool
    """False when it had been so before."""
    subscriber_count: int


class Subscriber(Answer, frozen=True, kw_only=True):
    """Who is told of a topic's messages."""

    name: str
    url: str
    remark: str
    since: int
    """Milliseconds since the epoch: when its URL was set."""


class Topic(Answer, frozen=True, kw_only=True):
    """A topic with its subscribers, in the order of their names."""

    topic: str
    subscribers: list[Subscriber]


class TopicSummary(Answer, frozen=True, kw_only=True):
    """A topic in a list."""

    topic: str
