from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol, TypeVar, overload

from .config import FAIL_REASON as FAIL_REASON
from .config import SyncObjConf as SyncObjConf
from .journal import Journal as Journal
from .node import Node as Node
from .transport import Transport as Transport
from .transport import TransportNotReadyError as TransportNotReadyError

_F = TypeVar("_F", bound=Callable[..., Any])

class _Codec(Protocol):
    def loads(self, data: Any, /) -> Any: ...
    def dumps(self, obj: Any, /) -> Any: ...

class _Poller(Protocol):
    def poll(self, timeout: float) -> object: ...

class _Random(Protocol):
    def random(self) -> float: ...

# Names of the module that may be replaced before a SyncObj is made.
# createJournal is called with conf.journalFile, createPoller with conf.pollerType.
createJournal: Callable[[Any], Journal]
createPoller: Callable[[str], _Poller]
monotonicTime: Callable[[], float]
pickle: _Codec
random: _Random
PIPE_NOTIFIER_ENABLED: bool

class _RAFT_STATE:
    FOLLOWER: int
    CANDIDATE: int
    LEADER: int

class _COMMAND_TYPE:
    REGULAR: int
    NO_OP: int
    MEMBERSHIP: int
    VERSION: int

class SyncObjException(Exception):
    errorCode: str
    def __init__(self, errorCode: str, *args: object, **kwargs: object) -> None: ...

class SyncObjConsumer:
    def __init__(self) -> None: ...

# Command callbacks are called as (result, FAIL_REASON).
_CommandCallback = Callable[[Any, int], object]

class SyncObj:
    _poller: _Poller
    # Private state of Raft that node.consensus.raft reads and sets.
    _SyncObj__raftState: int
    _SyncObj__raftCurrentTerm: int
    _SyncObj__votedForNodeId: str | None
    _SyncObj__raftLeader: Node | None
    _SyncObj__raftElectionDeadline: float
    _SyncObj__transferInProgress: bool
    _SyncObj__raftLog: Journal
    _SyncObj__raftCommitIndex: int
    _SyncObj__raftLastApplied: int
    _SyncObj__raftNextIndex: dict[Node, int]
    _SyncObj__raftMatchIndex: dict[Node, int]
    _SyncObj__lastResponseTime: dict[Node, float]
    _SyncObj__leaderCommitIndex: int | None
    _SyncObj__otherNodes: Collection[Node]
    _SyncObj__readonlyNodes: Collection[Node]
    _SyncObj__connectedNodes: set[Node]
    _SyncObj__newAppendEntriesTime: float
    _methodToID: dict[Any, int]
    _idToMethod: dict[int, Callable[..., Any]]

    def __init__(
        self,
        selfNode: Node | str | None,
        otherNodes: Iterable[Node | str],
        conf: SyncObjConf | None = None,
        consumers: list[SyncObjConsumer] | None = None,
        nodeClass: type[Node] = ...,
        transport: Transport | None = None,
        transportClass: type[Transport] = ...,
    ) -> None: ...
    def destroy(self) -> None: ...
    def _destroy(self) -> None: ...
    def _doDestroy(self) -> None: ...
    def waitReady(self) -> None: ...
    def getCodeVersion(self) -> int: ...
    def transferLeadership(
        self, node: Node | str | None = None, callback: _CommandCallback | None = None
    ) -> None: ...
    def _applyCommand(
        self,
        command: bytes,
        callback: _CommandCallback | tuple[Node, int] | None,
        commandType: int | None = None,
    ) -> None: ...
    def _checkCommandsToApply(self) -> None: ...
    def doTick(self, timeToWait: float = 0.0) -> None: ...
    def _onTick(self, timeToWait: float = 0.0) -> None: ...
    def addOnTickCallback(self, callback: Callable[[], object]) -> None: ...
    def removeOnTickCallback(self, callback: Callable[[], object]) -> None: ...
    def isNodeConnected(self, node: Node) -> bool: ...
    @property
    def selfNode(self) -> Node | None: ...
    @property
    def otherNodes(self) -> set[Node]: ...
    @property
    def readonlyNodes(self) -> set[Node]: ...
    @property
    def raftLastApplied(self) -> int: ...
    @property
    def raftCommitIndex(self) -> int: ...
    @property
    def raftCurrentTerm(self) -> int: ...
    @property
    def hasQuorum(self) -> bool: ...
    @property
    def conf(self) -> SyncObjConf: ...
    def getStatus(self) -> dict[str, Any]: ...
    def forceLogCompaction(self) -> None: ...
    def isReady(self) -> bool: ...
    def _isReady(self) -> bool: ...
    def _isLeader(self) -> bool: ...
    def _getLeader(self) -> Node | None: ...
    def _getTerm(self) -> int: ...
    def _getRaftLogSize(self) -> int: ...

# The decorated method takes the keywords callback, sync and timeout besides its own, and returns
# at once unless sync is set.
@overload
def replicated(func: _F, /) -> _F: ...
@overload
def replicated(*, ver: int = 0) -> Callable[[_F], _F]: ...
