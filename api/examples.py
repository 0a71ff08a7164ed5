"""Examples: values that could be real, put together from schemas and from the names of fields.

They stand in the document beside the schemas. What the schema of a field says itself comes first;
then what its name stands for everywhere; then the least that its type allows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

Json = dict[str, Any]

BY_NAME: Final[Json] = {
    "action": "RETRY_NOW",
    "apiAddress": "10.0.0.4:7100",
    "clock": {"orders": 3, "payments": 1},
    "clock1": {"orders": 3, "payments": 1},
    "clock2": {"orders": 2, "payments": 4},
    "clusterId": "5f1c7a52d4e84d0c9d3a8c5b1e7f2a90",
    "code": "NO_QUORUM",
    "commitIndex": 4012,
    "context": {"orders": 3},
    "count": 10,
    "cursor": "3a5f",
    "createdAt": 1_767_225_600_000,
    "data": {"price": 1990},
    "detail": "No majority confirmed a leader before the request's deadline.",
    "encoded": 463_267_587_686_400_001,
    "eventData": {"orderId": 42},
    "eventId": "0000000000000fac00000000",
    "eventType": "order.paid",
    "expiresAt": 1_767_225_630_000,
    "fencingToken": 17,
    "from": "0",
    "hlc": {"wallMs": 1_767_225_600_000, "logical": 1},
    "index": 4012,
    "key": "article-7",
    "lag": 0,
    "lamport": 42,
    "lamportTimestamp": 42,
    "lastContactMs": 12,
    "leader": "n1",
    "matchIndex": 4012,
    "message": "must be 1 or more printable characters",
    "messageId": "m-1",
    "name": "invoices",
    "nextCursor": "3a5f",
    "nodeId": "orders",
    "owner": "worker-3",
    "path": "operations[3].nodeId",
    "peerAddress": "10.0.0.4:7200",
    "reason": "",
    "relation": "CONCURRENT",
    "role": "FOLLOWER",
    "since": 1_767_225_600_000,
    "state": "HEALTHY",
    "status": 200,
    "sourceEventId": "0000000000000fa100000000",
    "sourceNodeId": "payments",
    "sourceTimestamp": 41,
    "syncedEventId": "0000000000000fad00000000",
    "term": 3,
    "timestamp": 41,
    "title": "No majority of the nodes confirms a leader",
    "ttlMs": 30_000,
    "xid": "order-4711",
    "type": "urn:problem-type:tidelock:no-quorum",
    "value": {"stock": 12},
    "vector": {"orders": 3, "payments": 1},
    "vector1": {"orders": 3, "payments": 1},
    "vector2": {"orders": 2, "payments": 4},
    "vectorClock": {"orders": 3, "payments": 1},
    "versionVector": {"orders": 3, "payments": 1},
    "waitMs": 2_000,
    "wallMs": 1_767_225_600_000,
}
"""What a field of this name holds, wherever it stands. A value that its schema does not take is not
used; how values of one object belong together, only an example that an endpoint brings can say.
"""

_ENTRIES: Final = ("orders", "payments")
"""Keys of an object that may have any."""

_TYPES: Final[dict[str, type | tuple[type, ...]]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "object": dict,
    "array": list,
}


def of_schema(schema: Json, components: Json, name: str = "", *, whole: bool = False) -> Any:
    """Return an example.

    Fields that may be left out are in it when their name stands for something, or when it is to
    be `whole`: an answer leaves nothing out.
    """
    schema = _resolved(schema, components)
    for value in _given(schema, name):
        return value
    for variant in _variants(schema):
        if variant != {"type": "null"}:
            return of_schema(variant, components, name, whole=whole)
    return _of_type(schema, components, name, whole)


def _given(schema: Json, name: str) -> Iterator[Any]:
    """Yield the values that a schema or the name of its field brings, the best first."""
    yield from schema.get("examples", ())
    if "const" in schema:
        yield schema["const"]
    if name in BY_NAME and _takes(schema, BY_NAME[name]):
        yield BY_NAME[name]
    yield from schema.get("enum", ())
    if schema.get("default") is not None:
        yield schema["default"]


def _of_type(schema: Json, components: Json, name: str, whole: bool) -> Any:
    """Return the least that a type allows."""
    match schema.get("type"):
        case "object":
            return _of_object(schema, components, whole)
        case "array":
            item = of_schema(schema.get("items", {}), components, name, whole=whole)
            return [item] * max(schema.get("minItems", 1), 1)
        case "integer" | "number":
            return max(schema.get("minimum", 1), 1)
        case "boolean":
            return True
        case "string":
            return (name or "text").ljust(schema.get("minLength", 0), "-")
        case _:
            return None if schema.get("type") == "null" else {}


def _has_examples(schema: Json, components: Json) -> bool:
    schema = _resolved(schema, components)
    return "examples" in schema or any("examples" in variant for variant in _variants(schema))


def _resolved(schema: Json, components: Json) -> Json:
    while "$ref" in schema:
        schema = components[schema["$ref"].rpartition("/")[2]]
    return schema


def _variants(schema: Json) -> list[Json]:
    return [*schema.get("anyOf", ()), *schema.get("oneOf", ())]


def _of_object(schema: Json, components: Json, whole: bool) -> Json:
    properties = schema.get("properties", {})
    required = schema.get("required", ())
    made = {
        name: of_schema(described, components, name, whole=whole)
        for name, described in properties.items()
        if whole or name in required or name in BY_NAME or _has_examples(described, components)
    }
    more = schema.get("additionalProperties", False)
    if isinstance(more, dict) and not properties:
        made = {entry: of_schema(more, components, whole=whole) for entry in _ENTRIES}
    return made


def _takes(schema: Json, value: Any) -> bool:
    """Whether a value may stand where this schema does, as far as its type tells."""
    variants = _variants(schema)
    if variants:
        return any(_takes(variant, value) for variant in variants)
    if "enum" in schema:
        return value in schema["enum"]
    kind = schema.get("type")
    if kind is None:
        return "$ref" not in schema
    if kind == "object" and "properties" in schema:
        return isinstance(value, dict) and set(value) == set(schema["properties"])
    return isinstance(value, _TYPES.get(kind, ())) and not (
        kind in ("integer", "number") and isinstance(value, bool)
    )
