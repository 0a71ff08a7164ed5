"""Definitions by name and version, as they are stored.

Rows, after the prefix in `statemachine.keys`:

    h  name\\0             -> Head: which version new sagas follow
    v  name\\0  version    -> StoredDefinition

A version is kept while new sagas follow it or old ones still do.
"""

from __future__ import annotations

from typing import Final

import msgspec

from statemachine import keys
from statemachine.commands.saga_definitions import DeleteSagaDefinition, PutSagaDefinition
from statemachine.outcomes import (
    Applied,
    Outcome,
    Rejected,
    RejectionCode,
    SagaDefinitionDeleted,
    SagaDefinitionPut,
)
from statemachine.state import MachineState
from statemachine.store import Reader
from statemachine.transactions.state_language.model import Definition
from statemachine.transactions.state_language.reading import (
    InvalidDefinitionError,
    read_definition,
)
from statemachine.write_buffer import WriteBuffer

GREATEST_DEFINITIONS: Final = 1_000
GREATEST_VERSIONS: Final = 100
"""Of one name: the newest, and older ones that sagas still follow."""
GREATEST_MACHINES: Final = 32
"""Definitions that one saga follows, those that others call included."""
GREATEST_NAME_BYTES: Final = 128

_HEAD: Final = keys.SAGA_DEFINITION + b"h"
_VERSION: Final = keys.SAGA_DEFINITION + b"v"


