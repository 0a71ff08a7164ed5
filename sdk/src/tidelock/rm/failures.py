"""How exceptions of applications and drivers are told, without what is nobody's business.

What a driver says may hold the values of a statement, and addresses with passwords. The cluster
keeps what is answered to it, and logs are read by many: both get the first line, shortened and with
passwords taken out; logs also get the places in the code, and no local values.
"""

from __future__ import annotations

import re
import traceback
from typing import Final

_GREATEST: Final = 300
_PLACES: Final = 6

_IN_ADDRESSES: Final = re.compile(r"(?<=://)[^/@\s]+@")
_NAMED: Final = re.compile(
    r"""(?ix) \b (password|passwd|pwd|secret|token|authorization|api[_-]?key)
        (['"]?\s*[=:]\s*) (?:bearer\s+)? (?:'[^']*'|"[^"]*"|[^\s,;)&]+)"""
)


def told(error: BaseException) -> str:
    """Return an exception as one short line: its kind and the beginning of what it says."""
    try:
        text = str(error)
    except Exception:
        text = ""
    first = next((line for line in text.splitlines() if line.strip()), "").strip()
    first = _NAMED.sub(r"\1\2***", _IN_ADDRESSES.sub("***@", first))
    kind = type(error).__name__
    return f"{kind}: {first[:_GREATEST]}" if first else kind


def places(error: BaseException) -> str:
    """Return where it happened, innermost last: files, lines, functions."""
    frames = traceback.extract_tb(error.__traceback__)[-_PLACES:]
    shown = " > ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames)
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return shown if cause is None else f"{shown}; because of {told(cause)}"
