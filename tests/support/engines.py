"""Small stand-ins for engines of the embedded stack, for tests of the stack itself."""

import functools
import sys
from pathlib import Path

from backbeat.embedded import engines
from backbeat.embedded.engines import Catalogue, Engine
from backbeat.embedded.site import Site

SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(sys.argv[2].encode())
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
MUTE = "import time; print('still loading', flush=True); time.sleep(60)"
BROKEN = "raise SystemExit('the moon is in the wrong house')"


def stand_in(site: Site, *, name: str, script: str = SERVER, within: float = 20.0) -> Engine:
    """An engine that answers its stack's latency over HTTP, or whatever the script does."""
    port, daemon = site.port(name), site.daemon(name)
    command = [sys.executable, "-S", "-c", script, str(port), site.latency]
    probe = functools.partial(engines._answers, port, "/health")
    return Engine(daemon, lambda: daemon.start(command), probe, within=within, grace=5.0)


SERVICES: Catalogue = {
    "first": functools.partial(stand_in, name="first"),
    "provider": functools.partial(stand_in, name="provider"),
}
BROKEN_LAST: Catalogue = {**SERVICES, "broken": functools.partial(stand_in, name="broken", script=BROKEN)}
MUTE_LAST: Catalogue = {**SERVICES, "mute": functools.partial(stand_in, name="mute", script=MUTE)}
UP_MUTE = "import sys, pathlib; from backbeat.embedded import stack; from tests.support.engines import MUTE_LAST as c; "
UP_MUTE += "stack.up(pathlib.Path(sys.argv[1]), engines=tuple(c), catalogue=c)"
ROOT = Path(__file__).parents[2]
