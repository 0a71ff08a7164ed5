"""Copy standard input to a log file that never grows beyond a bound.

Run as a program behind a node's output: `python log_pump.py FILE MAX_BYTES`. When the file would
pass the bound it becomes FILE.1, in place of an older one. Ends when the node does.
"""

from __future__ import annotations

import os
import sys


def pump(source: int, path: str, max_bytes: int) -> None:
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    size = os.fstat(target).st_size
    while chunk := os.read(source, min(1 << 16, max_bytes)):
        if size + len(chunk) > max_bytes:
            os.close(target)
            os.replace(path, f"{path}.1")
            target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            size = 0
        os.write(target, chunk)
        size += len(chunk)
    os.close(target)


if __name__ == "__main__":
    pump(0, sys.argv[1], int(sys.argv[2]))
