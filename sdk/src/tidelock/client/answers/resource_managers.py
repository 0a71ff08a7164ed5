"""Answers about resource managers."""

from __future__ import annotations

from typing import Literal

from tidelock.client.answers.answer import Answer
from tidelock.client.answers.statuses import BranchMode


class RmSession(Answer, frozen=True, kw_only=True):
    """A session of a resource manager."""

    session_id: int
    application_id: str
    host: str
    instance: str
    resources: list[str]
    modes: list[BranchMode]
    node_id: str
    """The node that holds its channel, or held it last."""
    state: Literal["ATTACHED", "DETACHED"]
    """DETACHED while it waits for the process to come back."""
    since: int
    """When it came into this state, milliseconds since the epoch."""
