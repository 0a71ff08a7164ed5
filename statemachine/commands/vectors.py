"""Commands of vector clocks."""

from __future__ import annotations

from statemachine.commands.command import Command


class TickVector(Command, frozen=True, tag=23):
    """Record an event of a participant on its vector clock."""

    node_id: str


class SendMessage(Command, frozen=True, tag=24):
    """Record that a participant sends a message. The event's id is that of the message."""

    node_id: str
    message: bytes
    """The client's JSON text, empty when there is none."""


class ReceiveMessage(Command, frozen=True, tag=25):
    """Record that a participant receives a message, and what its sender knew."""

    node_id: str
    vector: dict[str, int]
    message_id: str
    """Empty when the client named none; else the receipt is recorded once."""
    message: bytes
