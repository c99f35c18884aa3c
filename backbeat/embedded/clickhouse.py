"""A ClickHouse server of one process and one directory: chDB behind ClickHouse's HTTP interface, on loopback only.

    python -m backbeat.embedded.clickhouse --path DIR --port P [--user U --password-file F]

clickhouse-connect and other HTTP clients work unmodified; the native protocol, sessions with temporary
tables, external tables and `compress=1` are not there. GET is read-only, as in ClickHouse. An
acknowledged insert survives kill -9. SIGTERM lets running statements end, then exits 0.
"""

import argparse
import asyncio
import base64
import binascii
import hmac
import logging
import os
import signal
import socket
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from backbeat.embedded.clickhouse_engine import Engine, EngineError
from backbeat.embedded.clickhouse_wire import compressed, headers_of, read_query, refusal, status_of
from shared.errors import BackbeatError, ConfigError, ConflictError

STATEMENTS = 8  # at once
STOP_SECONDS = 10
_log = logging.getLogger("backbeat.clickhouse")


class Server:
    """The HTTP surface over one engine. `password` None means that whoever reaches the port may use it."""

    def __init__(self, engine: Engine, user: str, password: str | None) -> None:
        self._engine, self._user, self._password = engine, user, password
        self._threads = ThreadPoolExecutor(STATEMENTS, thread_name_prefix="statement")
        self.app = Starlette(
            routes=[Route("/ping", _ping, methods=["GET"]), Route("/", self._answer, methods=["GET", "POST"])]
        )

    async def _answer(self, request: Request) -> Response:
        query_id = request.query_params.get("query_id") or str(uuid.uuid4())
        try:
            self._admit(request)
            body = await request.body()
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._execute, request, body, query_id)
        except EngineError as error:
            return _refused(error, query_id)

    def _execute(self, request: Request, body: bytes, query_id: str) -> Response:
        query = read_query(request.method, request.query_params, request.headers, body)
        if query is None:
            return PlainTextResponse("Ok.\n")
        result = self._engine.execute(query)
        answer, encoding = compressed(result.body, request.query_params, request.headers.get("accept-encoding", ""))
        headers = headers_of(result, query_id) | ({"Content-Encoding": encoding} if encoding else {})
        return Response(answer, headers=headers, media_type="text/plain; charset=UTF-8")

    def _admit(self, request: Request) -> None:
        # A web page can make a browser send a plain POST to loopback; no client of a database sends an Origin.
        if "origin" in request.headers:
            raise refusal(516, "AUTHENTICATION_FAILED", "requests of web pages are refused")
        if self._password is None:
            return
        given = _credentials(request)
        if given is None:
            raise refusal(194, "REQUIRED_PASSWORD", "a user and password are required")
        user_matches = hmac.compare_digest(given[0].encode(), self._user.encode())
        password_matches = hmac.compare_digest(given[1].encode(), self._password.encode())
        if not (user_matches and password_matches):
            text = "Authentication failed: password is incorrect, or there is no user with such name"
            raise refusal(516, "AUTHENTICATION_FAILED", text)


def _refused(error: EngineError, query_id: str) -> Response:
    status = status_of(error.code)
    if status == 500:
        _log.warning("statement %s: %s", query_id, str(error).splitlines()[0][:300])
    headers = {"X-ClickHouse-Exception-Code": str(error.code), "X-ClickHouse-Query-Id": query_id}
    if status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="ClickHouse server HTTP API"'
    return PlainTextResponse(f"{error}\n", status, headers)


async def _ping(_request: Request) -> Response:
    return PlainTextResponse("Ok.\n")


def _credentials(request: Request) -> tuple[str, str] | None:
    user, key = request.headers.get("x-clickhouse-user"), request.headers.get("x-clickhouse-key")
    if user is not None:
        return user, key or ""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return user, password


def serve(path: Path, port: int, user: str = "default", password: str | None = None) -> None:
    """Serve until SIGTERM or SIGINT. Port 0 takes a free one; the line on stdout names it. Raises BackbeatError."""
    import uvicorn

    listener = _bind(port)
    engine = Engine(path)
    config = uvicorn.Config(
        Server(engine, user, password).app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises the signal again once it has stopped
    listener.listen()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    sys.stdout.write(f"ClickHouse {engine.version} (chDB) on {url} over {path}\n")
    sys.stdout.flush()
    uvicorn.Server(config).run(sockets=[listener])
    engine.close()


def _bind(port: int) -> socket.socket:
    # asyncio turns Nagle's algorithm off only where the protocol is named: 1 ms a statement instead of 44.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        what = f"port {port} on 127.0.0.1 cannot be taken: {error.strerror}"
        raise ConflictError(what, fix="Choose another, or stop what listens there") from error
    return listener


def _password(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"password file {file} cannot be read: {error}", fix="Create it or correct the path"
        ) from error


def main() -> None:
    """Run the server; never returns."""
    parser = argparse.ArgumentParser("backbeat.embedded.clickhouse", description="ClickHouse over one chDB directory")
    parser.add_argument("--path", type=Path, required=True, help="the directory this process will own")
    parser.add_argument("--port", type=int, required=True, help="on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--user", default="default")
    parser.add_argument("--password-file", type=Path, help="without it, whoever reaches the port may use it")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        serve(options.path, options.port, options.user, _password(options.password_file))
    except BackbeatError as error:
        sys.stderr.write(f"clickhouse: {error}\n")
        sys.exit(error.exit_code)
    # A statement that outlived the grace period must not hold the process; parts on disk are whole.
    os._exit(0)


if __name__ == "__main__":
    main()
