"""What operators look at: who is connected, what was recovered, and what operators did."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, Unpack

from tidelock.client.answers import AuditPage, AuditRecord, Page, RecoveryRecord, RmSession
from tidelock.client.resource import Listing, Resource

_AUDIT: Final = "/api/v1/audit"


class ResourceManagers(Resource):
    """Resource managers; `channel.changed` of a watch tells of them."""

    def sessions(self, **options: Unpack[Listing]) -> AsyncIterator[RmSession]:
        """Iterate over those that are connected, or may come back."""
        return self._all("/api/v1/rm/sessions", Page[RmSession], {}, **options)


class Recovery(Resource):
    """What new leaders found unfinished, and did about it."""

    def list(
        self, *, xid: str | None = None, **options: Unpack[Listing]
    ) -> AsyncIterator[RecoveryRecord]:
        """Iterate over the records, of one transaction if given, the newest first."""
        return self._all("/api/v1/recovery", Page[RecoveryRecord], {"xid": xid}, **options)


class Audit(Resource):
    """What operators did, in records that are bound to each other by their digests.

    `audit.recorded` of a watch tells of new ones.
    """

    def list(self, **options: Unpack[Listing]) -> AsyncIterator[AuditRecord]:
        """Iterate over the records, the first one first."""
        return self._all(_AUDIT, AuditPage, {}, **options)

    def pages(self, **options: Unpack[Listing]) -> AsyncIterator[AuditPage]:
        """Iterate over the same in parts, each with whether its records are what they were."""
        return self._parts(_AUDIT, AuditPage, {}, **options)
