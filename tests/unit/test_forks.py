"""What tests start as a fork is what they would start as a process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import clean_environ, command
from tests.support.signals import until

ASKED = """
import atexit, json, os, sys
ours = ("backbeat", "cron_worker", "temporal_worker", "shared", "tests")
atexit.register(print, "ended")
print(json.dumps([
    sys.argv, sys.path, os.getcwd(), dict(os.environ), __name__, sys.stdin.read(), sys.stdout.isatty(),
    [name for name in sys.modules if name.split(".")[0] in ours], sorted(map(int, os.listdir("/proc/self/fd")))[:3],
]))
print("not data", file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [("", 0), ("sys.exit(3)", 3), ("sys.exit()", 0), ("sys.exit('no')", 1), ("1 / 0", 1), ("os._exit(4)", 4)],
)
def test_a_fork_is_what_a_process_would_be(tmp_path: Path, end: str, code: int) -> None:
    (tmp_path / "asked.py").write_text(ASKED + end)
    done = command("asked", "a", "--b=c", home=tmp_path, environ={"BACKBEAT_X": "y"}, stdin="given")
    line = [sys.executable, "-m", "asked", "a", "--b=c"]
    environ = clean_environ(BACKBEAT_X="y")
    real = subprocess.run(line, cwd=tmp_path, env=environ, input="given", capture_output=True, text=True, check=False)
    assert done.code == real.returncode == code
    assert done.err.splitlines()[-1] == real.stderr.splitlines()[-1]
    (said, *ended), (really, *really_ended) = done.out.splitlines() or [""], real.stdout.splitlines() or [""]
    assert ended == really_ended
    assert (json.loads(said) if said else "") == (json.loads(really) if really else "")


def test_a_command_that_does_not_end_is_ended(tmp_path: Path) -> None:
    (tmp_path / "asked.py").write_text(
        "import pathlib, os, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(60)"
    )
    with pytest.raises(subprocess.TimeoutExpired):
        command("asked", home=tmp_path, within=5)
    pid = int((tmp_path / "pid").read_text())
    until(lambda: not Path(f"/proc/{pid}").exists())
