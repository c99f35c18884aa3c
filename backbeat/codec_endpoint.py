"""A codec endpoint: what Temporal's web pages and command line ask to show encrypted payloads as they were.

It answers whoever reaches it with plain text, so it listens on loopback and is started by the person who wants to see.
"""

import asyncio
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from google.protobuf import json_format
from temporalio.api.common.v1 import Payloads

from shared.errors import BackbeatError, UnavailableError
from shared.security.codec import Codec, load_keys

MOST = 16 * 1_048_576  # bytes of one request


def serve(keys_file: Path, port: int, origin: str, ready: Callable[[int], None]) -> None:
    """Answer on 127.0.0.1 until interrupted; pages of `origin` may ask. Raises ConfigError, UnavailableError."""
    codec = Codec(load_keys(keys_file))
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), _handler(codec, origin))
    except OSError as error:
        raise UnavailableError(f"port {port} cannot be had: {error.strerror}", fix="Choose another") from error
    with server:
        ready(server.server_address[1])
        server.serve_forever()


def _handler(codec: Codec, origin: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_OPTIONS(self) -> None:
            self._answer(204, b"")

        def do_POST(self) -> None:
            work = {"/encode": codec.encode, "/decode": codec.decode}.get(self.path)
            size = int(self.headers.get("Content-Length") or 0)
            if work is None or not 0 < size <= MOST:
                self._answer(404 if work is None else 413, b"")
                return
            try:
                asked = json_format.Parse(self.rfile.read(size), Payloads())
                found = Payloads(payloads=asyncio.run(work(list(asked.payloads))))
            except (json_format.ParseError, BackbeatError) as error:
                self._answer(400, str(error).encode())
                return
            self._answer(200, json_format.MessageToJson(found).encode())

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Access-Control-Allow-Origin", origin)
            self.send_header("Access-Control-Allow-Headers", "content-type,x-namespace")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Quiet: what is asked for is nobody's business."""

    return Handler
