"""Names of global transactions and of their branches, as clients write them."""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec
from aiohttp import web

from api.cluster import Cluster
from api.endpoints import Parameter
from api.errors import refuse_field
from api.shapes import END
from statemachine.transactions.rows import GREATEST_XID_BYTES

XID_PATTERN: Final = rf"^[A-Za-z0-9._:-]{{1,{GREATEST_XID_BYTES}}}{END}"

Xid = Annotated[
    str,
    msgspec.Meta(
        pattern=XID_PATTERN,
        description=f"1 to {GREATEST_XID_BYTES} characters of A-Z, a-z, 0-9, `.`, `_`, `:`, `-`.",
        examples=["order-4711"],
    ),
]

GREATEST_BRANCH_ID: Final = 2**53 - 1

BranchId = Annotated[int, msgspec.Meta(ge=1, le=GREATEST_BRANCH_ID)]

XID: Final = Parameter(name="xid", type=Xid, description="The global transaction.")
EXAMPLE: Final = "purchase-1"
"""The transaction in the examples of what an application decides."""

TRANSACTION: Final = Parameter(
    name="xid", type=Xid, description="The global transaction.", example=EXAMPLE
)
BRANCH_ID: Final = Parameter(
    name="branchId", type=BranchId, description="The branch, as its registration named it."
)

_XID: Final = re.compile(XID_PATTERN)
_BRANCH_ID: Final = re.compile(r"[1-9][0-9]{0,15}")
_RESERVED: Final = frozenset({"exceptions"})
"""What stands where an xid does in paths."""

_GREATEST_NUMBER_LENGTH: Final = 20
"""Of the number in an xid, with its colon."""


class XidPrefixes:
    """What the xids begin with that are made for one node's clients: where its API is reached."""

    __slots__ = ("_cluster", "_known")

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known = ""

    def own(self) -> str:
        """Return `host:port` of this node, or its id when an xid cannot hold that."""
        if not self._known:
            node_id = self._cluster.node_id
            addresses = [
                node.api_address
                for node in self._cluster.status().nodes
                if node.node_id == node_id and node.api_address
            ]
            if not addresses:
                return node_id
            fits = len(addresses[0]) + _GREATEST_NUMBER_LENGTH <= GREATEST_XID_BYTES
            self._known = addresses[0] if fits and _XID.match(addresses[0]) else node_id
        return self._known


def query_xid(request: web.Request) -> str | None:
    """Return the xid that a list is asked for, None when it is not."""
    xid = request.query.get("xid")
    if xid is not None and _XID.match(xid) is None:
        refuse_field("xid", "is none that a transaction can have")
    return xid


def path_xid(request: web.Request) -> str:
    """Return the xid of the path."""
    xid = request.match_info["xid"]
    if _XID.match(xid) is None:
        refuse_field("xid", f"must match {XID_PATTERN.removesuffix(END)}$")
    return xid


def path_branch_id(request: web.Request) -> int:
    """Return the branch of the path."""
    text = request.match_info["branchId"]
    if _BRANCH_ID.fullmatch(text) is None or int(text) > GREATEST_BRANCH_ID:
        refuse_field("branchId", f"must be an integer from 1 to {GREATEST_BRANCH_ID}")
    return int(text)


def new_xid(xid: str | None) -> str:
    """Return the xid that a client wants for a transaction; empty when one is to be made."""
    if xid in _RESERVED:
        refuse_field("xid", "is a word of this API")
    return xid or ""
