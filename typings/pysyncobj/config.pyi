from collections.abc import Callable
from typing import Any, TypedDict

from typing_extensions import Unpack

from .journal import Journal

class FAIL_REASON:
    SUCCESS: int
    QUEUE_FULL: int
    MISSING_LEADER: int
    DISCARDED: int
    NOT_LEADER: int
    LEADER_CHANGED: int
    REQUEST_DENIED: int
    UNKNOWN_OUTCOME: int

class SERIALIZER_STATE:
    NOT_SERIALIZING: int
    SERIALIZING: int
    SUCCESS: int
    FAILED: int

class _Options(TypedDict, total=False):
    password: str | bytes | None
    autoTick: bool
    autoTickPeriod: float
    commandsQueueSize: int
    raftMinTimeout: float
    raftMaxTimeout: float
    appendEntriesPeriod: float
    connectionTimeout: float
    connectionRetryTime: float
    leaderFallbackTimeout: float
    appendEntriesUseBatch: bool
    appendEntriesBatchSizeBytes: int
    bindAddress: str | None
    preferredAddrType: str | None
    sendBufferSize: int
    recvBufferSize: int
    dnsCacheTime: float
    dnsFailCacheTime: float
    logCompactionMinEntries: int
    logCompactionMinTime: float
    logCompactionSplit: bool
    logCompactionBatchSize: int
    commandsWaitLeader: bool
    fullDumpFile: str | None
    # Handed to createJournal as it is.
    journalFile: str | Journal | None
    bindRetryTime: float
    maxBindRetries: int
    onReady: Callable[[], object] | None
    onStateChanged: Callable[[int, int], object] | None
    dynamicMembershipChange: bool
    pollerType: str
    useFork: bool
    # serializer(file name, data): data is what the deserializer has to return.
    serializer: Callable[[str, Any], object] | None
    serializeChecker: Callable[[], int] | None
    # deserializer(file name) -> (state, last entry, entry before it, nodes)
    deserializer: Callable[[str], Any] | None
    onCodeVersionChanged: Callable[[int, int], object] | None
    tcp_keepalive: tuple[int, int, int] | None

class SyncObjConf:
    password: str | bytes | None
    autoTick: bool
    autoTickPeriod: float
    commandsQueueSize: int
    raftMinTimeout: float
    raftMaxTimeout: float
    appendEntriesPeriod: float
    connectionTimeout: float
    connectionRetryTime: float
    leaderFallbackTimeout: float
    appendEntriesUseBatch: bool
    appendEntriesBatchSizeBytes: int
    bindAddress: str | None
    preferredAddrType: str | None
    sendBufferSize: int
    recvBufferSize: int
    dnsCacheTime: float
    dnsFailCacheTime: float
    logCompactionMinEntries: int
    logCompactionMinTime: float
    logCompactionSplit: bool
    logCompactionBatchSize: int
    commandsWaitLeader: bool
    fullDumpFile: str | None
    # Handed to createJournal as it is.
    journalFile: str | Journal | None
    bindRetryTime: float
    maxBindRetries: int
    onReady: Callable[[], object] | None
    onStateChanged: Callable[[int, int], object] | None
    dynamicMembershipChange: bool
    pollerType: str
    useFork: bool
    serializer: Callable[[str, Any], object] | None
    serializeChecker: Callable[[], int] | None
    deserializer: Callable[[str], Any] | None
    onCodeVersionChanged: Callable[[int, int], object] | None
    tcp_keepalive: tuple[int, int, int] | None

    def __init__(self, **kwargs: Unpack[_Options]) -> None: ...
    def validate(self) -> None: ...
