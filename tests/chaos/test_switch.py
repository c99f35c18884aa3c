"""The kill switch: no new call starts anywhere within two seconds, inside running ticks too, and no task is lost."""

from datetime import datetime, timedelta

from tests.chaos.conftest import OpenRig
from tests.chaos.support import books
from tests.support.databases import Database
from tests.support.signals import until


def test_no_call_starts_two_seconds_after_the_switch_is_thrown(open_rig: OpenRig, database: Database) -> None:
    """A task that has just begun would make its third call more than two seconds from then."""
    rig = open_rig(database, latency="1.2-1.6")
    ids = rig.enqueue("loop", [{"n": n} for n in range(1, 13)]) + rig.enqueue("single", [{"n": n} for n in range(60)])
    with rig.beat("--concurrency", "6"), rig.beat("--concurrency", "6"):
        rig.called(8, within=60)
        rig.database.sql("SELECT backbeat.throw_switch('all', 'a test', 'tester')")
        since = rig.database.value("SELECT thrown_at FROM backbeat.switches")
        running = "SELECT count(*) FROM backbeat.simple_tasks WHERE status = 'running'"
        until(lambda: rig.database.value(running) == 0, what="no running task")
        until(lambda: rig.database.value("SELECT now() - %s > interval '6 s'", [since]), what="six seconds")
        asked = {(one["owner"], one["call_key"], one["seq"]): one["opened_at"] for one in books.calls(rig)}
        # A call that was let go before is late only if its process, or the provider's, was paused.
        late = [
            one["at"]
            for one in rig.requests()
            if datetime.fromisoformat(one["at"]) > since + timedelta(seconds=2)
            and asked[one["owner"], one["key"], one["seq"]] > since
        ]
        assert late == []
        assert len(rig.live()) > 10
        rig.database.sql("SELECT backbeat.release_switch('all')")
        rig.is_drained()
    books.balance(rig, ids)