class Head(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A name."""

    name: str
    version: int
    """The last one given."""
    versions: int
    """How many are kept."""
    deleted: bool = False
    """No saga follows it any more but those that began before."""


class StoredDefinition(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One version."""

    name: str
    version: int
    document: bytes
    created_ms: int
    """In wall time."""
    running: int = 0
    """How many sagas that have not ended follow it."""


class Pinned(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A definition that a saga follows to its end, whatever replaces it meanwhile."""

    name: str
    version: int


_encode: Final = msgspec.msgpack.Encoder().encode
_heads: Final = msgspec.msgpack.Decoder(Head)
_versions: Final = msgspec.msgpack.Decoder(StoredDefinition)

_NAME_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"The name of a definition has 1 to {GREATEST_NAME_BYTES} bytes of UTF-8.",
)
_TABLE_FULL: Final = Rejected(
    RejectionCode.SAGA_DEFINITIONS_FULL,
    f"There are {GREATEST_DEFINITIONS} definitions, the most there may be. Delete one first.",
)
_VERSIONS_FULL: Final = Rejected(
    RejectionCode.SAGA_DEFINITIONS_FULL,
    f"Sagas under way still follow {GREATEST_VERSIONS} versions of this definition, the most that "
    "are kept. Let some of them end first.",
)


def get_head(reader: Reader, name: str) -> Head | None:
    """Return a name's row; also that of a deleted one which sagas still follow."""
    if not 0 < len(name.encode()) <= GREATEST_NAME_BYTES:
        return None
    row = reader.get(_HEAD + keys.terminated(name))
    return None if row is None else _heads.decode(row)


def get_version(reader: Reader, name: str, version: int) -> StoredDefinition | None:
    row = reader.get(_VERSION + keys.terminated(name) + keys.pack_number(version))
    return None if row is None else _versions.decode(row)


def get_versions(reader: Reader, name: str) -> list[StoredDefinition]:
    """Return all versions that are kept, in order."""
    prefix = _VERSION + keys.terminated(name)
    rows = reader.scan(prefix, prefix[:-1] + b"\x01", limit=GREATEST_VERSIONS)
    return [_versions.decode(row) for _, row in rows]


def list_heads(reader: Reader, after: str, *, limit: int) -> list[Head]:
    """Return the names in order, those after `after`, deleted ones too."""
    begin = _HEAD + keys.terminated(after) + b"\0" if after else _HEAD
    return [_heads.decode(row) for _, row in reader.scan(begin, keys.stop_of(_HEAD), limit=limit)]


def latest(reader: Reader, name: str) -> StoredDefinition | None:
    """Return what new sagas of a name follow."""
    head = get_head(reader, name)
    return None if head is None or head.deleted else get_version(reader, name, head.version)


def put(state: MachineState, writes: WriteBuffer, command: PutSagaDefinition) -> Outcome:
    """Store a version, unless it says what the newest one does."""
    name, document = command.name, command.document
    if not 0 < len(name.encode()) <= GREATEST_NAME_BYTES:
        return _NAME_UNUSABLE
    try:
        read_definition(document)
    except InvalidDefinitionError as error:
        return Rejected(RejectionCode.INVALID_COMMAND, f"The definition is invalid: {error}.")
    head = get_head(writes, name)
    if head is None:
        if state.saga_definition_count >= GREATEST_DEFINITIONS:
            return _TABLE_FULL
        state.saga_definition_count += 1
        head = Head(name, 0, 0, deleted=True)
    elif not head.deleted:
        before = get_version(writes, name, head.version)
        assert before is not None, "the newest version is kept"
        if before.document == document:
            return Applied(SagaDefinitionPut(name=name, version=head.version, changed=False))
        if before.running == 0:
            head = _drop(writes, head, before)
    if head.versions >= GREATEST_VERSIONS:
        return _VERSIONS_FULL
    version = head.version + 1
    _put_head(writes, Head(name, version, head.versions + 1))
    _put_version(writes, StoredDefinition(name, version, document, state.wall_ms))
    return Applied(SagaDefinitionPut(name=name, version=version, changed=True))


def delete(state: MachineState, writes: WriteBuffer, command: DeleteSagaDefinition) -> Outcome:
    """Delete a name. What sagas still follow is kept until they end."""
    head = get_head(writes, command.name)
    if head is None or head.deleted:
        return Applied(SagaDefinitionDeleted(name=command.name, deleted=False))
    newest = get_version(writes, head.name, head.version)
    assert newest is not None, "the newest version is kept"
    head = msgspec.structs.replace(head, deleted=True)
    if newest.running == 0:
        head = _drop(writes, head, newest)
    _put_or_forget(state, writes, head)
    return Applied(SagaDefinitionDeleted(name=command.name, deleted=True))


def followed(reader: Reader, name: str) -> list[StoredDefinition] | Rejected:
    """Return a definition and those that it calls, as they are now, itself first."""
    found: dict[str, StoredDefinition] = {}
    wanted = [(name, "")]
    while wanted:
        each, caller = wanted.pop(0)
        if each in found:
            continue
        stored = latest(reader, each)
        if stored is None:
            called = f", which {caller!r} calls" if caller else ""
            return Rejected(
                RejectionCode.SAGA_DEFINITION_NOT_FOUND,
                f"There is no saga definition {each!r}{called}. Put it first.",
                retryable=False,
            )
        if len(found) == GREATEST_MACHINES:
            return Rejected(
                RejectionCode.INVALID_COMMAND,
                f"The definitions that {name!r} calls are more than {GREATEST_MACHINES}.",
            )
        found[each] = stored
        wanted += [(machine, each) for machine in read_definition(stored.document).machines]
    return list(found.values())


def pin(writes: WriteBuffer, found: list[StoredDefinition]) -> tuple[Pinned, ...]:
    """Keep these for one more saga."""
    for stored in found:
        _put_version(writes, msgspec.structs.replace(stored, running=stored.running + 1))
    return tuple([Pinned(stored.name, stored.version) for stored in found])


def definition_of(reader: Reader, pinned: Pinned) -> Definition:
    """Return what a saga follows."""
    stored = get_version(reader, pinned.name, pinned.version)
    assert stored is not None, "a version is kept while a saga follows it"
    return read_definition(stored.document)


def unpin(state: MachineState, writes: WriteBuffer, machines: tuple[Pinned, ...]) -> None:
    """A saga has ended: let go of what nobody follows any more."""
    for pinned in machines:
        stored = get_version(writes, pinned.name, pinned.version)
        head = get_head(writes, pinned.name)
        assert stored is not None, "a version is kept while a saga follows it"
        assert head is not None, "and so is its name"
        stored = msgspec.structs.replace(stored, running=stored.running - 1)
        if stored.running or (stored.version == head.version and not head.deleted):
            _put_version(writes, stored)
        else:
            _put_or_forget(state, writes, _drop(writes, head, stored))


def _drop(writes: WriteBuffer, head: Head, stored: StoredDefinition) -> Head:
    writes.delete(_VERSION + keys.terminated(stored.name) + keys.pack_number(stored.version))
    return msgspec.structs.replace(head, versions=head.versions - 1)


def _put_or_forget(state: MachineState, writes: WriteBuffer, head: Head) -> None:
    if head.versions:
        _put_head(writes, head)
    else:
        writes.delete(_HEAD + keys.terminated(head.name))
        state.saga_definition_count -= 1


def _put_head(writes: WriteBuffer, head: Head) -> None:
    writes.put(_HEAD + keys.terminated(head.name), _encode(head))


def _put_version(writes: WriteBuffer, stored: StoredDefinition) -> None:
    key = _VERSION + keys.terminated(stored.name) + keys.pack_number(stored.version)
    writes.put(key, _encode(stored))
