"""Answers about what operators did."""

from __future__ import annotations

from tidelock.client.answers.answer import Answer, Page


class AuditRecord(Answer, frozen=True, kw_only=True):
    """An act of an operator."""

    number: int
    """From 1 on, without gaps."""
    at: int
    """Milliseconds since the epoch."""
    principal: str
    """Who did it; empty as long as nobody needs to say."""
    action: str
    target: str
    """A transaction or a node."""
    reason: str
    outcome: str
    """DONE, ASKED of what is done elsewhere than in the state, or the code of a refusal."""
    previous_digest: str
    """Of the record before it, in hexadecimal digits; empty in the first."""
    digest: str
    """SHA-256 over `previous_digest`, a line feed and the JSON array of the fields from `number` to
    `outcome`, in this order, without blanks, in UTF-8."""


class AuditPage(Page[AuditRecord], frozen=True, kw_only=True):
    """A part of the log, the first record first."""

    intact: bool
    """Each record here has the digest that it must have, and follows the one before it."""
    first_fault: int | None
    """The first record of which that is not so."""
