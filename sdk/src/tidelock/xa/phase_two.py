"""The second phase of XA: what the database says, and what that means.

A server that does not know a branch (XAER_NOTA, "does not exist") may mean three things: it is done
already; it was never prepared; or its owner still has it. Only the first two may ever be called
done, so it is always asked whether the branch is listed:

=========  ==========  ===================================================================
not known  listed      the owner's connection lives, or the server has not noticed its end: retry
not known  not listed  commit: done before, when it was reported as prepared; else retry.
                       rollback: nothing to undo; final only when nobody can still prepare it
=========  ==========  ===================================================================
"""

from __future__ import annotations

from typing import Final

from tidelock.crash_points import reached
from tidelock.rm.resource import BranchCall, PhaseTwoResult, PhaseTwoStatus
from tidelock.sql.session import Session
from tidelock.xa.naming import BranchName
from tidelock.xa.servers import XaServer

_PATIENCE: Final = 10
"""How often it is asked again, where the owner has just closed its connection."""


async def commit(server: XaServer, session: Session, call: BranchCall) -> PhaseTwoResult:
    """Commit a prepared branch. Raises: what the driver raises, which is to be retried."""
    name = BranchName(call.xid, call.branch_id)
    reached("xa.before-commit")
    for _ in range(_PATIENCE):
        if await server.commit(session, name):
            reached("xa.after-commit")
            return PhaseTwoResult(status=PhaseTwoStatus.COMMITTED)
        if name not in await server.prepared(session):
            break
        await server.wait_a_little(session)
    else:
        return PhaseTwoResult(
            status=PhaseTwoStatus.COMMIT_FAILED_RETRYABLE,
            detail="the connection that prepared the branch still has it",
        )
    if call.phase_one_done:
        return PhaseTwoResult(status=PhaseTwoStatus.COMMITTED)
    return PhaseTwoResult(
        status=PhaseTwoStatus.COMMIT_FAILED_RETRYABLE,
        detail="the database does not know the branch, and nobody reported that it was prepared",
        not_found=True,
    )


async def rollback(
    server: XaServer, session: Session, call: BranchCall, *, owner_confirms: bool
) -> PhaseTwoResult:
    """Roll a branch back. `owner_confirms`: this process has it, and does not work on it.

    Raises: what the driver raises, which is to be retried.
    """
    name = BranchName(call.xid, call.branch_id)
    reached("xa.before-rollback")
    for _ in range(_PATIENCE):
        if await server.rollback(session, name):
            reached("xa.after-rollback")
            return PhaseTwoResult(status=PhaseTwoStatus.ROLLED_BACK)
        if name not in await server.prepared(session):
            break
        await server.wait_a_little(session)
    else:
        return PhaseTwoResult(
            status=PhaseTwoStatus.ROLLBACK_FAILED_RETRYABLE,
            detail="the connection that prepared the branch still has it",
        )
    if owner_confirms or call.owner_gone or call.phase_one_done:
        return PhaseTwoResult(status=PhaseTwoStatus.ROLLED_BACK)
    return PhaseTwoResult(
        status=PhaseTwoStatus.ROLLBACK_FAILED_RETRYABLE,
        detail="the database does not know the branch, but its owner may still prepare it",
        not_found=True,
    )
