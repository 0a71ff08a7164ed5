"""Every clock leaves as bytes, JSON or text and comes back; whatever else arrives is one error."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidelock.clocks import (
    ClockError,
    ClockValueError,
    Dot,
    DottedVersionVector,
    DottedVersionVectorSet,
    HybridClock,
    HybridTimestamp,
    IntervalTreeClock,
    LamportClock,
    Pruned,
    Retirements,
    VectorClock,
    VersionVector,
    WireFormatError,
    wire,
)

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
counts = st.integers(1, 3) | st.integers(1, 2**63 - 1)
counters = st.dictionaries(names, counts, max_size=5)
values = st.binary(max_size=8) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
timestamps = st.builds(HybridTimestamp, st.integers(0, 2**46 - 1), st.integers(0, 2**18 - 1))
vectors = st.builds(VectorClock, counters)
versions = st.builds(VersionVector, counters)
identities = st.recursive(st.integers(0, 1), lambda half: st.tuples(half, half), max_leaves=8)
trees = st.recursive(
    st.integers(0, 2**60), lambda half: st.tuples(st.integers(0, 5), half, half), max_leaves=8
)


@st.composite
def dotted(draw: st.DrawFn) -> DottedVersionVector:
    past = draw(st.dictionaries(names, st.integers(1, 2**62), max_size=5))
    name = draw(names | st.sampled_from(sorted(past))) if past else draw(names)
    return DottedVersionVector(
        Dot(name, past.get(name, 0) + draw(st.integers(1, 2**62))), VersionVector(past)
    )


@st.composite
def sibling_sets(draw: st.DrawFn) -> DottedVersionVectorSet[wire.Value]:
    known = draw(counters)
    own = {name: draw(st.lists(values, max_size=min(3, count))) for name, count in known.items()}
    return DottedVersionVectorSet(known, own)


@st.composite
def retirement_lists(draw: st.DrawFn) -> Retirements:
    retirements = Retirements()
    for counts_left in draw(st.lists(st.dictionaries(names, st.integers(1, 9), min_size=1))):
        above = {
            name: retirements.count(retirements.floor, name) + count
            for name, count in counts_left.items()
        }
        retirements = retirements.retire(above)
    return retirements


@st.composite
def pruned(draw: st.DrawFn) -> Pruned[VectorClock] | Pruned[VersionVector]:
    retirements = draw(retirement_lists())
    entries = draw(counters)
    for retired in retirements.each:
        entries.update(retired)
    if draw(st.booleans()):
        return retirements.prune(VectorClock(entries))
    return retirements.prune(VersionVector(entries))


clocks: st.SearchStrategy[wire.Clock] = st.one_of(
    st.builds(LamportClock, st.integers(0, 2**63 - 1)),
    timestamps,
    st.builds(HybridClock, timestamps, st.integers(0, 2**46 - 1)),
    vectors,
    versions,
    dotted(),
    sibling_sets(),
    st.builds(IntervalTreeClock, identities, trees),
    pruned(),
    retirement_lists(),
)

# One of each kind, with its whole encoding: these never change.
EXAMPLES: list[tuple[wire.Clock, str, str]] = [
    (LamportClock(300), "0101 ac02", '{"format":1,"time":300,"type":"lamport"}'),
    (
        HybridTimestamp(1_700_000_000_123, 5),
        "0102 062f3f95a1ec0005",
        '{"format":1,"logical":5,"type":"hybrid-timestamp","wallMs":1700000000123}',
    ),
    (
        HybridClock(HybridTimestamp(1, 0), 500),
        "0103 0000000000040000 f403",
        '{"format":1,"latest":{"logical":0,"wallMs":1},"maxSkewMs":500,"type":"hybrid-clock"}',
    ),
    (
        VectorClock({"b": 1, "a": 128, "é": 2}),
        "0104 03 0161 8001 0162 01 02c3a9 02",
        '{"entries":{"a":128,"b":1,"é":2},"format":1,"type":"vector-clock"}',
    ),
    (
        VersionVector({"a": 1}),
        "0105 01 0161 01",
        '{"entries":{"a":1},"format":1,"type":"version-vector"}',
    ),
    (
        DottedVersionVector(Dot("a", 3), VersionVector({"a": 1})),
        "0106 0161 03 01 0161 01",
        '{"dot":{"count":3,"participant":"a"},"format":1,"past":{"a":1},'
        '"type":"dotted-version-vector"}',
    ),
    (
        DottedVersionVectorSet[wire.Value]({"a": 2, "b": 1}, {"a": ["new", b"\xff"]}),
        "0107 02 0161 02 02 07 6e6577 02 ff 0162 01 00",
        '{"entries":{"a":{"count":2,"values":["new",{"base64":"/w=="}]},'
        '"b":{"count":1,"values":[]}},"format":1,"type":"dotted-version-vector-set"}',
    ),
    (
        IntervalTreeClock(((0, 1), 1), (1, 0, (64, 1, 0))),
        "0108 02 02 00 01 01 03 00 8101 02 00",
        '{"events":[1,0,[64,1,0]],"format":1,"identity":[[0,1],1],"type":"interval-tree-clock"}',
    ),
    (
        Retirements([{"d": 5}]).prune(VectorClock({"a": 1, "d": 5})),
        "0109 01 9cd557dced318b94 01 0161 01",
        '{"entries":{"a":1},"floor":{"fingerprint":"9cd557dced318b94","number":1},'
        '"format":1,"type":"pruned-vector-clock"}',
    ),
    (
        Retirements().prune(VersionVector({"a": 1})),
        "010a 00 0000000000000000 01 0161 01",
        '{"entries":{"a":1},"floor":{"fingerprint":"0000000000000000","number":0},'
        '"format":1,"type":"pruned-version-vector"}',
    ),
    (
        Retirements([{"d": 5}, {"e": 1}]),
        "010b 02 01 0164 05 01 0165 01",
        '{"each":[{"d":5},{"e":1}],"format":1,"type":"retirements"}',
    ),
]
kinds = pytest.mark.parametrize(
    ("clock", "data", "text"), EXAMPLES, ids=[json.loads(text)["type"] for *_, text in EXAMPLES]
)


@kinds
def test_each_kind_has_this_encoding(clock: wire.Clock, data: str, text: str) -> None:
    assert wire.encode(clock) == bytes.fromhex(data)
    assert wire.to_text(clock) == text
    assert wire.decode(bytes.fromhex(data)) == clock
    assert wire.from_text(text) == clock


@given(clocks)
def test_what_is_decoded_is_what_was_encoded(clock: wire.Clock) -> None:
    assert wire.decode(wire.encode(clock)) == clock
    assert type(wire.decode(wire.encode(clock))) is type(clock)
    assert wire.from_json(wire.to_json(clock)) == clock
    assert wire.from_json(json.loads(json.dumps(wire.to_json(clock)))) == clock
    assert wire.from_text(wire.to_text(clock)) == clock


@given(clocks, clocks)
def test_equal_clocks_have_equal_encodings_and_others_different_ones(
    first: wire.Clock, second: wire.Clock
) -> None:
    assert (wire.encode(first) == wire.encode(second)) == (first == second)
    assert (wire.to_text(first) == wire.to_text(second)) == (first == second)


@given(st.permutations([("a", 1), ("é", 3), ("b", 2), ("\U0001f600", 4), ("\uffff", 5)]))
def test_the_order_in_which_entries_were_added_does_not_show(
    entries: list[tuple[str, int]],
) -> None:
    one, other = VectorClock(dict(entries)), VectorClock(dict(sorted(entries)))
    assert wire.encode(one) == wire.encode(other)
    assert wire.to_text(one) == wire.to_text(other)
    spread = DottedVersionVectorSet(dict(entries), {name: [b""] for name, _ in entries})
    again = wire.decode(wire.encode(spread))
    assert wire.encode(again) == wire.encode(spread)


def test_entries_are_in_the_order_of_their_bytes() -> None:
    """Which is not that of UTF-16, as some languages sort."""
    data = wire.encode(VectorClock({"\U0001f600": 1, "\uffff": 1}))
    assert data.index("\uffff".encode()) < data.index("\U0001f600".encode())


def test_encoded_timestamps_sort_as_the_timestamps_do() -> None:
    stamps = [HybridTimestamp(wall, logical) for wall in (0, 255, 256, 2**45) for logical in (0, 9)]
    assert sorted(map(wire.encode, stamps)) == [wire.encode(stamp) for stamp in stamps]


# A caller that expects one kind.


@kinds
def test_another_kind_than_the_expected_is_refused(clock: wire.Clock, data: str, text: str) -> None:
    other: type[wire.Clock] = VectorClock if type(clock) is LamportClock else LamportClock
    assert wire.decode(bytes.fromhex(data), type(clock)) == clock
    assert wire.from_text(text, type(clock)) == clock
    mismatch = pytest.raises(WireFormatError, match=f"expected a {other.__name__}, got a")
    with mismatch:
        wire.decode(bytes.fromhex(data), other)
    with mismatch:
        wire.from_text(text, other)
    with mismatch:
        wire.from_json(json.loads(text), other)


# Bad bytes.


def decoded_or_refused(data: bytes) -> None:
    """Bytes are the one encoding of a clock, or refused with the one error."""
    try:
        clock = wire.decode(data)
    except WireFormatError:
        return
    assert wire.encode(clock) == data


@given(st.binary(max_size=64))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    decoded_or_refused(data)


@given(st.integers(0, 12), st.binary(max_size=64))
def test_any_bytes_behind_a_tag_are_decoded_or_refused(tag: int, data: bytes) -> None:
    decoded_or_refused(bytes([1, tag]) + data)


@given(clocks, st.data())
def test_damaged_clocks_are_decoded_as_what_they_say_or_refused(
    clock: wire.Clock, data: st.DataObject
) -> None:
    encoded = bytearray(wire.encode(clock))
    place = data.draw(st.integers(0, len(encoded) - 1))
    match data.draw(st.sampled_from(["change", "cut", "insert", "repeat", "drop"])):
        case "change":
            encoded[place] = data.draw(st.integers(0, 255))
        case "cut":
            del encoded[place:]
        case "insert":
            encoded.insert(place, data.draw(st.integers(0, 255)))
        case "repeat":
            encoded += encoded[place:]
        case _:
            del encoded[place]
    decoded_or_refused(bytes(encoded))


@kinds
def test_a_clock_that_is_cut_short_or_goes_on_is_refused(
    clock: wire.Clock, data: str, text: str
) -> None:
    whole = bytes.fromhex(data)
    for length in range(len(whole)):
        with pytest.raises(WireFormatError):
            wire.decode(whole[:length])
    with pytest.raises(WireFormatError, match="the clock ends before the bytes do"):
        wire.decode(whole + b"\0")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("", "an encoded clock is 2 to"),
        ("01", "an encoded clock is 2 to"),
        ("0001 00", "format 0 of clocks is not known"),
        ("0201 00", "format 2 of clocks is not known"),
        ("0100 00", "no kind of clock has the tag 0"),
        ("010c 00", "no kind of clock has the tag 12"),
        ("0101 8000", "longer than it needs to be"),
        ("0101 80808080808080808001", "time must be an integer from 0 to"),
        ("0101 ffffffffffffffffff7f", "beyond 64 bits"),
        ("0101 ffffffffffffffffffff01", "longer than 10 bytes"),
        ("0103 0000000000000000 808080808080808001", "max_skew_ms must be"),
        ("0104 02 0162 01 0161 01", "not in order"),
        ("0104 02 0161 01 0161 01", "not in order"),
        ("0104 01 00 01", "not in order, or one is empty"),
        ("0104 01 0161 00", "an entry is 0"),
        ("0104 01 01ff 01", "a text is not UTF-8"),
        ("0104 01 03eda080 01", "a text is not UTF-8"),
        ("0104 01 8180808080808080807f 61", "beyond 64 bits"),
        ("0104 01 ffff03 61", "the bytes end where 65535 more are due"),
        ("0106 0161 00 00", "count must be at least 1"),
        ("0106 0161 01 01 0161 01", "within the past"),
        ("0107 01 0161 01 02 00 00", "has 2 values of 1 writes"),
        ("0107 01 0161 00 00", "an entry is 0"),
        ("0107 01 0161 01 01 03 ff", "a text is not UTF-8"),
        ("0108 03 00", "neither 0 nor 1 nor a pair"),
        ("0108 020101 00", "not in normal form"),
        ("0108 01 03 00 00", "not in normal form"),
        ("0108 01 01 02 04", "not in normal form"),
        ("0109 00 0000000000000001 00", "the fingerprint of floor 0"),
        ("010b 01 00", "names at least one participant"),
        ("010b 02 01 0164 05 01 0164 05", "is retired at 5 already"),
    ],
)
def test_bytes_that_are_no_clock_are_refused_and_told_why(data: str, why: str) -> None:
    with pytest.raises(WireFormatError, match=why):
        wire.decode(bytes.fromhex(data))


def test_names_that_are_too_long_are_refused() -> None:
    with pytest.raises(WireFormatError, match="1 to 512 bytes of UTF-8"):
        wire.decode(bytes.fromhex("0104 01 8104") + b"x" * 513 + b"\1")
    assert wire.decode(bytes.fromhex("0104 01 8004") + b"x" * 512 + b"\1") == VectorClock(
        {"x" * 512: 1}
    )


def test_sizes_that_are_only_claimed_cost_nothing() -> None:
    """Numbers of entries, values and bytes that do not follow end at the first that is missing."""
    most = "ffffffffffffffffff01"
    for data in (f"0104 {most}", f"0107 {most}", f"0107 01 0161 01 {most}", f"010b {most}"):
        with pytest.raises(WireFormatError, match="the bytes end where"):
            wire.decode(bytes.fromhex(data))


def test_more_items_than_the_bound_are_refused_both_ways() -> None:
    few = DottedVersionVectorSet({"a": 70_000}, {"a": [b""] * 65_535})
    assert wire.decode(wire.encode(few)) == few
    many = DottedVersionVectorSet({"a": 70_000}, {"a": [b""] * 65_536})
    with pytest.raises(ClockValueError, match="at most 65536 items"):
        wire.encode(many)
    with pytest.raises(ClockValueError, match="at most 65536 items"):
        wire.to_json(many)
    data = wire.encode(few)[:-65_535].replace(b"\xff\xff\x03", b"\x80\x80\x04")
    with pytest.raises(WireFormatError, match="more than 65536 items"):
        wire.decode(data + bytes(65_536))
    fields = {"a": {"count": 70_000, "values": [""] * 65_536}}
    with pytest.raises(WireFormatError, match="at most 65536 items"):
        wire.from_json({"format": 1, "type": "dotted-version-vector-set", "entries": fields})


def test_more_bytes_than_the_bound_are_refused_both_ways() -> None:
    large = DottedVersionVectorSet({"a": 1}, {"a": [bytes(2**20)]})
    with pytest.raises(ClockValueError, match="more than the 1048576 of the wire"):
        wire.encode(large)
    with pytest.raises(WireFormatError, match="2 to 1048576 bytes, got 1048577"):
        wire.decode(bytes(2**20 + 1))
    with pytest.raises(WireFormatError, match="at most 8388608 characters, got 8388609"):
        wire.from_text(" " * (2**23 + 1))


def test_what_just_fits_into_the_bytes_fits_into_the_text() -> None:
    """Control characters take six characters of JSON and one byte."""
    widest = DottedVersionVectorSet({"a": 1}, {"a": ["\x01" * (2**20 - 16)]})
    assert wire.decode(wire.encode(widest)) == widest
    assert wire.from_text(wire.to_text(widest)) == widest


def deep(depth: int, *, lists: bool = False) -> Any:
    tree: Any = 1
    for _ in range(depth):
        tree = [tree, 0] if lists else (tree, 0)
    return tree


def test_trees_of_the_greatest_depth_pass_and_deeper_ones_are_refused() -> None:
    stamp = IntervalTreeClock(deep(256), 0)
    assert wire.decode(wire.encode(stamp)) == stamp
    assert wire.from_text(wire.to_text(stamp)) == stamp
    for depth in (257, 5_000, 100_000):
        with pytest.raises(WireFormatError, match="too deep"):
            wire.decode(b"\1\x08" + b"\2" * depth + b"\1" + b"\0" * depth + b"\0")
        with pytest.raises(WireFormatError, match="too deep"):
            wire.decode(b"\1\x08\1" + b"\1" * depth + b"\2" + b"\0" * depth)
        text = f'{{"format":1,"type":"interval-tree-clock","events":{"[1," * depth}0'
        with pytest.raises(WireFormatError):
            wire.from_text(text + ",0]" * depth + ',"identity":1}')
    fields = {"format": 1, "type": "interval-tree-clock", "events": 0}
    with pytest.raises(WireFormatError):
        wire.from_json({**fields, "identity": deep(100_000, lists=True)})


# Bad JSON and text.

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=10,
)


def parsed_or_refused(value: object) -> None:
    try:
        clock = wire.from_json(value)
    except WireFormatError:
        return
    assert wire.from_json(wire.to_json(clock)) == clock


@given(json_values)
def test_any_json_is_parsed_or_refused(value: object) -> None:
    parsed_or_refused(value)


@given(clocks, st.data())
def test_a_clock_with_any_one_part_exchanged_is_parsed_or_refused(
    clock: wire.Clock, data: st.DataObject
) -> None:
    whole = json.loads(wire.to_text(clock))
    inside: Any = whole
    while True:
        keys = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
        key = data.draw(st.sampled_from(keys))
        inner = inside[key]
        if not inner or not isinstance(inner, dict | list) or data.draw(st.booleans()):
            break
        inside = inner
    if data.draw(st.booleans()):
        inside[key] = data.draw(json_values)
    else:
        del inside[key]
    parsed_or_refused(whole)
    with suppress(WireFormatError):
        assert wire.from_text(json.dumps(whole)) == wire.from_json(whole)


@given(st.text(max_size=40))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with pytest.raises(WireFormatError):
        wire.from_text(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not JSON"),
        ("[1", "is not JSON"),
        ("null", "expected an object with format and type, got None"),
        ("[]", "expected an object with format and type"),
        ('{"type":"lamport","time":1}', "expected an object with format and type"),
        ('{"format":true,"type":"lamport","time":1}', "format True of clocks is not known"),
        ('{"format":2,"type":"lamport","time":1}', "format 2 of clocks is not known"),
        ('{"format":1,"type":"sundial"}', "no kind of clock has the type 'sundial'"),
        ('{"format":1,"type":["lamport"]}', "no kind of clock has the type"),
        ('{"format":1,"type":"lamport"}', "expected an object with exactly time"),
        ('{"format":1,"type":"lamport","time":1,"x":1}', "expected an object with exactly time"),
        ('{"format":1,"type":"lamport","time":1,"time":1}', "there twice"),
        ('{"format":1,"type":"lamport","time":1.0}', "numbers are integers here, got 1.0"),
        ('{"format":1,"type":"lamport","time":1e3}', "numbers are integers here"),
        ('{"format":1,"type":"lamport","time":NaN}', "numbers are integers here, got NaN"),
        ('{"format":1,"type":"lamport","time":-1}', "time must be an integer from 0"),
        ('{"format":1,"type":"lamport","time":"1"}', "time must be an integer from 0"),
        ('{"format":1,"type":"lamport","time":true}', "time must be an integer from 0"),
        (f'{{"format":1,"type":"lamport","time":{"9" * 5_000}}}', "beyond 64 bits"),
        ('{"format":1,"type":"vector-clock","entries":[]}', "entries must map"),
        ('{"format":1,"type":"vector-clock","entries":{"a":1,"a":2}}', "there twice"),
        ('{"format":1,"type":"vector-clock","entries":{"":1}}', "a participant's name must be"),
        ('{"format":1,"type":"vector-clock","entries":{"\\ud800":1}}', "participant's name must"),
        ('{"format":1,"type":"dotted-version-vector","dot":{"count":1},"past":{}}', "count"),
        (
            '{"format":1,"type":"dotted-version-vector-set",'
            '"entries":{"a":{"count":1,"values":["\\ud800"]}}}',
            "has no UTF-8",
        ),
        (
            '{"format":1,"type":"dotted-version-vector-set",'
            '"entries":{"a":{"count":1,"values":[{"base64":"="}]}}}',
            "not base64",
        ),
        (
            '{"format":1,"type":"dotted-version-vector-set",'
            '"entries":{"a":{"count":1,"values":[1]}}}',
            "exactly base64",
        ),
        (
            '{"format":1,"type":"dotted-version-vector-set","entries":{"a":{"count":1,"values":1}}}',
            "values are a list",
        ),
        ('{"format":1,"type":"dotted-version-vector-set","entries":[]}', "expected an object"),
        ('{"format":1,"type":"interval-tree-clock","identity":[],"events":0}', "an identity is"),
        ('{"format":1,"type":"retirements","each":{}}', "retirements are a list"),
        (
            '{"format":1,"type":"pruned-vector-clock","entries":{},'
            '"floor":{"number":1,"fingerprint":"00"}}',
            "not a floor",
        ),
    ],
)
def test_text_that_is_no_clock_is_refused_and_told_why(text: str, why: str) -> None:
    with pytest.raises(WireFormatError, match=why):
        wire.from_text(text)


def test_what_is_no_data_at_all_is_refused_like_bad_data() -> None:
    no_bytes: list[Any] = [None, 7, "text", bytearray(b"\1\1\0"), [1]]
    for value in no_bytes:
        with pytest.raises(WireFormatError, match="an encoded clock is 2 to"):
            wire.decode(value)
    no_text: list[Any] = [None, 7, b"{}"]
    for value in no_text:
        with pytest.raises(WireFormatError, match="the text of a clock is at most"):
            wire.from_text(value)


def test_text_may_be_written_by_hand() -> None:
    text = ' {"type": "vector-clock", "entries": {"b": 0, "a": 2}, "format": 1}\n'
    assert wire.from_text(text) == VectorClock({"a": 2})


def test_only_clocks_are_encoded() -> None:
    for value in (None, {"a": 1}, Dot("a", 1)):
        with pytest.raises(ClockValueError, match="only clocks are encoded"):
            wire.encode(value)  # type: ignore[arg-type]
    for bad in (7, None, "\ud800"):
        siblings: Any = DottedVersionVectorSet({"a": 1}, {"a": [bad]})
        with pytest.raises(ClockValueError, match=r"on the wire is bytes or str|has no UTF-8"):
            wire.encode(siblings)
        with pytest.raises(ClockValueError):
            wire.to_text(siblings)


def test_the_error_is_a_clock_error_and_a_value_error() -> None:
    assert issubclass(WireFormatError, ClockError)
    assert issubclass(WireFormatError, ValueError)
