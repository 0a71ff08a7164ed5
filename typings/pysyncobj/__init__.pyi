"""Types of PySyncObj 0.3.17, as far as node.consensus uses it."""

from .config import FAIL_REASON as FAIL_REASON
from .config import SERIALIZER_STATE as SERIALIZER_STATE
from .config import SyncObjConf as SyncObjConf
from .syncobj import SyncObj as SyncObj
from .syncobj import SyncObjConsumer as SyncObjConsumer
from .syncobj import SyncObjException as SyncObjException
from .syncobj import replicated as replicated
