"""What DTM's protocol keeps with a transaction, and what its words mean for ours.

ours                                              DTM's status
BEGIN, not submitted                              prepared
BEGIN and submitted, committing in any way        submitted
COMMITTED                                         succeed
rolling back in any way                           aborting
ROLLED_BACK, TIMEOUT_ROLLED_BACK, FINISHED        failed
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

import msgspec

from statemachine.transactions.planning import Program
from statemachine.transactions.rows import DTM, Global, RetryRule
from statemachine.transactions.statuses import COMMIT_FAMILY, ENDED, GlobalStatus, Mode

PREPARED: Final = "prepared"
SUBMITTED: Final = "submitted"
ABORTING: Final = "aborting"
SUCCEED: Final = "succeed"
FAILED: Final = "failed"

TRANS_TYPES: Final = ("saga", "tcc", "xa", "msg", "workflow")

DEFAULT_TIMEOUT_S: Final = 35
DEFAULT_REQUEST_TIMEOUT_S: Final = 3
DEFAULT_RETRY_INTERVAL_S: Final = 10
GREATEST_RETRY_INTERVAL_MS: Final = 20_000
"""The interval doubles up to this, unless the client asked for a longer one."""

_DERIVED: Final = "dtm:"
_DERIVED_BYTES: Final = 20
_XID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")

_TYPES: Final = {
    Program.SAGA: "saga",
    Program.TCC: "tcc",
    Program.MESSAGE: "msg",
    Program.WORKFLOW: "workflow",
}


class DtmOptions(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True
):
    """Times are whole seconds, 0 where the client left them out."""

    gid: str
    """As the client wrote it."""
    timeout_to_fail: int = 0
    request_timeout: int = 0
    retry_interval: int = 0
    retry_limit: int = 0
    wait_result: bool = False
    concurrent: bool = False
    protocol: str = ""
    """How branches are called: empty over HTTP, or json-rpc."""
    query_prepared: str = ""
    custom_data: str = ""
    branch_headers: tuple[tuple[str, str], ...] = ()
    result: str = ""
    """What a workflow came to, in base64."""


_encode: Final = msgspec.msgpack.Encoder().encode
_options: Final = msgspec.msgpack.Decoder(DtmOptions)


def encode_options(options: DtmOptions) -> bytes:
    return _encode(options)


def decode_options(options: bytes) -> DtmOptions:
    """Raises: msgspec.DecodeError: they are no options."""
    return _options.decode(options)


def options_of(row: Global) -> DtmOptions:
    """Return a transaction's options; of one that was begun otherwise, the defaults."""
    return decode_options(row.options) if row.protocol == DTM else DtmOptions(gid=row.xid)


def merged(stored: DtmOptions, asked: DtmOptions) -> DtmOptions:
    """Return what holds once it is submitted: what is asked now, else what was when prepared."""
    default = DtmOptions(gid=stored.gid)
    said = {
        name: value
        for name in DtmOptions.__struct_fields__
        if (value := getattr(asked, name)) != getattr(default, name)
    }
    return msgspec.structs.replace(stored, **said)


def xid_of(gid: str) -> str:
    """Return the xid under which a gid is kept: itself, or a digest of it when it cannot be one."""
    if _XID.fullmatch(gid) is not None and not gid.startswith(_DERIVED):
        return gid
    return _DERIVED + blake2b(gid.encode(), digest_size=_DERIVED_BYTES).hexdigest()


def retry_rule(options: DtmOptions) -> RetryRule:
    """Return how a call is repeated: from the client's interval, or 10 s, doubling up to ours."""
    seconds = options.retry_interval
    if seconds <= 0:
        short = 0 < options.timeout_to_fail < DEFAULT_RETRY_INTERVAL_S
        seconds = options.timeout_to_fail if short else DEFAULT_RETRY_INTERVAL_S
    return RetryRule(
        limit=options.retry_limit if options.retry_limit > 0 else -1,
        interval_ms=1_000 * seconds,
        greatest_interval_ms=max(GREATEST_RETRY_INTERVAL_MS, 1_000 * seconds),
    )


def request_timeout_s(options: DtmOptions) -> int:
    """How long one call may take."""
    return options.request_timeout if options.request_timeout > 0 else DEFAULT_REQUEST_TIMEOUT_S


def trans_type_of(row: Global) -> str:
    """Return DTM's name for what kind of transaction it is."""
    named = _TYPES.get(Program(row.program))
    return named or ("xa" if row.mode == Mode.XA else "tcc")


def status_of(status: str, *, submitted: bool) -> str:
    """Return DTM's status of one of ours."""
    if status == GlobalStatus.BEGIN:
        return SUBMITTED if submitted else PREPARED
    if status in COMMIT_FAMILY:
        return SUCCEED if status == GlobalStatus.COMMITTED else SUBMITTED
    return FAILED if status in ENDED else ABORTING


def reason_of(row: Global) -> str:
    """Return why it was rolled back, empty when it was not."""
    if row.status.startswith("TIMEOUT_"):
        seconds = options_of(row).timeout_to_fail or DEFAULT_TIMEOUT_S
        return f"Timeout after {seconds} seconds"
    undone = status_of(row.status, submitted=row.submitted) in (ABORTING, FAILED)
    return row.reason if undone else ""
