"""Dotted version vectors and their sets, held against the causal histories they stand for."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.clock_laws import assert_join_semilattice, assert_partial_order, at_most
from tidelock.clocks import (
    ClockOverflowError,
    ClockValueError,
    Dot,
    DottedVersionVector,
    DottedVersionVectorSet,
    Relation,
    VersionVector,
)

SERVERS = ["a", "b", "c"]
Siblings = DottedVersionVectorSet[int]


@dataclass
class Server:
    """One copy of the object, kept in three ways: as an oracle, as versions, as a set."""

    known: set[int] = field(default_factory=set)
    """Numbers of the writes of which this copy has heard."""
    versions: dict[DottedVersionVector, int] = field(default_factory=dict)
    """The current versions, and the number of the write that made each."""
    siblings: Siblings = field(default_factory=Siblings)


@dataclass
class Client:
    """What a client has read so far, the same three ways."""

    known: set[int] = field(default_factory=set)
    versions: VersionVector = field(default_factory=VersionVector)
    siblings: VersionVector = field(default_factory=VersionVector)


@dataclass
class Store:
    """Servers, clients, and the true history of every write: what its client had read."""

    servers: dict[str, Server] = field(default_factory=lambda: {name: Server() for name in SERVERS})
    clients: list[Client] = field(default_factory=lambda: [Client() for _ in range(3)])
    had_read: list[frozenset[int]] = field(default_factory=list)
    made: list[DottedVersionVector] = field(default_factory=list)

    def read(self, client: int, server: str) -> None:
        reader, source = self.clients[client], self.servers[server]
        reader.known |= source.known
        reader.versions = reader.versions.merge(DottedVersionVector.join(source.versions))
        reader.siblings = reader.siblings.merge(source.siblings.context())

    def write(self, client: int, server: str) -> None:
        writer, target = self.clients[client], self.servers[server]
        number = len(self.had_read)
        self.had_read.append(frozenset(writer.known))
        target.known |= writer.known | {number}
        version = DottedVersionVector.write(server, writer.versions, target.versions)
        self.made.append(version)
        self._take(target, {version: number})
        target.siblings = target.siblings.update(writer.siblings, number, server)

    def sync(self, to: str, source: str) -> None:
        target, other = self.servers[to], self.servers[source]
        target.known |= other.known
        self._take(target, other.versions)
        target.siblings = target.siblings.sync(other.siblings)

    def _take(self, target: Server, versions: dict[DottedVersionVector, int]) -> None:
        numbers = {**target.versions, **versions}
        kept = DottedVersionVector.sync(target.versions, versions)
        target.versions = {version: numbers[version] for version in kept}

    def current(self, server: str) -> set[int]:
        """The writes that nobody who wrote later, as far as the server knows, had read."""
        known = self.servers[server].known
        replaced = {old for number in known for old in self.had_read[number]}
        return known - replaced


@st.composite
def stores(draw: st.DrawFn) -> Store:
    store = Store()
    for _ in range(draw(st.integers(0, 25))):
        step = draw(st.sampled_from(["read", "write", "write", "sync", "new client"]))
        client, server = draw(st.integers(0, 2)), draw(st.sampled_from(SERVERS))
        match step:
            case "read":
                store.read(client, server)
            case "write":
                store.write(client, server)
            case "sync":
                store.sync(server, draw(st.sampled_from(SERVERS)))
            case _:
                store.clients[client] = Client()
    return store


# Against the oracle.


@given(stores())
def test_no_write_is_lost_and_none_comes_back(store: Store) -> None:
    for name, server in store.servers.items():
        assert set(server.versions.values()) == store.current(name)
        assert sorted(server.siblings.values) == sorted(store.current(name))


@given(stores())
def test_versions_tell_exactly_who_had_read_what(store: Store) -> None:
    """In particular, no version is called concurrent with one that its writer had read."""
    for first, one in enumerate(store.made):
        for second, other in enumerate(store.made):
            histories = (
                store.had_read[first] | {first},
                store.had_read[second] | {second},
            )
            expected = Relation.of(
                bool(histories[0] - histories[1]), bool(histories[1] - histories[0])
            )
            assert one.compare(other) is expected
            assert one.knows(other.dot) == (second in histories[0])


@given(stores())
def test_both_ways_give_the_same_dots_and_contexts(store: Store) -> None:
    for server in store.servers.values():
        assert dict(server.siblings.siblings) == {
            version.dot: number for version, number in server.versions.items()
        }
        assert server.siblings.context() == DottedVersionVector.join(server.versions)


@given(stores())
def test_all_servers_agree_once_they_have_heard_of_each_other(store: Store) -> None:
    for _ in range(2):
        for to in SERVERS:
            for source in SERVERS:
                store.sync(to, source)
    first, *others = (store.servers[name].siblings for name in SERVERS)
    assert all(other == first for other in others)


@given(stores(), st.integers(0, 2), st.sampled_from(SERVERS))
def test_whoever_writes_all_that_it_read_leaves_one_version(
    store: Store, client: int, server: str
) -> None:
    store.read(client, server)
    store.write(client, server)
    assert store.servers[server].siblings.values == (len(store.had_read) - 1,)


@given(stores(), st.sampled_from(SERVERS))
def test_a_write_that_read_nothing_replaces_nothing(store: Store, server: str) -> None:
    before = store.servers[server].siblings
    after = before.update(VersionVector(), -1, server)
    assert sorted(after.values) == sorted([*before.values, -1])


# The order and the join of sets.


@given(stores())
def test_comparing_sets_is_a_partial_order(store: Store) -> None:
    a, b, c = (server.siblings for server in store.servers.values())
    assert_partial_order(a, b, c)
    assert_partial_order(a, a.sync(b), a.sync(b).sync(c))
    assert_partial_order(a, a.discard(a.context()), a.discard(b.context()))


@given(stores())
def test_synchronising_sets_is_a_join(store: Store) -> None:
    a, b, c = (server.siblings for server in store.servers.values())
    assert_join_semilattice(a, b, c, Siblings.sync)


@given(stores(), st.integers(0, 2), st.sampled_from(SERVERS))
def test_an_update_strictly_advances_the_set(store: Store, client: int, server: str) -> None:
    siblings = store.servers[server].siblings
    context = store.clients[client].siblings
    assert siblings.compare(siblings.update(context, -1, server)) is Relation.BEFORE
    assert at_most(siblings, siblings.discard(context))
    assert siblings.discard(context).discard(context) == siblings.discard(context)


# The order of versions that no system made.

versions = st.builds(
    lambda name, past, beyond: DottedVersionVector(Dot(name, past.get(name, 0) + beyond),
                                                   VersionVector(past)),
    st.sampled_from("ab"),
    st.dictionaries(st.sampled_from("ab"), st.integers(0, 3)),
    st.integers(1, 3),
)  # fmt: skip


def history(version: DottedVersionVector) -> set[tuple[str, int]]:
    past = version.past.entries.items()
    return {(name, n) for name, count in past for n in range(1, count + 1)} | {
        (version.dot.participant, version.dot.count)
    }


@example(
    DottedVersionVector(Dot("a", 1), VersionVector({"b": 1})),
    DottedVersionVector(Dot("b", 1), VersionVector({"a": 1})),
)
@given(versions, versions)
def test_any_two_versions_compare_as_their_histories_do(
    first: DottedVersionVector, second: DottedVersionVector
) -> None:
    a, b = history(first), history(second)
    assert first.compare(second) is Relation.of(bool(a - b), bool(b - a))


@given(versions)
def test_a_context_is_the_least_vector_that_covers_a_version(
    version: DottedVersionVector,
) -> None:
    known = history(version)
    expected = {name: max(n for who, n in known if who == name) for name, _ in known}
    assert dict(version.context().entries) == expected
    assert DottedVersionVector.join([version]) == version.context()


# What it is for.


def test_two_clients_of_one_server_that_read_the_same_make_siblings() -> None:
    read = VersionVector()
    first = Siblings().update(read, 1, "a").update(read, 2, "a")
    assert first.values == (1, 2)
    assert first.siblings == ((Dot("a", 1), 1), (Dot("a", 2), 2))
    # A version vector alone would have called the second write newer.
    assert VersionVector({"a": 1}).compare(VersionVector({"a": 2})) is Relation.BEFORE


def test_a_write_after_reading_both_replaces_both() -> None:
    both = Siblings({"a": 2}, {"a": [2, 1]})
    assert both.update(both.context(), 3, "b") == Siblings({"a": 2, "b": 1}, {"b": [3]})


def test_a_late_write_replaces_only_what_its_client_had_read() -> None:
    both = Siblings({"a": 2}, {"a": [2, 1]})
    assert both.update(VersionVector({"a": 1}), 3, "a").values == (2, 3)


def test_what_was_read_elsewhere_does_not_come_back_by_synchronising() -> None:
    at_a = Siblings().update(VersionVector(), 1, "a")
    at_b = Siblings().update(at_a.context(), 2, "b")
    assert at_b.sync(at_a).values == (2,)
    assert at_a.discard(at_a.context()).sync(at_a).values == ()


def test_the_dot_of_a_write_may_leave_a_gap_above_its_past() -> None:
    first = DottedVersionVector.write("a", VersionVector())
    second = DottedVersionVector.write("a", VersionVector(), [first])
    third = DottedVersionVector.write("a", first.context(), [first, second])
    assert third == DottedVersionVector(Dot("a", 3), VersionVector({"a": 1}))
    assert third.compare(first) is Relation.AFTER
    assert third.compare(second) is Relation.CONCURRENT


# The values.


def test_what_is_no_dot_is_refused() -> None:
    for count in (0, -1, 2**63, True, 1.0):
        with pytest.raises(ClockValueError, match="count must be"):
            Dot("a", count)  # type: ignore[arg-type]
    with pytest.raises(ClockValueError, match="must be text"):
        Dot("", 1)


def test_dots_sort_by_participant_then_count() -> None:
    assert sorted([Dot("b", 1), Dot("a", 10), Dot("a", 9)]) == [
        Dot("a", 9),
        Dot("a", 10),
        Dot("b", 1),
    ]


def test_a_version_whose_dot_is_in_its_own_past_is_refused() -> None:
    with pytest.raises(ClockValueError, match="is within the past"):
        DottedVersionVector(Dot("a", 2), VersionVector({"a": 2}))
    with pytest.raises(ClockValueError, match="a version is a Dot and a VersionVector"):
        DottedVersionVector(("a", 2))  # type: ignore[arg-type]


def test_a_version_cannot_be_changed() -> None:
    version = DottedVersionVector(Dot("a", 1))
    with pytest.raises(FrozenInstanceError):
        version.dot = Dot("a", 2)  # type: ignore[misc]


def test_a_set_has_no_more_values_than_writes() -> None:
    with pytest.raises(ClockValueError, match="'a' has 2 values of 1 writes"):
        Siblings({"a": 1}, {"a": [1, 2]})
    with pytest.raises(ClockValueError, match="'b' has 1 values of 0 writes"):
        Siblings({"a": 1}, {"b": [1]})
    with pytest.raises(ClockValueError, match="the counter of 'a'"):
        Siblings({"a": -1})


def test_a_set_is_synchronised_with_a_set_only() -> None:
    with pytest.raises(ClockValueError, match="synchronised with another set"):
        Siblings().sync(VersionVector())  # type: ignore[arg-type]


def test_a_set_cannot_be_changed_but_copied_pickled_and_shown() -> None:
    siblings = Siblings({"b": 1, "a": 3}, {"b": [7], "a": [6, 5]})
    with pytest.raises(AttributeError, match="immutable"):
        siblings.values = ()  # type: ignore[misc]
    assert copy.deepcopy(siblings) == siblings
    assert pickle.loads(pickle.dumps(siblings)) == siblings
    assert hash(copy.copy(siblings)) == hash(siblings)
    assert repr(siblings) == "DottedVersionVectorSet({'a': 3, 'b': 1}, {'a': (6, 5), 'b': (7,)})"
    assert siblings.values == (5, 6, 7)


def test_no_write_follows_the_greatest() -> None:
    full = VersionVector({"a": 2**63 - 1})
    with pytest.raises(ClockOverflowError):
        Siblings().update(full, 1, "a")
    with pytest.raises(ClockOverflowError):
        DottedVersionVector.write("a", full)
    with pytest.raises(ClockValueError, match="must be text"):
        Siblings().update(VersionVector(), 1, "")
    with pytest.raises(ClockValueError, match="must be text"):
        DottedVersionVector.write("", VersionVector())
