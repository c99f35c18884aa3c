"""CPU seconds of processes, as Linux counts them; 0 where there is no /proc."""

import os
import resource
from pathlib import Path

_PROC = Path("/proc")


def children() -> float:
    """Of this process' children that ended and were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def tree(pid: int) -> float:
    """Of a server, the processes it has, and those it had."""
    own = _fields(pid)
    if not own:
        return 0.0
    living = [
        fields for entry in _PROC.glob("[0-9]*") if (fields := _fields(int(entry.name))) and fields[1] == str(pid)
    ]
    ticks = sum(int(own[at]) for at in (11, 12, 13, 14)) + sum(int(one[11]) + int(one[12]) for one in living)
    return ticks / os.sysconf("SC_CLK_TCK")


def _fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, which may hold anything: state, parent, …"""
    try:
        return (_PROC / str(pid) / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
