"""Ports of the loopback interface."""

import random
import socket
from collections.abc import Container
from pathlib import Path

from shared.errors import UnavailableError

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def find(avoid: Container[int] = ()) -> int:
    """A free port below those that outgoing connections get, so that none sits on it while its engine restarts."""
    top = min(int(_EPHEMERAL.read_text(encoding="ascii").split()[0]), 32768)
    lowest = max(1024, top - 16384)
    for port in random.sample(range(lowest, top), k=min(200, top - lowest)):
        if port not in avoid and is_free(port):
            return port
    raise UnavailableError(f"no free port between {lowest} and {top} on 127.0.0.1", fix="Stop what uses them")
