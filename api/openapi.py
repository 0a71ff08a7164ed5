"""The OpenAPI 3.1 document, made of the endpoints and of the types that validate their bodies."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from api import examples, field_texts
from api.endpoints import COMMON_ERRORS, Endpoint, Parameter
from api.errors import KINDS, OPEN_CODES, Problem, ProblemBody
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

_DESCRIPTION: Final = """\
Every path works on any node. Bodies are JSON in UTF-8. Integers are written without fraction or \
exponent, times are milliseconds since the epoch unless their names say otherwise.

What goes wrong is answered as `application/problem+json`, with a `code` for programs to rely on. \
`OUTCOME_UNKNOWN` means what it says: send the request again under the same `Idempotency-Key`, and \
it is done once.

Reads are linearizable; `consistency=local` asks for what the node itself has applied. Lists come \
in pages: `nextCursor` of one page is the `cursor` of the next."""

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


def _idempotency_key(operation: str) -> Json:
    return {**_IDEMPOTENCY_KEY, "example": f"{operation}-1"}


_IGNORED_KEY: Final[Json] = {
    **_IDEMPOTENCY_KEY,
    "description": "Ignored: who asks again gets a new answer.",
    "schema": {"type": "string"},
}

STREAMS: Final = "x-streams"
"""Says of an operation that its answer goes on until the client leaves."""

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
    described = _Described(endpoints)
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
            "summary": "Logical clocks, locks and the outcome of distributed transactions.",
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": _tags(endpoints),
        "paths": paths,
        "components": {"schemas": described.components, "examples": _problem_examples(endpoints)},
    }


def _tags(endpoints: Sequence[Endpoint]) -> list[Json]:
    """Return the tags in the order of their first endpoints. A resource is a module, and what the
    module says of itself describes the tag.
    """
    modules = {endpoint.tag: endpoint.handler.__module__ for endpoint in reversed(endpoints)}
    return [
        {"name": tag, "description": " ".join(_first_paragraph(sys.modules[module].__doc__))}
        for tag, module in reversed(modules.items())
    ]


def _first_paragraph(text: str | None) -> list[str]:
    return (text or "").partition("\n\n")[0].split()


def _codes(endpoint: Endpoint) -> list[str]:
    return list(dict.fromkeys((*endpoint.errors, *COMMON_ERRORS)))


def _problem_examples(endpoints: Sequence[Endpoint]) -> Json:
    """Return a problem of each code that is listed anywhere."""
    codes = dict.fromkeys(code for endpoint in endpoints for code in _codes(endpoint))
    problems = {code: Problem(code, f"{KINDS[code].title}.").body() for code in codes}
    return {
        code: {"summary": problem.title, "value": msgspec.to_builtins(problem)}
        for code, problem in problems.items()
    }


class _Described:
    """The schemas of all types that the endpoints name."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        asked: list[Any] = []
        answered: list[Any] = [ProblemBody]
        for endpoint in endpoints:
            asked += [endpoint.body, *(parameter.type for parameter in endpoint.parameters)]
            answered += [endpoint.answer, *endpoint.described]
        types = [described for described in (*asked, *answered) if described is not None]
        schemas, self.components = msgspec.json.schema_components(types, ref_template=SCHEMAS)
        self._schemas = list(zip(types, schemas, strict=True))
        always_written = set(field_texts.structs(filter(None, answered)))
        for struct, component in self._structs(types):
            properties = component["properties"]
            for field, text in field_texts.of_struct(struct).items():
                own = properties[field].get("description", "")
                properties[field]["description"] = f"{text} {own}".rstrip()
            if struct in always_written:
                _require_what_is_written(struct, component)

    def _structs(self, types: Sequence[Any]) -> Iterator[tuple[Any, Json]]:
        """Yield every struct that the types are made of, with its component."""
        structs = field_texts.structs(types)
        named, _ = msgspec.json.schema_components(structs, ref_template="{name}")
        for struct, name in zip(structs, named, strict=True):
            yield struct, self.components[name["$ref"]]

    def schema(self, wanted: Any) -> Json:
        return next(schema for described, schema in self._schemas if described == wanted)

    def example(self, schema: Json, name: str = "", *, whole: bool = False) -> Any:
        return examples.of_schema(schema, self.components, name, whole=whole)


