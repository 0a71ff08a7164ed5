"""How many calls may be under way: in all, and to each host, so that one cannot take all."""

from __future__ import annotations

from itertools import islice


class Slots:
    """Counts calls, and keeps who waits for a host in the order in which they came."""

    def __init__(self, in_all: int, per_host: int) -> None:
        self._in_all = in_all
        self._per_host = per_host
        self._taken = 0
        self._of_host: dict[str, int] = {}
        self._waiting: dict[str, dict[str, None]] = {}

    @property
    def taken(self) -> int:
        return self._taken

    @property
    def waiting(self) -> int:
        """Transactions that wait for a host; one that waits for two counts twice."""
        return sum(map(len, self._waiting.values()))

    @property
    def free(self) -> bool:
        return self._taken < self._in_all

    def take(self, host: str, xid: str) -> bool:
        """Take a slot for a call to `host`. When it has none left, the transaction waits for it."""
        taken = self._of_host.get(host, 0)
        if taken >= self._per_host:
            self._waiting.setdefault(host, {})[xid] = None
            return False
        waiting = self._waiting.get(host)
        if waiting is not None:
            waiting.pop(xid, None)
        self._of_host[host] = taken + 1
        self._taken += 1
        return True

    def give_back(self, host: str) -> list[str]:
        """Return a slot; return the transactions that may have a turn now.

        They may want it no more. So whoever still waits is named again when nobody has a slot.
        """
        self._taken -= 1
        left = self._of_host[host] - 1
        if left:
            self._of_host[host] = left
        else:
            del self._of_host[host]
        waiting = self._waiting.get(host)
        if waiting is None:
            return []
        turns = list(islice(waiting, self._per_host - left) if left else waiting)
        for xid in turns:
            del waiting[xid]
        if not waiting:
            del self._waiting[host]
        return turns
