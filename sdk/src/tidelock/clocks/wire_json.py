"""Clocks as JSON: the fields of each kind. They are listed in `tidelock.clocks.wire`."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any, TypeAlias, TypeVar

from tidelock.clocks.dotted import Dot, DottedVersionVector
from tidelock.clocks.errors import ClockValueError, WireFormatError, shown
from tidelock.clocks.hybrid import HybridClock, HybridTimestamp
from tidelock.clocks.interval_events import EventTree
from tidelock.clocks.interval_ids import GREATEST_DEPTH, IdTree
from tidelock.clocks.interval_tree import IntervalTreeClock
from tidelock.clocks.lamport import LamportClock
from tidelock.clocks.pruning import Floor, Pruned, Retirements
from tidelock.clocks.siblings import DottedVersionVectorSet
from tidelock.clocks.vector import VectorClock
from tidelock.clocks.version import VersionVector
from tidelock.clocks.wire_bytes import Value

Fields: TypeAlias = dict[str, Any]
"""An object as `json.loads` gives it: anything may be in it."""

C = TypeVar("C", VectorClock, VersionVector)


def fields_of(value: object, *names: str) -> Any:
    """Return the fields of an object in the order of `names`, which must be all that it has.

    Raises:
        WireFormatError
    """
    if type(value) is not dict or value.keys() != set(names):
        raise WireFormatError(
            f"expected an object with exactly {', '.join(names)}, got {shown(value)}"
        )
    return [value[name] for name in names]


def show_lamport(clock: LamportClock) -> Fields:
    return {"time": clock.time}


def parse_lamport(fields: Fields) -> LamportClock:
    (time,) = fields_of(fields, "time")
    return LamportClock(time)


def show_timestamp(timestamp: HybridTimestamp) -> Fields:
    return {"wallMs": timestamp.wall_ms, "logical": timestamp.logical}


def parse_timestamp(fields: Fields) -> HybridTimestamp:
    return HybridTimestamp(*fields_of(fields, "wallMs", "logical"))


def show_hybrid(clock: HybridClock) -> Fields:
    return {"latest": show_timestamp(clock.latest), "maxSkewMs": clock.max_skew_ms}


def parse_hybrid(fields: Fields) -> HybridClock:
    latest, max_skew_ms = fields_of(fields, "latest", "maxSkewMs")
    return HybridClock(parse_timestamp(latest), max_skew_ms)


def show_counters(clock: VectorClock | VersionVector) -> Fields:
    return {"entries": dict(sorted(clock.entries.items()))}


def parse_vector(fields: Fields) -> VectorClock:
    return VectorClock(*fields_of(fields, "entries"))


def parse_version(fields: Fields) -> VersionVector:
    return VersionVector(*fields_of(fields, "entries"))


def show_dotted(version: DottedVersionVector) -> Fields:
    dot = {"participant": version.dot.participant, "count": version.dot.count}
    return {"dot": dot, "past": dict(sorted(version.past.entries.items()))}


def parse_dotted(fields: Fields) -> DottedVersionVector:
    dot, past = fields_of(fields, "dot", "past")
    return DottedVersionVector(Dot(*fields_of(dot, "participant", "count")), VersionVector(past))


def show_siblings(siblings: DottedVersionVectorSet[Value]) -> Fields:
    return {
        "entries": {
            participant: {
                "count": count,
                "values": [_show_value(value) for value in siblings.values_of(participant)],
            }
            for participant, count in sorted(siblings.context().entries.items())
        }
    }


def parse_siblings(fields: Fields) -> DottedVersionVectorSet[Value]:
    (entries,) = fields_of(fields, "entries")
    counts, values = {}, {}
    for participant, entry in _object(entries).items():
        counts[participant], own = fields_of(entry, "count", "values")
        if type(own) is not list:
            raise WireFormatError(f"values are a list, got {shown(own)}")
        values[participant] = [_parse_value(value) for value in own]
    return DottedVersionVectorSet(counts, values)


def show_interval_tree(stamp: IntervalTreeClock) -> Fields:
    return {"identity": _lists(stamp.identity), "events": _lists(stamp.events)}


def parse_interval_tree(fields: Fields) -> IntervalTreeClock:
    identity, events = fields_of(fields, "identity", "events")
    return IntervalTreeClock(_tuples(identity), _tuples(events))


def show_pruned(pruned: Pruned[C]) -> Fields:
    floor = pruned.floor
    return {
        "floor": {"number": floor.number, "fingerprint": floor.fingerprint.hex()},
        **show_counters(pruned.rest),
    }


def parse_pruned_vector(fields: Fields) -> Pruned[VectorClock]:
    floor, entries = fields_of(fields, "floor", "entries")
    return Pruned(_parse_floor(floor), VectorClock(entries))


def parse_pruned_version(fields: Fields) -> Pruned[VersionVector]:
    floor, entries = fields_of(fields, "floor", "entries")
    return Pruned(_parse_floor(floor), VersionVector(entries))


def _parse_floor(value: object) -> Floor:
    number, fingerprint = fields_of(value, "number", "fingerprint")
    try:
        return Floor(number, bytes.fromhex(fingerprint))
    except (TypeError, ValueError) as error:
        raise WireFormatError(f"not a floor: {shown(value)}") from error


def show_retirements(retirements: Retirements) -> Fields:
    return {"each": [dict(sorted(counts.items())) for counts in retirements.each]}


def parse_retirements(fields: Fields) -> Retirements:
    (each,) = fields_of(fields, "each")
    if type(each) is not list:
        raise WireFormatError(f"retirements are a list, got {shown(each)}")
    return Retirements(each)


def _object(value: object) -> Fields:
    if type(value) is not dict:
        raise WireFormatError(f"expected an object, got {shown(value)}")
    return value


def _show_value(value: object) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return {"base64": b64encode(value).decode()}
    raise ClockValueError(f"a value on the wire is bytes or str, got {shown(value)}")


def _parse_value(value: object) -> Value:
    if isinstance(value, str):
        return value
    (encoded,) = fields_of(value, "base64")
    try:
        return b64decode(encoded, validate=True)
    except (TypeError, ValueError) as error:
        raise WireFormatError(f"not base64: {shown(encoded)}") from error


def _lists(tree: IdTree | EventTree) -> Any:
    if isinstance(tree, int):
        return tree
    # No comprehension, which would have a stack frame of its own at each level.
    halves: list[Any] = []
    for part in tree:
        halves.append(_lists(part))
    return halves


def _tuples(value: object, depth: int = 0) -> Any:
    """Return nested lists as tuples; the trees' own check refuses what is left as too deep."""
    if type(value) is not list or depth > GREATEST_DEPTH:
        return value
    parts: list[Any] = []
    for part in value:
        parts.append(_tuples(part, depth + 1))
    return tuple(parts)
