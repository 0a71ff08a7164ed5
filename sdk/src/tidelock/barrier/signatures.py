"""Whether a call comes from the cluster: `Tidelock-Signature: t=<seconds>,v1=<hex>`.

The hex is HMAC-SHA256, with the key that the operator shares with participants, of the seconds, a
dot and the body. Headers are not signed (docs/BRANCH_CALLS.md of the repository).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final

from tidelock.errors import TidelockError

SIGNATURE: Final = "Tidelock-Signature"

GREATEST_AGE_S: Final = 300
"""How old a call may be, or how far ahead, by the clocks of both machines."""

_FORM: Final = re.compile(r"t=([0-9]{1,12}),v1=([0-9a-f]{64})")


class SignatureError(TidelockError):
    """A call does not come from the cluster, or is too old: answer it 401."""


def sign(body: bytes, key: bytes, now_s: int) -> str:
    """Return the value of the header, as the cluster does."""
    digest = hmac.new(key, str(now_s).encode() + b"." + body, hashlib.sha256).hexdigest()
    return f"t={now_s},v1={digest}"


def verify(header: str | None, body: bytes, key: bytes, now_s: float) -> None:
    """Refuse a call unless the cluster signed it. `now_s` is `time.time()`.

    Raises:
        SignatureError: the header is missing, malformed, too old, or not of this key and body.
        ValueError: the key is empty, with which everybody could sign.
    """
    if not key:
        raise ValueError("the key of signatures is empty")
    matched = _FORM.fullmatch(header or "")
    if matched is None:
        raise SignatureError(f"{SIGNATURE} is missing or malformed")
    at = int(matched[1])
    if not hmac.compare_digest(sign(body, key, at).encode(), matched[0].encode()):
        raise SignatureError(f"{SIGNATURE} is not of this body and the key that is known here")
    if abs(now_s - at) > GREATEST_AGE_S:
        raise SignatureError(
            f"{SIGNATURE} is {abs(now_s - at):.0f} s off, more than {GREATEST_AGE_S}: an old call, "
            "or clocks that differ"
        )
