"""Which branches stand on a channel session, and whether that session still is.

An LCN branch is an open connection of one process, an XA branch is begun in one: neither may be
registered for a session that has ended.
"""

from __future__ import annotations

from collections.abc import Iterable

from statemachine.outcomes import Rejected, RejectionCode
from statemachine.store import Reader
from statemachine.transactions.channel_rows import (
    bind_branch,
    get_session,
    unbind_branch,
)
from statemachine.transactions.rows import Branch
from statemachine.transactions.statuses import BRANCH_ENDED, Mode
from statemachine.write_buffer import WriteBuffer


def refusal(reader: Reader, branch: Branch) -> Rejected | None:
    """Return why a branch cannot be registered, when its session is the reason."""
    if not _needs_session(branch) or get_session(reader, branch.session_id) is not None:
        return None
    if branch.session_id == 0:
        return Rejected(
            RejectionCode.INVALID_COMMAND,
            f"A branch of mode {branch.mode} needs the sessionId of its resource manager's "
            "channel.",
        )
    return Rejected(
        RejectionCode.CHANNEL_SESSION_ENDED,
        f"Channel session {branch.session_id} has ended, or there never was one. Register the "
        "resource manager again, then the branch.",
        retryable=False,
    )


def _needs_session(branch: Branch) -> bool:
    if branch.mode is Mode.LCN:
        return True
    called_elsewhere = branch.calls.commit is not None and branch.calls.rollback is not None
    return branch.mode is Mode.XA and not called_elsewhere


def host_of(reader: Reader, session_id: int) -> str:
    """Return the host of a session's process; empty when there is no such session."""
    session = get_session(reader, session_id)
    return "" if session is None else session.host


def bind(writes: WriteBuffer, xid: str, branch: Branch) -> None:
    """Note that a branch ends with its session."""
    if branch.mode is Mode.LCN:
        bind_branch(writes, branch.session_id, xid, branch.branch_id)


def unbind(writes: WriteBuffer, xid: str, branches: Iterable[Branch]) -> None:
    """Forget it again, of a transaction that is over."""
    for branch in branches:
        if branch.mode is Mode.LCN:
            unbind_branch(writes, branch.session_id, xid, branch.branch_id)


def first_lost(reader: Reader, branches: Iterable[Branch]) -> Branch | None:
    """Return a branch whose work is gone because its session has ended."""
    for branch in branches:
        held = branch.mode is Mode.LCN and branch.status not in BRANCH_ENDED
        if held and get_session(reader, branch.session_id) is None:
            return branch
    return None


def loss_of(branch: Branch) -> str:
    """Return why a transaction rolls back whose branch is lost."""
    return f"channel session {branch.session_id} of branch {branch.branch_id} ended"
