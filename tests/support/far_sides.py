"""Simulated far sides of the worked effects: a mail server, a payment service and a chat webhook, in threads.

They keep what they accepted, and with `hold()` accept without answering, as a far side does whose answer is lost.
"""

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

PATIENCE = 30.0


class FarSides:
    """What arrived where: message ids, references of charges, texts."""

    def __init__(self) -> None:
        self.mails: list[str] = []
        self.charges: list[str] = []
        self.texts: list[str] = []
        self.answers = threading.Event()
        self.answers.set()

    def hold(self) -> None:
        """Accept from now on, and answer nobody."""
        self.answers.clear()

    def answer(self) -> None:
        """Answer again, also those who were kept waiting."""
        self.answers.set()

    def accept(self, where: list[str], what: str) -> None:
        """Keep it; then wait until answers are allowed."""
        where.append(what)
        self.answers.wait(PATIENCE)


@contextmanager
def far_sides() -> Iterator[tuple[FarSides, dict[str, str]]]:
    """The far sides and the settings that lead to them."""
    sides = FarSides()
    web = ThreadingHTTPServer(("127.0.0.1", 0), _web(sides))
    smtp = _Smtp(("127.0.0.1", 0), _mail(sides))
    for server in (web, smtp):
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    url = f"http://127.0.0.1:{web.server_address[1]}"
    try:
        yield (
            sides,
            {
                "EFFECTS_SMTP": f"127.0.0.1:{smtp.server_address[1]}",
                "EFFECTS_MAIL_FROM": "shop@backbeat.invalid",
                "EFFECTS_CHARGE_URL": url,
                "EFFECTS_CHAT_WEBHOOK": f"{url}/hook",
            },
        )
    finally:
        sides.answer()
        for server in (web, smtp):
            server.shutdown()
            server.server_close()


class _Smtp(socketserver.ThreadingTCPServer):
    allow_reuse_address = True


def _mail(sides: FarSides) -> type[socketserver.BaseRequestHandler]:
    class Handler(socketserver.StreamRequestHandler):
        """As much of SMTP as a client needs that sends one message."""

        def handle(self) -> None:
            self._say("220 simulated")
            while verb := self.rfile.readline().strip().upper():
                if verb == b"DATA":
                    self._say("354 go on")
                    lines = list(iter(self.rfile.readline, b".\r\n"))
                    sides.accept(sides.mails, message_from_bytes(b"".join(lines))["Message-ID"])
                self._say("221 bye" if verb == b"QUIT" else "250 ok")

        def _say(self, line: str) -> None:
            try:
                self.wfile.write(f"{line}\r\n".encode())
            except OSError:
                return  # the client was killed

    return Handler


def _web(sides: FarSides) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            given: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/hook":
                sides.accept(sides.texts, given["text"])
                self._say({})
                return
            key = given["reference"]
            if key not in sides.charges and self.headers["Idempotency-Key"] == key:
                sides.accept(sides.charges, key)
            self._say({"id": f"ch_{sides.charges.index(key)}"})

        def do_GET(self) -> None:
            (key,) = parse_qs(urlsplit(self.path).query)["reference"]
            self._say([{"id": f"ch_{at}"} for at, one in enumerate(sides.charges) if one == key])

        def _say(self, body: Any) -> None:
            try:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())
            except OSError:
                return  # the client was killed

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler
