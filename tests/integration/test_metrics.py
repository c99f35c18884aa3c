"""`backbeat metrics`: what it says of a database, and what the alert rules and the dashboard make of that."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from uuid import UUID

import pytest

from backbeat.metrics.catalogue import CATALOGUE
from backbeat.metrics.collect import Sample, collect
from backbeat.metrics.expose import text, write
from shared.errors import InputError
from shared.telemetry.spool import count_shed
from tests.support import tasks
from tests.support.command import clean_environ, command
from tests.support.databases import Database
from tests.support.grafana import panels
from tests.support.tree import ROOT

_LINE = re.compile(r'([a-z_:]+)(?:\{((?:[a-z_]+="(?:[^"\\]|\\.)*",?)*)\})? (-?[\d.e+-]+|[+-]Inf|NaN)')
_WORDS = {"sum", "max", "min", "by", "on", "or", "and", "absent", "tenant", "status"}
_QUERY = re.compile(r'"[^"]*"|[a-z_]+|[\d.]+|[(){}=~<>/,]+|\s+')


def parsed(exposition: str) -> dict[str, dict[str, float]]:
    """By the grammar of Prometheus' format 0.0.4; every family must have a HELP and a TYPE before its first sample."""
    found: dict[str, dict[str, float]] = {}
    declared: set[str] = set()
    assert exposition.endswith("\n")
    for line in exposition.splitlines():
        if line.startswith("# HELP "):
            assert len(line.split(" ", 3)[3]) > 10
        elif line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            assert kind == "gauge"
            assert name not in declared
            declared.add(name)
        else:
            match = _LINE.fullmatch(line)
            assert match, line
            assert match[1] in declared
            series = found.setdefault(match[1], {})
            assert match[2] not in series, line
            series[match[2] or ""] = float(match[3])
    return found


async def test_metrics_tell_what_is_so_and_stay_few(database: Database, tmp_path: Path) -> None:
    async with tasks.worker(database) as db:
        for number in range(30):
            tenant = f'te"nant\\{number}\n'
            database.sql("INSERT INTO backbeat.tenants (id) VALUES (%s)", [tenant])
            await tasks.add(db, 1 + (number == 7), tenant=tenant)
        (task,) = await tasks.take(db, 1)
        await tasks.opened(db, task)
        database.sql(
            "UPDATE backbeat.simple_tasks SET created_at = created_at - interval '1 hour' WHERE status = 'ready'"
        )
        found = parsed(text(await collect(db, tmp_path)))
    queue = found["backbeat_queue_tasks"]
    assert sum(queue.values()) == 31
    assert sum(value for series, value in queue.items() if 'nant\\\\7\\n"' in series) == 2
    assert max(found["backbeat_queue_oldest_seconds"].values()) > 3599
    assert len({series.partition(",status")[0] for series in queue}) == 21
    assert sum(value for series, value in queue.items() if '"_other"' in series) == 10
    assert found["backbeat_up"] == {"": 1}
    assert found["backbeat_route_open_calls"]
    assert sum(found["backbeat_route_open_calls"].values()) == 1
    assert found["backbeat_spool_files"] == {"": 0}
    assert "backbeat_outbox_oldest_seconds" not in found  # the age of nothing is not 0
    assert found["backbeat_outbox_messages"] == {"": 0}
    assert 0 < found["backbeat_claim_walk_seconds"][""] < 60
    assert set(found) <= {metric.name for metric in CATALOGUE}


def test_each_metric_has_a_help_and_a_unit_its_name_ends_in() -> None:
    for metric in CATALOGUE:
        assert metric.help.endswith("."), metric.name
        assert metric.unit == "count" or metric.name.endswith(f"_{metric.unit}"), metric.name
    with pytest.raises(KeyError):
        text([Sample("backbeat_invented", (), 1)])


