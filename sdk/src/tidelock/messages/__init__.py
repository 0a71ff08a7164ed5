"""Messages that tell of work exactly if it was done, to whoever must hear of it at least once.

Two ways: a two-phase message, which the cluster keeps and delivers (`send`), and a table beside
the business's own, which a relay empties into HTTP or a broker (`Outbox`, `OutboxRelay`). Receivers
keep an `Inbox`, so that what comes twice is done once. docs/sdk/MESSAGES.md of the repository
compares them.
"""

from tidelock.messages.inbox import Inbox, inbox_ddl
from tidelock.messages.message import Message, Published, Publisher, PublishRefusedError, Subscriber
from tidelock.messages.outbox import Outbox, outbox_ddl
from tidelock.messages.relay import OutboxRelay
from tidelock.messages.two_phase import send, send_async

__all__ = [
    "Inbox",
    "Message",
    "Outbox",
    "OutboxRelay",
    "PublishRefusedError",
    "Published",
    "Publisher",
    "Subscriber",
    "inbox_ddl",
    "outbox_ddl",
    "send",
    "send_async",
]
