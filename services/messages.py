"""What a node and its worker say to each other: one JSON object a line.

The worker never touches the replicated state. It asks the node to have something recorded of an
execution, and goes on when the node says that it is.
"""

from __future__ import annotations

from typing import Final

import msgspec

GREATEST_LINE_BYTES: Final = 4 << 20


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag=str.lower):
    """The base of all messages."""


class SourceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How one of the two databases is reached."""

    kind: str
    """`mariadb` (MySQL too) or `postgresql`."""
    host: str
    port: int
    user: str
    database: str
    password: str = ""
    ca_file: str = ""
    timeout_ms: int = 60_000
    """How long a statement may take: after so long its transaction is rolled back anyway."""

    def __repr__(self) -> str:
        """Without the password: settings may get into a log."""
        return f"{self.kind}://{self.user}@{self.host}:{self.port}/{self.database}"


# --- from the node


class Configure(_Message, frozen=True, kw_only=True):
    """The first message: what the worker is."""

    node_id: str
    addresses: tuple[str, ...]
    """Where the API of the cluster is reached, that of this node first."""
    primary: SourceSettings
    secondary: SourceSettings
    concurrency: int
    transaction_timeout_ms: int
    rollback_wait_ms: int
    batch_update_allowed: tuple[str, ...]
    migration_allowed: tuple[str, ...]
    create_tables: bool
    log_level: str


class Run(_Message, frozen=True, kw_only=True):
    """Run an execution, or find out what became of it where it was begun before."""

    execution: str
    """Its `transactionId`."""
    service: str
    business_type: str
    business_data: msgspec.Raw
    epoch: int
    attempt: int
    """Counts from 1; the transaction of attempt n is named by `<execution>.<n>`."""
    begun_xid: str = ""
    """The transaction of an earlier attempt, of which nobody knows here how it ended."""
    notes: msgspec.Raw = msgspec.Raw(b"null")
    """What the earlier attempt had recorded as its result by then."""
    may_run_again: bool


class Answer(_Message, frozen=True, kw_only=True):
    """What a call of the worker came to."""

    call: int
    error: str = ""
    """Empty: it is recorded."""


class Stop(_Message, frozen=True, kw_only=True):
    """Begin nothing more. The node closes the pipe once what runs has ended, or waited enough."""


FromNode = Configure | Run | Answer | Stop


# --- from the worker


class Ready(_Message, frozen=True, kw_only=True):
    """Both data sources can be used."""

    business_types: tuple[str, ...]


class Unavailable(_Message, frozen=True, kw_only=True):
    """A data source cannot be used now; the worker goes on trying."""

    why: str


class Steps(msgspec.Struct, frozen=True, kw_only=True):
    """How far an execution is."""

    read: int
    written: int
    total: int
    batch: int


class Advance(_Message, frozen=True, kw_only=True):
    """Have it recorded how far an execution is. Empty, None and null: as it was."""

    call: int
    execution: str
    epoch: int
    jta_status: str = ""
    xid: str = ""
    progress: Steps | None = None
    result: msgspec.Raw = msgspec.Raw(b"null")


class Finish(_Message, frozen=True, kw_only=True):
    """Have it recorded how an execution ended."""

    call: int
    execution: str
    epoch: int
    status: str
    jta_status: str
    error: str = ""
    failures: msgspec.Raw = msgspec.Raw(b"null")


class Left(_Message, frozen=True, kw_only=True):
    """The worker does not work on an execution any more. Unless it is finished, ask again later."""

    execution: str
    epoch: int


FromWorker = Ready | Unavailable | Advance | Finish | Left

to_line: Final = msgspec.json.Encoder().encode
from_node: Final = msgspec.json.Decoder(FromNode)
from_worker: Final = msgspec.json.Decoder(FromWorker)
