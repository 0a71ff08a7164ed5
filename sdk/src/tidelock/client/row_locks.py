"""Rows that global transactions lock: who holds which."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, Unpack

from tidelock.client.answers import Lockable, LockedRow, Page, RowLockMode
from tidelock.client.attempts import JsonOf, call
from tidelock.client.resource import Listing, Reading, Resource, asking_of, query_of
from tidelock.client.row_keys import LockKeys, check_keys
from tidelock.client.transport import Call, encode

_PATH: Final = "/api/v1/row-locks"


class RowLocks(Resource):
    """Row locks. `Client.branches` takes them."""

    async def query(
        self,
        resource_id: str,
        lock_keys: LockKeys,
        *,
        lock_mode: RowLockMode | None = None,
        xid: str | None = None,
        wait_ms: int = 0,
        **options: Unpack[Reading],
    ) -> Lockable:
        """Return whether rows can be locked, EXCLUSIVE unless given, and who is in the way.

        The locks of `xid` do not count. It waits up to `wait_ms` until they can be, by which the
        deadline is put off; who waits to lock them comes first. A node that stops answers sooner.
        """
        body = {
            "resourceId": resource_id,
            "lockKeys": check_keys(lock_keys),
            "lockMode": lock_mode,
            "xid": xid,
            "waitMs": wait_ms or None,
        }
        path = f"{_PATH}/query{query_of({'consistency': options.get('consistency')})}"
        wanted = Call(method="POST", path=path, body=encode(body), waits=wait_ms > 0)
        asking = asking_of(options)
        timeout_ms = asking.get("timeout_ms", self._transport.timeout_ms)
        asking["timeout_ms"] = timeout_ms + max(0, wait_ms)
        return await call(self._transport, wanted, JsonOf(Lockable), **asking)

    def list(
        self,
        *,
        resource_id: str | None = None,
        xid: str | None = None,
        **options: Unpack[Listing],
    ) -> AsyncIterator[LockedRow]:
        """Iterate over the rows that are locked or waited for, of a resource or a transaction."""
        return self._all(_PATH, Page[LockedRow], {"resourceId": resource_id, "xid": xid}, **options)