def test_the_command_shows_writes_and_serves(database: Database, tmp_path: Path) -> None:
    shown = command("backbeat", "metrics", home=tmp_path, environ=database.environ).fine()
    assert re.search(r"^backbeat_up +1 +count$", shown.out, re.MULTILINE), shown.out
    file = tmp_path / "backbeat.prom"
    command("backbeat", "metrics", "--textfile", file, home=tmp_path, environ=database.environ).fine()
    assert parsed(file.read_text())["backbeat_up"] == {"": 1}
    assert [path.name for path in tmp_path.iterdir() if "prom" in path.name] == ["backbeat.prom"]
    with pytest.raises(InputError, match="cannot be written"):
        write(tmp_path / "absent" / "x.prom", "")
    argv = [sys.executable, "-m", "backbeat", "metrics", "--listen", "0"]
    server = subprocess.Popen(
        argv, cwd=tmp_path, env=clean_environ(**database.environ), stderr=subprocess.PIPE, text=True
    )
    assert server.stderr is not None
    url = server.stderr.readline().split()[-1]
    assert url.startswith("http://127.0.0.1:")
    for _ in range(2):
        with urllib.request.urlopen(url, timeout=20) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert parsed(answer.read().decode())["backbeat_up"] == {"": 1}
    taken = command(
        "backbeat", "metrics", "--listen", url.split(":")[2].split("/")[0], home=tmp_path, environ=database.environ
    )
    assert "cannot be served" in taken.refused(5)
    server.send_signal(signal.SIGTERM)
    assert server.wait(20) == 0
    server.stderr.close()


def test_each_tick_writes_the_figures_where_the_settings_say(database: Database, tmp_path: Path) -> None:
    """Also one that finds nothing to do; what cannot be written fails no tick."""
    database.sql("SELECT backbeat.put_spans(%s, 1, '')", [UUID(int=1)])
    database.sql("SELECT backbeat.tell_spool('elsewhere', 0, NULL, 0, 7)")
    spool = tmp_path / "spool"
    count_shed(spool, 2)
    file = tmp_path / "backbeat.prom"
    environ = {**database.environ, "BACKBEAT_SPOOL_DIR": str(spool), "BACKBEAT_METRICS_TEXTFILE": str(file)}
    command("cron_worker", "tick", home=tmp_path, environ=environ).fine()
    said = parsed(file.read_text())
    assert (said["backbeat_up"], said["backbeat_telemetry_outbox_batches"]) == ({"": 1}, {"": 1})
    assert (said["backbeat_shed_spans"], said["backbeat_spool_shed_spans"]) == ({"": 7}, {"": 2})
    file.unlink()
    done = command(
        "cron_worker", "tick", home=tmp_path, environ={**environ, "BACKBEAT_METRICS_TEXTFILE": f"{file}/x"}
    ).fine()
    assert "backbeat.prom" in done.err


def test_rules_and_dashboard_ask_for_metrics_that_exist() -> None:
    """What promtool would see: every name is a metric, a label of it, or a word of PromQL; brackets close."""
    names = {metric.name for metric in CATALOGUE}
    labels = {label for metric in CATALOGUE for label in metric.labels}
    rules = (ROOT / "deploy/grafana/alerts.yml").read_text()
    queries = re.findall(r"^ +expr: (.+)$", rules, re.MULTILINE)
    assert len(queries) == rules.count("- alert:") == rules.count("summary:") == rules.count("severity:")
    dashboard = json.loads((ROOT / "deploy/grafana/dashboards/operators.json").read_text())
    queries += [target["expr"] for _, target in panels(dashboard)]
    asked = set()
    for query in queries:
        pieces = _QUERY.findall(query)
        assert "".join(pieces) == query
        assert all(query.count(left) == query.count(right) for left, right in ("()", "{}"))
        words = {piece for piece in pieces if piece[0].isalpha()}
        assert words <= names | labels | _WORDS, query
        asked |= words & names
    for metric in re.findall(r"\{\{ ?\$?(?:labels\.)?(\w+)", rules + json.dumps(dashboard)):
        assert metric in labels | {"instance"}, metric
    silent = names - asked
    assert silent <= {"backbeat_collection_seconds", "backbeat_unpriced_calls", "backbeat_budget_remaining_tokens"}, (
        silent
    )
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    assert all(panel["description"] and panel["fieldConfig"]["defaults"]["unit"] for panel in dashboard["panels"])
