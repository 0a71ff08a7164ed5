"""Bodies of DTM's protocol: read as leniently as its clients expect, and not more.

Keys are known whatever their case, unknown ones are ignored, null is as good as nothing; a value
of another type than the field's is an error, and so is what is not JSON.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

import msgspec

from api.gateways.dtm_answers import DtmError
from statemachine.transactions.dtm_options import TRANS_TYPES

GREATEST_GID_LENGTH: Final = 128
GREATEST_ORDERS: Final = 100_000
"""Predecessors of all steps of a saga together."""

_GREATEST_SECONDS: Final = 10 * 365 * 86_400
_STRIPPED: Final = str.maketrans("", "", "\n\r;")

Json = Any  # any JSON value


class DtmBody(msgspec.Struct, kw_only=True):
    """A transaction as its client describes it."""

    gid: str = ""
    trans_type: str = ""
    steps: list[dict[str, str]] = msgspec.field(default_factory=list)
    payloads: list[str] = msgspec.field(default_factory=list)
    custom_data: str = ""
    query_prepared: str = ""
    protocol: str = ""
    wait_result: bool = False
    timeout_to_fail: int = 0
    request_timeout: int = 0
    retry_interval: int = 0
    branch_headers: dict[str, str] = msgspec.field(default_factory=dict)
    concurrent: bool = False
    retry_limit: int = 0
    retry_count: int = 0
    rollback_reason: str = ""
    req_extra: dict[str, str] = msgspec.field(default_factory=dict)

    def payload(self, at: int) -> str:
        """Return what a step is called with. Raises: DtmError: it is missing."""
        old = self.steps[at].get("data")
        if old:
            return old
        if at >= len(self.payloads):
            raise DtmError(f"payloads has {len(self.payloads)} items, and step {at} needs one")
        return self.payloads[at]


class SagaData(msgspec.Struct):
    """The `custom_data` of a saga."""

    concurrent: bool = False
    orders: dict[int, list[int]] = msgspec.field(default_factory=dict)
    """By step: the steps that must be done before, all counted from 0."""


def read_object(content: bytes) -> dict[str, Json]:
    """Return the members of a JSON object.

    Raises:
        DtmError: it is none.
    """
    try:
        found = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DtmError(f"the body is not JSON: {_why(error)}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise DtmError(f"the body must be a JSON object, not {_kind(found)}")
    return found


def read_body(content: bytes) -> DtmBody:
    """Raises: DtmError: it is no transaction, or has no gid."""
    return body_of(read_object(content))


def body_of(members: dict[str, Json]) -> DtmBody:
    """Raises: DtmError: a member has another type than its field, or there is no gid."""
    body = DtmBody()
    for name, value in members.items():
        field = name if name in _READERS else name.lower()
        reader = _READERS.get(field)
        if reader is not None and value is not None:
            setattr(body, field, reader(field, value))
    body.gid = stripped(body.gid)
    return body


def check_type(body: DtmBody) -> None:
    """Raises: DtmError: DTM has no such type of transaction."""
    if body.trans_type not in TRANS_TYPES:
        raise DtmError(f"unknow trans type: {body.trans_type[:100]}")


def stripped(gid: str) -> str:
    """Return a gid without what DTM takes out of it. Raises: DtmError: nothing usable is left."""
    gid = gid.translate(_STRIPPED)
    if not gid:
        raise DtmError("no gid specified")
    if len(gid) > GREATEST_GID_LENGTH:
        raise DtmError(f"gid is longer than {GREATEST_GID_LENGTH} characters")
    return gid


def read_saga_data(text: str) -> SagaData:
    """Raises: DtmError: it does not say what a saga's says."""
    members = _custom(text)
    saga = SagaData()
    if (concurrent := members.get("concurrent")) is not None:
        saga.concurrent = _boolean("custom_data.concurrent", concurrent)
    if (orders := members.get("orders")) is not None:
        saga.orders = _orders(orders)
    return saga


def read_delay_s(text: str) -> int:
    """Return how long a message waits after its submission. Raises: DtmError"""
    delay = _custom(text).get("delay")
    return 0 if delay is None else _seconds("custom_data.delay", delay)


