"""Answers about the rows that transactions lock."""

from __future__ import annotations

from typing import Literal

from tidelock.client.answers.answer import Answer

RowLockMode = Literal["EXCLUSIVE", "SHARED"]


class RowHolder(Answer, frozen=True, kw_only=True):
    """Who holds a row."""

    xid: str
    branch_id: int
    lock_mode: RowLockMode
    since: int
    """Milliseconds since the epoch."""


class LockedRow(Answer, frozen=True, kw_only=True):
    """A row that is locked, or waited for."""

    resource_id: str
    table: str
    key: list[int | str | bool | None]
    """The parts of its primary key."""
    holders: list[RowHolder]
    holder_count: int
    queue_length: int
    """How many requests wait for it."""


class HolderOfRow(RowHolder, frozen=True, kw_only=True):
    """Who holds the first row that is not free."""

    table: str
    key: list[int | str | bool | None]


class Lockable(Answer, frozen=True, kw_only=True):
    """Whether rows can be locked, and who holds the first that cannot."""

    lockable: bool
    holder: HolderOfRow | None
