"""The XA and JTA services: business that nodes run in two databases, both or neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Unpack
from urllib.parse import quote

import msgspec

from tidelock.client.answers.services import (
    AcceptedExecution,
    Execution,
    ExecutionBatch,
    ExecutionStatus,
)
from tidelock.client.resource import Reading, Resource, Writing

WAIT_MS: Final = 30_000
"""How long the end of an execution is waited for, unless it is said."""

Data = Mapping[str, Any] | msgspec.Struct
"""A JSON object, or a struct that is one: those of `tidelock.services`."""


class BusinessCall(msgspec.Struct, frozen=True, rename="camel"):
    """One of a batch."""

    business_type: str
    business_data: Data


def _body(business_type: str, data: Data) -> dict[str, Any]:
    return {"businessType": business_type, "businessData": data}


class XaService(Resource):
    """Executions of `/xa`."""

    async def execute(
        self,
        business_type: str,
        data: Data,
        *,
        wait_ms: int = WAIT_MS,
        **options: Unpack[Writing],
    ) -> Execution:
        """Run business and wait for its end, up to `wait_ms` beyond the deadline of other calls.

        What was rolled back is returned, with its `error`. It goes on though this is cancelled.

        Raises: InvalidRequestError: `errors` says which field is at fault;
            ServicesNotConfiguredError; OutcomeUnknownError: it has not ended by then.
        """
        body = _body(business_type, data)
        return await self._post_waiting("/xa/execute", body, Execution, None, wait_ms, **options)

    async def execute_batch(
        self,
        transactions: Sequence[BusinessCall],
        *,
        wait_ms: int = WAIT_MS,
        **options: Unpack[Writing],
    ) -> ExecutionBatch:
        """Run several, one after the other, each in a transaction of its own.

        Raises: as `execute`.
        """
        return await self._post_waiting(
            "/xa/batch-execute",
            {"transactions": transactions},
            ExecutionBatch,
            None,
            wait_ms,
            **options,
        )

    async def execute_async(
        self, business_type: str, data: Data, **options: Unpack[Writing]
    ) -> AcceptedExecution:
        """Have business run, and return at once; `status` says when it has ended.

        Raises: as `execute`.
        """
        body = _body(business_type, data)
        return await self._post("/xa/execute-async", body, AcceptedExecution, None, **options)

    async def status(self, transaction_id: str, **options: Unpack[Reading]) -> ExecutionStatus:
        """Return everything about an execution. Raises `ExecutionNotFoundError`."""
        path = f"/xa/status/{quote(transaction_id, safe='')}"
        return await self._get(path, ExecutionStatus, **options)


class JtaService(Resource):
    """Executions of `/jta`, which have synchronizations around their end."""

    async def execute(
        self,
        business_type: str,
        data: Data,
        *,
        wait_ms: int = WAIT_MS,
        **options: Unpack[Writing],
    ) -> Execution:
        """Run business and wait for its end. As `XaService.execute`."""
        body = _body(business_type, data)
        return await self._post_waiting("/jta/execute", body, Execution, None, wait_ms, **options)

    async def status(self, transaction_id: str, **options: Unpack[Reading]) -> ExecutionStatus:
        """Return everything about an execution. Raises `ExecutionNotFoundError`."""
        path = f"/jta/status/{quote(transaction_id, safe='')}"
        return await self._get(path, ExecutionStatus, **options)
