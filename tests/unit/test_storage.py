from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from node.storage import DATA_FILE, LmdbStorage, StorageError, StorageFullError, erase_state
from statemachine import keys
from statemachine.memory_store import MemoryStore
from statemachine.state import MachineState, UnsupportedStateError, encode_state
from statemachine.store import DamagedStateError, Store


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def storage(tmp_path: Path, clock: Clock) -> Iterator[LmdbStorage]:
    storage = LmdbStorage.open(tmp_path, clock=clock)
    yield storage
    storage.close()


def write_entry(store: LmdbStorage, index: int, rows: dict[bytes, bytes]) -> None:
    for key, value in rows.items():
        store.put(key, value)
    store.put(keys.META, encode_state(MachineState(applied_index=index)))
    store.end_entry()


def test_it_is_a_store_of_the_state_machine(storage: LmdbStorage) -> None:
    store: Store = storage
    store.put(b"k", b"v")
    assert store.get(b"k") == b"v"


def test_what_an_entry_wrote_is_seen_within_it_and_after_it(storage: LmdbStorage) -> None:
    storage.put(b"a", b"1")
    storage.put(b"b", b"2")
    assert storage.get(b"a") == b"1"
    assert storage.scan(b"a", b"z", limit=9) == [(b"a", b"1"), (b"b", b"2")]
    storage.delete(b"a")
    assert storage.get(b"a") is None
    storage.end_entry()
    assert storage.get(b"a") is None
    assert storage.scan(b"a", b"z", limit=9) == [(b"b", b"2")]


def test_an_empty_value_is_a_value(storage: LmdbStorage) -> None:
    storage.put(b"k", b"")
    storage.end_entry()
    assert storage.get(b"k") == b""
    assert storage.get(b"l") is None


def test_the_longest_key_and_a_value_of_many_pages_fit(storage: LmdbStorage) -> None:
    key, value = b"k" * 500, random.Random(1).randbytes(1 << 20)
    storage.put(key, value)
    storage.end_entry()
    assert storage.get(key) == value


# Checkpoints.


def test_a_checkpoint_is_due_when_the_last_commit_is_older_than_the_interval(
    storage: LmdbStorage, clock: Clock
) -> None:
    write_entry(storage, 1, {b"a": b"1"})
    clock.now += 0.049
    assert not storage.checkpoint()
    assert storage.durable_index == 0
    clock.now += 0.002
    assert storage.checkpoint()
    assert storage.durable_index == 1


def test_a_forced_checkpoint_waits_for_nothing(storage: LmdbStorage) -> None:
    write_entry(storage, 1, {})
    assert storage.has_uncommitted
    assert storage.checkpoint(force=True)
    assert not storage.has_uncommitted


def test_a_checkpoint_with_nothing_to_commit_does_nothing(
    storage: LmdbStorage, clock: Clock
) -> None:
    clock.now += 10
    assert not storage.checkpoint()
    assert not storage.checkpoint(force=True)


def test_too_many_uncommitted_rows_make_a_checkpoint_due(tmp_path: Path, clock: Clock) -> None:
    storage = LmdbStorage.open(tmp_path, max_uncommitted_rows=10, clock=clock)
    write_entry(storage, 1, {b"%d" % i: b"" for i in range(4)})
    assert not storage.checkpoint()
    write_entry(storage, 2, {b"%d" % i: b"" for i in range(4)})
    assert not storage.checkpoint(), "the same rows again are no more rows"
    write_entry(storage, 3, {b"%d" % i: b"" for i in range(9)})
    assert storage.checkpoint()
    storage.close()


def test_too_many_uncommitted_bytes_make_a_checkpoint_due(tmp_path: Path, clock: Clock) -> None:
    storage = LmdbStorage.open(tmp_path, max_uncommitted_bytes=10_000, clock=clock)
    write_entry(storage, 1, {b"a": bytes(9_000)})
    assert not storage.checkpoint()
    write_entry(storage, 2, {b"b": bytes(1_000)})
    assert storage.checkpoint()
    storage.close()


