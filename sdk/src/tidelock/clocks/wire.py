"""The one form in which every clock leaves the process and comes back: as bytes, JSON or text.

Both forms say which kind of clock they are, so `decode(encode(clock)) == clock` needs no schema
beside it. Both are canonical: equal clocks have the same bytes and the same text everywhere.

**Bytes.** A version, 1; a tag; the fields. A *number* is written in groups of seven bits, the
lowest first, the top bit set on all but the last (LEB128), and never longer than needed. A *name*
is the length of its UTF-8 as a number, then the UTF-8. *Counters* are their number, then name and
count of each in the order of the names' UTF-8, no count 0.

    tag  kind                         fields
    1    lamport                      time
    2    hybrid-timestamp             8 bytes, big-endian: 46 bits of ms above 18 of counter
    3    hybrid-clock                 as 2, then the accepted skew in ms
    4    vector-clock                 counters
    5    version-vector               counters
    6    dotted-version-vector        name and count of the dot, counters of the past
    7    dotted-version-vector-set    number of entries, each: name, count, number of values,
                                      values; a value: length * 2 + (1 if text), then its bytes
    8    interval-tree-clock          identity: 0, 1, or 2 and both halves; event tree:
                                      count * 2, or base * 2 + 1 and both halves; normal forms
    9    pruned-vector-clock          number of the floor, 8 bytes of fingerprint, counters
    10   pruned-version-vector        as 9
    11   retirements                  their number, counters of each

Tags are never reused. `decode` takes exactly what `encode` gives, so that a clock has one encoding.

**JSON.** An object with `format` (1), `type` (the kind above) and the kind's fields:

    lamport                      time
    hybrid-timestamp             wallMs, logical
    hybrid-clock                 latest {wallMs, logical}, maxSkewMs
    vector-clock                 entries {name: count}
    version-vector               entries
    dotted-version-vector        dot {participant, count}, past {name: count}
    dotted-version-vector-set    entries {name: {count, values: [text or {base64}, …]}}
    interval-tree-clock          identity, events: as in the paper, with arrays for tuples
    pruned-vector-clock          floor {number, fingerprint: 16 hex digits}, entries
    pruned-version-vector        floor, entries
    retirements                  each [{name: count}, …]

The canonical text is that object with sorted keys and no spaces; `from_text` reads any JSON text of
it, in any order, but no duplicate or unknown field.

**Bounds.** 1 MiB of bytes, 8 MiB of text, 65,536 entries, values and nodes in all, trees 256 deep,
names 512 bytes. What exceeds them is refused at encoding as well. Whatever is wrong with received
data raises `WireFormatError` and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, NoReturn, TypeAlias, TypeVar, overload

from tidelock.clocks import wire_bytes, wire_json
from tidelock.clocks.dotted import DottedVersionVector
from tidelock.clocks.errors import ClockValueError, WireFormatError, shown
from tidelock.clocks.hybrid import HybridClock, HybridTimestamp
from tidelock.clocks.interval_tree import IntervalTreeClock
from tidelock.clocks.lamport import LamportClock
from tidelock.clocks.pruning import Pruned, Retirements
from tidelock.clocks.siblings import DottedVersionVectorSet
from tidelock.clocks.vector import VectorClock
from tidelock.clocks.version import VersionVector
from tidelock.clocks.wire_bytes import GREATEST_BYTES, GREATEST_ITEMS, Reader, Value, Writer
from tidelock.clocks.wire_json import Fields

__all__ = [
    "FORMAT",
    "GREATEST_BYTES",
    "GREATEST_ITEMS",
    "GREATEST_TEXT",
    "Clock",
    "Value",
    "decode",
    "encode",
    "from_json",
    "from_text",
    "to_json",
    "to_text",
]

FORMAT: Final = 1
"""The version of both forms, the first byte and the field `format`."""

GREATEST_TEXT: Final = 2**23
"""The greatest length of a text, in characters. All that fits into `GREATEST_BYTES` is shorter."""

Clock: TypeAlias = (
    LamportClock
    | HybridTimestamp
    | HybridClock
    | VectorClock
    | VersionVector
    | DottedVersionVector
    | DottedVersionVectorSet[Value]
    | DottedVersionVectorSet[bytes]
    | DottedVersionVectorSet[str]
    | IntervalTreeClock
    | Pruned[VectorClock]
    | Pruned[VersionVector]
    | Retirements
)
"""What can be encoded. The values of a dotted version vector set must be bytes or text."""

T = TypeVar("T", bound=Clock)


@dataclass(frozen=True, slots=True)
class _Kind(Generic[T]):
    tag: int
    name: str
    type: type[T]
    write: Callable[[Writer, T], None]
    read: Callable[[Reader], T]
    show: Callable[[T], Fields]
    parse: Callable[[Fields], T]


_b, _j = wire_bytes, wire_json
_PRUNED_VECTOR: Final = _Kind(
    9, "pruned-vector-clock", Pruned[VectorClock],
    _b.write_pruned, _b.read_pruned_vector, _j.show_pruned, _j.parse_pruned_vector,
)  # fmt: skip
_PRUNED_VERSION: Final = _Kind(
    10, "pruned-version-vector", Pruned[VersionVector],
    _b.write_pruned, _b.read_pruned_version, _j.show_pruned, _j.parse_pruned_version,
)  # fmt: skip
_KINDS: Final[tuple[_Kind[Any], ...]] = (
    _Kind(1, "lamport", LamportClock,
          _b.write_lamport, _b.read_lamport, _j.show_lamport, _j.parse_lamport),
    _Kind(2, "hybrid-timestamp", HybridTimestamp,
          _b.write_timestamp, _b.read_timestamp, _j.show_timestamp, _j.parse_timestamp),
    _Kind(3, "hybrid-clock", HybridClock,
          _b.write_hybrid, _b.read_hybrid, _j.show_hybrid, _j.parse_hybrid),
    _Kind(4, "vector-clock", VectorClock,
          _b.write_counters, _b.read_vector, _j.show_counters, _j.parse_vector),
    _Kind(5, "version-vector", VersionVector,
          _b.write_counters, _b.read_version, _j.show_counters, _j.parse_version),
    _Kind(6, "dotted-version-vector", DottedVersionVector,
          _b.write_dotted, _b.read_dotted, _j.show_dotted, _j.parse_dotted),
    _Kind(7, "dotted-version-vector-set", DottedVersionVectorSet,
          _b.write_siblings, _b.read_siblings, _j.show_siblings, _j.parse_siblings),
    _Kind(8, "interval-tree-clock", IntervalTreeClock,
          _b.write_interval_tree, _b.read_interval_tree,
          _j.show_interval_tree, _j.parse_interval_tree),
    _PRUNED_VECTOR,
    _PRUNED_VERSION,
    _Kind(11, "retirements", Retirements,
          _b.write_retirements, _b.read_retirements,
          _j.show_retirements, _j.parse_retirements),
)  # fmt: skip
_BY_TAG: Final = {kind.tag: kind for kind in _KINDS}
_BY_NAME: Final = {kind.name: kind for kind in _KINDS}
_BY_TYPE: Final[dict[type, _Kind[Any]]] = {kind.type: kind for kind in _KINDS}


def encode(clock: Clock) -> bytes:
    """Return the clock's bytes.

    Raises:
        ClockValueError: `clock` is none, exceeds a bound above, or is a set whose values are
            neither bytes nor text.
    """
    kind = _kind_of(clock)
    to = Writer()
    to.data += bytes((FORMAT, kind.tag))
    kind.write(to, clock)
    if len(to.data) > GREATEST_BYTES:
        raise ClockValueError(
            f"the clock takes {len(to.data)} bytes, more than the {GREATEST_BYTES} of the wire"
        )
    return bytes(to.data)


@overload
def decode(data: bytes) -> Clock: ...
@overload
def decode(data: bytes, expected: type[T]) -> T: ...
def decode(data: bytes, expected: Any = None) -> Any:
    """Return the clock whose bytes these are.

    Args:
        expected: the only class of clock that is acceptable, when only one is.

    Raises:
        WireFormatError: `data` is not what `encode` gives, or not for an `expected` clock.
    """
    if type(data) is not bytes or not 2 <= len(data) <= GREATEST_BYTES:
        raise WireFormatError(f"an encoded clock is 2 to {GREATEST_BYTES} bytes, got {_size(data)}")
    if data[0] != FORMAT:
        raise WireFormatError(f"format {data[0]} of clocks is not known here, only {FORMAT}")
    kind = _BY_TAG.get(data[1])
    if kind is None:
        raise WireFormatError(f"no kind of clock has the tag {data[1]}")
    source = Reader(data, place=2)
    try:
        clock = kind.read(source)
    except (ClockValueError, RecursionError) as error:
        raise source.wrong(str(error)) from error
    source.end()
    return _checked(clock, expected)


def to_json(clock: Clock) -> dict[str, Any]:
    """Return the clock as an object for `json.dumps`.

    Raises:
        ClockValueError: as `encode`.
    """
    encode(clock)  # one rule of what is too large, or has a value that is none, for both forms
    kind = _kind_of(clock)
    return {"format": FORMAT, "type": kind.name, **kind.show(clock)}


@overload
def from_json(value: object) -> Clock: ...
@overload
def from_json(value: object, expected: type[T]) -> T: ...
def from_json(value: object, expected: Any = None) -> Any:
    """Return the clock of which `to_json` gave this object.

    Args:
        expected: the only class of clock that is acceptable, when only one is.

    Raises:
        WireFormatError: `value` is not such an object, or not for an `expected` clock.
    """
    if type(value) is not dict or "format" not in value or "type" not in value:
        raise WireFormatError(f"expected an object with format and type, got {shown(value)}")
    fields = dict(value)
    version, name = fields.pop("format"), fields.pop("type")
    if type(version) is not int or version != FORMAT:
        raise WireFormatError(f"format {shown(version)} of clocks is not known here, only {FORMAT}")
    kind = _BY_NAME.get(name) if type(name) is str else None
    if kind is None:
        raise WireFormatError(f"no kind of clock has the type {shown(name)}")
    try:
        clock = kind.parse(fields)
        encode(clock)
    except (ClockValueError, RecursionError) as error:
        raise WireFormatError(f"{kind.name}: {error}") from error
    return _checked(clock, expected)


def to_text(clock: Clock) -> str:
    """Return the clock as canonical JSON text.

    Raises:
        ClockValueError: as `encode`.
    """
    return json.dumps(to_json(clock), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@overload
def from_text(text: str) -> Clock: ...
@overload
def from_text(text: str, expected: type[T]) -> T: ...
def from_text(text: str, expected: Any = None) -> Any:
    """Return the clock that is written in the text, canonical or not.

    Args:
        expected: the only class of clock that is acceptable, when only one is.

    Raises:
        WireFormatError: `text` is not JSON for a clock, or not for an `expected` one.
    """
    if type(text) is not str or len(text) > GREATEST_TEXT:
        raise WireFormatError(
            f"the text of a clock is at most {GREATEST_TEXT} characters, got {_size(text)}"
        )
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
    except WireFormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise WireFormatError(f"the text is not JSON: {error}") from error
    return from_json(value, expected)


def _kind_of(clock: Clock) -> _Kind[Any]:
    if type(clock) is Pruned:
        return _PRUNED_VECTOR if type(clock.rest) is VectorClock else _PRUNED_VERSION
    kind = _BY_TYPE.get(type(clock))
    if kind is None:
        raise ClockValueError(f"only clocks are encoded here, got {shown(clock)}")
    return kind


def _checked(clock: Clock, expected: type | None) -> Clock:
    if expected is not None and not isinstance(clock, expected):
        raise WireFormatError(f"expected a {expected.__name__}, got a {type(clock).__name__}")
    return clock


def _size(value: object) -> str:
    return f"{len(value)}" if isinstance(value, bytes | str) else f"a {type(value).__name__}"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise WireFormatError("a field or a participant is there twice")
    return found


def _integer(digits: str) -> int:
    if len(digits) > 20:
        raise WireFormatError(f"an integer of {len(digits)} digits is beyond 64 bits")
    return int(digits)


def _no_number(text: str) -> NoReturn:
    raise WireFormatError(f"numbers are integers here, got {text:.40}")
