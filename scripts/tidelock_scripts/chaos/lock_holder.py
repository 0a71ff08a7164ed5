"""A process that takes a lock and writes to a resource for as long as it believes that it has it.

It trusts its belief on purpose, as applications do: it does not look at a clock and does not ask
the cluster before it writes. Paused beyond its lease, it goes on writing with a token that is stale
by then. It ends with its standard input.

Arguments: the address of a node, that of the resource, the lock, the owner.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from typing import Any

TTL_MS = 2_000
WAIT_MS = 60_000

_WRITE_EVERY_S = 0.05
_RENEW_EVERY_S = 0.5
_PAUSE_AFTER_FAILURE_S = 0.1
_PATIENCE_S = 90.0


def post(address: str, path: str, body: object) -> tuple[int, Any]:
    """Raises OSError or HTTPException when there is no answer."""
    connection = http.client.HTTPConnection(address, timeout=_PATIENCE_S)
    try:
        connection.request(
            "POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def hold(node: str, resource: str, lock: str, owner: str) -> None:
    """Take the lock once, and write until the resource, or the cluster, says that it is lost."""
    path = f"/api/v1/locks/{lock}"
    status, lease = post(
        node, f"{path}/acquire", {"owner": owner, "ttlMs": TTL_MS, "waitMs": WAIT_MS}
    )
    if status != http.client.OK:
        return
    token = lease["fencingToken"]
    renewed_at = time.monotonic()
    while True:
        status, _ = post(resource, "/write", {"lock": lock, "owner": owner, "fencingToken": token})
        if status == http.client.CONFLICT:
            return
        if time.monotonic() - renewed_at > _RENEW_EVERY_S:
            # Whatever is answered: it is the resource that must refuse.
            post(node, f"{path}/renew", {"owner": owner, "fencingToken": token})
            renewed_at = time.monotonic()
        time.sleep(_WRITE_EVERY_S)


def main() -> None:
    node, resource, lock, owner = sys.argv[1:]
    threading.Thread(target=_hold_for_ever, args=(node, resource, lock, owner), daemon=True).start()
    sys.stdin.read()


def _hold_for_ever(node: str, resource: str, lock: str, owner: str) -> None:
    while True:
        try:
            hold(node, resource, lock, owner)
        except (OSError, http.client.HTTPException):
            time.sleep(_PAUSE_AFTER_FAILURE_S)


if __name__ == "__main__":
    main()