def test_what_one_entry_writes_and_a_later_one_deletes_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.storage._GREATEST_GATHERED_ROWS", 10)
    storage = LmdbStorage.open(tmp_path)
    for index in range(1, 9):
        write_entry(storage, index, {b"k%d%d" % (index, i): b"" for i in range(4)})
        storage.delete(b"k%d0" % (index - 1))
        storage.delete(b"k%d1" % index)
        storage.end_entry()
    storage.checkpoint(force=True)
    storage.close()

    again = LmdbStorage.open(tmp_path)
    left = [key for key, _ in again.scan(b"k", b"l", limit=100)]
    assert left == [
        b"k%d%d" % (i, j) for i in range(1, 9) for j in ((2, 3) if i < 8 else (0, 2, 3))
    ]
    again.close()


def test_half_an_entry_cannot_be_committed(storage: LmdbStorage) -> None:
    storage.put(b"a", b"1")
    with pytest.raises(AssertionError, match="inside an entry"):
        storage.checkpoint(force=True)
    storage.scan(b"a", b"b", limit=1)
    with pytest.raises(AssertionError, match="inside an entry"):
        storage.checkpoint(force=True)
    storage.end_entry()
    assert storage.checkpoint(force=True)


def test_only_what_was_committed_survives_closing(tmp_path: Path, clock: Clock) -> None:
    storage = LmdbStorage.open(tmp_path, clock=clock)
    write_entry(storage, 7, {b"a": b"1"})
    storage.checkpoint(force=True)
    write_entry(storage, 8, {b"a": b"2"})
    storage.close()
    storage.close()

    again = LmdbStorage.open(tmp_path, clock=clock)
    assert again.durable_index == 7
    assert again.get(b"a") == b"1"
    again.close()


# Size.


def test_used_bytes_follow_the_rows_and_not_the_file(storage: LmdbStorage) -> None:
    empty = storage.used_bytes
    write_entry(storage, 1, {b"%d" % i: bytes(1000) for i in range(2000)})
    storage.checkpoint(force=True)
    full = storage.used_bytes
    assert full > empty + 2_000_000
    assert storage.fill_ratio == pytest.approx(
        full / min(64 << 30, storage.file_bytes + storage.disk_free_bytes), rel=0.01
    )

    for i in range(2000):
        storage.delete(b"%d" % i)
    write_entry(storage, 2, {})
    storage.checkpoint(force=True)
    assert storage.used_bytes < empty + 20_000
    assert storage.file_bytes >= full


