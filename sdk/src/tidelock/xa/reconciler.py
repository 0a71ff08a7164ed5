"""Branches that a database holds prepared and nobody ends: settled by what the cluster knows.

The coordinator ends every branch that it knows of. What can be left is a branch that was prepared
after its transaction had ended, by a process that died before it heard so; or that the cluster has
never heard of, since somebody pointed the application at another cluster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from tidelock.client import Client
from tidelock.crash_points import reached
from tidelock.errors import TransactionNotFoundError
from tidelock.rm.resource import BranchCall
from tidelock.xa.naming import BranchName

if TYPE_CHECKING:
    from tidelock.xa.source import XaSource

_ROLLED_BACK: Final = frozenset({"ROLLED_BACK", "TIMEOUT_ROLLED_BACK"})


class Unsettled(msgspec.Struct, frozen=True):
    """A prepared branch that was left as it is."""

    xid: str
    branch_id: int
    why: str


async def reconcile(source: XaSource, client: Client) -> list[Unsettled]:
    """End each prepared branch of a transaction that has ended; return what cannot be judged.

    A transaction under way is the coordinator's: it is left alone and not returned.

    Raises: what the driver and the client raise.
    """
    unsettled: list[Unsettled] = []
    for name in await source.prepared():
        why = await _settle(source, client, name)
        if why:
            unsettled.append(Unsettled(name.xid, name.branch_id, why))
    return unsettled


async def _settle(source: XaSource, client: Client, name: BranchName) -> str:
    """Return why it stays; empty when it is ended, or somebody will end it."""
    try:
        transaction = await client.transactions.get(name.xid)
    except TransactionNotFoundError as error:
        if error.transaction is None:
            return "the cluster does not know the transaction"
        status = error.transaction.status
    else:
        status = transaction.status
        if not transaction.has_ended:
            return ""
    call = BranchCall(
        xid=name.xid, branch_id=name.branch_id, mode="XA", resource_id=source.resource_id
    )
    reached("xa.before-settle")
    if status in _ROLLED_BACK:
        await source.rollback(call)
    elif status == "COMMITTED":
        await source.commit(call)
    else:
        return f"its transaction ended as {status}: an operator decides"
    reached("xa.after-settle")
    return ""
