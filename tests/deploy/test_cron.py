"""The crontab: correct for cron, true to cron-worker's own flags, and its line does what the comment says."""

import fcntl
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cron_worker.__main__ import _parser
from shared.definitions import load_definitions
from tests.support.tree import ROOT

CRONTAB = ROOT / "deploy/cron/backbeat.crontab"
VERIFY = ROOT / "deploy/cron/verify.sh"
TEXT = CRONTAB.read_text(encoding="utf-8")
JOB = TEXT.splitlines()[-1]


def _verify(file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", VERIFY, file], capture_output=True, text=True, timeout=20)


def test_ours_is_correct() -> None:
    checked = _verify(CRONTAB)
    print(checked.stdout)
    assert (checked.returncode, checked.stderr) == (0, "")
    debian = Path("/etc/debian_version").exists() and Path("/usr/bin/crontab").exists()
    assert ("says crontab -n too" if debian else "crontab -n skipped: ") in checked.stdout


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("* * * * * flock", "* * * * flock", "field 5 is no time"),
        ("flock -n -E 75 ", "flock -n ", "no flock -n -E 75"),
        ("timeout -k 5 85", "timeout -k 5 60", "timeout is 60 s, budget + grace + 5 is 85 s"),
        ("--grace 30s", "--grace 60s", "timeout is 85 s, budget + grace + 5 is 115 s"),
        ("logger -t backbeat", "logger -t %H", "cron reads % as the end of the line"),
        ("/opt/backbeat/bin/cron-worker", "cron-worker", "needs its absolute path"),
        (JOB, "", "no line starts a tick"),
        ("-t backbeat\n", "-t backbeat", "the last line does not end"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    planted = tmp_path / "crontab"
    job = f"{JOB}\n"
    assert job.count(old) == 1
    planted.write_text(TEXT.removesuffix(job) + job.replace(old, new), encoding="utf-8")
    checked = _verify(planted)
    assert checked.returncode != 0
    assert complaint in checked.stderr


def test_the_two_beats_are_correct_too_and_load_what_they_say(tmp_path: Path) -> None:
    file = ROOT / "deploy/cron/two-beats.crontab"
    text = file.read_text(encoding="utf-8")
    checked = _verify(file)
    assert (checked.returncode, checked.stderr) == (0, "")
    outer, inner = re.findall(r"^BACKBEAT_DEFINITIONS=(.*)\n\* \* \* \* \* (.*)$", text, re.MULTILINE)
    seen = []
    for modules, line in (outer, inner):
        words = shlex.split(line)
        flags = _parser().parse_args(words[words.index("tick") : words.index("2>&1")])
        seen.append((flags.every, sorted(load_definitions(modules.split(",")).tasks)))
    (every, all_of), (inner_every, children) = seen
    assert (every, inner_every) == (None, 10.0)
    assert set(all_of) - set(children) == {"market_watch@1"}
    assert {"market_scout@1", "headline_mood@1"} <= set(children)
    planted = tmp_path / "crontab"
    planted.write_text(text.replace("inner.lock /opt", "inner.lock timeout -k 5 45 /opt"), encoding="utf-8")
    assert "would end a worker that beats by itself" in _verify(planted).stderr


def test_cron_worker_knows_the_flags() -> None:
    words = shlex.split(JOB)
    arguments = _parser().parse_args(words[words.index("tick") : words.index("2>&1")])
    assert (arguments.budget, arguments.grace) == (50.0, 30.0)


@pytest.fixture
def line(tmp_path: Path) -> str:
    """The line as cron would give it to sh, at home in a directory of the test; logger writes to a file there."""
    # Not in the repository, where a demo may have left settings.
    for name, script in {
        "cron-worker": f'PYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.quote(sys.executable)} -m cron_worker "$@"',
        "logger": f"exec cat >{shlex.quote(str(tmp_path / 'log'))}",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    assert " " not in str(tmp_path)
    command = JOB.split(maxsplit=5)[5]
    return command.replace("/opt/backbeat/bin", str(tmp_path)).replace("/var/lib/backbeat", str(tmp_path))


def _run(line: str, home: Path, **environ: str) -> str:
    settings = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', TEXT, re.MULTILINE))
    del settings["BACKBEAT_CONFIG"]
    env = {**settings, "PATH": f"{home}:{settings['PATH']}", "HOME": str(home), "LOGNAME": "backbeat", **environ}
    subprocess.run([env["SHELL"], "-c", line], env=env, cwd=home, timeout=60, check=True)
    return (home / "log").read_text(encoding="utf-8")


def test_the_line_starts_a_tick_and_logs_what_it_says(tmp_path: Path, line: str) -> None:
    said = _run(line, tmp_path, BACKBEAT_DATABASE_URL="")
    assert said == "cron-worker: database_url is not set. Set BACKBEAT_DATABASE_URL, or run `backbeat up` here\n"


def test_the_line_skips_a_beat_while_a_tick_runs(tmp_path: Path, line: str) -> None:
    handle = os.open(tmp_path / "tick.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        assert _run(line, tmp_path, BACKBEAT_DATABASE_URL="") == ""
    finally:
        os.close(handle)