def test_a_disk_that_others_fill_is_noticed_within_a_second(
    storage: LmdbStorage, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = storage.fill_ratio
    monkeypatch.setattr(LmdbStorage, "disk_free_bytes", 0)
    assert storage.fill_ratio == before
    clock.now += 1
    assert storage.fill_ratio == pytest.approx(storage.used_bytes / storage.file_bytes)
    assert storage.fill_ratio > before


def test_the_map_grows_ahead_of_the_state(tmp_path: Path) -> None:
    storage = LmdbStorage.open(tmp_path, map_size_bytes=1 << 20)
    assert storage.map_bytes >= 256 << 20
    before = storage.map_bytes
    storage.start_copy(tmp_path / "copy").result()
    assert storage.map_bytes == 64 << 30
    assert before < 64 << 30
    storage.close()


def test_the_map_grows_while_entries_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.storage._MIN_ROOM_BYTES", 1 << 20)
    storage = LmdbStorage.open(tmp_path, map_size_bytes=1 << 20, max_map_size_bytes=1 << 30)
    sizes = set()
    for index in range(1, 60):
        write_entry(storage, index, {b"%d" % index: bytes(200_000)})
        storage.checkpoint(force=True)
        sizes.add(storage.map_bytes)
    assert max(sizes) > storage.file_bytes + (8 << 20)
    assert 2 <= len(sizes) <= 10, "it grows in large steps, since a change unmaps everything"
    assert storage.get(b"1") == bytes(200_000)
    storage.close()


def test_a_full_map_stops_the_commit_and_keeps_what_was_committed(tmp_path: Path) -> None:
    storage = LmdbStorage.open(tmp_path, map_size_bytes=1 << 20, max_map_size_bytes=1 << 20)
    write_entry(storage, 1, {b"a": b"kept"})
    storage.checkpoint(force=True)
    write_entry(storage, 2, {b"b": bytes(2 << 20)})
    with pytest.raises(StorageFullError, match="add space"):
        storage.scan(b"a", b"z", limit=9)
    with pytest.raises(StorageError):
        storage.checkpoint(force=True)
    storage.close()

    roomier = LmdbStorage.open(tmp_path)
    assert (roomier.durable_index, roomier.get(b"a")) == (1, b"kept")
    write_entry(roomier, 2, {b"b": bytes(2 << 20)})
    assert roomier.checkpoint(force=True)
    roomier.close()


# Damage.


def flip(path: Path, where: bytes, offset: int = 0) -> None:
    """Flip a bit of every place in the file where these bytes stand, `offset` bytes into them."""
    content = bytearray(path.read_bytes())
    at = content.find(where)
    assert at >= 0
    while at >= 0:
        content[at + offset] ^= 0x10
        at = content.find(where, at + 1)
    path.write_bytes(content)


@pytest.fixture
def closed_state(tmp_path: Path) -> Path:
    storage = LmdbStorage.open(tmp_path)
    rows = {b"Ekey-%02d" % i: b"secret-of-%02d" % i for i in range(30)}
    write_entry(storage, 1, rows)
    storage.checkpoint(force=True)
    storage.close()
    return tmp_path


def test_a_flipped_bit_in_a_value_is_found_by_every_way_of_reading_it(closed_state: Path) -> None:
    flip(closed_state / DATA_FILE, b"secret-of-17")
    storage = LmdbStorage.open(closed_state)
    assert storage.get(b"Ekey-16") == b"secret-of-16"
    with pytest.raises(DamagedStateError):
        storage.get(b"Ekey-17")
    with pytest.raises(DamagedStateError):
        storage.scan(b"E", b"F", limit=100)
    with pytest.raises(DamagedStateError):
        storage.scan(b"E", b"F", limit=100, reverse=True)
    with pytest.raises(DamagedStateError):
        storage.scrub_step(b"", 1 << 20)
    with pytest.raises(DamagedStateError):
        storage.range_digest(b"E", b"F", 1 << 20)
    storage.close()


def test_the_message_names_the_row_and_tells_nothing_of_its_content(closed_state: Path) -> None:
    flip(closed_state / DATA_FILE, b"secret-of-17")
    storage = LmdbStorage.open(closed_state)
    with pytest.raises(DamagedStateError) as raised:
        storage.get(b"Ekey-17")
    assert b"Ekey-17".hex() in str(raised.value)
    assert "ecret" not in str(raised.value)
    assert b"ecret".hex() not in str(raised.value)
    storage.close()


def test_a_flipped_bit_in_a_key_is_found_by_the_scrub(closed_state: Path) -> None:
    flip(closed_state / DATA_FILE, b"Ekey-17", offset=2)
    storage = LmdbStorage.open(closed_state)
    with pytest.raises(DamagedStateError):
        storage.scrub_step(b"", 1 << 20)
    storage.close()


def test_a_row_in_the_place_of_another_is_found(closed_state: Path) -> None:
    path = closed_state / DATA_FILE
    content = path.read_bytes()
    row_16, row_17 = (content[content.find(b"secret-of-%d" % i) :][:16] for i in (16, 17))
    path.write_bytes(content.replace(row_17, row_16))
    storage = LmdbStorage.open(closed_state)
    assert storage.get(b"Ekey-16") == b"secret-of-16"
    with pytest.raises(DamagedStateError):
        storage.get(b"Ekey-17")
    storage.close()


@pytest.mark.parametrize("kept", [0.001, 0.3, 0.9])
def test_a_file_that_was_cut_off_is_damage_and_no_crash(tmp_path: Path, kept: float) -> None:
    storage = LmdbStorage.open(tmp_path)
    write_entry(storage, 1, {b"E%04d" % i: bytes(1000) for i in range(2000)})
    storage.checkpoint(force=True)
    storage.close()
    path = tmp_path / DATA_FILE
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * kept))

    with pytest.raises(DamagedStateError):  # noqa: PT012
        storage = LmdbStorage.open(tmp_path)
        try:
            storage.scrub_step(b"", 1 << 30)
        finally:
            storage.close()
    erase_state(tmp_path)
    storage = LmdbStorage.open(tmp_path)
    assert storage.durable_index == 0
    storage.close()


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / DATA_FILE).write_bytes(b"no state at all" * 1000)
    with pytest.raises(DamagedStateError, match="not an LMDB file"):
        LmdbStorage.open(tmp_path)


def test_a_state_of_a_newer_program_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        newer.setattr("statemachine.state.LAYOUT", 99)
        storage = LmdbStorage.open(tmp_path)
        storage.put(keys.META, encode_state(MachineState(layout=99)))
        storage.end_entry()
        storage.checkpoint(force=True)
        storage.close()
    with pytest.raises(UnsupportedStateError):
        LmdbStorage.open(tmp_path)


