"""What a call to a branch is, in the words of whoever is called, and what its answer means.

How branches are called depends on the protocol in which their transaction was begun; the driver
does not. It asks the transaction's `CallStyle` for a request, has it sent, and asks what the reply
means. A call of a branch without a URL goes over a resource manager's `Channel`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from statemachine.transactions.planning import Operation
from statemachine.transactions.rows import Branch, Global


class Verdict(enum.StrEnum):
    """What a call came to, as it is reported to the state machine."""

    DONE = "DONE"
    FAILED = "FAILED"
    """The participant will never do it, and has done nothing."""
    RETRY = "RETRY"
    """Nobody knows: it is called again, later and later."""
    ONGOING = "ONGOING"
    """The participant is at it: it is asked again, always after the same time."""
    NOTA = "NOTA"
    """The database does not know the XA branch."""


class Answer(msgspec.Struct, frozen=True):
    """A verdict, with what is kept of the reply."""

    verdict: Verdict
    result: bytes = b""
    """JSON, at most `driving.GREATEST_RESULT_BYTES`; empty when there is none."""
    failure_type: str = ""
    """What went wrong, as a code: TIMEOUT, UNREACHABLE, STATUS_503, …"""
    failure_message: str = ""


class BranchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request. Where it leads is judged when it is sent."""

    method: str = "POST"
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    timeout_ms: int = 0
    """From the first byte sent to the last one received; 0: the operator's default."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What came back: a status with a body, or why there is none."""

    status: int = 0
    """0 when no whole reply came."""
    body: bytes = b""
    cut: bool = False
    """The body was larger than is read, and is empty here."""
    failure_type: str = ""
    failure_message: str = ""


class CallStyle(Protocol):
    """How the branches of one protocol are called. Pure: no I/O, no clock."""

    def request_of(
        self,
        row: Global,
        branch: Branch,
        branches: Sequence[Branch],
        operation: Operation,
        epoch: int,
    ) -> BranchRequest | Answer:
        """Return the request of a call, or what it comes to without being made.

        `branches` are all of the transaction's; `epoch` is the term in which it is called.
        """

    def answer_of(self, row: Global, branch: Branch, operation: Operation, reply: Reply) -> Answer:
        """Return what a reply with a status means."""


Cancel = Callable[[], None]
"""Give up on a call: nothing is heard of it any more."""


class Sender(Protocol):
    """How requests leave this node."""

    def send(
        self,
        request: BranchRequest,
        may_go: Callable[[], bool],
        on_reply: Callable[[Reply], None],
    ) -> Cancel:
        """Send a request; `on_reply` is called once, and never from here.

        `may_go` is asked at the last moment before anything is sent.
        """


class Channel(Protocol):
    """The way to resource managers that keep a connection to some node."""

    def send(
        self,
        row: Global,
        branch: Branch,
        operation: Operation,
        epoch: int,
        on_answer: Callable[[Answer], None],
    ) -> Cancel:
        """Tell a branch's manager what to do; `on_answer` is called once, and never from here.

        It is called within a bounded time, also when nobody is connected.
        """


def failed_call(reply: Reply) -> Answer:
    """Return what a call without a reply comes to: nobody knows what the participant did."""
    return Answer(
        Verdict.RETRY, failure_type=reply.failure_type, failure_message=reply.failure_message
    )
