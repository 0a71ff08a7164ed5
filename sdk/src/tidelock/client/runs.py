"""Transactions that the cluster runs: sagas, what they follow, and TCC."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, Literal, Unpack

import msgspec

from tidelock.client.answers import (
    Page,
    Run,
    Saga,
    SagaDefinition,
    SagaDefinitionChange,
    SagaDefinitionDeletion,
    SagaDefinitionSummary,
)
from tidelock.client.resource import Listing, Reading, Resource, Writing, part
from tidelock.client.transactions import is_of

SagaRecovery = Literal["BACKWARD", "FORWARD"]
"""What becomes of a saga of which a step fails: what was done is undone, or the step is repeated
until it succeeds."""

_SAGAS: Final = "/api/v1/sagas"
_DEFINITIONS: Final = "/api/v1/saga-definitions"


class _Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """The base of parts of a body."""


class Retry(_Part, frozen=True, kw_only=True):
    """How a call that did not succeed is repeated."""

    limit: int | None = None
    """How often; None: until it succeeds."""
    interval_ms: int | None = None
    """Before the first repetition, 500 unless given; it doubles with each, up to 20 s."""


class SagaStep(_Part, frozen=True, kw_only=True):
    """A step: a URL that does something, and one that undoes it."""

    name: str
    """Unique among the steps, without dots."""
    action: str
    compensation: str = ""
    """Empty: there is nothing to undo."""
    payload: Any = None  # the body of each call
    """Any JSON; `{"$ref": "step.path"}` in it stands for what an earlier step answered."""
    depends_on: Sequence[str] | None = None
    """The steps that must be done before it."""
    timeout_ms: int | None = None
    """How long one call may take."""
    retry: Retry | None = None


class TccBranch(_Part, frozen=True, kw_only=True):
    """URLs that reserve, that keep what was reserved, and that give it back."""

    try_: str = msgspec.field(name="try")
    confirm: str
    cancel: str
    name: str | None = None
    """Its number, from 1, unless given."""
    payload: Any = None  # the body of all three calls
    timeout_ms: int | None = None
    """How long one call may take."""
    retry: Retry | None = None
    """Of Try. Confirm and Cancel are repeated until they succeed or refuse."""


class Sagas(Resource):
    """Sagas: steps that the cluster calls, and undoes when one fails."""

    async def run(
        self,
        steps: Sequence[SagaStep] | None = None,
        *,
        definition: str | None = None,
        input: Mapping[str, Any] | None = None,
        xid: str | None = None,
        name: str | None = None,
        concurrent: bool | None = None,
        compensate_failed: bool | None = None,
        recovery: SagaRecovery | None = None,
        transaction_timeout_ms: int | None = None,
        wait_ms: int = 0,
        **options: Unpack[Writing],
    ) -> Saga:
        """Run steps, or follow a definition from its `input` on, and wait for the end.

        It waits up to `wait_ms`, by which the deadline is put off, and then says how far it got; it
        goes on though this is cancelled. Steps follow each other unless they say what they depend
        on, or are `concurrent`. `compensate_failed`: a step that refused is undone, too; one whose
        outcome nobody knows always is. Without `transaction_timeout_ms` it goes on until every step
        is done, or one has failed.

        Raises: TransactionExistsError; SagaDefinitionNotFoundError; InvalidRequestError: `errors`
            says which step is at fault.
        """
        body = {
            "xid": xid,
            "name": name,
            "definition": definition,
            "input": input,
            "steps": steps,
            "concurrent": concurrent,
            "compensateFailed": compensate_failed,
            "recovery": recovery,
            "timeoutMs": transaction_timeout_ms,
            "waitMs": wait_ms,
        }
        check = None if xid is None else is_of(xid)
        return await self._post_waiting(_SAGAS, body, Saga, check, wait_ms, **options)

    async def get(self, xid: str, **options: Unpack[Reading]) -> Saga:
        """Return a saga and where each step stands. Raises `TransactionNotFoundError`."""
        return await self._get(f"{_SAGAS}/{part(xid)}", Saga, **options)


class SagaDefinitions(Resource):
    """What sagas can follow, in Seata's state language, by name."""

    async def put(
        self, name: str, definition: Mapping[str, Any], **options: Unpack[Writing]
    ) -> SagaDefinitionChange:
        """Have sagas follow it from now on; those that run keep theirs to their end.

        Raises: InvalidRequestError: `errors` lists all that is wrong with it.
        """
        return await self._write("PUT", _path(name), definition, SagaDefinitionChange, **options)

    async def get(self, name: str, **options: Unpack[Reading]) -> SagaDefinition:
        """Return the newest version. Raises `SagaDefinitionNotFoundError`."""
        return await self._get(_path(name), SagaDefinition, **options)

    def list(self, **options: Unpack[Listing]) -> AsyncIterator[SagaDefinitionSummary]:
        """Iterate over the definitions, by name."""
        return self._all(_DEFINITIONS, Page[SagaDefinitionSummary], {}, **options)

    async def delete(self, name: str, **options: Unpack[Writing]) -> SagaDefinitionDeletion:
        """Let no further saga follow it."""
        return await self._write("DELETE", _path(name), None, SagaDefinitionDeletion, **options)


class Tcc(Resource):
    """TCC that the cluster runs. `Client.sagas` runs steps, `Client.transactions` has the rest."""

    async def run(
        self,
        branches: Sequence[TccBranch],
        *,
        xid: str | None = None,
        name: str | None = None,
        in_order: bool | None = None,
        transaction_timeout_ms: int | None = None,
        wait_ms: int = 0,
        **options: Unpack[Writing],
    ) -> Run:
        """Call Try of all branches, then Confirm of all, or Cancel of all, and wait for the end.

        It waits up to `wait_ms`, by which the deadline is put off, and then says how far it got; it
        goes on though this is cancelled. `in_order`: Confirm one after the other, and Cancel in
        reverse; otherwise all at once. `Client.transactions.get` says later how it went.

        Raises: TransactionExistsError
        """
        body = {
            "xid": xid,
            "name": name,
            "branches": branches,
            "inOrder": in_order,
            "timeoutMs": transaction_timeout_ms,
            "waitMs": wait_ms,
        }
        check = None if xid is None else is_of(xid)
        return await self._post_waiting("/api/v1/tcc", body, Run, check, wait_ms, **options)


def _path(name: str) -> str:
    return f"{_DEFINITIONS}/{part(name)}"