# Scrubbing and comparing.


def test_the_scrub_goes_over_every_row_in_slices(storage: LmdbStorage) -> None:
    write_entry(storage, 1, {b"E%04d" % i: bytes(100) for i in range(500)})
    starts = []
    start: bytes | None = b""
    while start is not None:
        starts.append(start)
        start = storage.scrub_step(start, 10_000)
    assert 5 <= len(starts) <= 7
    assert starts == sorted(set(starts))


def test_equal_rows_have_equal_digests_and_others_do_not(tmp_path: Path) -> None:
    rows = {b"E%04d" % i: b"%d" % i for i in range(100)}
    one = LmdbStorage.open(tmp_path / "one")
    other = LmdbStorage.open(tmp_path / "other")
    for key in rows:
        one.put(key, b"an older value")
    one.end_entry()
    write_entry(one, 1, rows)
    one.checkpoint(force=True)
    write_entry(other, 1, dict(reversed(rows.items())))
    assert one.range_digest(b"E", b"F", 500) == other.range_digest(b"E", b"F", 500)
    _, following = one.range_digest(b"E", b"F", 500)
    assert following in rows
    whole, end = one.range_digest(b"E", b"F", 1 << 20)
    assert end is None

    other.put(b"E0050", b"51")
    other.end_entry()
    assert other.range_digest(b"E", b"F", 1 << 20) != (whole, None)
    assert other.range_digest(b"E", b"E0050", 1 << 20) == one.range_digest(b"E", b"E0050", 1 << 20)
    one.close()
    other.close()


# Against a model.

some_keys = st.binary(min_size=1, max_size=3) | st.sampled_from([b"a", b"b", b"c", b"\xff" * 3])


class StorageBesideModel(RuleBasedStateMachine):
    """The same operations on the storage and on a store in memory give the same answers."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.model = MemoryStore()
        self.committed = self.model.items()
        self.index = self.committed_index = 0
        self.within_entry = False
        self.storage = self.open()

    def open(self) -> LmdbStorage:
        return LmdbStorage.open(Path(self.directory.name), checkpoint_interval_ms=10**9)

    @rule(key=some_keys, value=st.binary(max_size=20) | st.just(bytes(5000)))
    def put(self, key: bytes, value: bytes) -> None:
        self.within_entry = True
        self.model.put(key, value)
        self.storage.put(key, value)

    @rule(key=some_keys)
    def delete(self, key: bytes) -> None:
        self.within_entry = True
        self.model.delete(key)
        self.storage.delete(key)

    @rule(key=some_keys)
    def get(self, key: bytes) -> None:
        assert self.storage.get(key) == self.model.get(key)

    @rule(
        start=some_keys,
        stop=some_keys,
        limit=st.integers(0, 5) | st.just(1000),
        reverse=st.booleans(),
    )
    def scan(self, start: bytes, stop: bytes, limit: int, reverse: bool) -> None:
        expected = self.model.scan(start, stop, limit=limit, reverse=reverse)
        assert self.storage.scan(start, stop, limit=limit, reverse=reverse) == expected

    @rule()
    def end_entry(self) -> None:
        self.index += 1
        meta = encode_state(MachineState(applied_index=self.index))
        self.model.put(keys.META, meta)
        self.storage.put(keys.META, meta)
        self.storage.end_entry()
        self.within_entry = False

    @precondition(lambda self: not self.within_entry)
    @rule()
    def checkpoint(self) -> None:
        assert self.storage.checkpoint(force=True) == (self.index > self.committed_index)
        self.committed = self.model.items()
        self.committed_index = self.index

    @rule()
    def crash(self) -> None:
        self.storage.close()
        self.storage = self.open()
        self.model.replace(self.committed)
        self.index = self.committed_index
        self.within_entry = False

    @invariant()
    def the_durable_index_is_that_of_the_last_commit(self) -> None:
        assert self.storage.durable_index == self.committed_index

    def teardown(self) -> None:
        everything = self.storage.scan(b"", b"\xff" * 4, limit=10**6)
        assert everything == self.model.items()
        self.storage.close()
        self.directory.cleanup()


TestStorageBesideModel = StorageBesideModel.TestCase
TestStorageBesideModel.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
