"""What tests start as a fork is what they would start as a process."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import children
from tests.support.command import clean_environ, command
from tests.support.signals import until

ASKED = """
import atexit, json, os, sys
ours = ("backbeat", "cron_worker", "temporal_worker", "shared", "tests")
atexit.register(print, "ended")
print(json.dumps([
    sys.argv, sys.path, os.getcwd(), dict(os.environ), __name__, sys.stdin.read(), sys.stdout.isatty(),
    [name for name in sys.modules if name.split(".")[0] in ours], sorted(map(int, os.listdir("/proc/self/fd"))),
]))
print("not data", file=sys.stderr)
"""

WAITS = "import time; time.sleep(60)"

pytestmark = pytest.mark.skipif(not children._FORKING, reason="processes are real ones in a soak, and beside Linux")


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
    (tmp_path / "asked.py").write_text(WAITS)
    with pytest.raises(subprocess.TimeoutExpired):
        command("asked", home=tmp_path, within=1)


def test_a_child_is_a_process_until_it_was_waited_for(tmp_path: Path) -> None:
    (tmp_path / "asked.py").write_text(WAITS)
    child = children.start("asked", home=tmp_path, environ=clean_environ())
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.1)
    os.kill(child.pid, signal.SIGKILL)
    state = Path(f"/proc/{child.pid}/stat")
    until(lambda: ") Z" in state.read_text(), what="a zombie")
    child.kill()
    assert (child.wait(60), child.wait(), child.poll()) == (-9, -9, -9)
    until(lambda: not state.exists(), what="its end")


def test_a_child_that_nobody_asks_for_any_more_is_ended(tmp_path: Path) -> None:
    (tmp_path / "asked.py").write_text(WAITS)
    child = children.start("asked", home=tmp_path, environ=clean_environ())
    assert isinstance(child, children.Child)
    child._answer.close()
    until(lambda: not Path(f"/proc/{child.pid}").exists(), what="its end")
