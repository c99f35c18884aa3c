"""Where notifications arrive: a web server and a mail server on loopback that answer as they are told."""

import base64
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Post:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receivers:
    """What arrived, and how to answer: `answers` are the next statuses, `replies` SMTP lines; hang, drip: no end.

    With `tls` mail is `secured` by starttls, or by tls from the first byte; `logins` says who, and whether under it.
    """

    posts: list[Post] = field(default_factory=list)
    mails: list[EmailMessage] = field(default_factory=list)
    rcpts: list[str] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    replies: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    release: threading.Event = field(default_factory=threading.Event)
    tls: ssl.SSLContext | None = None
    secured: str = "starttls"
    logins: list[tuple[str, bool]] = field(default_factory=list)
    web_port: int = 0
    mail_port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.web_port}/hook"


@contextmanager
def receivers() -> Iterator[Receivers]:
    """Both, until the block ends."""
    found = Receivers()
    web = ThreadingHTTPServer(("127.0.0.1", 0), _web(found))
    mail = _Smtp(("127.0.0.1", 0), _mail(found))
    for server in (web, mail):
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    found.web_port, found.mail_port = web.server_address[1], mail.server_address[1]
    try:
        yield found
    finally:
        found.release.set()
        for server in (web, mail):
            server.shutdown()
            server.server_close()


class _Smtp(socketserver.ThreadingTCPServer):
    allow_reuse_address = True


def _web(found: Receivers) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.posts.append(Post(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            answer = found.answers.pop(0) if found.answers else 204
            try:
                if answer == "hang":
                    found.release.wait(PATIENCE)
                    return
                if answer == "drip":
                    # An answer whose end never comes.
                    self.wfile.write(b"HTTP/1.1 ")
                    while not found.release.wait(0.05):
                        self.wfile.write(b"2")
                    return
                self.send_response(answer)
                for name, value in found.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()
            except OSError:
                return  # the sender gave up

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler


def _mail(found: Receivers) -> type[socketserver.BaseRequestHandler]:
    return type("Handler", (_Mail,), {"found": found})


class _Mail(socketserver.StreamRequestHandler):
    """As much of SMTP as a client needs that sends one message; an answer goes to RCPT."""

    found: Receivers

    def handle(self) -> None:
        self._safe = False
        try:
            if self.found.tls and self.found.secured == "tls":
                self._secure()
            self._say("220 simulated")
            while (line := self.rfile.readline()) and self._answer(line, line.strip().upper()):
                pass
        except OSError:
            return  # the sender gave up
        finally:
            self.request.close()

    def _answer(self, line: bytes, verb: bytes) -> bool:
        """False when nothing more is to be said."""
        if verb.startswith(b"RCPT"):
            answer = self.found.replies.pop(0) if self.found.replies else "250 ok"
            if answer in ("hang", "drip"):
                self._stall(answer)
                return False
            self.found.rcpts.append(line.decode().strip().partition(":")[2].strip("<>"))
            self._say(answer)
        elif verb.startswith(b"EHLO"):
            offers = ["simulated", *(["STARTTLS"] if self.found.tls and not self._safe else []), "AUTH PLAIN"]
            for place, offer in enumerate(offers, 1):
                self._say(f"250{' ' if place == len(offers) else '-'}{offer}")
        elif verb == b"STARTTLS" and self.found.tls:
            self._say("220 go on")
            self._secure()
        elif verb.startswith(b"AUTH PLAIN"):
            who = base64.b64decode(line.split()[2]).decode().replace("\0", " ").strip()
            self.found.logins.append((who, self._safe))
            self._say("235 ok")
        elif verb == b"DATA":
            self._say("354 go on")
            lines = b"".join(iter(self.rfile.readline, b".\r\n"))
            self.found.mails.append(message_from_bytes(lines, policy=policy.default))
            self._say("250 ok")
        else:
            self._say("221 bye" if verb == b"QUIT" else "250 ok")
        return True

    def _secure(self) -> None:
        assert self.found.tls
        self.request = self.found.tls.wrap_socket(self.request, server_side=True)
        self._safe = True
        self.setup()

    def _stall(self, how: str) -> None:
        if how == "hang":
            self.found.release.wait(PATIENCE)
        while not self.found.release.wait(0.05):
            self.wfile.write(b"2")

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())
