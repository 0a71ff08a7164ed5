"""Operations that are replicated as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from tidelock.client.answers import BatchResults
from tidelock.client.resource import Resource, Writing


class Batches(Resource):
    """Operations that are replicated as one."""

    async def run(
        self, operations: Sequence[Mapping[str, Any]], **options: Unpack[Writing]
    ) -> BatchResults:
        """Do up to 1,000 operations, each a body with its `op`, as `timestamp.event`."""

        def are_as_many(found: BatchResults) -> bool:
            return len(found.results) == len(operations) and all(
                isinstance(result.get("status"), int) for result in found.results
            )

        body = {"operations": operations}
        return await self._post("/api/v1/batch", body, BatchResults, are_as_many, **options)
