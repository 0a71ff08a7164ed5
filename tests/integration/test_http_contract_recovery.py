"""GET /api/v1/recovery, row by row."""

from __future__ import annotations

from statemachine.commands import (
    BeginGlobal,
    DecideGlobal,
    RecordRecoveries,
    RegisterBranch,
    ReportCalls,
    ReportedCall,
)
from statemachine.transactions.rows import Calls
from tests.integration.local_cluster import START_MS, LocalCluster
from tests.integration.serving import serving

RECOVERY = "/api/v1/recovery"


async def committing(cluster: LocalCluster, xid: str) -> None:
    """Leave a transaction that is decided and whose one branch has not been told."""
    register = RegisterBranch(
        xid=xid,
        mode="XA",
        resource_id="db",
        locks=(),
        wait_ms=0,
        application_id="",
        unit_id="",
        session_id=0,
        application_data=b"",
        calls=Calls(None, "http://p/", "http://p/"),
    )
    decide = DecideGlobal(xid=xid, commit=True, reason="", wait_ms=0, reports_expected=False)
    begin = BeginGlobal(xid=xid, prefix="n1", name="", timeout_ms=0)
    await cluster.propose([begin, register, decide], timeout_ms=5_000)


async def test_a_record_says_what_was_found_decided_and_done() -> None:
    cluster = LocalCluster()
    await committing(cluster, "x")
    await cluster.propose([RecordRecoveries(epoch=cluster.term, xids=("x",))], timeout_ms=5_000)
    async with serving(cluster) as api:
        (record,) = (await api.get(f"{RECOVERY}?xid=x")).body["items"]
        assert record["finishedAt"] is None
        assert record["actions"] == []
        done = ReportedCall("x", 1, "COMMIT", "DONE", b"", "", "", 0)
        await cluster.propose([ReportCalls(epoch=cluster.term, calls=(done,))], timeout_ms=5_000)
        answered = await api.get(f"{RECOVERY}?xid=x")
    assert answered.status == 200
    (record,) = answered.body["items"]
    assert record == {
        "term": cluster.term,
        "at": START_MS,
        "index": 2,
        "xid": "x",
        "found": {
            "status": "COMMITTING",
            "branches": [{"branchId": 1, "status": "REGISTERED"}],
        },
        "decision": "CONTINUE_COMMIT",
        "actions": [
            {"index": 3, "event": "PHASE_TWO_COMMITTED", "branchId": 1, "detail": ""},
            {"index": 3, "event": "COMMITTED", "branchId": None, "detail": ""},
        ],
        "finishedAt": START_MS,
    }


async def test_records_come_in_pages_the_newest_first() -> None:
    cluster = LocalCluster()
    names = ("x1", "x2", "x3")
    for name in names:
        await committing(cluster, name)
    await cluster.propose([RecordRecoveries(epoch=cluster.term, xids=names)], timeout_ms=5_000)
    async with serving(cluster) as api:
        first = (await api.get(f"{RECOVERY}?limit=2")).body
        second = (await api.get(f"{RECOVERY}?limit=2&cursor={first['nextCursor']}")).body
        assert [item["xid"] for item in first["items"]] == ["x3", "x2"]
        assert [item["xid"] for item in second["items"]] == ["x1"]
        assert second["nextCursor"] is None
        assert (await api.get(f"{RECOVERY}?xid=nobody")).body["items"] == []
        for wrong in ("limit=0", "cursor=zz", "cursor=00", "other=1", "xid=a&xid=b"):
            assert (await api.get(f"{RECOVERY}?{wrong}")).status == 422
