"""Saga definitions: Seata's state language by name, in versions that sagas keep to their end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from aiohttp import web
from msgspec import Raw

from api import json_text, requests
from api.cluster import Consistency
from api.endpoints import (
    BODY_ERRORS,
    CONSISTENCY,
    PAGE,
    READ_ERRORS,
    WRITE_ERRORS,
    Endpoint,
    Parameter,
)
from api.errors import FieldError, Problem, refuse_size
from api.replies import Reply
from api.service import Service, applied
from api.settings import GREATEST_NAME_LENGTH
from api.shapes import Answer, Name, Page
from statemachine.commands import DeleteSagaDefinition, PutSagaDefinition
from statemachine.outcomes import SagaDefinitionDeleted, SagaDefinitionPut
from statemachine.paging import decode_cursor, encode_cursor
from statemachine.store import Reader
from statemachine.transactions.state_language.definitions import (
    get_versions,
    latest,
    list_heads,
)
from statemachine.transactions.state_language.fields import Fault
from statemachine.transactions.state_language.model import (
    Compensation,
    Definition,
    ServiceTask,
    SubStateMachine,
)
from statemachine.transactions.state_language.reading import (
    GREATEST_COMMENT,
    GREATEST_DOCUMENT_BYTES,
    GREATEST_SAGA_MS,
    GREATEST_STATES,
    InvalidDefinitionError,
    read_definition,
)

States = Annotated[
    dict[str, dict[str, Any]],
    msgspec.Meta(
        min_length=1,
        max_length=GREATEST_STATES,
        description="By name; each has a Type: ServiceTask, Choice, SubStateMachine, "
        "CompensateSubMachine, CompensationTrigger, Succeed or Fail.",
    ),
]


class DefinitionBody(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """A definition in the state language; docs/SAGA_DEFINITIONS.md describes all of it."""

    start_state: str
    states: States
    name: str | None = None
    """The same as in the path, when it is given."""
    comment: Annotated[str, msgspec.Meta(max_length=GREATEST_COMMENT)] | None = None
    version: Annotated[str, msgspec.Meta(max_length=GREATEST_NAME_LENGTH)] | None = None
    """The author's own; versions are counted by the cluster."""
    recover_strategy: Literal["Compensate", "Forward"] | None = None
    """`Compensate`, which it is unless given, or `Forward`: repeat what nothing catches."""
    timeout_ms: Annotated[int, msgspec.Meta(ge=1, le=GREATEST_SAGA_MS)] | None = None
    """Of a whole saga, unless it is begun with another."""


class DefinitionChange(Answer, frozen=True, kw_only=True):
    """What sagas that begin from now on follow."""

    name: str
    version: int
    changed: bool
    """False when it had been so before."""


class DefinitionDeletion(Answer, frozen=True, kw_only=True):
    name: str
    deleted: bool
    """False when there was none."""


class VersionView(Answer, frozen=True, kw_only=True):
    version: int
    created_at: int
    """Milliseconds since the epoch."""
    running: int
    """How many sagas that have not ended follow it."""


class DefinitionView(Answer, frozen=True, kw_only=True):
    """The newest version, and what is kept of older ones."""

    name: str
    version: int
    definition: Raw
    versions: list[VersionView]
    """Those that sagas still follow, and the newest."""


class DefinitionSummary(Answer, frozen=True, kw_only=True):
    name: str
    version: int