def _require_what_is_written(struct: Any, component: Json) -> None:
    """Add to an answer's required fields those that have a default. msgspec describes what may be
    left out by who sends it, but an answer has them all.
    """
    written = field_texts.class_of(struct)
    if written.__struct_config__.omit_defaults:
        return
    names, defaults = written.__struct_encode_fields__, written.__struct_defaults__
    unset = {
        name
        for name, default in zip(names[::-1], defaults[::-1], strict=False)
        if default is msgspec.UNSET
    }
    component["required"] = [name for name in names if name not in unset]


def _operation(endpoint: Endpoint, described: _Described, timeout: Json) -> Json:
    operation: Json = {
        "operationId": endpoint.operation,
        "summary": endpoint.summary,
        "tags": [endpoint.tag],
        "responses": _responses(endpoint, described),
    }
    if endpoint.aliases:
        served = ", ".join(f"`{path}`" for path in endpoint.aliases)
        operation["description"] = f"Also served at {served}."
    parameters = [_parameter(parameter, endpoint, described) for parameter in endpoint.parameters]
    if endpoint.writes or endpoint.keyed:
        parameters.append(_idempotency_key(endpoint.operation))
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
        schema = described.schema(endpoint.body)
        example = endpoint.example if endpoint.example is not None else described.example(schema)
        operation["requestBody"] = {
            "required": endpoint.body_required,
            "content": {"application/json": {"schema": schema, "example": example}},
        }
    return operation


def _parameter(parameter: Parameter, endpoint: Endpoint, described: _Described) -> Json:
    in_path = endpoint.in_path(parameter)
    schema = described.schema(parameter.type)
    example = parameter.example
    if example is None:
        example = described.example(schema, parameter.name)
    return {
        "name": parameter.name,
        "in": "path" if in_path else "query",
        "required": in_path,
        "description": parameter.description,
        "schema": schema,
        "example": example,
    }


def _responses(endpoint: Endpoint, described: _Described) -> Json:
    content: Json = {"schema": {"type": "string"}}
    if endpoint.answer is not None:
        schema = described.schema(endpoint.answer)
        content = {"schema": schema, "example": described.example(schema, whole=True)}
    responses: Json = {
        str(status): {
            "description": HTTPStatus(status).phrase,
            "headers": {**_STAMPS, **(_REPLAYED if endpoint.writes else {})},
            "content": {endpoint.media_type: content},
        }
        for status in sorted((endpoint.status, *endpoint.other_statuses))
    }
    if endpoint.text_media_type is not None:
        content = responses[str(endpoint.status)]["content"]
        content[endpoint.text_media_type.partition(";")[0]] = {"schema": {"type": "string"}}
    codes: dict[int, list[str]] = {}
    for code in _codes(endpoint):
        codes.setdefault(KINDS[code].status, []).append(code)
    for status, of_status in sorted(codes.items()):
        responses[str(status)] = _problem(status, of_status)
    return responses


def _problem(status: int, codes: Sequence[str]) -> Json:
    advice = _RETRY_AFTER if status in (429, 503) else {}
    listed: Json = {"type": "string"} if OPEN_CODES.intersection(codes) else {"enum": list(codes)}
    return {
        "description": "; ".join(f"`{code}`: {KINDS[code].title}" for code in codes),
        "headers": {**_STAMPS, **advice},
        "content": {
            "application/problem+json": {
                "schema": {
                    "allOf": [
                        reference(ProblemBody),
                        {"properties": {"code": listed}},
                    ]
                },
                "examples": {code: {"$ref": f"#/components/examples/{code}"} for code in codes},
            }
        },
    }