def read_workflow_name(text: str) -> str:
    """Return the name in a workflow's data, all of which must be usable. Raises: DtmError"""
    members = _custom(text)
    data = _string("custom_data.data", members.get("data") or "")
    try:
        base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise DtmError("custom_data.data of a workflow is not base64") from None
    return _string("custom_data.name", members.get("name") or "")


def _custom(text: str) -> dict[str, Json]:
    if not text:
        return {}
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise DtmError(f"custom_data is not JSON: {_why(error)}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise DtmError(f"custom_data must be a JSON object, not {_kind(found)}")
    return {name.lower(): value for name, value in found.items()}


def _orders(value: Json) -> dict[int, list[int]]:
    if not isinstance(value, dict):
        raise _mismatch("custom_data.orders", "object", value)
    orders: dict[int, list[int]] = {}
    count = 0
    for step, before in value.items():
        if not step.isascii() or not step.isdigit() or len(step) > 6:
            raise DtmError(f"custom_data.orders: {step[:20]!r} is not the number of a step")
        listed = _list("custom_data.orders", before if before is not None else [])
        orders[int(step)] = [_integer("custom_data.orders", each) for each in listed]
        count += len(listed)
    if count > GREATEST_ORDERS:
        raise DtmError(f"custom_data.orders names more than {GREATEST_ORDERS} predecessors")
    return orders


# --- values


def _string(name: str, value: Json) -> str:
    if not isinstance(value, str):
        raise _mismatch(name, "string", value)
    return value


def _boolean(name: str, value: Json) -> bool:
    if not isinstance(value, bool):
        raise _mismatch(name, "bool", value)
    return value


def _integer(name: str, value: Json) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _mismatch(name, "int", value)
    return value


def _seconds(name: str, value: Json) -> int:
    seconds = _integer(name, value)
    if not -_GREATEST_SECONDS <= seconds <= _GREATEST_SECONDS:
        raise DtmError(f"{name} is beyond {_GREATEST_SECONDS} seconds")
    return max(seconds, 0)


def _list(name: str, value: Json) -> list[Json]:
    if not isinstance(value, list):
        raise _mismatch(name, "list", value)
    return value


def _strings(name: str, value: Json) -> list[str]:
    return ["" if each is None else _string(name, each) for each in _list(name, value)]


def _texts(name: str, value: Json) -> dict[str, str]:
    """Return an object of strings. Its keys are data, so their case counts."""
    if not isinstance(value, dict):
        raise _mismatch(name, "object", value)
    return {key: "" if each is None else _string(name, each) for key, each in value.items()}


def _steps(name: str, value: Json) -> list[dict[str, str]]:
    return [{} if each is None else _texts(name, each) for each in _list(name, value)]


_READERS: Final = {
    "gid": _string,
    "trans_type": _string,
    "steps": _steps,
    "payloads": _strings,
    "custom_data": _string,
    "query_prepared": _string,
    "protocol": _string,
    "wait_result": _boolean,
    "timeout_to_fail": _seconds,
    "request_timeout": _seconds,
    "retry_interval": _seconds,
    "branch_headers": _texts,
    "concurrent": _boolean,
    "retry_limit": _seconds,
    "retry_count": _seconds,
    "rollback_reason": _string,
    "req_extra": _texts,
}


def read_flat_strings(content: bytes) -> dict[str, str]:
    """Return the members of a registration, all strings.

    Raises:
        DtmError: 400, as DTM answers what it cannot bind to a map of strings.
    """
    try:
        members = read_object(content)
        return flat_strings(members)
    except DtmError as error:
        raise DtmError(error.message, binding=True) from None


def flat_strings(members: dict[str, Json]) -> dict[str, str]:
    """Raises: DtmError: one of them is no string."""
    return {
        name: "" if value is None else _string(name[:100], value) for name, value in members.items()
    }


def _mismatch(name: str, wanted: str, value: Json) -> DtmError:
    return DtmError(f"{name} must be of type {wanted}, not {_kind(value)}")


def _kind(value: Json) -> str:
    kinds = {str: "string", bool: "bool", int: "number", float: "number", list: "list"}
    return kinds.get(type(value), "object" if isinstance(value, dict) else "null")


def _why(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
