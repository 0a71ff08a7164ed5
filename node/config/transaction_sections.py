"""The settings of what nodes do for transactions: deadlines, calls, DTM's port, the services."""

# ruff: noqa: RUF009 - the calls below make dataclass fields, which is what a default may be

from __future__ import annotations

import dataclasses
import enum
from pathlib import Path

from node.config.address import Address
from node.config.declaring import (
    DAY_MS,
    MINUTE_MS,
    setting,
)
from statemachine.sync_rounds import GREATEST_INTERVAL_MS, LEAST_INTERVAL_MS


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SyncConfig:
    """Synchronisation rounds of participants' clocks."""

    interval_ms: int = setting(
        10_000,
        "How often a round is closed by itself when somebody is behind, and how often a node "
        "reports its own clocks. A participant that is silent for three intervals counts no more. "
        "The leader's value counts.",
        minimum=LEAST_INTERVAL_MS,
        maximum=GREATEST_INTERVAL_MS,
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TransactionsConfig:
    """How long global transactions are kept that have ended. The leader's values count."""

    retention_ms: int = setting(
        DAY_MS,
        "How long everything about a transaction is kept after its end. It counts for those that "
        "end from then on.",
        minimum=0,
        maximum=3650 * DAY_MS,
    )
    summary_retention_ms: int = setting(
        30 * DAY_MS,
        "How long after that it is still known that it ended, when and how. `0` keeps that for "
        "ever.",
        minimum=0,
        maximum=3650 * DAY_MS,
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryConfig:
    """Calls to the branches of global transactions, which the leader makes."""

    allowed_hosts: tuple[str, ...] = setting(
        ("localhost", "127.0.0.1", "::1"),
        "Which hosts may be called: names, `*.name` for all below one, addresses, networks such as "
        "`10.0.0.0/8`, or `*` for all. Loopback addresses are called only when they are listed. "
        "The cluster's own addresses, link-local ones and those of a cloud's metadata are never "
        "called, whatever name leads there. In the environment: parted by commas.",
    )
    timeout_ms: int = setting(
        10_000,
        "How long one call may take that does not say so itself.",
        minimum=10,
        maximum=10 * MINUTE_MS,
    )
    max_calls: int = setting(
        1_024,
        "How many calls may be under way at a time.",
        minimum=1,
        maximum=65_536,
    )
    max_calls_per_host: int = setting(
        256,
        "How many of them to one host and port, so that a slow one does not hold up the others.",
        minimum=1,
        maximum=65_536,
    )
    ca_file: Path | None = setting(
        None,
        "Certificates, in PEM, by which https participants are known; empty: those that the system "
        "trusts.",
    )
    signature_key_file: Path | None = setting(
        None,
        "A file with the key that signs every call in `Tidelock-Signature`; empty: calls are not "
        "signed. All nodes need the same key.",
    )
    alert_url: str = setting(
        "",
        "Called with POST when a branch has failed often, and at each repetition from then on. Its "
        "host must be in `allowed_hosts`. Empty: nobody is told.",
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DtmGatewayConfig:
    """DTM's HTTP protocol, for programs that were written for a DTM server."""

    enabled: bool = setting(False, "Whether it is served.")
    address: Address = setting(
        Address("127.0.0.1", 36_789),
        "Where it listens: `host:port`, a port of its own.",
    )
    client_networks: tuple[str, ...] = setting(
        ("127.0.0.0/8", "::1/128"),
        "From which networks clients are served, for they know no tokens. In the environment: "
        "parted by commas.",
    )
    cluster_addresses: tuple[str, ...] = setting(
        (),
        "Where the gateways of all nodes are reached, as `host:port`, when they do not all use the "
        "port of `address`: no branch is ever called there. In the environment: parted by commas.",
    )


class DatabaseKind(enum.StrEnum):
    NONE = ""
    MARIADB = "mariadb"
    POSTGRESQL = "postgresql"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PrimarySourceConfig:
    """The primary data source of the XA and JTA services (docs/SERVICES.md)."""

    kind: DatabaseKind = setting(
        DatabaseKind.NONE,
        "What it is: `mariadb`, which stands for MySQL too, or `postgresql`. Empty: this node "
        "serves no `/xa` and `/jta`. The driver is installed with it: `tidelock[pymysql]` or "
        "`tidelock[psycopg]`.",
    )
    host: str = setting("127.0.0.1", "Where its server is reached.")
    port: int = setting(
        0, "Its port. 0: 3306 of `mariadb`, 5432 of `postgresql`.", minimum=0, maximum=65_535
    )
    user: str = setting("", "As whom the node connects.")
    database: str = setting("", "The name of the database.")
    password_file: Path | None = setting(
        None,
        "A file whose first line is the password. Empty: `password_variable` says, or there is "
        "none.",
    )
    password_variable: str = setting(
        "",
        "The name of an environment variable that holds the password, when no file does. A "
        "password stands in no configuration and in no log.",
    )
    ca_file: Path | None = setting(
        None,
        "Certificates, in PEM, by which the server is known. Empty: the connection is not "
        "encrypted, unless the driver does so by itself.",
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SecondarySourceConfig(PrimarySourceConfig):
    """The secondary data source, as the primary one."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServicesConfig:
    """What the XA and JTA services do in their data sources."""

    concurrency: int = setting(
        8,
        "How many executions this node runs at a time; each has a connection to both sources.",
        minimum=1,
        maximum=256,
    )
    transaction_timeout_ms: int = setting(
        MINUTE_MS,
        "How long an execution may take until it is rolled back.",
        minimum=100,
        maximum=DAY_MS,
    )
    rollback_wait_ms: int = setting(
        5_000,
        "How long a rollback may take until the answer is `ROLLBACK_FAILED`. The coordinator goes "
        "on with it.",
        minimum=10,
        maximum=10 * MINUTE_MS,
    )
    lease_ms: int = setting(
        10_000,
        "How long an execution stays with a node of which nothing is heard, before another one "
        "takes it over.",
        minimum=1_000,
        maximum=10 * MINUTE_MS,
    )
    retention_ms: int = setting(
        DAY_MS,
        "How long the status of an execution can be asked for after its end.",
        minimum=1_000,
        maximum=365 * DAY_MS,
    )
    create_tables: bool = setting(
        True,
        "Make the tables of the services that are not there. `false`: somebody else has.",
    )
    batch_update_allowed: tuple[str, ...] = setting(
        (),
        "What `BATCH_UPDATE` may change: `source.table.column`, where `*` stands for anything, as "
        "in `primary.inventory.quantity` or `secondary.account.*`. Empty: nothing. In the "
        "environment: parted by commas.",
    )
    migration_allowed: tuple[str, ...] = setting(
        (),
        "What `DATA_MIGRATION` may read and write: `source.table`, where `*` stands for anything. "
        "Empty: nothing. In the environment: parted by commas.",
    )
