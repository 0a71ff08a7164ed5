"""Commands of saga definitions, and of the sagas that follow them."""

from __future__ import annotations

from statemachine.commands.command import Command


class PutSagaDefinition(Command, frozen=True, tag=98):
    """Have sagas of a name follow a definition from now on. The same again changes nothing."""

    name: str
    document: bytes
    """JSON in the state language."""


class DeleteSagaDefinition(Command, frozen=True, tag=99):
    """Let no further saga follow a definition; those under way go on with it."""

    name: str


class StartSaga(Command, frozen=True, tag=100):
    """Begin a saga that follows a definition."""

    xid: str
    """Empty: one is made of `prefix` and a number."""
    prefix: str
    name: str
    definition: str
    input: bytes
    """A JSON object: the variables that it begins with."""
    timeout_ms: int
    """0: the definition's own."""
    wait_ms: int
    forward_recovery: bool
    """A failure that nothing catches is repeated for ever instead of rolled back."""