class SagaDefinitions:
    """The handlers of `/api/v1/saga-definitions`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._bodies: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])

    async def put(self, request: web.Request) -> Reply:
        service = self._service
        name = requests.path_name(request, "name")
        body = await requests.read_json(request, service.settings)
        tree = json_text.decode(body, self._bodies)
        document = msgspec.json.format(body, indent=-1)
        if len(document) > GREATEST_DOCUMENT_BYTES:
            refuse_size("body", len(document), GREATEST_DOCUMENT_BYTES)
        await self._check(request, name, tree, document)
        command = PutSagaDefinition(name=name, document=document)
        outcome = await service.propose(request, body, (command,))
        done = applied(outcome)
        assert isinstance(done, SagaDefinitionPut)
        answer = DefinitionChange(name=done.name, version=done.version, changed=done.changed)
        return service.written(200, answer, outcome, outcome.position)

    async def _check(
        self, request: web.Request, name: str, tree: Mapping[str, Any], document: bytes
    ) -> None:
        """Raise the problem of all that is wrong, if anything is."""
        faults: list[Fault] = []
        said = tree.get("Name")
        if said is not None and said != name:
            faults.append(Fault("Name", "is another name than that in the path; leave it out"))
        try:
            definition = read_definition(document)
        except InvalidDefinitionError as error:
            faults += error.faults
        else:
            faults += self._objections(definition, tree)
            if definition.machines:
                timeout_ms = requests.timeout_ms(request, self._service.settings)
                view = await self._service.cluster.read(
                    Consistency.LINEARIZABLE, timeout_ms=timeout_ms
                )
                faults += _missing(view.reader, name, definition)
        if faults:
            first = faults[0]
            raise Problem(
                "INVALID_FIELD",
                f"{first.path}: {first.message}" if first.path else first.message,
                errors=[FieldError(each.path, each.message) for each in faults],
            )

    def _objections(self, definition: Definition, tree: Mapping[str, Any]) -> list[Fault]:
        """Return what speaks against calling its services."""
        destinations = self._service.settings.destinations
        faults: list[Fault] = []
        for name, state in definition.states.items():
            url = state.url if isinstance(state, ServiceTask | Compensation) else ""
            why = destinations.objection(url) if url else None
            if why is not None:
                field = "ServiceUrl" if "ServiceUrl" in tree["States"][name] else "ServiceName"
                faults.append(Fault(f"States.{name}.{field}", why))
        return faults

    async def show(self, request: web.Request) -> Reply:
        name = requests.path_name(request, "name")
        view = await self._service.view(request)
        newest = latest(view.reader, name)
        if newest is None:
            raise Problem("SAGA_DEFINITION_NOT_FOUND", f"There is no saga definition {name!r}.")
        answer = DefinitionView(
            name=name,
            version=newest.version,
            definition=Raw(newest.document),
            versions=[
                VersionView(version=each.version, created_at=each.created_ms, running=each.running)
                for each in get_versions(view.reader, name)
            ],
        )
        return self._service.replies.success(200, answer, view.position)

    async def list(self, request: web.Request) -> Reply:
        limit, cursor = requests.page(request)
        after = "" if cursor is None else decode_cursor(cursor).decode(errors="ignore")
        view = await self._service.view(request)
        found = list_heads(view.reader, after[:GREATEST_NAME_LENGTH], limit=limit + 1)
        more = len(found) > limit
        page = Page(
            items=[
                DefinitionSummary(name=head.name, version=head.version)
                for head in found[:limit]
                if not head.deleted
            ],
            next_cursor=encode_cursor(found[limit - 1].name.encode()) if more else None,
        )
        return self._service.replies.success(200, page, view.position)

    async def delete(self, request: web.Request) -> Reply:
        service = self._service
        await requests.read_body(request, service.settings)
        command = DeleteSagaDefinition(name=requests.path_name(request, "name"))
        outcome = await service.propose(request, b"", (command,))
        done = applied(outcome)
        assert isinstance(done, SagaDefinitionDeleted)
        answer = DefinitionDeletion(name=done.name, deleted=done.deleted)
        return service.written(200, answer, outcome, outcome.position)


def _missing(reader: Reader, name: str, definition: Definition) -> list[Fault]:
    """Return which of the machines that it calls are not there."""
    return [
        Fault(
            f"States.{state.name}.StateMachineName",
            f"there is no saga definition {state.machine!r}; put it first",
        )
        for state in definition.states.values()
        if isinstance(state, SubStateMachine)
        and state.machine != name
        and latest(reader, state.machine) is None
    ]


EXAMPLE: Final = {
    "Comment": "Take stock, then money; give the stock back when there is none.",
    "StartState": "Reserve",
    "States": {
        "Reserve": {
            "Type": "ServiceTask",
            "ServiceUrl": "http://127.0.0.1:9000/reserve",
            "Input": [{"sku": "$.[sku]", "count": "$.[count]"}],
            "Output": {"reservation": "$.id", "price": "$.price"},
            "CompensateState": "Release",
            "Next": "Pay",
        },
        "Release": {
            "Type": "ServiceTask",
            "ServiceUrl": "http://127.0.0.1:9000/release",
            "Input": [{"reservation": "$.[reservation]"}],
        },
        "Pay": {
            "Type": "ServiceTask",
            "ServiceUrl": "http://127.0.0.1:9000/pay",
            "Input": [{"amount": "$.[price] * [count]"}],
            "Retry": [{"IntervalSeconds": 1, "MaxAttempts": 3, "BackoffRate": 2}],
            "Catch": [{"Exceptions": ["*"], "Next": "GiveUp"}],
            "Next": "Done",
        },
        "GiveUp": {"Type": "CompensationTrigger", "Next": "Unpaid"},
        "Unpaid": {"Type": "Fail", "ErrorCode": "UNPAID", "Message": "the account refused"},
        "Done": {"Type": "Succeed"},
    },
}

_PATH: Final = "/api/v1/saga-definitions"
_ONE: Final = f"{_PATH}/{{name}}"
_TAG: Final = "saga definitions"
_NAME: Final = Parameter(name="name", type=Name, description="The definition.", example="purchase")


def endpoints(service: Service) -> list[Endpoint]:
    definitions = SagaDefinitions(service)
    return [
        Endpoint(
            method="GET",
            path=_PATH,
            operation="listSagaDefinitions",
            summary="What sagas can follow, by name",
            tag=_TAG,
            handler=definitions.list,
            answer=Page[DefinitionSummary],
            parameters=(*PAGE, CONSISTENCY),
            errors=READ_ERRORS,
            timed=True,
        ),
        Endpoint(
            method="PUT",
            path=_ONE,
            operation="putSagaDefinition",
            summary="Have sagas follow a definition from now on",
            tag=_TAG,
            handler=definitions.put,
            body=DefinitionBody,
            example=EXAMPLE,
            answer=DefinitionChange,
            parameters=(_NAME,),
            errors=(*BODY_ERRORS, *WRITE_ERRORS, "SAGA_DEFINITIONS_FULL"),
            writes=True,
            timed=True,
        ),
        Endpoint(
            method="GET",
            path=_ONE,
            operation="getSagaDefinition",
            summary="What sagas of a name follow, and which versions are kept",
            tag=_TAG,
            handler=definitions.show,
            answer=DefinitionView,
            parameters=(_NAME, CONSISTENCY),
            errors=(*READ_ERRORS, "SAGA_DEFINITION_NOT_FOUND"),
            timed=True,
        ),
        Endpoint(
            method="DELETE",
            path=_ONE,
            operation="deleteSagaDefinition",
            summary="Let no further saga follow a definition",
            tag=_TAG,
            handler=definitions.delete,
            answer=DefinitionDeletion,
            parameters=(_NAME,),
            errors=WRITE_ERRORS,
            writes=True,
            timed=True,
        ),
    ]
