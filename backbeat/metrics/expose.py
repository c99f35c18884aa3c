"""Prometheus' text format: to a scraper, or into a file that node_exporter's textfile collector reads.

The format is thirty lines to write; what is exposed is a snapshot of the database and no counter of this
process, which is what a client library is for.
"""

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from backbeat.metrics.catalogue import CATALOGUE
from backbeat.metrics.collect import Sample
from shared import clock
from shared.errors import ConflictError, InputError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FRESH_SECONDS = 5.0  # however often somebody scrapes, Postgres is asked this seldom
_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", '"': '\\"'})


def text(samples: Iterable[Sample]) -> str:
    """The samples by family, each with its help and type. Raises KeyError for a metric that the catalogue lacks."""
    families: dict[str, list[Sample]] = {metric.name: [] for metric in CATALOGUE}
    for sample in samples:
        families[sample.metric].append(sample)
    lines = []
    for metric in CATALOGUE:
        if families[metric.name]:
            lines += [f"# HELP {metric.name} {metric.help} Unit: {metric.unit}.", f"# TYPE {metric.name} gauge"]
            lines += [_line(sample, metric.labels) for sample in families[metric.name]]
    return "\n".join(lines) + "\n"


def _line(sample: Sample, names: Sequence[str]) -> str:
    labels = ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in zip(names, sample.labels, strict=True))
    return f"{sample.metric}{{{labels}}} {sample.value!r}" if labels else f"{sample.metric} {sample.value!r}"


def write(file: Path, content: str) -> None:
    """Replace the file whole: a collector never reads half of one. Raises InputError."""
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        part.write_text(content, encoding="utf-8")
        part.chmod(0o644)
        part.replace(file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputError(
            f"{file} cannot be written: {error.strerror}", fix="Name a file in an existing directory"
        ) from error


class Endpoint:
    """GET /metrics on one address until `close`. `collected` makes the text; an error of its is a 503."""

    def __init__(self, host: str, port: int, collected: Callable[[], str]) -> None:
        self._collected, self._lock, self._last = collected, threading.Lock(), (float("-inf"), "")
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                endpoint.answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class names it
                pass

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            what = f"metrics cannot be served on {host}:{port}: {error.strerror}"
            raise ConflictError(what, fix="Stop what listens there, or name another") from error
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]

    def serve(self) -> None:
        """Answer until `close`, from another thread or a signal's."""
        self._server.serve_forever(poll_interval=0.2)

    def close(self) -> None:
        """Make `serve` return."""
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """One request."""
        if request.path.partition("?")[0] != "/metrics":
            return self._send(request, 404, "see /metrics\n")
        with self._lock:
            at, content = self._last
            if clock.monotonic() - at > FRESH_SECONDS:
                try:
                    content = self._collected()
                except Exception as error:
                    return self._send(request, 503, f"{' '.join(str(error).split())}\n")
                self._last = clock.monotonic(), content
        return self._send(request, 200, content)

    def _send(self, request: BaseHTTPRequestHandler, status: int, content: str) -> None:
        body = content.encode()
        request.send_response(status)
        request.send_header("Content-Type", CONTENT_TYPE)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)
