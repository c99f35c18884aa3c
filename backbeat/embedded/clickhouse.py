"""A ClickHouse server of one process and one directory: chDB behind ClickHouse's HTTP interface, on loopback only.

    python -m backbeat.embedded.clickhouse --path DIR --port P [--user U --password-file F]
        [--analyst NAME --analyst-password-file F] [--limit SETTING=VALUE] [--analyst-limit SETTING=VALUE]

clickhouse-connect and other HTTP clients work unmodified; the native protocol, external tables and
`compress=1` are not there, so neither are Grafana's plugin and the clients in Go. GET is read-only, as in
ClickHouse; the analyst reads only, within limits. A statement ends with the connection that asked for it. An
acknowledged insert survives kill -9. SIGTERM lets running statements end, then exits 0.
"""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from backbeat.embedded.clickhouse_engine import Engine, new_tag
from backbeat.embedded.clickhouse_query import EngineError
from backbeat.embedded.clickhouse_users import ANALYST_LIMITS, OWNER_LIMITS, User, admit, granted
from backbeat.embedded.clickhouse_wire import compressed, headers_of, read_query, status_of, too_long
from shared.errors import BackbeatError, ConfigError, ConflictError

STATEMENTS = 8  # at once
ANALYST_STATEMENTS = 4  # in threads of their own: who ships telemetry never waits for who reads it
CANCEL_SECONDS = 0.05
CLIENT_CLOSED = 499
STOP_SECONDS = 10
_log = logging.getLogger("backbeat.clickhouse")


class Server:
    """The HTTP surface over one engine. The first user owns it."""

    def __init__(self, engine: Engine, users: Sequence[User]) -> None:
        self._engine, self._users = engine, users
        self._threads = ThreadPoolExecutor(STATEMENTS, thread_name_prefix="statement")
        self._analysts = ThreadPoolExecutor(ANALYST_STATEMENTS, thread_name_prefix="analyst")
        self.app = Starlette(
            routes=[Route("/ping", _ping, methods=["GET"]), Route("/", self._answer, methods=["GET", "POST"])]
        )

    async def _answer(self, request: Request) -> Response:
        query_id = request.query_params.get("query_id") or str(uuid.uuid4())
        try:
            user = admit(self._users, request.headers, request.query_params)
            body = await _body(request, user.body_limit)
            tag, threads = new_tag(query_id), self._analysts if user.analyst else self._threads
            return await self._unless_gone(
                request, threads.submit(self._execute, user, request, body, query_id, tag), tag
            )
        except EngineError as error:
            return _refused(error, query_id)

    async def _unless_gone(self, request: Request, work: Future[Response], tag: str) -> Response:
        """The answer; when its client hangs up first, the statement is ended and nobody gets one."""
        answer, gone = asyncio.wrap_future(work), asyncio.ensure_future(_gone(request))
        either: set[asyncio.Future[Any]] = {answer, gone}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            while not work.done():
                if work.cancel():
                    return Response(status_code=CLIENT_CLOSED)
                await asyncio.to_thread(self._engine.cancel, tag)
                await asyncio.wait({answer}, timeout=CANCEL_SECONDS)
            return await answer
        finally:
            gone.cancel()

    def _execute(self, user: User, request: Request, body: bytes, query_id: str, tag: str) -> Response:
        query = read_query(request.method, request.query_params, request.headers, body, user.body_limit)
        if query is None:
            return PlainTextResponse("Ok.\n")
        session = query.session and query.session._replace(user=user.name)
        result = self._engine.execute(granted(user, replace(query, tag=tag, session=session)))
        answer, encoding = compressed(result.body, request.query_params, request.headers.get("accept-encoding", ""))
        headers = headers_of(result, query_id) | ({"Content-Encoding": encoding} if encoding else {})
        return Response(answer, headers=headers, media_type="text/plain; charset=UTF-8")


async def _body(request: Request, most: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise too_long(most)
    return bytes(body)


async def _gone(request: Request) -> None:
    """Return when the client has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


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


def serve(path: Path, port: int, users: Sequence[User] = (User("default", None),)) -> None:
    """Serve until SIGTERM or SIGINT. Port 0 takes a free one; the line on stdout names it. Raises BackbeatError."""
    import uvicorn

    listener = _bind(port)
    engine = Engine(path)
    config = uvicorn.Config(
        Server(engine, users).app,
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


def _users(options: argparse.Namespace) -> list[User]:
    owner = User(options.user, _password(options.password_file), limits=_limits(OWNER_LIMITS, options.limit))
    if not options.analyst:
        return [owner]
    analyst = _password(options.analyst_password_file)
    if not owner.password or not analyst or options.analyst == options.user:
        raise ConfigError("an analyst needs a password, and so does the owner", fix="Give both --…password-file")
    limits = _limits(ANALYST_LIMITS, options.analyst_limit)
    return [owner, User(options.analyst, analyst, True, limits, options.analyst_database)]


def _limits(usual: Mapping[str, str], given: Sequence[str]) -> dict[str, str]:
    limits = dict(usual)
    for each in given:
        name, _, value = each.partition("=")
        if name not in ANALYST_LIMITS or not value.isdecimal() or int(value) == 0:
            raise ConfigError(f"{each!r} is no limit", fix=f"Give NAME=NUMBER, NAME one of {', '.join(ANALYST_LIMITS)}")
        limits[name] = value
    return limits


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("backbeat.embedded.clickhouse", description="ClickHouse over one chDB directory")
    parser.add_argument("--path", type=Path, required=True, help="the directory this process will own")
    parser.add_argument("--port", type=int, required=True, help="on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--user", default="default")
    parser.add_argument("--password-file", type=Path, help="without it, whoever reaches the port may use it")
    parser.add_argument("--analyst", help="a user who can only read")
    parser.add_argument("--analyst-password-file", type=Path)
    parser.add_argument("--analyst-database", default="", help="the only one to read; any without it")
    parser.add_argument("--limit", action="append", default=[], metavar="NAME=NUMBER", help="what a statement may use")
    parser.add_argument("--analyst-limit", action="append", default=[], metavar="NAME=NUMBER")
    return parser


def main() -> None:
    """Run the server; never returns."""
    options = _parser().parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        serve(options.path, options.port, _users(options))
    except BackbeatError as error:
        sys.stderr.write(f"clickhouse: {error}\n")
        sys.exit(error.exit_code)
    # A statement that outlived the grace period must not hold the process; parts on disk are whole.
    os._exit(0)


if __name__ == "__main__":
    main()
