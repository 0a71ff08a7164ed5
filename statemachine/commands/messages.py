"""Commands of two-phase messages and of the topics that they are delivered to."""

from __future__ import annotations

from statemachine.commands.command import Command
from statemachine.commands.transactions import Step


class PrepareMessage(Command, frozen=True, tag=82):
    """Keep a message that is delivered once it is submitted, `DecideGlobal` says when."""

    xid: str
    """Empty: one is made of `prefix` and a number."""
    prefix: str
    name: str
    query: str
    """Whom to ask what became of it when nobody submits or aborts it."""
    steps: tuple[Step, ...]
    """Each is delivered to the URL of its forward call, or to all subscribers of `topic://NAME`."""
    delay_ms: int
    """From the submission to the first delivery."""
    query_after_ms: int
    """From now to the first question."""
    protocol: str = ""
    options: bytes = b""
    """What a gateway keeps with it."""


class PutSubscriber(Command, frozen=True, tag=83):
    """Have the messages of a topic delivered to a URL; the same name again replaces the URL."""

    topic: str
    name: str
    url: str
    remark: str


class DeleteSubscriber(Command, frozen=True, tag=84):
    topic: str
    name: str


class DeleteTopic(Command, frozen=True, tag=85):
    """Delete all subscribers of a topic."""

    topic: str
