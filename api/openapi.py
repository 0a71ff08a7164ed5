"""The OpenAPI 3.1 document, made of the endpoints and of the types that validate their bodies."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from api.endpoints import COMMON_ERRORS, Endpoint, Parameter
from api.errors import KINDS, OPEN_CODES, ProblemBody
from api.requests import (
    GREATEST_KEY_LENGTH,
    IDEMPOTENCY_KEY,
    LAST_EVENT_ID,
    POSITION,
    TIMEOUT,
)
from api.settings import ApiSettings
from api.shapes import SCHEMAS, reference

# The document is JSON, so its parts are dicts of whatever JSON holds.
Json = dict[str, Any]

_STAMPS: Final[Json] = {
    "Tidelock-Node": {
        "description": "The node that answered.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Tidelock-Term": {
        "description": "The Raft term at that node.",
        "required": True,
        "schema": {"type": "integer", "minimum": 0},
    },
    "Tidelock-Index": {
        "description": "The position in the log that the answer reflects, `entry.place`.",
        "required": True,
        "schema": {"type": "string", "pattern": r"^[0-9]+\.[0-9]+$"},
    },
}

_REPLAYED: Final[Json] = {
    "Idempotency-Replayed": {
        "description": "`true` when an earlier request with the same key got this answer.",
        "schema": {"type": "string", "const": "true"},
    }
}

_RETRY_AFTER: Final[Json] = {
    "Retry-After": {
        "description": "Seconds to wait.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    }
}

_IDEMPOTENCY_KEY: Final[Json] = {
    "name": str(IDEMPOTENCY_KEY),
    "in": "header",
    "description": "The same key with the same body is the same request, however often it is sent.",
    "schema": {"type": "string", "pattern": f"^[!-~]{{1,{GREATEST_KEY_LENGTH}}}$"},
}


STREAMS: Final = "x-streams"
"""Says of an operation that its answer goes on until the client leaves."""

_IGNORED_KEY: Final[Json] = {
    **_IDEMPOTENCY_KEY,
    "description": "Ignored: who asks again gets a new answer.",
    "schema": {"type": "string"},
}

_LAST_EVENT_ID: Final[Json] = {
    "name": str(LAST_EVENT_ID),
    "in": "header",
    "description": "The id of the last event that arrived; the stream goes on behind it.",
    "schema": {"type": "string", "pattern": POSITION},
}


def _timeout(settings: ApiSettings) -> Json:
    return {
        "name": str(TIMEOUT),
        "in": "header",
        "description": "The request's deadline, milliseconds from its arrival.",
        "schema": {
            "type": "integer",
            "minimum": 1,
            "maximum": settings.greatest_timeout_ms,
            "default": settings.default_timeout_ms,
        },
    }


def document(endpoints: Sequence[Endpoint], version: str, settings: ApiSettings) -> Json:
    """Return the document that describes these endpoints."""
    described, components = _describe(endpoints)
    timeout = _timeout(settings)
    paths: Json = {}
    for endpoint in endpoints:
        operation = _operation(endpoint, described, timeout)
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tidelock",
            "version": version,
            "description": "Logical clocks, locks and the outcome of distributed transactions. "
            "Every path works on any node. Integers are written without fraction or exponent.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": components},
    }


class _Described:
    """The schemas of all types that the endpoints name."""

    def __init__(self, types: Sequence[Any], schemas: Sequence[Json]) -> None:
        self._schemas = list(zip(types, schemas, strict=True))

    def schema(self, wanted: Any) -> Json:
        return next(schema for described, schema in self._schemas if described == wanted)


def _describe(endpoints: Sequence[Endpoint]) -> tuple[_Described, Json]:
    types: list[Any] = [ProblemBody]
    for endpoint in endpoints:
        types += [endpoint.body, endpoint.answer, *endpoint.described]
        types += [parameter.type for parameter in endpoint.parameters]
    types = [described for described in types if described is not None]
    schemas, components = msgspec.json.schema_components(types, ref_template=SCHEMAS)
    return _Described(types, schemas), components


def _operation(endpoint: Endpoint, described: _Described, timeout: Json) -> Json:
    operation: Json = {
        "operationId": endpoint.operation,
        "summary": endpoint.summary,
        "tags": [endpoint.tag],
        "responses": _responses(endpoint, described),
    }
    parameters = [_parameter(parameter, endpoint, described) for parameter in endpoint.parameters]
    if endpoint.writes or endpoint.keyed:
        parameters.append(_IDEMPOTENCY_KEY)
    elif endpoint.ignores_key:
        parameters.append(_IGNORED_KEY)
    if endpoint.timed:
        parameters.append(timeout)
    if endpoint.streams:
        operation[STREAMS] = True
        parameters.append(_LAST_EVENT_ID)
    if parameters:
        operation["parameters"] = parameters
    if endpoint.body is not None:
        operation["requestBody"] = {
            "required": endpoint.body_required,
            "content": {"application/json": {"schema": described.schema(endpoint.body)}},
        }
    return operation


def _parameter(parameter: Parameter, endpoint: Endpoint, described: _Described) -> Json:
    in_path = endpoint.in_path(parameter)
    return {
        "name": parameter.name,
        "in": "path" if in_path else "query",
        "required": in_path,
        "description": parameter.description,
        "schema": described.schema(parameter.type),
    }


def _responses(endpoint: Endpoint, described: _Described) -> Json:
    schema: Json = {"type": "string"}
    if endpoint.answer is not None:
        schema = described.schema(endpoint.answer)
    responses: Json = {
        str(endpoint.status): {
            "description": HTTPStatus(endpoint.status).phrase,
            "headers": {**_STAMPS, **(_REPLAYED if endpoint.writes else {})},
            "content": {endpoint.media_type: {"schema": schema}},
        }
    }
    codes: dict[int, list[str]] = {}
    for code in dict.fromkeys((*endpoint.errors, *COMMON_ERRORS)):
        codes.setdefault(KINDS[code].status, []).append(code)
    for status, of_status in sorted(codes.items()):
        responses[str(status)] = _problem(status, of_status)
    return responses


def _problem(status: int, codes: Sequence[str]) -> Json:
    advice = _RETRY_AFTER if status in (429, 503) else {}
    code: Json = {"type": "string"} if OPEN_CODES.intersection(codes) else {"enum": list(codes)}
    return {
        "description": "; ".join(f"`{code}`: {KINDS[code].title}" for code in codes),
        "headers": {**_STAMPS, **advice},
        "content": {
            "application/problem+json": {
                "schema": {
                    "allOf": [
                        reference(ProblemBody),
                        {"properties": {"code": code}},
                    ]
                }
            }
        },
    }
